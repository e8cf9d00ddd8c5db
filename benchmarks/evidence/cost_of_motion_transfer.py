"""What learning one clip's motion costs: steps on one, five and all latent frames, the head probe, and memory.

The network is Wan's own architecture with random weights; nothing that is timed here depends on what it has learnt.
Times are processor seconds of one thread.
"""

import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
from evidence_common import verdict
from pack.motion.adapters.head_lora import head_parts
from pack.motion.adapters.lora import weight_shape
from pack.motion.analysis.head_map import HeadMap, HeadWatch
from pack.motion.analysis.head_probe import band_masks, head_masses
from pack.motion.choices import ALL_HEADS, BOTH, TEMPORAL
from pack.motion.data.encoders import TextEntry
from pack.motion.data.motion_clip import MotionClip
from pack.motion.data.sparse_frames import FramePlan
from pack.motion.io.networks.builtin_names import VAE
from pack.motion.io.vaes.small_vae import read_small_vae
from pack.motion.models.conditions import Conditions
from pack.motion.models.latent_spaces import SPACES
from pack.motion.models.wan.architecture import WAN
from pack.motion.models.wan.config import PUBLISHED, WanConfig
from pack.motion.models.wan.network import WanDiT
from pack.motion.models.wan.spec import WanSpec
from pack.motion.training.config import TrainingConfig
from pack.motion.training.head_classes import rows_per_frame
from pack.motion.training.motion_transfer import MotionSettings, motion_task
from pack.motion.training.trainees.wan import WanTrainee
from pack.motion.training.trainer import Trainer

CONFIG = WanConfig(num_layers=8, num_attention_heads=4, attention_head_dim=128, hidden_width=2048)  # width 512
LATENT = (24, 24)  # cells: 144 tokens of a latent frame, 192x192 px
WINDOW, SPARSE = tuple(range(81)), tuple(range(0, 81, 5))
RANK, TIMED = 16, 5
STEPS = (3000, 2000)  # of the two stages, the paper's
SAMPLE_STEPS, SAMPLES = 12, 2  # of one preview, with guidance; before the first step and behind the last
TOKENS = 512  # of a prompt
PROBED = PUBLISHED["T2V 1.3B"]
PROBE_FRAMES, PROBE_GRID = 21, (30, 52)  # 32,760 tokens: 81 frames of 832x480
SMALL_GRID = (10, 12)  # of the call whose answer is compared: 2,520 tokens
MOST_MEGABYTES, MOST_SECONDS = 64, 1.5
SIZES = {"512x512": (64, 64), "832x480": (60, 104)}  # latent cells
GB = 1e9
CARD = 12  # GB that Wan 1.3B should fit into
ADAM = 16  # bytes of a trained number: itself, its gradient and two averages, in float32


def spec() -> WanSpec:
    return WanSpec(CONFIG)


def clip(frames: tuple[int, ...]) -> MotionClip:
    """A clip of noise, with these frames of the window trained."""
    draw = torch.Generator().manual_seed(0)
    plan = FramePlan(WINDOW, frames, 16.0)
    parts = [{"latents": torch.randn(16, count, *LATENT, generator=draw)} for count in
             (plan.num_latents, plan.whole_latents)]  # fmt: skip
    alone = torch.randn(len(frames), 16, 1, *LATENT, generator=draw)
    return MotionClip("noise", "", plan, SPACES["wan21"], *parts, alone, torch.zeros(1, 192, 192, 3), "noise", "none")


def half_map() -> HeadMap:
    """Every second head is said to be temporal."""
    space = torch.tensor([[[0.8, 0.2] * 2] * CONFIG.num_layers], dtype=torch.float64)
    return HeadMap(space, 1 - space, ((0.9998, 0),), 21, 12, 12)


def step_seconds(frames: tuple[int, ...], settings: MotionSettings, first: int, num_steps: int) -> list[float]:
    """Processor seconds of every step of a run whose first stage has `first` steps."""
    torch.manual_seed(0)
    trainee = WanTrainee(WanDiT(CONFIG), spec(), checkpointing=True)
    config = TrainingConfig.of(
        num_steps=num_steps, first_stage_steps=first, rank=RANK, alpha=float(RANK), learning_rate=1e-4, batch_size=1,
        warmup_steps=0, caption_dropout=0.0, gradient_checkpointing=True,
    )  # fmt: skip
    text = TextEntry(torch.randn(TOKENS, CONFIG.caption_channels, generator=torch.Generator().manual_seed(1)))
    task, _ = motion_task(trainee, clip(frames), text, config, settings, head_map=half_map())
    marks = [time.process_time()]
    Trainer(task, config, on_step=lambda report: marks.append(time.process_time())).run()
    return [after - before for before, after in zip(marks, marks[1:])]


