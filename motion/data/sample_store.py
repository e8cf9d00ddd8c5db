"""Encoded samples in order: in memory while they are few, else by their place in a cache on disk."""

from torch import Tensor

from ..errors import CheckpointError
from ..io.training.latent_cache import LatentCache

KEEP_BYTES = 1 << 30  # samples up to this much stay in memory, more are read from the cache one by one
Found = tuple[dict[str, Tensor], dict[str, str]]  # tensors by name, and texts


class SampleStore:
    """Samples by their number, each under a key that names all that went into it. cache: None keeps all in memory."""

    def __init__(self, cache: LatentCache | None):
        self.cache = cache
        self.keys: list[str] = []
        self.num_reused = 0
        self._kept: dict[int, dict[str, Tensor]] = {}
        self._bytes = 0

    def find(self, key: str) -> Found | None:
        """What the cache holds under a key."""
        return self.cache.get(key) if self.cache is not None else None

    def add(self, key: str, tensors: dict[str, Tensor], texts: dict[str, str] | None = None) -> None:
        """Take a sample in. texts: of one that was made anew, to keep beside it; None for one that was found."""
        if texts is None:
            self.num_reused += 1
        elif self.cache is not None:
            self.cache.put(key, tensors, texts)
        self._bytes += sum(value.numel() * value.element_size() for value in tensors.values())
        if self.cache is None or self._bytes <= KEEP_BYTES:
            self._kept[len(self.keys)] = tensors
        self.keys.append(key)

    def load(self, index: int) -> dict[str, Tensor]:
        """A sample's tensors, which the caller may write into.

        Raises CheckpointError when the cache was changed since.
        """
        stored = self._kept.get(index)
        if stored is None:
            found = self.cache.get(self.keys[index])
            if found is None:
                raise CheckpointError(
                    f"{self.cache.path(self.keys[index])}: changed or gone since it was made; build the data set again"
                )
            stored = found[0]
        return {name: value.clone() for name, value in stored.items()}

    def reused(self) -> str:
        """A line on how many samples came from the cache; "" without one."""
        if self.cache is None:
            return ""
        damaged = f", {self.cache.num_damaged} damaged and made again" if self.cache.num_damaged else ""
        return f"cache: {self.num_reused} samples found, {len(self.keys) - self.num_reused} made{damaged}"
