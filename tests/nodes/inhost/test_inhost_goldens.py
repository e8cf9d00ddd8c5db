"""What saved graphs rely on, against what is kept: ids, inputs in their order, types, defaults, choices, outputs.

MOTIONBLOCKS_KEEP=1 writes the file anew; do so only when nodes or inputs were added.
"""

import json
import os
from pathlib import Path

from node_promises import promised

KEPT = Path(__file__).resolve().parents[2] / "goldens" / "schemas.json"


def test_nodes_keep_the_promises_that_saved_graphs_rely_on(ours):
    now = json.loads(json.dumps({node.GET_SCHEMA().node_id: promised(node) for node in ours.values()}))
    if os.environ.get("MOTIONBLOCKS_KEEP") == "1":
        KEPT.write_text(json.dumps(now, indent=1, sort_keys=True) + "\n")
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    assert sorted(now) == sorted(kept)
    for name, promises in kept.items():
        assert now[name] == promises, name