def timed_steps() -> dict[str, float]:
    """Median seconds of a step, behind a warm-up: naive and split, on one, five and twenty-one latent frames."""
    split, naive = MotionSettings(BOTH, TEMPORAL), MotionSettings(TEMPORAL, ALL_HEADS)
    few = TIMED + 1
    sparse = step_seconds(SPARSE, split, few, 2 * few)
    found = {"single frames, spatial heads": sparse[1:few], "5 latents, temporal heads": sparse[few + 1 :]}
    found["21 latents, all heads (naive)"] = step_seconds(WINDOW, naive, 0, few)[1:]
    found["21 latents, temporal heads"] = step_seconds(WINDOW, split, 1, few + 2)[2:]
    for name, seconds in found.items():
        print(f"{name}: {[round(value, 2) for value in seconds]}", flush=True)
    return {name: statistics.median(seconds) for name, seconds in found.items()}


@torch.no_grad()
def timed_rest(folder: Path) -> dict[str, float]:
    """Processor seconds of what a run does beside its steps: loading, encoding, previews."""
    from safetensors.torch import load_file, save_file

    torch.manual_seed(0)
    network, path = WanDiT(CONFIG), folder / "wan.safetensors"
    save_file(network.state_dict(), path)
    before = time.process_time()
    network.load_state_dict(load_file(path))
    found, vae = {"loading": time.process_time() - before}, read_small_vae(VAE)
    path.unlink()
    for name, count in (("encoding 81 frames", 81), ("encoding 17 frames and each alone", 17)):
        before = time.process_time()
        vae.encode(torch.zeros(1, 3, count, 192, 192))
        for _ in range(count if count < 81 else 0):
            vae.encode(torch.zeros(1, 3, 1, 192, 192))
        found[name] = time.process_time() - before
    told = Conditions(torch.randn(1, TOKENS, CONFIG.caption_channels))
    before = time.process_time()
    network(torch.randn(1, 16, 21, *LATENT), torch.full((1,), 500.0), told)
    found["one call on 21 latents"] = time.process_time() - before
    return found


def step_table(steps: dict[str, float], rest: dict[str, float]) -> dict:
    """Seconds of a step, and what 5,000 of them come to in three ways, with what stands beside them."""
    one, five, naive, whole = steps.values()
    first, second = STEPS
    totals = {
        "all heads on all frames (naive)": (first + second) * naive,
        "two stages, all frames": first * one + second * whole,
        "two stages, sparse frames": first * one + second * five,
    }
    previews = SAMPLES * SAMPLE_STEPS * 2 * rest["one call on 21 latents"]
    rows, truth = [], totals["all heads on all frames (naive)"]
    for name, seconds in totals.items():
        frames = rest["encoding 81 frames"] if "naive" in name else sum(
            value for key, value in rest.items() if key.startswith("encoding")
        )  # fmt: skip
        beside = rest["loading"] + frames + previews
        rows.append({
            "way": name, "steps alone, s": round(seconds), "times as fast": round(truth / seconds, 1),
            "loading, encoding, previews, s": round(beside),
            "times as fast, all counted": round((truth + beside) / (seconds + beside), 1),
        })  # fmt: skip
    least = {"two stages, all frames": 2.0, "two stages, sparse frames": 10.0}
    kept = {f"{row['way']}, times as fast as naive": verdict(row["times as fast"], least[row["way"]])
            for row in rows if row["way"] in least}  # fmt: skip
    table = [{"step on": name, "processor seconds": round(value, 2)} for name, value in steps.items()]
    return {
        **kept, "A step: Wan of 8 blocks, width 512, 144 tokens a latent frame, checkpointing": table,
        f"{first + second:,} steps, added up": rows,
    }  # fmt: skip


def _megabytes() -> float:
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) / 1000


def _peak() -> float:
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1000


