"""Prompts: the motion vocabulary and the encoder that reads it."""
