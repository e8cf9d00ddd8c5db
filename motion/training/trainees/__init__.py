"""Networks as the tasks see them, one file an architecture."""
