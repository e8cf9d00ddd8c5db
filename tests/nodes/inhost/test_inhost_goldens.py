"""What saved graphs rely on, against what is kept: ids, inputs in their order, types, defaults, choices, outputs.

MOTIONBLOCKS_KEEP=1 writes the file anew; do so only when nodes or inputs were added.
"""

import json
import os
from pathlib import Path

KEPT = Path(__file__).resolve().parents[2] / "goldens" / "schemas.json"
FROM_FOLDERS = {"folder", "source_name", "vae_name", "text_encoder_name", "resume_from"}  # choices are files found


def promised(node) -> dict:
    """Inputs and outputs of a node class as plain values."""
    told = node.GET_NODE_INFO_V1()
    inputs = []
    for group in ("required", "optional"):
        for name, (kind, *more) in told["input"].get(group, {}).items():
            settings = more[0] if more else {}
            found_on_disk = name in FROM_FOLDERS or (told["name"], name) == ("MotionBlocksLoadModel", "model_name")
            choices = kind if isinstance(kind, list) else settings.get("options")
            inputs.append({
                "name": name, "group": group, "type": "COMBO" if isinstance(kind, list) else kind,
                **{key: settings[key] for key in ("default", "min", "max", "step", "forceInput") if key in settings},
                **({"choices": choices} if choices and not found_on_disk else {}),
            })  # fmt: skip
    return {"inputs": inputs, "outputs": list(zip(told["output_name"], map(str, told["output"]))),
            "output_node": told["output_node"]}  # fmt: skip


def test_nodes_keep_the_promises_that_saved_graphs_rely_on(ours):
    now = json.loads(json.dumps({node.GET_SCHEMA().node_id: promised(node) for node in ours.values()}))
    if os.environ.get("MOTIONBLOCKS_KEEP") == "1":
        KEPT.write_text(json.dumps(now, indent=1, sort_keys=True) + "\n")
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    assert sorted(now) == sorted(kept)
    for name, promises in kept.items():
        assert now[name] == promises, name
