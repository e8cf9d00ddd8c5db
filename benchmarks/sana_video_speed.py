"""SANA-Video's network beside diffusers' own, in one process, with the same weights and inputs. Writes JSON.

Calls of the two follow each other, so that whatever else the machine does falls on both. On a CPU the ratios are of
processor time, in float32 on one thread, of two blocks at 8k tokens and of one block at 32k; on a card they are of the
card's time, in bfloat16, of the whole network. Peaks are live bytes of one block, counted on the meta device.
"""

import argparse
import statistics
import sys
import time
from contextlib import nullcontext
from unittest import mock

import torch
from builtin_common import save
from kernels_timing_common import Clock, facts
from ledger_common import Ledger
from pack.motion.models.conditions import Conditions
from pack.motion.models.sana_video.network import SanaVideoConfig, SanaVideoDiT

ROWS, COLUMNS, TEXT, WORDS = 60, 104, 300, 40  # latents of 832x480 px; tokens of a prompt, and those that are words
CASES = {"8k tokens": (5, 2, 2), "32k tokens": (21, 1, 1)}  # latent frames, blocks, rounds
CARD_CASES = {"8k tokens": (5, 20, 5), "32k tokens": (21, 20, 5)}


class Operators(dict):
    """Declared bytes of the pack's operators, which are not asked for here."""

    def __missing__(self, name):
        return lambda *arguments: 0


def networks(num_layers: int, device: str, dtype: torch.dtype):
    """diffusers' network and ours on the same weights."""
    from diffusers import SanaVideoTransformer3DModel

    config = SanaVideoConfig(num_layers=num_layers)
    torch.manual_seed(0)
    with torch.device(device):
        theirs = SanaVideoTransformer3DModel(
            num_layers=num_layers, mlp_ratio=config.mlp_ratio, qk_norm="rms_norm_across_heads"
        ).eval()  # fmt: skip
    theirs = theirs if dtype == torch.float32 else theirs.to(dtype)
    kernels = "auto" if device == "cuda" else "torch"
    ours = SanaVideoDiT(config, kernels=kernels, dtype=dtype, device="meta").eval()
    ours.load_state_dict(theirs.state_dict(), assign=True)
    return theirs.requires_grad_(False), ours.requires_grad_(False)


def calls(num_layers: int, frames: int, device: str, dtype: torch.dtype) -> dict:
    """One step of each network as a call without arguments, giving (1, c, t, h, w)."""
    theirs, ours = networks(num_layers, device, dtype)
    draw = torch.Generator().manual_seed(1)

    def make(*shape):
        meta = device == "meta"
        return torch.empty(shape, dtype=dtype, device=device) if meta else torch.randn(shape, generator=draw).to(
            device, dtype)  # fmt: skip

    latents, context = make(1, 16, frames, ROWS, COLUMNS), make(1, TEXT, 2304)
    timestep = torch.full((1,), 700.0, device=device)
    mask = (torch.arange(TEXT, device=device) < WORDS).int()[None]
    given = {"encoder_hidden_states": context, "encoder_attention_mask": mask, "timestep": timestep}
    return {
        "diffusers": lambda: theirs(latents, **given, return_dict=False)[0],
        "ours": lambda: ours(latents, timestep, Conditions(context, attention_mask=mask)),
    }


def peak_bytes(frames: int) -> dict[str, int]:
    """Live bytes at the widest moment of one block in float32, by network."""
    peaks = {}
    for name, call in calls(1, frames, "meta", torch.float32).items():
        ledger = Ledger(Operators())
        with torch.no_grad(), mock.patch("torch.autocast", lambda *_, **__: nullcontext()), ledger:
            call()
        peaks[name] = ledger.peak
    return peaks


def processor_times(steps: dict, rounds: int) -> tuple[dict[str, list[float]], dict[str, torch.Tensor]]:
    """Seconds of processor time of each call, A B A B …, and the last answers."""
    times, answers = {name: [] for name in steps}, {}
    for _ in range(rounds):
        for name, step in steps.items():
            started = time.process_time()
            answers[name] = step()
            times[name].append(time.process_time() - started)
    return times, answers


@torch.inference_mode()
def measure(name: str, case: tuple[int, int, int], device: str) -> dict:
    """Times of both, their ratio, and how far the two answers are apart."""
    frames, num_layers, rounds = case
    steps = calls(num_layers, frames, device, torch.bfloat16 if device == "cuda" else torch.float32)
    row = {"case": name, "tokens": frames * ROWS * COLUMNS // 4, "blocks": num_layers}
    if device == "cuda":
        clock = Clock(torch.device("cuda"), rounds)
        medians = {key: told["ms"] for key, told in clock.interleaved(steps, cold=False).items()}
        return {**row, "ms": medians, "ours / diffusers": medians["ours"] / medians["diffusers"]}
    times, answers = processor_times(steps, rounds)
    apart = (answers["ours"] - answers["diffusers"]).norm() / answers["diffusers"].norm()
    ratio = statistics.median(a / b for a, b in zip(times["ours"], times["diffusers"]))
    return {**row, "processor s": times, "ours / diffusers": ratio, "relative distance of the answers": float(apart)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", action="append", choices=tuple(CASES), help="only this one; may be given again")
    parser.add_argument("--save", action=argparse.BooleanOptionalAction, default=True)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(1)
    try:
        import diffusers
    except ModuleNotFoundError:
        sys.exit("diffusers is not installed; it is what this compares with")
    figures, rows = {"diffusers": diffusers.__version__, "numbers": "bfloat16, card" if device == "cuda" else
                     "float32, one thread"}, [{"facts": facts(torch.device(device))}]  # fmt: skip
    for name, case in (CARD_CASES if device == "cuda" else CASES).items():
        if name not in (arguments.case or CASES):
            continue
        row = measure(name, case, device)
        row["peak MiB"] = {key: value / 2**20 for key, value in peak_bytes(case[0]).items()}
        what = f"{name}, {case[1]} block{'s' if case[1] > 1 else ''}"
        figures[f"time of {what}: ours / diffusers"] = f"{row['ours / diffusers']:.2f}"
        figures[f"peak of one block, {name}: ours / diffusers, MiB"] = (
            f"{row['peak MiB']['ours']:.0f} / {row['peak MiB']['diffusers']:.0f}"
        )
        if "relative distance of the answers" in row:
            figures[f"relative distance of the answers, {name}"] = f"{row['relative distance of the answers']:.1e}"
        rows.append(row)
    if arguments.save:
        save("sana_video_speed", figures, rows)
    else:
        print(figures, rows)


if __name__ == "__main__":
    main()
