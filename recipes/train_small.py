"""Train `motionblocks-small` from `motionblocks-tiny`, on scenes drawn on the fly; stops and resumes bit for bit.

    python tools/train_small.py --folder runs/small --steps 1200
    python tools/train_small.py --folder runs/small --steps 1200 --resume

The shipped weights came from three runs, each started from the one before; their metadata entry `history` tells them.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from ..motion.io.networks.linear_video import read_linear_video, save_linear_video
from ..motion.training.config import TrainingConfig
from .run import recipe_changes, run_arguments, run_training
from .scene_task import SceneTask
from .small import SmallRecipe, build_small, small_spec


def read_arguments() -> argparse.Namespace:
    parser = run_arguments(__doc__, steps=1200, batch=24, rate=1.5e-3)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--start", type=Path, help="weights of an earlier run to start from, not motionblocks-tiny")
    return parser.parse_args()


def main() -> None:
    arguments = read_arguments()
    torch.set_num_threads(arguments.threads)
    recipe = SmallRecipe(**recipe_changes(SmallRecipe, arguments.set))
    spec = small_spec(num_layers=arguments.layers)
    task = SceneTask(spec, *build_small(spec, recipe, arguments.seed, arguments.start), recipe)
    config = TrainingConfig.of(
        num_steps=arguments.steps, batch_size=arguments.batch, learning_rate=arguments.rate, warmup_steps=40,
        beta2=0.98, optimizer="muon", ema_decay=0.99, mode="full", precision="bf16", seed=arguments.seed,
        save_every=arguments.save_every,
    )  # fmt: skip
    count = sum(value.numel() for value in task.parameters().values())
    print(f"{count} parameters, {arguments.steps} steps of {arguments.batch} scenes", flush=True)
    run_training(
        task, config, arguments, lambda trainer: write(arguments, spec, recipe, task, trainer), report_every=10
    )


def write(arguments, spec, recipe, task, trainer) -> None:
    """Write the averaged weights of this moment as a model file."""
    with trainer.averaged():
        half = [{name: value.detach().to(torch.float16).contiguous() for name, value in module.state_dict().items()}
                for module in (task.dit, task.encoder)]
    rows = [0, *(recipe.words.index(word) + 1 for word in recipe.taught)]
    half[1]["embedding.weight"] = half[1]["embedding.weight"][rows].contiguous()
    command = f"python tools/train_small.py --steps {arguments.steps} --batch {arguments.batch} --rate {arguments.rate}"
    facts = {"motions": json.dumps(list(recipe.taught)), "recipe": json.dumps(recipe.to_dict()),
             "seed": str(arguments.seed), "steps": str(trainer.step), "torch": torch.__version__,
             "command": f"{command} --layers {arguments.layers} --seed {arguments.seed}"
                        + "".join(f" --set {change}" for change in arguments.set),
             "training_seconds": f"{trainer.seconds:.0f}"}
    if arguments.start:
        before = read_linear_video(arguments.start).metadata
        facts["start"] = json.dumps({name: before[name] for name in ("command", "steps", "recipe", "training_seconds")})
    path = arguments.folder / f"step{trainer.step:05d}.safetensors"
    save_linear_video(path, spec, half[0], half[1], extra_metadata=facts)
    print(f"{time.strftime('%H:%M:%S')} wrote {path}", flush=True)
