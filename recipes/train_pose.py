"""Train `motionblocks-wan-pose` on drawn puppets, from the weights of `motionblocks-wan-i2v`; stops and resumes.

python tools/train_pose.py --folder runs/pose
python tools/train_pose.py --folder runs/pose --resume

`--set form=channels` and `--set loss=all` train what the sequence and its loss are compared with; `--side 64` makes all
clips small.
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
from ..motion.pose.renderer import RENDERER_ID
from ..motion.training.config import TrainingConfig
from .pose import PoseRecipe, PoseTask
from .run import recipe_changes, run_arguments, run_training
from .train_wan import HISTORY
from .wan import GROUPS, as_file_weights, as_started, build_wan, wan_spec


def read_arguments() -> argparse.Namespace:
    parser = run_arguments(__doc__, steps=1500, batch=12, rate=3e-3)
    parser.add_argument("--vae", type=Path, default=WEIGHTS / "motionblocks-vae.safetensors")
    parser.add_argument("--begin", type=Path, metavar="FILE", default=WEIGHTS / "motionblocks-wan-i2v.safetensors")
    parser.add_argument("--side", type=int, default=0, help="px of all clips instead of the recipe's sizes")
    parser.add_argument("--frames", type=int, default=17, help="of clips of --side")
    parser.add_argument("--fp32", action="store_true", help="for processors without products in bfloat16")
    return parser.parse_args()


def main() -> None:
    arguments = read_arguments()
    torch.set_num_threads(arguments.threads)
    digest = hashlib.sha256(arguments.vae.read_bytes()).hexdigest()
    file = read_builtin_wan(arguments.begin)
    recipe = replace(PoseRecipe(), vae=digest[:16], **recipe_changes(PoseRecipe, arguments.set))
    if arguments.side:
        recipe = replace(recipe, sizes=((arguments.side, arguments.side, arguments.frames, 1.0),), lead_steps=0)
    spec = wan_spec(from_image=True)
    spec = replace(spec, sampling=replace(spec.sampling, guidance_scale=1.0, num_frames=17))
    dit = build_wan(spec, arguments.seed)
    dit.load_state_dict(as_started(file.network().state_dict(), spec))
    task = PoseTask(spec, dit, read_small_vae(arguments.vae).requires_grad_(False), recipe)
    config = TrainingConfig.of(
        num_steps=arguments.steps, batch_size=arguments.batch, learning_rate=arguments.rate, warmup_steps=40,
        beta2=0.98, optimizer="muon" if arguments.fp32 else "muon_bf16", ema_decay=0.99, mode="full",
        precision="fp32" if arguments.fp32 else "bf16", seed=arguments.seed, save_every=arguments.save_every,
    )  # fmt: skip
    print(f"{arguments.steps} steps of {arguments.batch} puppets", flush=True)
    run_training(
        task, config, arguments, lambda trainer: write(arguments, recipe, task, trainer, file), report_every=10
    )


def write(arguments, recipe: PoseRecipe, task: PoseTask, trainer, file: BuiltinWanFile) -> None:
    """Write the averaged weights of this moment as a model file; file: what the training began from."""
    with trainer.averaged():
        state = {name: value.detach().clone() for name, value in task.dit.state_dict().items()}
    command = f"python tools/train_pose.py --steps {arguments.steps} --batch {arguments.batch} --rate {arguments.rate}"
    command += (f" --side {arguments.side} --frames {arguments.frames}" if arguments.side else "")
    command += " --fp32" * arguments.fp32
    facts = {"recipe": json.dumps(recipe.to_dict()), "seed": str(arguments.seed), "steps": str(trainer.step),
             "command": f"{command} --seed {arguments.seed}" + "".join(f" --set {each}" for each in arguments.set),
             "torch": torch.__version__, "processor_seconds": f"{time.process_time():.0f}",
             "history": json.dumps({name: file.metadata[name] for name in HISTORY if name in file.metadata}),
             **trained_as(recipe)}  # fmt: skip
    path = arguments.folder / f"step{trainer.step:05d}.safetensors"
    save_builtin_wan(path, task.spec, as_file_weights(state, task.spec), GROUPS, facts)
    print(f"{time.strftime('%H:%M:%S')} wrote {path}", flush=True)


def trained_as(recipe: PoseRecipe) -> dict[str, str]:
    """Metadata that says which sequences the network knows."""
    return {"sequence_mode": recipe.mode, "sequence_timestep": "one", "sequence_attention": "all",
            "pose_renderer": str(RENDERER_ID)}  # fmt: skip
