"""Operators: one file each, the torch backend and the choice between it and a faster twin."""
