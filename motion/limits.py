"""Limits that widgets and the library share, where they can be read without loading a model."""

MAX_DYNAMICS = 19  # of the slider, which is the highest motion bucket; 0 is nearly nothing
MAX_SEED = 2**64 - 1  # of noise
MAX_DATA_SEED = 2**63 - 1  # of clips and windows to train on
MAX_FPS = 240.0
MAX_SIDE = 4096  # px of a picture
MAX_CLIP_FRAMES = 1000  # of a clip to train on
