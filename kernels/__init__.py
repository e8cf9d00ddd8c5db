"""Operators: one file each, the torch form and the choice between it and a faster twin."""
