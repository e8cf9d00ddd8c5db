"""Triton twins of the operators. Each is imported at first use: decorating a kernel needs Triton."""
