"""The formulas once more, in fp64 and apart from the package: rows are scaled before they are squared, offsets are exact."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vitsom_fast import Grid

EPS = 1e-12  # rows are divided by their length, or by this if they are shorter


class Rows(NamedTuple):
    """Rows (N, D) as they enter the distance."""

    unit: Tensor  # x / max(|x|, eps), [N, D]
    length: Tensor  # |x|, [N]
    finite: Tensor  # [N], bool

    @property
    def divisor(self) -> Tensor:
        return self.length.clamp_min(EPS)


def rows_of(x: Tensor) -> Rows:
    x = x.detach().cpu().double()
    peak = x.abs().amax(dim=1)
    scale = torch.where(peak.isfinite() & (peak > 0), peak, 1.0)[:, None]
    scaled = x / scale
    norm = scaled.norm(dim=1, keepdim=True)
    length = (norm * scale)[:, 0]
    unit = torch.where(length[:, None] >= EPS, scaled / norm, x / EPS)
    return Rows(unit, length, peak.isfinite())


def ties(x: Tensor, rows: Rows) -> Tensor:
    """(K,) the lowest index of the prototypes that are the same in exact arithmetic: equal but for a power of two, or equal
    where they are shorter than eps."""
    x = x.detach().cpu().double()
    _, exponent = x.abs().amax(dim=1, keepdim=True).frexp()
    normalised = rows.length >= EPS
    mantissa = torch.where(normalised[:, None], x * (-exponent).double().exp2(), x) + 0.0  # -0 equals 0
    bits = mantissa.view(torch.int64)
    odd = torch.randint(2**62, (x.shape[1],), generator=torch.Generator().manual_seed(0)) * 2 + 1
    label = ((bits ^ (bits >> 32)) * odd).sum(dim=1) + normalised  # [K], the same for equal rows
    kinds, kind = label.unique(return_inverse=True)
    index = torch.arange(len(x))
    first = index.new_full(kinds.shape, len(x)).scatter_reduce(0, kind, index, "amin")[kind]
    return torch.where((mantissa[first] == mantissa).all(dim=1), first, index)


def weights(bmu: Tensor, grid: Grid, temperature: float) -> Tensor:
    """(B, K) ``exp(-|r_k - r_b|^2 / (2 T^2))``. Offsets are counted in rows and half columns, whole numbers."""
    row, col = torch.meshgrid(torch.arange(grid.rows), torch.arange(grid.cols), indexing="ij")
    half = 2 * col + (row % 2 if grid.topology == "hexagonal" else 0)
    place = torch.stack((row, half), dim=-1).view(-1, 2)  # [K, 2]
    kinds, which = bmu.unique(return_inverse=True)
    offset = (place[None, :, :] - place[kinds][:, None, :]).abs()  # [kinds, K, 2]
    if grid.periodic:
        offset = torch.minimum(offset, torch.tensor([grid.rows, 2 * grid.cols]) - offset)
    across = 0.75 if grid.topology == "hexagonal" else 1.0
    squared = across * offset[..., 0].double().square() + 0.25 * offset[..., 1].double().square()
    exponent = squared / (2 * temperature**2) if temperature > 1e-100 else torch.where(squared > 0, math.inf, 0.0)
    return exponent.neg_().exp_()[which]


class Step(NamedTuple):
    """A step for given BMUs, and the sizes that rounding errors are in proportion to."""

    loss: float
    weight: float  # the loss if all distances were 1
    grad_z: Tensor
    grad_prototypes: Tensor
    pull_z: Tensor  # [B], what the lengths of the gradients' rows would be if nothing cancelled
    pull_prototypes: Tensor  # [K]


def step(z: Rows, prototypes: Rows, bmu: Tensor, grid: Grid, temperature: float, reduction: str, grad_output: float) -> Step:
    batch, count = len(z.unit), len(prototypes.unit)
    scale = {"mean": 1 / max(batch * count, 1), "batchmean": 1 / max(batch, 1), "sum": 1.0}[reduction]
    h = weights(bmu, grid, temperature)  # [B, K]
    towards_z, towards_prototypes = h @ prototypes.unit, h.T @ z.unit  # [B, D], [K, D]
    loss = (h.sum(dim=1) - (z.unit * towards_z).sum(dim=1)).sum().item() * scale
    factor = scale * grad_output
    return Step(
        loss,
        h.sum().item() * scale,
        _through_normalisation(-factor * towards_z, z),
        _through_normalisation(-factor * towards_prototypes, prototypes),
        abs(factor) * h.sum(dim=1) / z.divisor,
        abs(factor) * h.sum(dim=0) / prototypes.divisor,
    )


def _through_normalisation(grad: Tensor, x: Rows) -> Tensor:
    """The gradient for x in the place of that for its unit vector; below eps that is linear, nothing is projected away."""
    along = (grad * x.unit).sum(dim=1) * (x.length >= EPS)
    return (grad - along[:, None] * x.unit) / x.divisor[:, None]
