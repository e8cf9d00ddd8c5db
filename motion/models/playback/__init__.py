"""Plays built-in latents on the photo itself."""
