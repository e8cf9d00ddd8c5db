"""The architectures there are, a row each. Whoever acts by architecture asks this table, and no type or name."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..errors import ConfigError
from .architecture import Architecture
from .linear_video.architecture import LINEAR_VIDEO
from .sana_video.architecture import SANA_VIDEO
from .wan.architecture import WAN


@dataclass(frozen=True)
class ArchitectureTable:
    """Rows with different names, configs and specs. Raises ConfigError for two rows that share one of them."""

    rows: tuple[Architecture, ...]

    def __post_init__(self):
        for what in ("name", "config", "spec"):
            values = [getattr(row, what) for row in self.rows]
            twice = [value for value in values if values.count(value) > 1]
            if twice:
                raise ConfigError(f"two architectures have the {what} {twice[0]!r}; each needs its own")

    def __iter__(self) -> Iterator[Architecture]:
        return iter(self.rows)

    def named(self, name: str) -> Architecture:
        """The row of this name. Raises ConfigError with the names there are."""
        found = next((row for row in self.rows if row.name == name), None)
        if found is None:
            known = ", ".join(row.name for row in self.rows)
            raise ConfigError(f"architecture is {str(name)[:60]!r}; it must be one of {known}")
        return found

    def of(self, described: object) -> Architecture:
        """The row that a spec or a config is of. Raises ConfigError for anything else."""
        kind = type(described)
        found = next((row for row in self.rows if kind in (row.spec, row.config)), None)
        if found is None:
            known = ", ".join(part.__name__ for row in self.rows for part in (row.spec, row.config))
            raise ConfigError(f"{kind.__name__} describes no architecture known here; known are {known}")
        return found

    def in_metadata(self, metadata: Mapping[str, str]) -> Architecture | None:
        """The row that a file names itself, of those whose spec stands in the file; None for all other files."""
        family = metadata.get("family")
        return next((row for row in self.rows if row.read_spec is not None and row.name == family), None)


ARCHITECTURES = ArchitectureTable((LINEAR_VIDEO, SANA_VIDEO, WAN))
