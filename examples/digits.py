"""Handwritten digits on a map that is not told which they are, and how many unseen ones it then knows.

python examples/digits.py [--out FOLDER] [--side UNITS]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from vitsom_fast import SOM, plotting


def main(out: Path, side: int = 14) -> float:
    """Writes prototypes.png, classes.png and u_matrix.png; the share of unseen digits on a unit of theirs."""
    pixels, digit = load_digits(return_X_y=True)
    train, test, digit, unseen = train_test_split(pixels, digit, test_size=0.25, random_state=0, stratify=digit)
    som = SOM(side, side, metric="cosine").fit(train)
    counts = np.zeros((side * side, 10))
    np.add.at(counts, (som.labels_, digit), 1)
    # Units without a digit have the name of the nearest one that has some.
    named = counts.any(axis=1)
    positions = som.grid.positions.numpy()
    nearest = np.linalg.norm(positions[:, None] - positions[None, named], axis=2).argmin(axis=1)
    names = counts[named].argmax(axis=1)[nearest]

    out.mkdir(parents=True, exist_ok=True)
    images = torch.from_numpy(som.prototypes_ / som.prototypes_.max(axis=1, keepdims=True)).clamp(0, 1)
    plotting.plot_prototypes(images.view(-1, 1, 8, 8), som.grid).savefig(out / "prototypes.png")
    plotting.plot_hit_map(som, train, labels=digit).savefig(out / "classes.png")
    plotting.plot_u_matrix(som).savefig(out / "u_matrix.png")
    return float((names[som.predict(test)] == unseen).mean())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/digits-som"))
    parser.add_argument("--side", type=int, default=14, help="units a side of the map")
    options = parser.parse_args()
    print(f"{main(options.out, options.side):.3f} of the unseen digits are on a unit of theirs; pictures: {options.out}")
