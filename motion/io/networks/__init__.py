"""Weights of networks: recognised by headers, read whole or not at all, written."""
