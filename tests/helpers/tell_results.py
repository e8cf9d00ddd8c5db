"""A pytest plugin for the host's Python: tells what it finds and every result at once, one JSON object a line.

MOTIONBLOCKS_TELL is the number of an open pipe. The lines: {"tests": [...]} and {"broken": file, "text": ...} after
collecting, {"begins": test}, {"phase": "setup" | "call" | "teardown", "test", "outcome", "text"} while running.
"""

import json
import os

PIPE = int(os.environ["MOTIONBLOCKS_TELL"])
MOST_CHARACTERS = 8000  # of one text; a pipe's reader needs no more to find the fault


def tell(**entry):
    """Write one line; ends this process when nobody listens any more."""
    line = (json.dumps(entry) + "\n").encode()
    while line:
        line = line[os.write(PIPE, line) :]


def pytest_collectreport(report):
    if report.failed:
        tell(broken=report.nodeid, text=report.longreprtext[-MOST_CHARACTERS:])


def pytest_collection_finish(session):
    tell(tests=[item.nodeid for item in session.items])


def pytest_runtest_logstart(nodeid):
    tell(begins=nodeid)


def pytest_runtest_logreport(report):
    text = "\n".join([report.longreprtext, *(f"-- {name} --\n{kept}" for name, kept in report.sections)])
    tell(phase=report.when, test=report.nodeid, outcome=report.outcome,
         text="" if report.passed else text[-MOST_CHARACTERS:])  # fmt: skip
