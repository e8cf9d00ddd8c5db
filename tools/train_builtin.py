"""Train the built-in model from nothing: `python tools/train_builtin.py --seed 0`."""

import argparse
import importlib.util
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin at barriers stall on a busy machine

import torch  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]


def mount_pack():
    """Load the pack under the fixed alias `pack`."""
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() not in (ROOT, ROOT / "tools")]
    spec = importlib.util.spec_from_file_location(
        "pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["pack"] = module
    spec.loader.exec_module(module)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="default: the recipe's")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, default=ROOT / "weights" / "motionblocks-tiny.safetensors")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="change the recipe")
    return parser.parse_args()


def recipe_changes(recipe: type, given: list[str]) -> dict:
    """Settings "name=value" as values of the types the recipe's defaults have."""
    return {name: type(getattr(recipe, name))(value) for name, value in (change.split("=", 1) for change in given)}


def main() -> None:
    arguments = read_arguments()
    torch.set_num_threads(arguments.threads)
    mount_pack()
    from pack.motion.io.networks.motion_model import save_motion_model
    from pack.recipes.tiny import BuiltinRecipe, builtin_spec
    from pack.recipes.tiny_trainer import Trainer

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
    save_motion_model(arguments.output, spec, half[0], half[1], extra_metadata=facts)
    print(f"wrote {arguments.output} ({arguments.output.stat().st_size / 1e6:.2f} MB)")


if __name__ == "__main__":
    main()
