"""Clips longer than the trained 16 frames, the same move: does it pass where the short clip does? Writes JSON.

For each word, photo and length N the flow of the clip at the 16 shared places is held against that of the 16-frame clip
(mean length of the difference over mean length); beside it the largest step between neighbours against the median step,
and how much the clip trembles: the mean change from step to step over the mean step. Both clips have the same noise at
the shared places; between them it is new. Two 16-frame clips whose noise differs are compared as well: words that move
an object choose its way by the noise.
"""

import argparse
from dataclasses import replace

import torch
from builtin_common import DIRECTED, load_model, photo, photo_paths, save, verdict
from pack.motion.choices import SAME_MOVE
from pack.motion.metrics.what_moves import BESIDE
from pack.motion.sampling.clip_places import clip_places
from pack.motion.sampling.draw import draw

LENGTHS = (31, 61, 121)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photos", nargs="+", default=["chelsea", "china"])
    parser.add_argument("--lengths", nargs="+", type=int, default=LENGTHS)
    parser.add_argument("--words", nargs="+", help="default: all that move something")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    paths, rows = photo_paths(), []
    for name in ("motionblocks-tiny", "motionblocks-small"):
        model = load_model(name)
        words = [word for word in model.vocabulary.words if word not in BESIDE]
        for picture in arguments.photos:
            first = model.codec.encode(photo(paths[picture], long_side=256)[None, :, None])
            for word in [word for word in words if word in (arguments.words or words)]:
                short, another = flow(model, first, word, 16), flow(model, first, word, 16, seed=1)
                for length in arguments.lengths:
                    rows.append({"model": name, "photo": picture, "word": word, "frames": length,
                                 **compared(short, flow(model, first, word, length)),
                                 "another seed": compared(short, another)["difference"],
                                 "trembling of 16": compared(short, short)["trembling"]})
                    print({key: value if isinstance(value, (str, int)) else round(value, 3)
                           for key, value in rows[-1].items()}, flush=True)
    camera, others = ([row for row in rows if (row["word"] in DIRECTED) == is_camera] for is_camera in (True, False))
    figures = {"clips": len(rows)}
    if camera:
        figures["camera words, largest difference, %"] = verdict(100 * max(row["difference"] for row in camera), high=5)
        figures["camera words, largest step over the median"] = verdict(max(row["step"] for row in camera), high=2)
        figures["camera words, most trembling, 16 frames"] = round(max(row["trembling of 16"] for row in camera), 3)
        figures["camera words, most trembling, longer"] = round(max(row["trembling"] for row in camera), 3)
    if others:
        worst = sorted(others, key=lambda row: -row["difference"])
        figures["other words, largest difference, %"] = verdict(100 * worst[0]["difference"], high=10)
        figures["other words within 10 %"] = f"{sum(row['difference'] <= 0.1 for row in others)} of {len(others)}"
        figures["other words, 16 frames, another seed, largest difference, %"] = round(
            100 * max(row["another seed"] for row in others), 1
        )
    save("long_clips", figures, rows)


@torch.no_grad()
def flow(model, first: torch.Tensor, word: str, num_frames: int, *, seed: int = 0) -> torch.Tensor:
    """Backward flow of a sampled clip, (t, 2, g, g) working px."""
    sampling = model.spec.sampling
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((1, 200, 16, *first.shape[3:]), generator=generator)
    if num_frames > 16:
        shared = noise
        noise = torch.randn((1, 200, num_frames, *first.shape[3:]), generator=generator)
        noise[:, :, :: (num_frames - 1) // 15] = shared
    told = replace(model.encode([word]), motion_bucket_id=torch.tensor([12]), first_latent=first)
    told = told.at_places(clip_places(num_frames, sampling.num_frames, SAME_MOVE))
    return model.codec.flow_of(draw(model.dit, noise, told, sampling))[0]


def compared(short: torch.Tensor, long: torch.Tensor) -> dict:
    shared = long[:: (len(long) - 1) // (len(short) - 1)]
    steps, turns = (long.diff(n=order, dim=0).norm(dim=1).mean((1, 2)) for order in (1, 2))
    return {"difference": float((shared - short).norm(dim=1).mean() / short.norm(dim=1).mean().clamp_min(1e-6)),
            "step": float(steps.max() / steps.median().clamp_min(1e-6)),
            "trembling": float(turns.mean() / steps.mean().clamp_min(1e-6))}  # fmt: skip


if __name__ == "__main__":
    main()
