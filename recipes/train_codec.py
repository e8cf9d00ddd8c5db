"""Train `motionblocks-vae` on drawn sprites, puppets and skeletons; stops and resumes bit for bit.

python tools/train_codec.py --folder runs/codec
python tools/train_codec.py --folder runs/codec --resume
"""

import argparse
import copy
import json
import time

import torch

from ..motion.io.vaes.small_vae import save_small_vae
from ..motion.training.config import TrainingConfig
from .codec import CodecRecipe, CodecTask, build_codec, measure_scale
from .run import recipe_changes, run_arguments, run_training


def read_arguments() -> argparse.Namespace:
    return run_arguments(__doc__, steps=1600, batch=8, rate=1e-3).parse_args()


def main() -> None:
    arguments = read_arguments()
    torch.set_num_threads(arguments.threads)
    recipe = CodecRecipe(**recipe_changes(CodecRecipe, arguments.set))
    task = CodecTask(build_codec(recipe, arguments.seed), recipe)
    config = TrainingConfig.of(
        num_steps=arguments.steps, batch_size=arguments.batch, learning_rate=arguments.rate, warmup_steps=40,
        beta2=0.99, optimizer="muon", ema_decay=0.99, weight_decay=0.0, mode="full", precision="bf16",
        seed=arguments.seed,         save_every=arguments.save_every,
    )  # fmt: skip
    count = sum(value.numel() for value in task.parameters().values())
    print(f"{count} parameters, {arguments.steps} steps of {arguments.batch} clips", flush=True)
    run_training(task, config, arguments, lambda trainer: write(arguments, recipe, task, trainer), report_every=20)


def write(arguments, recipe: CodecRecipe, task: CodecTask, trainer) -> None:
    """Write the averaged weights of this moment, and the scale of the latents that they make."""
    with trainer.averaged(), torch.no_grad():
        vae = copy.deepcopy(task.vae)
    with torch.no_grad():
        measure_scale(vae, recipe, arguments.seed)
    command = f"python tools/train_codec.py --steps {arguments.steps} --batch {arguments.batch} --rate {arguments.rate}"
    facts = {"recipe": json.dumps(recipe.to_dict()), "seed": str(arguments.seed), "steps": str(trainer.step),
             "command": f"{command} --seed {arguments.seed}" + "".join(f" --set {each}" for each in arguments.set),
             "torch": torch.__version__, "processor_seconds": f"{time.process_time():.0f}"}  # fmt: skip
    path = arguments.folder / f"step{trainer.step:05d}.safetensors"
    save_small_vae(path, vae, facts)
    print(f"{time.strftime('%H:%M:%S')} wrote {path}", flush=True)
