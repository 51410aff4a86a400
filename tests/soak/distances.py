"""Random searches under every distance against fp64 arithmetic, of kinds of data that are hard to tell apart.

    python tests/soak/distances.py --rows 1000000 [--backend cpu] [--distance sqeuclidean] [-k 2] [--seed 0]

Prints each search whose units are farther than 1e-12 of the scale, or not the lowest of their equals, and the worst of all.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import torch
from torch import Tensor
from tqdm import tqdm

from vitsom_fast import Grid, find_bmu, reference
from vitsom_fast.functional import DISTANCES

Data = tuple[Tensor, Tensor]
SIZES = {
    "batch": (1, 3, 17, 64, 200, 500),
    "dim": (1, 2, 3, 5, 8, 17, 31, 64, 100, 192, 500),
    "rows": (1, 2, 5, 9, 16, 33),
    "cols": (1, 3, 8, 17, 40),
}
DTYPES = (torch.float32, torch.float32, torch.bfloat16, torch.float16)


def _uniform(low: float, high: float) -> float:
    return torch.empty(()).uniform_(low, high).item()


def _shifted(z: Tensor, w: Tensor, grid: Grid) -> Data:
    offset = 10 ** _uniform(0, 6) * torch.randn(z.shape[1])
    return z + offset, w + offset


def _near(z: Tensor, w: Tensor, grid: Grid) -> Data:
    w = torch.randn(1, z.shape[1]) + 10 ** _uniform(-7, -1) * w
    return w[torch.randint(len(w), (len(z),))] + 10 ** _uniform(-8, -1) * z, w


def _integers(z: Tensor, w: Tensor, grid: Grid) -> Data:
    return (2 * z).round(), (2 * w).round()[torch.randint(len(w), (len(w),))]


def _scaled(z: Tensor, w: Tensor, grid: Grid) -> Data:
    return z * 10 ** _uniform(-15, 15), w * 10 ** _uniform(-15, 15)


def _organised(z: Tensor, w: Tensor, grid: Grid) -> Data:
    dim = z.shape[1]
    row, col = torch.linspace(0, 1, grid.rows)[:, None, None], torch.linspace(0, 1, grid.cols)[:, None]
    w = row * torch.randn(dim) + col * torch.randn(dim) + 0.01 * torch.randn(grid.rows, grid.cols, dim) + 5 * torch.randn(dim)
    w = w.view(-1, dim)
    return w[torch.randint(len(w), (len(z),))] + 0.05 * z, w


def _mixed(z: Tensor, w: Tensor, grid: Grid) -> Data:
    return z * 10 ** torch.empty(len(z), 1).uniform_(-4, 4), w * 10 ** torch.empty(len(w), 1).uniform_(-4, 4)


KINDS: dict[str, Callable[[Tensor, Tensor, Grid], Data]] = {
    "random": lambda z, w, grid: (z, w),
    "shifted": _shifted,
    "near": _near,
    "integers": _integers,
    "scaled": _scaled,
    "organised": _organised,
    "collapsed": lambda z, w, grid: (z, w[:1].repeat(len(w), 1)),
    "far latents": lambda z, w, grid: (z * 1e4 + 1e5, w),
    "mixed": _mixed,
}


def _one_of(values: tuple) -> object:
    return values[int(torch.randint(len(values), ()))]


def case(seed: int) -> tuple[str, Tensor, Tensor, Grid]:
    """The kind of data, latents, prototypes and grid that a seed stands for."""
    torch.manual_seed(seed)
    size = {name: _one_of(values) for name, values in SIZES.items()}
    grid = Grid(size["rows"], size["cols"])
    kind, dtype = _one_of(tuple(KINDS)), _one_of(DTYPES)
    z, w = KINDS[kind](torch.randn(size["batch"], size["dim"]), torch.randn(grid.num_prototypes, size["dim"]), grid)
    return kind, z.to(dtype), w.to(dtype), grid


def judge(z: Tensor, w: Tensor, units: Tensor, distance: str) -> tuple[float, bool]:
    """How much farther the units are than the nearest, (B,), or the nearest two, (B, 2), relative to the scale, and if they are
    the lowest of their equals."""
    z, w = z.double(), w.double()
    regrets, lowest = [], True
    for rows, found in zip(z.split(64), units.view(len(z), -1).split(64), strict=True):
        d = reference.distances(rows, w, distance)
        if distance == "sqeuclidean":  # torch.cdist squared and rooted again
            d = (rows[:, None] - w).square().sum(dim=2)
        order = 1 if distance == "manhattan" else 2
        lengths = (
            torch.linalg.vector_norm(rows, order, dim=1),
            torch.linalg.vector_norm(w, order, dim=1).amax(),
        )
        scale = lengths[0].square() + lengths[1].square() if distance == "sqeuclidean" else lengths[0] + lengths[1]
        scale = torch.ones_like(scale) if distance == "cosine" else scale.clamp_min(1e-300)
        is_left = torch.ones_like(d, dtype=torch.bool)
        for unit in found.unbind(dim=1)[: len(w)]:
            regrets.append(((d.gather(1, unit[:, None])[:, 0] - d.amin(dim=1)) / scale).amax())
            lowest &= torch.equal(unit, ((w[unit][:, None] == w).all(dim=2) & is_left).int().argmax(dim=1))
            is_left.scatter_(1, unit[:, None], False)
            d = d.masked_fill(~is_left, torch.inf)
    return torch.stack(regrets).amax().item(), lowest


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--distance", choices=DISTANCES[1:], default="sqeuclidean")
    parser.add_argument("-k", type=int, choices=(1, 2), default=1, help="the nearest unit, or the nearest two")
    options = parser.parse_args()
    seed, rows, failures, worst = options.seed, 0, 0, 0.0
    with tqdm(total=options.rows, unit="row", unit_scale=True, disable=None) as bar:
        while rows < options.rows:
            kind, z, w, grid = case(seed)
            if z.isfinite().all() and w.isfinite().all():
                how = {"distance": options.distance, "grid": grid, "k": options.k, "backend": options.backend}
                regret, lowest = judge(z, w, find_bmu(z, w, **how)[0], options.distance)
                worst, rows = max(worst, regret), rows + len(z)
                bar.update(len(z))
                if regret > 1e-12 or not lowest:
                    failures += 1
                    tqdm.write(f"seed {seed}: {kind}, {z.dtype}, {tuple(z.shape)} {grid}: regret {regret:.2e}, lowest {lowest}")
            seed += 1
    print(f"{options.distance}, {options.backend}: {rows} rows, {failures} failures, at most {worst:.1e} of the scale too far")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
