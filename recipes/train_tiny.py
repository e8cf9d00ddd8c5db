"""Train the built-in model from nothing: `python tools/train_builtin.py --seed 0`."""

import argparse
import json
import time
from pathlib import Path

import torch

from ..motion.io.networks.linear_video import save_linear_video
from .run import recipe_changes
from .tiny import BuiltinRecipe, builtin_spec
from .tiny_trainer import Trainer

ROOT = Path(__file__).resolve().parents[1]


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="default: the recipe's")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, default=ROOT / "weights" / "motionblocks-tiny.safetensors")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="change the recipe")
    return parser.parse_args()


def main() -> None:
    arguments = read_arguments()
    torch.set_num_threads(arguments.threads)
    changes = recipe_changes(BuiltinRecipe, arguments.set)
    if arguments.steps:
        changes["num_steps"] = arguments.steps
    recipe, spec = BuiltinRecipe(**changes), builtin_spec()
    trainer = Trainer(spec, recipe, arguments.seed, arguments.device)
    print(f"{sum(value.numel() for value in trainer.parameters)} parameters, {recipe.num_steps} steps")
    started, mean = time.monotonic(), [0.0, 0.0]

    def report(step: int, loss: float, flow_error: float, seconds: float) -> None:
        keep = min(0.95, step / (step + 1))
        mean[:] = [keep * old + (1 - keep) * new for old, new in zip(mean, (loss, flow_error))]
        if step % 20 == 19 or step + 1 == recipe.num_steps:
            left = seconds / (step + 1) * (recipe.num_steps - step - 1)
            print(f"step {step + 1}/{recipe.num_steps} loss {mean[0]:.3f} flow error {mean[1]:.2f} px, "
                  f"{seconds:.0f} s, {left:.0f} s left", flush=True)

    trainer.run(report)
    dit_state, text_state = trainer.averaged_state()
    half = [{name: value.detach().cpu().to(torch.float16).contiguous() for name, value in state.items()}
            for state in (dit_state, text_state)]
    facts = {"recipe": json.dumps(recipe.to_dict()), "seed": str(arguments.seed),
             "command": f"python tools/train_builtin.py --seed {arguments.seed} --steps {recipe.num_steps}"
                        f" --threads {arguments.threads}" + "".join(f" --set {change}" for change in arguments.set),
             "torch": torch.__version__, "training_seconds": f"{time.monotonic() - started:.0f}"}
    save_linear_video(arguments.output, spec, half[0], half[1], extra_metadata=facts)
    print(f"wrote {arguments.output} ({arguments.output.stat().st_size / 1e6:.2f} MB)")
