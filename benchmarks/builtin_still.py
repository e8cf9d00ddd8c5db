""""still" and the first frame on the 13 photographs, three sampling seeds: a part of builtin_photos. Writes JSON."""

import argparse

import torch
from builtin_common import load_model, photo_paths, save, verdict
from builtin_photos import stills


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", help="default: the shipped file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(arguments.weights)
    rows = [row for name, path in photo_paths().items() for row in stills(model, name, path, [0, 1, 2])]
    levels = sorted(row["psnr_db"] for row in rows)
    save("builtin_still", {
        "clips": len(rows),
        "still, lowest PSNR of any frame, dB": verdict(levels[0], low=45),
        "still, median, dB": round(levels[len(levels) // 2], 2),
        "first frame, lowest PSNR, dB (99 = bit-exact)": verdict(min(row["first_db"] for row in rows), low=60),
    }, rows)  # fmt: skip


if __name__ == "__main__":
    main()
