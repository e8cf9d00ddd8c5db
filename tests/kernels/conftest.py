"""Interpreted and compiled kernels need processes of their own: Triton reads TRITON_INTERPRET when it decorates."""

import importlib.util
import os

HAS_TRITON = importlib.util.find_spec("triton") is not None
INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"

collect_ignore = []
if not (HAS_TRITON and INTERPRETING):
    collect_ignore.append("interpreted")
if INTERPRETING or not HAS_TRITON:
    collect_ignore.append("compiled")
