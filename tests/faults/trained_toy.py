"""A training run small enough to be killed twenty times.

`python trained_toy.py FOLDER` imports torch once; for every line it reads it forks a child that goes on where the run
stopped, prints the child's number and, when the child has ended, its exit status.
"""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import conftest  # noqa: F401, E402  (mounts the pack)
import torch  # noqa: E402
from pack.motion.training.config import TrainingConfig  # noqa: E402
from pack.motion.training.trainer import Trainer  # noqa: E402
from training_toys import ToyTask  # noqa: E402

CONFIG = TrainingConfig.of(num_steps=50, batch_size=2, learning_rate=1e-2, ema_decay=0.9, save_every=3)


def train(folder, **options):
    """Run from the newest whole state, or from the start."""
    return Trainer(ToyTask(), CONFIG, folder=folder, resume="latest", **options).run()


def child(folder, pause):
    """Train to the end, slowly, in a process of its own; returns its number."""
    pid = os.fork()
    if pid:
        return pid
    try:
        train(folder, on_step=lambda report: time.sleep(pause))
        os._exit(0)
    finally:
        os._exit(1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    Trainer(ToyTask(), TrainingConfig.of(num_steps=1)).run()  # what is imported late is imported now
    for line in sys.stdin:
        pid = child(Path(sys.argv[1]), float(line))
        print(pid, flush=True)
        print(os.waitpid(pid, 0)[1], flush=True)
