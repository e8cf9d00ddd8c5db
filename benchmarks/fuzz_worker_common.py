"""The child process of the fuzz run: reads spoiled files one by one and tells what came of each, its time and memory.

Lines in: reader, seed. Lines out: JSON. What kills or hangs this process is laid to the line it was given last.
"""

import json
import os
import random
import re
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import fuzz_readers_common as table

HEADROOM = 3 * 2**30  # of address space; a call that takes it ends in a MemoryError, which counts as a fault


def status(name: str) -> int:
    """A figure of this process in KiB."""
    return int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


class Place:
    """A folder with the whole files of one reader, put back before each call."""

    def __init__(self, root: Path, name: str):
        self.reader, self.folder = table.READERS[name], root / name.replace(" ", "_")
        self.folder.mkdir()
        self.reader.make(self.folder)
        self.whole = {name: (self.folder / name).read_bytes() for name in dict.fromkeys(self.reader.names)}
        self.copy = shutil.copytree(self.folder, root / f"{self.folder.name} whole")

    def call(self, seed: int) -> dict:
        """One spoiled file: what came of it, processor seconds, and growth of memory in MB."""
        chance = random.Random(f"{self.folder.name} {seed}")
        name = self.reader.names[seed % len(self.reader.names)]
        shutil.rmtree(self.folder)
        shutil.copytree(self.copy, self.folder)
        (self.folder / name).write_bytes(self.reader.spoil(self.whole, name, chance))
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        before, started = status("VmRSS"), time.process_time()
        came, text = self._outcome(name)
        return {"came": came, "text": text, "seconds": round(time.process_time() - started, 3),
                "megabytes": round((status("VmHWM") - before) / 1024, 1)}  # fmt: skip

    def _outcome(self, name: str) -> tuple[str, str]:
        try:
            self.reader.call(self.folder, self.folder / name)
        except table.ERRORS as error:
            try:
                str(error).encode("utf-8")
            except UnicodeEncodeError:
                return "fault", "half a character in a message"
            return ("refused", "") if len(str(error)) < 4000 else ("fault", "a message of more than 4000 letters")
        except BaseException as error:  # noqa: BLE001  whatever else comes is what is looked for
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(place.filename).name}:{place.lineno}"
            return "fault", f"{type(error).__name__}: {ascii(str(error)[:200])} at {where}"
        return "read", ""


def main() -> None:
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    table.torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root:
        places = {}
        for name in sys.argv[1:] or table.READERS:
            places[name] = Place(Path(root), name)
            places[name].call(0)  # libraries are loaded by now
        resource.setrlimit(resource.RLIMIT_AS, (status("VmSize") * 1024 + HEADROOM,) * 2)
        print("ready", file=answers)
        for line in sys.stdin:
            name, seed = line.rstrip("\n").rsplit(" ", 1)
            print(json.dumps(places[name].call(int(seed))), file=answers)


if __name__ == "__main__":
    main()
