"""What a network learns from a sample: what it is shown, and how wrong its answer is. One file an objective."""
