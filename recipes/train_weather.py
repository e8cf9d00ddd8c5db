"""Teach a built-in model rain and snow: trains the skip head alone, on scenes drawn on the fly; stops and resumes.

    python tools/train_weather.py --folder runs/weather --start motionblocks-small-without-weather.safetensors

What the model did before it does after, to the bit: its own weights and words are copied.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from ..motion.builtin_model import bundle
from ..motion.io.networks.linear_video import read_linear_video, save_linear_video
from ..motion.training.config import TrainingConfig
from .run import recipe_changes, run_arguments, run_training
from .weather import WeatherRecipe, WeatherTask, add_words, build_head, fit_gate, with_head

HISTORY = ("command", "steps", "motions", "training_seconds", "history")


def read_arguments() -> argparse.Namespace:
    parser = run_arguments(__doc__, steps=3000, batch=12, rate=2e-3)
    parser.add_argument("--start", type=Path, required=True, help="model file that knows neither rain nor snow")
    parser.add_argument("--channels", type=int, default=32, help="width of the skip head")
    parser.add_argument("--deviation", type=float, default=0.1, help="of what the weather adds, in colours of -1 to 1")
    return parser.parse_args()


def main() -> None:
    arguments = read_arguments()
    torch.set_num_threads(arguments.threads)
    recipe = WeatherRecipe(**recipe_changes(WeatherRecipe, arguments.set))
    file = read_linear_video(arguments.start)
    model = bundle(file)
    spec = with_head(file.spec, arguments.channels, arguments.deviation)
    encoder, words = add_words(model.text_encoder, model.vocabulary.words, recipe.aside, arguments.seed)
    head = build_head(spec, arguments.seed)
    task = WeatherTask(head, encoder, words, recipe)
    print(f"gate fitted, every prompt at least {fit_gate(head, encoder, words):.1f} on its side", flush=True)
    config = TrainingConfig.of(
        num_steps=arguments.steps, batch_size=arguments.batch, learning_rate=arguments.rate, warmup_steps=40,
        beta2=0.98, ema_decay=0.99, mode="full", precision="bf16", seed=arguments.seed, weight_decay=0.0,
        save_every=arguments.save_every,
    )  # fmt: skip
    print(f"{sum(value.numel() for value in task.parameters().values())} parameters", flush=True)
    run_training(
        task, config, arguments, lambda trainer: write(arguments, file, spec, task, trainer), report_every=20
    )


def write(arguments, file, spec, task, trainer) -> None:
    """Write the model of the start with the averaged head and the new words."""
    with trainer.averaged():
        head = {f"skip_head.{name}": value.detach().to(torch.float16).contiguous()
                for name, value in task.head.state_dict().items()}
    text = {name: value.to(torch.float16).contiguous() for name, value in task.encoder.state_dict().items()}
    state = {name: value.to(torch.float16) for name, value in file.state_dict.items()}
    before = {name: file.metadata[name] for name in HISTORY if name in file.metadata}
    history = [*json.loads(before.pop("history", "[]")), before]
    command = f"python tools/train_weather.py --steps {arguments.steps} --batch {arguments.batch} "
    command += f"--rate {arguments.rate} --channels {arguments.channels} --deviation {arguments.deviation}"
    facts = {"motions": json.dumps(list(task.vocabulary.words)), "recipe": file.metadata["recipe"],
             "weather_recipe": json.dumps(task.recipe.to_dict()), "seed": str(arguments.seed),
             "steps": str(trainer.step), "torch": torch.__version__, "history": json.dumps(history),
             "command": f"{command} --seed {arguments.seed}" + "".join(f" --set {item}" for item in arguments.set),
             "training_seconds": f"{trainer.seconds:.0f}"}
    path = arguments.folder / f"step{trainer.step:05d}.safetensors"
    save_linear_video(path, spec, {**state, **head}, text, extra_metadata=facts)
    print(f"{time.strftime('%H:%M:%S')} wrote {path}", flush=True)
