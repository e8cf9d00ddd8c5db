"""One architecture a file, each built from one frozen dataclass."""
