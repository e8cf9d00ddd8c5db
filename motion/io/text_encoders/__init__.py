"""Weights and tokenizers of text encoders."""
