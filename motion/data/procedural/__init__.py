"""Drawn clips whose true motion is known."""
