"""E13: what does a masked motion adapter cost on a large Wan, and how well are its scores read off latents?

    python benchmarks/evidence/e13_masked_adapter.py

Products of a run are counted on the true shapes, without values; beside them those of decoding masks by the VAE, which
the source does after every call on masks, and we do not. The line that reads scores is fitted on the sprites of ten
drawn clips, through the small VAE of the pack, and reads those of ten others; beside it the same latents are decoded by
that VAE and their brightness is taken. Once the masks are clean, once they are the mean of two clips' masks, as an
estimate at high noise is one of all that may follow.
"""

import torch
from adapter_cost_common import CONFIG, SIZE, STEPS, _Unhooked, masked_table, products
from e10_adapters_on_wan import MOTIONS, NEW_SEED, TRAIN_SEED, drawn
from evidence_common import ROOT, finish
from pack.motion.adapters.masks import token_mask
from pack.motion.adapters.score_reader import fit_reader, read_scores
from pack.motion.data.encoders import mask_cell
from pack.motion.data.procedural.sprites import SpriteClip
from pack.motion.models.wan.vae import WanVAE
from pack.motion.sampling.mask_stream import mask_steps
from pack.motion.scene_model import SceneModel, load_scene_model
from torch.utils.flop_counter import FlopCounterMode

CLIPS = 10  # of each motion: fitted on, and as many read
LUMA = (0.299, 0.587, 0.114)


def covers(clips: list[SpriteClip]) -> torch.Tensor:
    """Where the sprites truly are, (b, t, h, w)."""
    return torch.stack([clip.render()[1] for clip in clips])


@torch.no_grad()
def encoded(model: SceneModel, masks: torch.Tensor) -> torch.Tensor:
    """Masks (b, t, h, w) as grey videos -> scaled latents (b, c, t', h', w')."""
    return model.spec.space.scaled(model.vae.encode(masks.unsqueeze(1).expand(-1, 3, -1, -1, -1) * 2 - 1))


def scores_of(model: SceneModel, masks: torch.Tensor) -> torch.Tensor:
    """Masks (b, t, h, w) in [0, 1] -> scores of tokens (b, t', n)."""
    ratio, cell = model.spec.space.temporal_ratio, mask_cell(model.spec)
    grid = tuple(side // cell for side in masks.shape[-2:])
    return torch.stack([token_mask(mask, masks.shape[1], ratio, grid) for mask in masks])


def decoded(model: SceneModel, latents: torch.Tensor) -> torch.Tensor:
    """Scores by the VAE: brightness of what it makes of the latents, as in the source."""
    pictures = model.decode(latents)
    return scores_of(model, (pictures * torch.tensor(LUMA)).sum(-1).clamp(0, 1))


def compared(found: torch.Tensor, truth: torch.Tensor) -> tuple[float, float]:
    """Mean difference and overlap of what is above a half, of frames behind the first."""
    found, truth = found[:, 1:], truth[:, 1:]
    one, other = found > 0.5, truth > 0.5
    return float((found - truth).abs().mean()), float((one & other).sum() / (one | other).sum().clamp_min(1))


def reading() -> tuple[dict, list[dict]]:
    """The table of the two ways of reading, by motion and kind of latents, and how far the line is off at most."""
    model = load_scene_model(ROOT / "weights" / "motionblocks-wan.safetensors")
    patch, rows = model.spec.config.patch_size, []
    for motion in MOTIONS:
        fitted, new = (covers(drawn(motion, CLIPS, seed)) for seed in (TRAIN_SEED, NEW_SEED))
        known = scores_of(model, fitted)
        grid = tuple(side // mask_cell(model.spec) for side in fitted.shape[-2:])
        reader, _ = fit_reader(zip(encoded(model, fitted), known.unflatten(-1, grid)), patch)
        clean, truth = encoded(model, new), scores_of(model, new)
        kinds = {"clean": (clean, truth),
                 "mean of two clips": ((clean + clean.roll(1, 0)) / 2, (truth + truth.roll(1, 0)) / 2)}  # fmt: skip
        for kind, (latents, true) in kinds.items():
            line, vae = read_scores(reader, latents, patch), decoded(model, latents)
            row = {"motion": motion, "masks": kind}
            for name, found in (("line", line), ("VAE", vae), ("all ground", torch.zeros_like(true))):
                row[f"{name}, mean difference"], row[f"{name}, overlap"] = compared(found, true)
            rows.append(row)
            print(row, flush=True)
    most = max(row["line, mean difference"] for row in rows if row["masks"] == "clean")
    least = min(row["line, overlap"] for row in rows if row["masks"] == "clean")
    figures = {"clean masks: the line is off by, at most": round(most, 3),
               "clean masks: overlap of what the line reads, at least": round(least, 3)}  # fmt: skip
    table = [{name: round(value, 3) if isinstance(value, float) else value for name, value in row.items()
              if name != "all ground, overlap"} for row in rows]  # fmt: skip
    return {**figures, "Scores of ten new clips, by the small VAE of the pack": table}, rows


def decoding(num_frames: int) -> int:
    """Products of decoding 832x480 by Wan's own VAE."""
    latents = torch.empty(1, CONFIG.in_channels, (num_frames - 1) // 4 + 1, *SIZE, device="meta")
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _Unhooked()
    with torch.no_grad(), counter:
        WanVAE().to("meta").decode(latents)
    return counter.get_total_flops()


def main() -> None:
    torch.set_num_threads(1)
    share = decoding(17) / products(17, 0)
    spared = {"decoding 17 frames by Wan's VAE, of a call of the model alone": round(share, 3),
              "what decoding after each call on masks would add to a run":
              round(len(mask_steps(STEPS)) * share / STEPS, 3)}  # fmt: skip
    found, rows = reading()
    finish("e13_masked_adapter", {**masked_table(), **spared, **found}, rows)


if __name__ == "__main__":
    main()
