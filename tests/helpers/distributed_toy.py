"""One of several processes that train the toy together: `distributed_toy.py FOLDER [STEP]`, started by accelerate.

STEP: process 1 fails there.
"""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

import conftest  # noqa: F401, E402  (mounts the pack)
import torch  # noqa: E402
from pack.motion.training.config import TrainingConfig  # noqa: E402
from pack.motion.training.distributed import open_world  # noqa: E402
from pack.motion.training.trainer import Trainer  # noqa: E402
from training_toys import ToyTask  # noqa: E402

SETTINGS = {"num_steps": 6, "learning_rate": 1e-2, "warmup_steps": 2, "ema_decay": 0.9, "gradient_accumulation": 2}

if __name__ == "__main__":
    torch.set_num_threads(1)
    world, failing = open_world(), {}
    if len(sys.argv) > 2 and world.rank == 1:
        failing = {int(sys.argv[2]): RuntimeError("out of luck")}
    task = ToyTask(seed=world.rank, fail=failing)  # process 1 starts from other weights, which must not count
    Trainer(task, TrainingConfig.of(batch_size=1, **SETTINGS), folder=Path(sys.argv[1]), world=world).run()
