"""How much of a picture's energy lies outside its low frequencies: DCT against FFT with as many numbers. Writes JSON.

The exchange of low frequencies in DCTInit carries over what lies inside; what lies outside is lost to the noise.
"""

import argparse
import statistics

import numpy as np
import torch
from builtin_common import photo, photo_paths, save
from pack.motion.conditioning.noise_init import kept_box
from scipy import fft

GRIDS = {"40x64": (40, 64), "60x96": (60, 96), "16x16": (16, 16)}


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    pictures = {name: photo(path, "3:2").mean(dim=0) for name, path in photo_paths().items()}
    rows = [compare(name, label, picture) for name, picture in pictures.items() for label in GRIDS]
    rows += [compare("smooth", label, smooth(192, 288)) for label in GRIDS]
    figures = {}
    for label in GRIDS:
        here = [row for row in rows if row["grid"] == label and row["picture"] != "smooth"]
        wins = sum(row["outside_dct"] < row["outside_fft"] for row in here)
        kept = f"{label}: DCT {here[0]['numbers_dct']} numbers, FFT {here[0]['numbers_fft']}"
        figures[f"{kept}; median energy outside, {len(here)} photos"] = (
            f"DCT {median(here, 'outside_dct'):.4f}, FFT {median(here, 'outside_fft'):.4f}, "
            f"DCT less on {wins} of {len(here)}"
        )
        synthetic = next(row for row in rows if row["grid"] == label and row["picture"] == "smooth")
        figures[f"{label}: a smooth picture"] = (
            f"DCT {synthetic['outside_dct']:.2e}, FFT {synthetic['outside_fft']:.2e}"
        )
    save("dct_vs_fft", figures, rows)


def median(rows: list[dict], key: str) -> float:
    return statistics.median(row[key] for row in rows)


def smooth(height: int, width: int) -> torch.Tensor:
    """A smooth picture whose opposite borders do not meet."""
    y = torch.linspace(0, 1, height).unsqueeze(1)
    x = torch.linspace(0, 1, width)
    return torch.sin(2.2 * x + 0.4) + torch.cos(1.7 * y + x)


def compare(name: str, label: str, picture: torch.Tensor) -> dict:
    """Share of the energy (mean removed) outside the kept box of each transform; the FFT box is never the smaller."""
    grid = GRIDS[label]
    values = torch.nn.functional.interpolate(picture[None, None], grid, mode="bilinear", antialias=True)[0, 0].double()
    values = (values - values.mean()).numpy()
    _, rows, columns = kept_box((1, 1, *grid))
    dct = fft.dctn(values, norm="ortho") ** 2
    spectrum = np.abs(fft.fftn(values, norm="ortho")) ** 2
    low = [np.abs(fft.fftfreq(size, 1 / size)) <= kept // 2 for size, kept in zip(grid, (rows, columns))]
    return {
        "picture": name, "grid": label, "numbers_dct": rows * columns, "numbers_fft": int(low[0].sum() * low[1].sum()),
        "outside_dct": float(1 - dct[:rows, :columns].sum() / dct.sum()),
        "outside_fft": float(1 - spectrum[np.ix_(*low)].sum() / spectrum.sum()),
    }  # fmt: skip


if __name__ == "__main__":
    main()
