"""pytest in a host's own Python, whose results are read one by one as they come."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path

from lent_packages import lent_package
from real_hosts import host_python

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent


class HostSuite:
    """One run of pytest inside a host. A context manager: leaving it ends the process.

    `arguments` are files, tests and options of pytest; `environment` is added to ours. However long the run takes, it
    is stopped only when `silence` seconds pass without a line from it (see tell_results.py).
    """

    def __init__(self, host, arguments, folder, silence, **environment):
        self.host, self.folder, self.silence = Path(host), Path(folder), silence
        self.tests, self.broken, self.faults = [], {}, {}
        self.ended, self._doing, self._done, self._lines = None, "starting", set(), queue.SimpleQueue()
        python = host_python(self.host)
        borrowed = [] if python == sys.executable else [str(lent_package(python, "pytest>=8"))]
        ours = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "COMFYUI_"))}
        ours |= {"MOTIONBLOCKS_HOST": str(self.host), "PYTHONPATH": os.pathsep.join([*borrowed, str(HERE)])}
        command = [python, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), *arguments]
        command += ["-p", "no:cacheprovider", "-p", "tell_results", "--basetemp", str(self.folder / "base")]
        reading, writing = os.pipe()
        with open(self.folder / "log.txt", "wb") as log:
            self._process = subprocess.Popen(
                command, cwd=self.folder, env=ours | environment | {"MOTIONBLOCKS_TELL": str(writing)},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[writing],
            )  # fmt: skip
        os.close(writing)
        threading.Thread(target=self._listen, args=[reading], daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self._stop()

    def fault(self, test):
        """What is wrong with a test, "" for nothing: waits until it has run, or until nothing more can come."""
        while test not in self._done and self.ended is None:
            self._read()
        return self.faults.get(test, "") if test in self._done else f"{self.ended}\n{self.log_tail()}"

    def collect(self):
        """Wait until the tests are found: fills `tests` and, file by file, `broken`."""
        while not self.tests and self.ended is None:
            self._read()

    def log_tail(self):
        """The end of what the process printed."""
        return (self.folder / "log.txt").read_text(errors="replace")[-4000:]

    def _listen(self, pipe):
        with open(pipe, "rb") as lines:
            for line in lines:
                self._lines.put(line)
        self._lines.put(None)

    def _read(self):
        try:
            line = self._lines.get(timeout=self.silence)
        except queue.Empty:
            self._stop()
            self.ended = f"{self.host.name} was stopped: no line from it for {self.silence:g} s while {self._doing}"
            return
        if line is None:
            self.ended = f"{self.host.name} ended with {self._process.wait()} while {self._doing}"
            return
        told = json.loads(line)
        if "tests" in told:
            self.tests = told["tests"]
        elif "broken" in told:
            self.broken[told["broken"]] = told["text"]
        elif "begins" in told:
            self._doing = f"running {told['begins']}"
        else:
            if told["outcome"] != "passed":  # a skipped test shows nothing: inside a host none may be
                fault = f"{told['phase']} {told['outcome']} on {self.host.name}\n{told['text']}"
                self.faults[told["test"]] = self.faults.get(told["test"], "") + fault
            if told["phase"] == "teardown":
                self._done.add(told["test"])

    def _stop(self):
        """End the process; SIGABRT first, on which pytest writes where every thread is into the log."""
        for end in (signal.SIGABRT, signal.SIGKILL):
            if self._process.poll() is None:
                self._process.send_signal(end)
                try:
                    self._process.wait(10)
                except subprocess.TimeoutExpired:
                    continue
