"""In-host tests are reported one by one: tried on small files in a folder that looks like a host, with our Python."""

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

FILES = {
    "good": "def test_good(): pass\ndef test_spoilt(): assert 1 + 1 == 3, 'sums are wrong'\n",
    "skipping": "import pytest\ndef test_left_out(): pytest.skip('no card')\n",
    "unreadable": "import no_such_library\ndef test_never(): pass\n",
    "empty": "",
    "leaving": "import pytest\n@pytest.fixture\ndef it():\n yield\n raise OSError('disk')\ndef test_it(it): pass\n",
    "hanging": "import time\ndef test_first(): pass\ndef test_hangs(): time.sleep(600)\ndef test_behind(): pass\n",
    "dying": "import os\ndef test_dies(): os._exit(3)\ndef test_behind(): pass\n",
}
pytestmark = pytest.mark.slow


@pytest.fixture
def results(tmp_path):
    """results("good", …) -> {"good::test_good": "" or what is told of its failure} of a run with these files."""

    def run(*names, silence=60):
        host, inside = tmp_path / "comfyui-none", tmp_path / "inhost"
        host.mkdir()
        inside.mkdir()
        (host / "main.py").touch()
        for name in names:
            (inside / f"test_inhost_{name}.py").write_text(FILES[name])
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "COMFYUI_"))}
        environment |= {"COMFYUI_PATH": str(host), "MOTIONBLOCKS_INHOST": str(inside),
                        "MOTIONBLOCKS_SILENCE": str(silence), "MOTIONBLOCKS_ORACLES": str(tmp_path)}  # fmt: skip
        report = tmp_path / "report.xml"
        command = [sys.executable, "-m", "pytest", str(Path(__file__).with_name("test_in_hosts.py"))]
        command += ["-p", "no:cacheprovider", "--timeout", "900", "--junitxml", str(report)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert report.exists(), done.stderr
        found = {}
        for case in ElementTree.parse(report).iter("testcase"):
            name = case.get("name").removeprefix("test_in_host[comfyui-none-test_inhost_").removesuffix("]")
            found[name.replace(".py", "")] = "\n".join(fault.text for fault in case)
        return found

    return run


def test_each_failure_has_its_own_name_and_a_broken_file_stops_no_other(results):
    found = results("good", "skipping", "leaving", "unreadable", "empty")
    assert found.pop("good::test_good") == ""
    for name, text in {
        "good::test_spoilt": "call failed on comfyui-none.*sums are wrong",
        "skipping::test_left_out": "call skipped on comfyui-none.*no card",
        "leaving::test_it": "teardown failed on comfyui-none.*OSError: disk",
        "unreadable": "no_such_library",
        "empty": "it holds no test",
    }.items():
        assert re.search(text, found.pop(name), re.DOTALL)
    assert not found


def test_silence_ends_a_host_and_tells_where_it_hung(results):
    found = results("hanging", silence=8)
    assert found["hanging::test_first"] == ""
    for name in ("hanging::test_hangs", "hanging::test_behind"):
        assert "no line from it for 8 s while running" in found[name] and "test_hangs" in found[name]
    assert "in test_hangs" in found["hanging::test_hangs"]  # the stack


def test_a_host_that_dies_fails_what_it_had_not_run(results):
    found = results("dying")
    assert all("comfyui-none ended with 3 while running" in text for text in found.values()) and len(found) == 2
