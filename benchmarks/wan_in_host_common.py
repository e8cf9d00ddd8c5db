"""Our Wan beside a host's own class, measured inside that host: `HOST/.venv/bin/python wan_in_host_common.py HOST`.

Prints one line, RESULT and JSON. Attention is torch's on both sides, as hosts have it on a card.
"""

import json
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

HOST, ROOT = sys.argv[1], Path(__file__).resolve().parents[1]
sys.path[:0] = [HOST, str(ROOT / "tests" / "helpers")]

from comfy.cli_args import args  # noqa: E402

args.cpu = args.use_pytorch_cross_attention = True

import comfy.model_management  # noqa: E402
import comfy.ops  # noqa: E402
import torch  # noqa: E402
from builtin_common import mount_pack  # noqa: E402

mount_pack()

from comfy.ldm.wan.vae import WanVAE as HostVAE  # noqa: E402
from host_wan import asked, lora_gradients, pair, theirs  # noqa: E402
from ledger_common import Ledger  # noqa: E402
from pack.motion.models.conditions import Conditions  # noqa: E402
from pack.motion.models.wan.config import IMAGE_TOKENS, IMAGE_WIDTH, PUBLISHED  # noqa: E402
from pack.motion.models.wan.network import WanDiT  # noqa: E402
from pack.motion.models.wan.vae import WanVAE  # noqa: E402
from tiny_wan import PER_FRAME, VARIANTS, apart, fill, given  # noqa: E402

PAIRS = 9
VAE = {"z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": [], "dropout": 0.0,
       "temperal_downsample": [False, True, True]}  # fmt: skip
SIZE, TEXT = (3, 30, 52), 512  # latent frames, rows and columns; tokens of a prompt


def forward_difference() -> float:
    """The largest over all variants, one noise level and one a frame."""
    found = []
    for name, config in VARIANTS.items():
        host, own = pair(name)
        latents, timestep, told = given(config)
        found += [apart(own(latents, each, told), asked(host, latents, each, told)) for each in (timestep, PER_FRAME)]
    return max(found)


def lora_difference() -> float:
    """The largest over all variants and parameters."""
    found = []
    with torchs_rope():
        for name, config in VARIANTS.items():
            (host, own), inputs = pair(name), given(config)
            expected = lora_gradients(host, lambda host=host, inputs=inputs: asked(host, *inputs))
            ours = lora_gradients(own, lambda own=own, inputs=inputs: own(*inputs))
            found += [apart(ours[part], value) for part, value in expected.items()]
    return max(found)


def bfloat16_ratios() -> list[float]:
    """Our error against float64 over the host's, by variant."""
    ratios = []
    for name, config in VARIANTS.items():
        host, own = pair(name, torch.bfloat16)
        precise = WanDiT(config, dtype=torch.float64)
        precise.load_state_dict(host.state_dict())
        ours = hosts = 0.0
        for seed in range(4):
            latents, timestep, told = given(config, torch.bfloat16, seed=seed)
            truth = precise(latents.double(), timestep, told.to("cpu", torch.float64))
            ours += apart(own(latents, timestep, told), truth)
            hosts += apart(asked(host, latents, timestep, told), truth)
        ratios.append(ours / hosts)
    return ratios


def vae_difference() -> float:
    """The largest of encode and decode, whole and in chunks."""
    torch.manual_seed(0)
    own = WanVAE(8).eval()
    for weight in own.parameters():
        weight.data += 0.02 * torch.randn_like(weight)
    host, found = HostVAE(dim=8, **VAE).eval(), []
    host.load_state_dict(own.state_dict())
    for frames in (1, 9):
        video, latents = torch.rand(1, 3, frames, 40, 24) * 2 - 1, torch.randn(1, 16, (frames + 3) // 4, 5, 3)
        encoded, decoded = host.encode(video), host.decode(latents)
        for chunk in (1, None):
            found += [apart(own.encode(video, chunk=chunk), encoded), apart(own.decode(latents, chunk=chunk), decoded)]
    return max(found)


def calls(title: str, layers: int, size: tuple[int, int, int], dtype: torch.dtype) -> dict:
    """One call of both networks of published width with the same weights, by name."""
    config = replace(PUBLISHED[title], num_layers=layers)
    host, own = fill(theirs(config, dtype)), WanDiT(config, dtype=dtype)
    own.load_state_dict(host.state_dict())
    draw = torch.Generator().manual_seed(0)

    def make(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw).to(dtype)

    told = {"context": make(1, TEXT, config.caption_channels)}
    if config.concat_channels:
        told["concat_latents"] = make(1, config.concat_channels, *size)
    if config.image_tokens:
        told["image_tokens"] = make(1, IMAGE_TOKENS, IMAGE_WIDTH)
    latents, timestep = make(1, 16, *size), torch.full((1,), 700.0)
    conditions = Conditions(**told)
    return {"ours": lambda: own.eval()(latents, timestep, conditions),
            "host": lambda: asked(host.eval(), latents, timestep, conditions)}  # fmt: skip


@contextmanager
def torchs_rope() -> Iterator[None]:
    """Newer hosts turn keys by one operator of their own; while they train, by torch's, which can be counted."""
    manager, known = comfy.model_management, hasattr(comfy.model_management, "in_training")
    if known:
        manager.in_training = True
    try:
        yield
    finally:
        if known:
            manager.in_training = False


def ledgers(title: str, *case) -> dict[str, dict]:
    """Of one call of all blocks: operators that move memory, and bytes alive at the widest moment.

    Blocks are alike, so the second says what each of the others adds.
    """
    found, blocks = {}, PUBLISHED[title].num_layers
    for name in ("ours", "host"):
        counts = []
        for layers in (1, 2):
            call, ledger = calls(title, layers, *case)[name], Ledger()
            with ledger:
                call()
            counts.append(ledger.launches)
        found[name] = {"operators": counts[0] + (blocks - 1) * (counts[1] - counts[0]), "peak": ledger.peak}
    return found


def times(*case) -> dict:
    """Processor seconds, A B A B …, and how far the answers are apart."""
    steps, taken, answers = calls(*case), {"ours": [], "host": []}, {}
    for step in steps.values():
        step()
    for _ in range(PAIRS):
        for name, step in steps.items():
            started = time.process_time()
            answers[name] = step()
            taken[name].append(time.process_time() - started)
    return {"seconds": taken, "ratio": statistics.median(a / b for a, b in zip(taken["ours"], taken["host"])),
            "apart": apart(answers["ours"], answers["host"])}  # fmt: skip


CASES = {
    "T2V 1.3B, float32": ("T2V 1.3B", SIZE, torch.float32),
    "T2V 1.3B, bfloat16": ("T2V 1.3B", SIZE, torch.bfloat16),
    "Fun-InP 1.3B, float32": ("Fun-InP 1.3B", SIZE, torch.float32),
}


def main() -> None:
    torch.set_num_threads(1)
    result = {"lora": lora_difference()}
    with torch.no_grad():
        result |= {
            "forward": forward_difference(), "bf16": bfloat16_ratios(), "vae": vae_difference(),
            "as it is": {name: ledgers(*case) for name, case in CASES.items()},
            "times": times("T2V 1.3B", 1, (3, 16, 24), torch.float32),
        }  # fmt: skip
        with torchs_rope():
            result["torch's rope"] = {name: ledgers(*case) for name, case in CASES.items()}
    print("RESULT" + json.dumps(result))


if __name__ == "__main__":
    main()
