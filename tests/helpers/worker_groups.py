"""Which tests stay together when workers share a run (pytest-xdist): those of a file, and everything of one host.

xdist's own marks for this (`--dist loadgroup`) are without effect under pytest 9.2.
"""

from collections import Counter

import pytest
from real_hosts import find_hosts
from xdist.scheduler import LoadScopeScheduling

SLOW = 50  # a slow test takes about as long as so many others
HOSTS = [host.name for host in find_hosts()]


def group_of(nodeid: str) -> str:
    """The host of a test, else its file: a worker has one server of a host and one process inside it."""
    file, _, test = nodeid.partition("::")
    return next((name for name in HOSTS if f"[{name}" in test), file)


class GroupScheduling(LoadScopeScheduling):
    """Groups in the order in which they were collected."""

    def _split_scope(self, nodeid):
        return group_of(nodeid)


class WorkerGroups:
    """The plugin of the process that hands out the tests."""

    def pytest_xdist_make_scheduler(self, config, log):
        config.option.loadscopereorder = False  # by numbers of tests: a file of seven long ones would come last
        return GroupScheduling(config, log)


class LongestFirst:
    """The plugin of a worker: hosts, then files with many slow tests; short ones fill up the end of the run."""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        weights = Counter()
        for item in items:
            weights[group_of(item.nodeid)] += SLOW if item.get_closest_marker("slow") else 1
        places = {group: (group not in HOSTS, -weight) for group, weight in weights.items()}
        items.sort(key=lambda item: places[group_of(item.nodeid)])
