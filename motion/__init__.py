"""The library: pure torch, runs with no host, no GPU and no Triton."""
