"""LinearVideo, the linear-attention video DiT of MiraMo, with our extensions as flags."""
