"""Weights of VAEs: recognised, and their names brought to the host's."""
