"""Training beside a host's own Wan, measured inside it: `HOST/.venv/bin/python native_training_in_host_common.py HOST`.

Prints one line, RESULT and JSON.
"""

import json
import sys
import time
from pathlib import Path

HOST, ROOT = sys.argv[1], Path(__file__).resolve().parents[1]
sys.path[:0] = [HOST, str(ROOT / "tests" / "helpers"), str(ROOT / "tests" / "nodes" / "inhost")]

from comfy.cli_args import args  # noqa: E402

args.cpu = True

import comfy.sd  # noqa: E402
import torch  # noqa: E402
from builtin_common import mount_pack  # noqa: E402

mount_pack()

import native_training as beside  # noqa: E402

CONFIG = beside.CONFIG
KINDS = ("text", "image", "expert")
TENSORS = 3  # of a layer in the LoRA's file


def run(trainee, kind: str) -> dict:
    """Losses, trained values and processor seconds a step of the twenty."""
    trainer, started = beside.trainer_of(trainee, kind), time.process_time()
    trainer.run()
    values = {name: value.detach() for name, value in trainer.parameters.items()}
    seconds = (time.process_time() - started) / CONFIG.loop.num_steps
    return {"losses": trainer.losses, "values": values, "seconds": seconds, "lora": trainer.task.adapter.tensors()}


def measure(kind: str) -> dict:
    """Own and native side by side, with checkpointing and without, and what is left of it in the MODEL."""
    model = beside.native_model(kind)
    before = beside.seen(model)
    own, plain, twice = run(beside.own_trainee(kind), kind), *(
        run(beside.native_trainee(model, checkpointing=on), kind) for on in (False, True)
    )  # fmt: skip
    left = beside.differences(before, beside.seen(model))
    loaded, _ = comfy.sd.load_lora_for_models(model, None, plain["lora"], 1.0, 0.0)
    return {
        "kind": kind, "own losses": own["losses"], "native losses": plain["losses"],
        "loss": max(abs(one - two) for one, two in zip(own["losses"], plain["losses"])),
        "twice": max(float((one - two).abs().max()) for one, two in zip(plain["values"].values(),
                                                                        twice["values"].values())),
        "seconds": {"own": own["seconds"], "native": plain["seconds"], "native, checkpointing": twice["seconds"]},
        "left": left, "in core": [len(loaded.patches), len(plain["lora"]) // TENSORS],
    }  # fmt: skip


def main() -> None:
    torch.set_num_threads(1)
    with torch.inference_mode():
        rows = [measure(kind) for kind in KINDS]
    print("RESULT", json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
