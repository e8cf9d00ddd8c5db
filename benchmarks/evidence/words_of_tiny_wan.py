"""What a wrong word costs the small Wan: for E8."""

from dataclasses import replace

import torch
from pack.motion.data.procedural.sprite_words import COLOURS, GROUNDS, MOTIONS, SHAPES
from pack.motion.data.procedural.sprites import SpriteSource
from pack.motion.scene_model import SceneModel

CLIPS, SEED = 48, 5_000_003
WORDS = {"motion": MOTIONS, "colour": COLOURS, "shape": SHAPES, "ground": GROUNDS}
SETTINGS = {"from noise, sigma 0.8": (0.8, False), "from noise, sigma 0.95": (0.95, False),
            "first frame clean, sigma 0.8": (0.8, True), "first frame clean, sigma 0.95": (0.95, True)}  # fmt: skip


@torch.no_grad()
def words_table(model: SceneModel, settings=tuple(SETTINGS)) -> dict:
    """Growth of the squared error of the clean estimate of frames 2 on, when one word of the caption is another."""
    clips = [SpriteSource().draw(torch.Generator().manual_seed(SEED + row)) for row in range(CLIPS)]
    videos = torch.stack([clip.render()[0] for clip in clips])
    clean = torch.cat([model.spec.space.scaled(model.vae.encode(part * 2 - 1)) for part in videos.split(16)])
    right, table = [clip.caption for clip in clips], {}
    for name in settings:
        sigma, given = SETTINGS[name]
        base = left_over(model, clean, right, sigma, given)
        row = {f"another {word}, %": growth(left_over(model, clean, _other(clips, word, known), sigma, given), base)
               for word, known in WORDS.items()}  # fmt: skip
        row["no caption, %"] = growth(left_over(model, clean, [""] * CLIPS, sigma, given), base)
        table[name] = {"error": round(base, 4), **row}
        print(name, table[name], flush=True)
    return {"What a wrong word costs": [{"from": name, **row} for name, row in table.items()]}


def growth(value: float, base: float) -> float:
    """In per cent."""
    return round(100 * (value / base - 1), 1)


def left_over(model: SceneModel, clean: torch.Tensor, captions: list[str], sigma: float, given: bool) -> float:
    """Mean squared error of the clean estimate at a noise level; given: the first frame stands clean."""
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    errors = []
    for start in range(0, len(clean), 16):
        part = slice(start, start + 16)
        levels = torch.full((len(clean[part]), clean.shape[2]), sigma)
        levels[:, 0] = 0.0 if given else sigma
        level = levels.view(len(levels), 1, -1, 1, 1)
        state = (1 - level) * clean[part] + level * noise[part]
        estimate = state - level * model.dit(state, 1000 * levels, model.encode(captions[part]))
        errors.append((estimate - clean[part])[:, :, 1:].square().mean((1, 2, 3, 4)))
    return float(torch.cat(errors).mean())


def _other(clips, name: str, known) -> list[str]:
    """Captions in which one word is another one."""
    others = [[word for word in known if word != getattr(clip.look, name)] for clip in clips]
    return [replace(clip.look, **{name: words[row % len(words)]}).caption
            for row, (clip, words) in enumerate(zip(clips, others))]  # fmt: skip
