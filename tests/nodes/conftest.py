"""The files in `inhost` run inside a host's own Python; our Python does not collect them."""

import os

if "MOTIONBLOCKS_HOST" not in os.environ:
    collect_ignore = ["inhost"]
