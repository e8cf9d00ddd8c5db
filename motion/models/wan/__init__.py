"""Wan 2.1 and the two 14B experts of Wan 2.2: text to video, and start image to video."""
