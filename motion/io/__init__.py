"""Weights, states and pictures on disk, by what a file holds; every write goes through `files/atomic`."""
