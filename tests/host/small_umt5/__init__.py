"""For servers of tests: core's CLIPLoader builds UMT5-XXL with one layer and few words, by the host's own option.

A true one takes minutes a prompt on a CPU, and 11 GB. What finds it, loads it, splits words and runs is the host's.
"""

import json
from pathlib import Path

import comfy.text_encoders.wan as wan

SIZES = json.loads(Path(__file__).with_name("sizes.json").read_text())  # the width stays 4096
NODE_CLASS_MAPPINGS = {}


class SmallUMT5(wan.UMT5XXlModel):
    def __init__(self, *args, model_options, **more):
        super().__init__(*args, model_options={**model_options, "umt5xxl_model_config": SIZES}, **more)


wan.UMT5XXlModel = SmallUMT5
