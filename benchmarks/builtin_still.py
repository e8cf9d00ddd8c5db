"""The prompt "still" on photographs, and the first frame against the photo. Prints figures, writes JSON."""

import argparse

import torch
from builtin_common import load_model, photo, photo_paths, psnr, sample, save, verdict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", help="default: the shipped file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="sampling seeds")
    parser.add_argument("--name", default="builtin_still", help="of the results file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(arguments.weights)
    rows = [row for name, path in photo_paths().items() for row in stills(model, name, path, arguments.seeds)]
    figures = {"photographs x sampling seeds": len(rows)}
    figures["still, lowest PSNR, dB"] = verdict(min(row["psnr_db"] for row in rows), low=45)
    figures["first frame, lowest PSNR, dB (99 = bit-exact)"] = verdict(min(row["first_db"] for row in rows), low=60)
    save(arguments.name, figures, rows)


def stills(model, name: str, path, seeds: list[int]) -> list[dict]:
    """"still" at the default dynamics on the square crop; frame 0 against the photograph."""
    picture = photo(path)
    first = model.codec.encode(picture[None, :, None])
    rows = []
    for seed in seeds:
        clip = model.codec.decode_onto(sample(model, first, ["still"], 12, seeds=seed), picture)[0]
        rows.append({"photo": name, "motion": "still", "seed": seed, "first_db": psnr(clip[:, 0], picture),
                     "psnr_db": min(psnr(clip[:, n], picture) for n in range(1, 16))})
    return rows


if __name__ == "__main__":
    main()
