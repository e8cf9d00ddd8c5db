"""Text encoders behind the host's CLIP socket: the motion vocabulary, and Gemma-2 for SANA."""
