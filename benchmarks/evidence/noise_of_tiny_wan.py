"""E2 again on a small Wan that begins with a picture: plain, FFT or DCT initial noise, for E8."""

from dataclasses import replace

import torch
from evidence_common import psnr, spread
from pack.motion.conditioning.noise_init import dct_init, fft_init, kept_box, tau_to_sigma
from pack.motion.data.procedural.sprite_meter import see_sprite
from pack.motion.data.procedural.sprite_words import MOTIONS
from pack.motion.data.procedural.sprites import SpriteSource
from pack.motion.sampling.draw import draw, make_noise
from pack.motion.scene_model import SceneModel

CLIPS_EACH, SEED, SAMPLING_SEEDS = 2, 7_000_003, (0, 1)
TAU = tau_to_sigma(0.975, 3.0)
PLAIN, OTHER = "none", "none, another seed"
NOISES = "E2 again: image to video by initial noise"  # name of the table
REFINED = {
    "FFT, gaussian 0.25": lambda first, noise: fft_init(first, noise, sigma_tau=TAU),
    "DCT, keep 0.23": lambda first, noise: dct_init(first, noise, sigma_tau=TAU),
    "DCT, keep 0.5": lambda first, noise: dct_init(first, noise, sigma_tau=TAU, keep_height=0.5, keep_width=0.5),
    "DCT, keep 0.5, level 0.8": lambda first, noise: dct_init(first, noise, sigma_tau=0.8, keep_height=0.5,
                                                              keep_width=0.5),
}  # fmt: skip


@torch.no_grad()
def noise_table(model: SceneModel) -> dict:
    """First frame, colour, motion and the distance to plain noise of the same seed, by initial noise."""
    clips = [SpriteSource(motions=(motion,)).draw(torch.Generator().manual_seed(SEED + row))
             for motion in MOTIONS for row in range(CLIPS_EACH)]  # fmt: skip
    drawn = torch.stack([clip.render()[0] for clip in clips])
    first = model.spec.space.scaled(model.vae.encode(drawn[:, :, :1] * 2 - 1))
    beside = model.encode_start(drawn[:, :, 0], drawn.shape[2])
    told = replace(model.encode([clip.caption for clip in clips]), concat_latents=beside)
    empty = replace(model.encode([""] * len(clips)), concat_latents=beside)
    shape = (1, *first.shape[1:2], 5, *first.shape[3:])
    rows = {name: [] for name in (PLAIN, *REFINED, OTHER)}
    for seed in SAMPLING_SEEDS:
        plain, other = (torch.cat([make_noise(shape, start + row) for row in range(len(clips))])
                        for start in (1000 * seed, 1000 * seed + 500))  # fmt: skip
        noises = {PLAIN: plain, **{name: refine(first, plain).float() for name, refine in REFINED.items()},
                  OTHER: other}  # fmt: skip
        parts = torch.arange(len(clips)).split(10)
        made = {name: torch.cat([_drawn(model, noise, told, empty, part) for part in parts])
                for name, noise in noises.items()}
        for name, videos in made.items():
            rows[name] += [_row(*each) for each in zip(videos, drawn, made[PLAIN])]
        print(f"initial noise, sampling seed {seed}", flush=True)
    box = kept_box(shape), kept_box(shape, keep_height=0.5, keep_width=0.5)
    table = [{"initial noise": name, **{key: spread([row[key] for row in mine if row[key] is not None], digits)
                                        for key, digits in (("first frame, dB", 1), ("colour shift, of 255", 2),
                                                            ("way, of the drawn clips' own", 2),
                                                            ("from plain noise, of 255", 2))}}
             for name, mine in rows.items()]  # fmt: skip
    kept = " and ".join(f"{high}x{wide}" for _, high, wide in box)
    return {"low frequencies kept of 8x8 on image to video": kept,
            NOISES: table}  # fmt: skip


def _drawn(model: SceneModel, noise, told, empty, part) -> torch.Tensor:
    """Videos (b, 3, t, h, w) of some rows."""
    told, empty = (replace(each, context=each.context[part], concat_latents=each.concat_latents[part])
                   for each in (told, empty))  # fmt: skip
    return model.decode(draw(model.dit, noise[part], told, model.spec.sampling, negative=empty)).movedim(-1, 1)


def _row(video: torch.Tensor, truth: torch.Tensor, plain: torch.Tensor) -> dict:
    """What is read of one clip."""
    seen, drawn, colour = see_sprite(video), see_sprite(truth), video.mean((2, 3))
    far = float(drawn.moved.norm())
    way = float(seen.moved @ drawn.moved) / far**2 if far > 5 and bool(seen.moved.isfinite().all()) else None
    return {"first frame, dB": psnr(video[:, :1], truth[:, :1]),
            "colour shift, of 255": 255 * float((colour[:, 1:] - colour[:, :1]).abs().mean()),
            "way, of the drawn clips' own": way,
            "from plain noise, of 255": 255 * float((video - plain).abs().mean())}  # fmt: skip
