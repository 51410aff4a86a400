"""A table with holes: its map without filling them, and what the map fills them with.

python examples/missing_values.py [--out FOLDER] [--share OF_NUMBERS]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import StandardScaler

from vitsom_fast import SOM, plotting


def main(out: Path, share: float = 0.2) -> tuple[float, float]:
    """Writes filled.csv and planes.png; how far off the filled numbers are (root mean square, in deviations of the feature), by
    the map and by the mean of the feature."""
    data = load_breast_cancer()
    whole = StandardScaler().fit_transform(data.data)  # [569, 30]
    is_lost = np.random.default_rng(0).random(whole.shape) < share
    table = np.where(is_lost, np.nan, whole)
    som = SOM(8, 6, missing="ignore").fit(table)
    filled = np.where(is_lost, som.prototypes_[som.labels_], table)

    out.mkdir(parents=True, exist_ok=True)
    np.savetxt(out / "filled.csv", filled, delimiter=",", fmt="%.6g", header=",".join(data.feature_names), comments="")
    plotting.plot_component_planes(som, names=data.feature_names).savefig(out / "planes.png")
    by_mean = np.broadcast_to(np.nanmean(table, axis=0), table.shape)
    return _off(filled, whole, is_lost), _off(by_mean, whole, is_lost)


def _off(filled: np.ndarray, whole: np.ndarray, is_lost: np.ndarray) -> float:
    return float(np.sqrt(np.square(filled - whole)[is_lost].mean()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/missing"))
    parser.add_argument("--share", type=float, default=0.2, help="of all numbers that are taken out")
    options = parser.parse_args()
    by_map, by_mean = main(options.out, options.share)
    print(f"numbers filled by the map are off by {by_map:.2f} deviations, by the mean of the feature by {by_mean:.2f}")
