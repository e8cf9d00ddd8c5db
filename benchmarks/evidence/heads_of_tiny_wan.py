"""Which heads of the small Wan look along time: for E8."""

from pathlib import Path

import torch
from evidence_common import verdict
from pack.motion.analysis.head_probe import band_masks, head_masses, sampled_rows
from pack.motion.data.procedural.sprites import SpriteSource
from pack.motion.scene_model import SceneModel, load_scene_model

SIGMAS = (0.9998, 0.95, 0.9, 0.8)
CLIPS, SEED, ALPHA = 16, 2_000_003, 1.3


def heads_table(weights: Path, earlier: Path | None) -> dict:
    """Spread of log w_t / w_s, heads that look along time, and how steady both are."""
    model = load_scene_model(weights)
    trained = [log_ratios(model, sigma) for sigma in SIGMAS]
    temporal = torch.stack([ratio >= torch.tensor(ALPHA).log() for ratio in trained])
    changing = (temporal != temporal[:1]).any(0).float().mean()
    told = {
        "std of log w_t / w_s, trained": verdict(round(float(trained[0].std()), 3), 0.4),
        "std of log w_t / w_s, random weights": verdict(round(float(log_ratios(at_random(model), SIGMAS[0]).std()), 3),
                                                        high=0.1),
        "std of log w_t / w_s, where its training began": round(float(log_ratios(begun(model), SIGMAS[0]).std()), 3),
        "heads along time, of 16": int(temporal[0].sum()),
        "heads that change type from sigma 0.9998 to 0.8, %": verdict(round(100 * float(changing), 1), high=10),
    }  # fmt: skip
    if earlier is not None:
        before = log_ratios(load_scene_model(earlier), SIGMAS[0])
        same = torch.corrcoef(torch.stack((before.flatten(), trained[0].flatten())))[0, 1]
        told[f"correlation with {earlier.stem} of the same training"] = verdict(round(float(same), 3), 0.9)
    for name, value in told.items():
        print(f"{name}: {value}", flush=True)
    return told


def at_random(model: SceneModel) -> SceneModel:
    """The same sizes with torch's own start, nothing planted."""
    from pack.motion.models.wan.network import WanDiT

    torch.manual_seed(0)
    return SceneModel(model.spec, WanDiT(model.spec.config).eval().requires_grad_(False), model.vae, model.vocabulary)


def begun(model: SceneModel) -> SceneModel:
    """The same sizes as the recipe starts them, heads looking around, with words as the file has them."""
    from pack.recipes.wan import as_file_weights, build_wan

    dit = at_random(model).dit
    dit.load_state_dict(as_file_weights(build_wan(model.spec, 0).state_dict(), model.spec))
    return SceneModel(model.spec, dit, model.vae, model.vocabulary)


@torch.no_grad()
def log_ratios(model: SceneModel, sigma: float) -> torch.Tensor:
    """log w_t / w_s of every head (layers, heads) at a noise level, over drawn clips with their captions."""
    clips = [SpriteSource().draw(torch.Generator().manual_seed(SEED + row)) for row in range(CLIPS)]
    videos = torch.stack([clip.render()[0] for clip in clips])
    clean = model.spec.space.scaled(model.vae.encode(videos * 2 - 1))
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(SEED))
    frames, cells = clean.shape[2], clean.shape[3] * clean.shape[4] // model.spec.config.patch_size**2
    rows = sampled_rows(frames, cells, 0)
    masks, found = band_masks(rows, frames, cells), []
    usual = [block.self_attn.attention for block in model.dit.blocks]

    def watched(attention):
        def attend(query, key, value, num_heads, mask):
            found.append(head_masses(query, key, num_heads, rows, masks))
            return attention(query, key, value, num_heads, mask)

        return attend

    try:
        for block, attention in zip(model.dit.blocks, usual):
            block.self_attn.attention = watched(attention)
        model.dit((1 - sigma) * clean + sigma * noise, torch.full((CLIPS,), 1000 * sigma),
                  model.encode([clip.caption for clip in clips]))  # fmt: skip
    finally:
        for block, attention in zip(model.dit.blocks, usual):
            block.self_attn.attention = attention
    space, time = torch.stack(found).unbind(1)
    return (time / space).log()
