"""Cells of a flow cytometer, a million of them by ten markers, on a map, and the map's units in populations.

python examples/million_cells.py [--cells 1000000] [--side UNITS]

The cells are made: twelve populations of unequal size, on a scale as markers have after asinh. As in FlowSOM, the map is
fitted to all cells, and its few prototypes are clustered then.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score

from vitsom_fast import SOM

MARKERS, POPULATIONS = 10, 12


def cells(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Cells (count, markers) fp32 and the population of each."""
    random = np.random.default_rng(0)
    centres = random.choice([0.3, 2.0, 4.0], (POPULATIONS, MARKERS)) + random.normal(0, 0.2, (POPULATIONS, MARKERS))
    shares = random.dirichlet(np.full(POPULATIONS, 3.0))
    population = random.choice(POPULATIONS, count, p=shares)
    noise = random.normal(0, 0.35, (count, MARKERS))
    return (centres[population] + noise).clip(0).astype(np.float32), population


def main(count: int = 1_000_000, side: int = 10) -> tuple[float, float]:
    """How well populations of units agree with those of the cells, as adjusted Rand index; and the seconds of the fit."""
    rows, population = cells(count)
    begin = time.perf_counter()
    som = SOM(side, side, n_epochs=10).fit(rows)
    seconds = time.perf_counter() - begin
    of_unit = AgglomerativeClustering(POPULATIONS).fit_predict(som.prototypes_)
    return float(adjusted_rand_score(population, of_unit[som.labels_])), seconds


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--side", type=int, default=10, help="units a side of the map")
    options = parser.parse_args()
    agreement, seconds = main(options.cells, options.side)
    print(f"{options.cells} cells in {seconds:.1f} s; adjusted Rand index of the populations {agreement:.3f}")
