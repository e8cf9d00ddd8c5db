"""Words that widgets and options offer, where they can be read without loading a model."""

# What a clip of more frames than the model was trained on does; see sampling/clip_places.py.
SAME_MOVE, GO_ON, BACK_AND_FORTH = LONGER = ("same move", "go on", "back and forth")
# What is shown where a frame looks beyond the photo; see models/playback/photo_player.py.
CROP, MIRROR = EDGES = ("crop", "mirror")
# How temporal attention starts in a network made of an image model; see models/inflation.py.
INITS = ("zero", "copy")
EXPERTS = WHOLE, HIGH_NOISE, LOW_NOISE = "wan2.1", "high noise", "low noise"  # which noise levels a Wan model is for
# What stacked motion adapters leave of the model where their weights come to less than 1; see adapters/slot_sums.py.
DELTA, PAPER = FORMS = ("delta", "paper")
# Learning the motion of one clip: how heads are told apart, what is trained, and where sparse frames stand in time.
RELEASE, PAPER_RULE = HEAD_RULES = ("release", "paper")
MASSES, SVG = HEAD_METHODS = ("masses", "svg")
BOTH, SPATIAL, TEMPORAL = STAGES = ("both", "spatial", "temporal")
ALL_HEADS = "all"
SECOND_HEADS = (TEMPORAL, ALL_HEADS)
STRIDE, PAPER_PLACES, CENTER, OFF = PLACES = ("stride", "paper", "center", "off")
MOTION_LOSSES = ("paper", "release", "off")
# What a camera does in clips made of photos, in film usage; see data/sources/camera_clips.py.
CAMERA_MOVES = (
    "pan left", "pan right", "pan up", "pan down", "zoom in", "zoom out", "rotate left", "rotate right",
)  # fmt: skip
ONE_LEVEL, CLEAN_LEVEL = SEQUENCE_TIMESTEPS = ("one", "clean")  # of given frames in a sequence: as all others, or 0
ALL_TOKENS, SEGMENTS = SEQUENCE_ATTENTIONS = ("all", "segment")  # what given frames look at
JOINT, SEPARATE = SEQUENCE_MODES = ("joint", "separate")  # passes of the VAE over a sequence
