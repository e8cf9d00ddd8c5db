"""Clips, windows and latents to train on."""
