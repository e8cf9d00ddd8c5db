"""What the evidence scripts share: the way to the other benchmarks, mean ± spread, results on disk."""

import math
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from builtin_common import (  # noqa: E402, F401
    HELD_OUT_SEED,
    RESULTS,
    ROOT,
    load_model,
    photo,
    photo_paths,
    psnr,
    sample,
    save,
    verdict,
    write_json,
)
from dynamics_measures import slide, square, time_measures  # noqa: E402, F401


def spread(values, digits: int = 2) -> str:
    """Mean ± standard deviation (n - 1) of values; "-" where there is none, no spread for a single one."""
    values = [float(value) for value in values if value is not None and math.isfinite(value)]
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def finish(name: str, figures: dict, rows: list) -> None:
    """Write benchmarks/results/evidence_<name>.json; raw numbers are cut to five digits that count."""
    save(f"evidence_{name}", figures, short(rows))


def short(value):
    """The same values with floats of five significant digits."""
    if isinstance(value, dict):
        return {key: short(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [short(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value
