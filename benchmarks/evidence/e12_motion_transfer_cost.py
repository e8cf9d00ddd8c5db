"""E12: what does it cost to learn one clip's motion, and what does each part of the method save?

    python benchmarks/evidence/e12_motion_transfer_cost.py

About ten minutes on one processor core: a step on 21 latent frames takes the most of it.
"""

import tempfile
from pathlib import Path

import torch
from cost_of_motion_transfer import memory_table, probe_table, step_table, timed_rest, timed_steps
from evidence_common import finish


def main() -> None:
    torch.set_num_threads(1)
    probe = probe_table()
    print(probe, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        rest = timed_rest(Path(folder))
    print(rest, flush=True)
    steps = timed_steps()
    rows = [{"what": name, "processor_seconds": value} for name, value in {**steps, **rest}.items()]
    finish("e12_motion_transfer_cost", {**probe, **step_table(steps, rest), **memory_table()}, rows)


if __name__ == "__main__":
    main()
