"""Which tests stay together when workers share a run (pytest-xdist): those of a file, and everything of one host.

xdist's own marks for this (`--dist loadgroup`) are without effect under pytest 9.2.
"""

from real_hosts import find_hosts
from xdist.scheduler import LoadScopeScheduling


class GroupScheduling(LoadScopeScheduling):
    """Largest groups first; a host's is one, because a worker has one server of it and one process inside it."""

    names = [host.name for host in find_hosts()]

    def _split_scope(self, nodeid):
        file, _, test = nodeid.partition("::")
        return next((name for name in self.names if f"[{name}" in test), file)


class WorkerGroups:
    """The plugin that makes xdist use it."""

    def pytest_xdist_make_scheduler(self, config, log):
        return GroupScheduling(config, log)
