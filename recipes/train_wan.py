"""Train `motionblocks-wan` on drawn sprites, in the latents of `motionblocks-vae`; stops and resumes bit for bit.

python tools/train_wan.py --folder runs/wan
python tools/train_wan.py --folder runs/wan --resume

`motionblocks-wan-i2v` starts from its weights:

python tools/train_wan.py --folder runs/i2v --from-image weights/motionblocks-wan.safetensors --steps 1900

`--begin FILE` trains a network further, at a lower rate; processors that are slow in bfloat16 want `--fp32`.
"""

import argparse
import hashlib
import json
import time
from dataclasses import replace
from pathlib import Path

import torch

from ..motion.io.networks.builtin_names import WEIGHTS
from ..motion.io.networks.builtin_wan import BuiltinWanFile, read_builtin_wan, save_builtin_wan
from ..motion.io.vaes.small_vae import read_small_vae
from ..motion.training.config import TrainingConfig
from .run import recipe_changes, run_arguments, run_training
from .wan import GROUPS, OF_IMAGES, OF_WORDS, WanRecipe, WanTask, as_file_weights, as_started, build_wan, wan_spec

HISTORY = ("command", "seed", "steps", "processor_seconds", "recipe", "history")


def read_arguments() -> argparse.Namespace:
    parser = run_arguments(__doc__, steps=5400, batch=16, rate=4e-3)
    parser.add_argument("--vae", type=Path, default=WEIGHTS / "motionblocks-vae.safetensors")
    parser.add_argument("--begin", type=Path, metavar="FILE", help="train this file's network further")
    parser.add_argument("--fp32", action="store_true", help="for processors without products in bfloat16")
    parser.add_argument("--from-image", type=Path, metavar="FILE", help="train image to video, from these weights on")
    return parser.parse_args()


def main() -> None:
    arguments = read_arguments()
    torch.set_num_threads(arguments.threads)
    digest = hashlib.sha256(arguments.vae.read_bytes()).hexdigest()
    start = arguments.from_image or arguments.begin
    file = read_builtin_wan(start) if start else None
    of_images = arguments.from_image is not None or file is not None and file.spec.config.concat_channels > 0
    base = OF_IMAGES if of_images else OF_WORDS if file is None else replace(OF_WORDS, lead_steps=0)
    recipe = replace(base, vae=digest[:16], **recipe_changes(WanRecipe, arguments.set))
    spec = wan_spec(from_image=of_images)
    dit = build_wan(spec, arguments.seed)
    if file:
        dit.load_state_dict(as_started(file.network().state_dict(), spec))
    vae = read_small_vae(arguments.vae).requires_grad_(False)
    task = WanTask(spec, dit, vae, recipe)
    config = TrainingConfig.of(
        num_steps=arguments.steps, batch_size=arguments.batch, learning_rate=arguments.rate, warmup_steps=40,
        beta2=0.98, optimizer="muon" if arguments.fp32 else "muon_bf16", ema_decay=0.99, mode="full",
        precision="fp32" if arguments.fp32 else "bf16", seed=arguments.seed, save_every=arguments.save_every,
    )  # fmt: skip
    count = sum(value.numel() for value in task.parameters().values())
    print(f"{count} parameters, {arguments.steps} steps of {arguments.batch} sprites", flush=True)
    run_training(
        task, config, arguments, lambda trainer: write(arguments, recipe, task, trainer, file), report_every=10
    )


def write(arguments, recipe: WanRecipe, task: WanTask, trainer, file: BuiltinWanFile | None) -> None:
    """Write the averaged weights of this moment as a model file; file: what the training began from."""
    with trainer.averaged():
        state = {name: value.detach().clone() for name, value in task.dit.state_dict().items()}
    command = f"python tools/train_wan.py --steps {arguments.steps} --batch {arguments.batch} --rate {arguments.rate}"
    if arguments.fp32:
        command += " --fp32"
    if arguments.begin:
        command += f" --begin {arguments.begin.name}"
    if arguments.from_image:
        command += f" --from-image {arguments.from_image.name}"
    facts = {"recipe": json.dumps(recipe.to_dict()), "seed": str(arguments.seed), "steps": str(trainer.step),
             "command": f"{command} --seed {arguments.seed}" + "".join(f" --set {each}" for each in arguments.set),
             "torch": torch.__version__, "processor_seconds": f"{time.process_time():.0f}"}  # fmt: skip
    if file:
        facts["history"] = json.dumps({name: file.metadata[name] for name in HISTORY if name in file.metadata})
    path = arguments.folder / f"step{trainer.step:05d}.safetensors"
    save_builtin_wan(path, task.spec, as_file_weights(state, task.spec), GROUPS, facts)
    print(f"{time.strftime('%H:%M:%S')} wrote {path}", flush=True)
