"""The training loop, its settings, states and jobs."""