def probe_table() -> dict:
    """What looking at one layer of Wan 1.3B takes beside its forward pass, and that no bit of the answer changes."""
    config, cells = PROBED, PROBE_GRID[0] * PROBE_GRID[1]
    draw = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, PROBE_FRAMES * cells, config.width, generator=draw).to(torch.bfloat16)
                  for _ in range(2))  # fmt: skip
    before = _megabytes()
    watch = HeadWatch(PROBE_FRAMES, cells, per_frame=rows_per_frame(PROBE_FRAMES))
    masks = _megabytes() - before
    watch(0, query, key, key, config.num_attention_heads)  # what torch keeps for itself is taken once
    Path("/proc/self/clear_refs").write_text("5")
    before, started = _megabytes(), time.process_time()
    watch(1, query, key, key, config.num_attention_heads)
    seconds, peak = time.process_time() - started, _peak() - before
    return {
        "probe, MB beside the forward": verdict(round(peak + masks, 1), high=MOST_MEGABYTES),
        "probe, processor seconds a layer": verdict(round(seconds, 2), high=MOST_SECONDS),
        "probe, tokens, heads, rows": f"{query.shape[1]:,}, {config.num_attention_heads}, {len(watch.rows)}",
        "probe, largest difference of the answer of a block, 2,520 tokens": verdict(_changed_by_looking(), high=0.0),
        "probe, largest error of a mass by 252 rows": round(_error_of_rows(), 4),
    }  # fmt: skip


@torch.no_grad()
def _changed_by_looking() -> float:
    """Largest difference that looking on makes to the answer of one block of Wan 1.3B, on a small video."""
    config = replace(PROBED, num_layers=1)
    torch.manual_seed(0)
    trainee = WanTrainee(WanDiT(config), WanSpec(config))
    latents = torch.randn(1, 16, PROBE_FRAMES, *(2 * side for side in SMALL_GRID))
    told, sigma = Conditions(torch.randn(1, TOKENS, config.caption_channels)), torch.full((1,), 0.9998)
    watch = HeadWatch(PROBE_FRAMES, SMALL_GRID[0] * SMALL_GRID[1], per_frame=rows_per_frame(PROBE_FRAMES))
    answers = [trainee.predict(latents, sigma, told), trainee.predict_watched(latents, sigma, told, watch)]
    return float((answers[0] - answers[1]).abs().max())


def _error_of_rows() -> float:
    """How far masses of 252 of 1,344 rows lie from those of all rows, on heads with some structure."""
    frames, cells, heads = 21, 64, 4
    draw = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, frames * cells, heads * 32, generator=draw).cumsum(1) / 8 for _ in range(2))
    found = []
    for rows in (HeadWatch(frames, cells, per_frame=rows_per_frame(frames)).rows, torch.arange(frames * cells)):
        found.append(head_masses(query, key, heads, rows, band_masks(rows, frames, cells)))
    return float((found[0] - found[1]).abs().max())


def memory_table() -> dict:
    """GB of a training step by counting: base, LoRA with its optimizer, and what lives for the way back."""
    rows, kept = [], {}
    for title in ("T2V 1.3B", "T2V 14B"):
        config = PUBLISHED[title]
        network = WanDiT(config, device="meta")
        every = sum(value.numel() for value in network.parameters())
        inside = sum(value.numel() for name, value in network.named_parameters()
                     if name.startswith("blocks.") and value.ndim == 2)  # fmt: skip
        for size, (height, width) in SIZES.items():
            for base, stored in (("bf16", 2 * every), ("fp8", 2 * every - inside)):
                told = {"model": f"Wan {title}", "size": size, "base": base, "base, GB": round(stored / GB, 1),
                        "LoRAs of rank 16 and 128, GB": " and ".join(f"{_lora(network, rank) / GB:.2f}"
                                                                       for rank in (16, 128))}  # fmt: skip
                for name, latents in (("5 latents", 5), ("21 latents", 21)):
                    for words, checkpointing in (("checkpointing", True), ("without", False)):
                        needed = WAN.memory.training_bytes(config, (1, 16, latents, height, width),
                                                           checkpointing=checkpointing)  # fmt: skip
                        copies = 2 * inside // config.num_layers  # one block's, in the type that is computed in
                        told[f"{name}, {words}, GB"] = round((stored + _lora(network, 16) + needed + copies) / GB, 1)
                rows.append(told)
        if title == "T2V 1.3B":
            most = max(row["5 latents, checkpointing, GB"] for row in rows)
            kept["Wan 1.3B, bf16, sparse frames, checkpointing, at 832x480 and 512x512, GB"] = verdict(most, high=CARD)
    return {**kept, "Memory of a step, counted": rows}


def _lora(network: WanDiT, rank: int) -> int:
    """Bytes of two LoRAs, each beside q, k, v and o of half of the heads, while they train."""
    half = torch.arange(network.config.num_attention_heads).expand(len(network.blocks), -1) % 2 == 0
    count = 0
    for chosen in (half, ~half):
        for name, part in head_parts(network, chosen, include_o=True).items():
            sides = zip(weight_shape(network.get_submodule(name)), (part.rows, part.columns))
            count += rank * sum(size if held is None else len(held) for size, held in sides)
    return ADAM * count
