"""Torch checkpoints, read without running them, for conversion to safetensors."""
