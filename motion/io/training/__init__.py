"""Training states and encoded clips on disk."""
