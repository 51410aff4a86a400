"""The loss on a map with an axis so long that the weights between all places along it are more than those between all samples
and units: a chain of 20000 units, for 128 latents.

No matrix of the axis is made. The samples are taken in the order of their BMUs along it, a few at a time, with the units that
are within reach of any of them, and their weights are computed where they are used, for the loss and again for its gradients.
These are weights of the Gaussian; maps with another neighborhood do not come here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vitsom_fast import ops
from vitsom_fast.backends import memory, transforms
from vitsom_fast.backends.compose import FEW_FEATURES
from vitsom_fast.backends.products import product
from vitsom_fast.backends.spec import accumulation_dtype, reduction_scale
from vitsom_fast.backends.unit_rows import centre_of, through_unit_rows, unit_rows, widest
from vitsom_fast.grid import Grid
from vitsom_fast.neighborhoods import has_factors
from vitsom_fast.neighborhoods.gaussian import gaussian_weights

# Below this the matrices of the axes cost next to nothing.
_SHORT = 256

# Weights held at a time: 4 M are 16 MB in fp32.
_CHUNK = 1 << 22


def serves(grid: Grid, batch: int) -> bool:
    """Whether this takes less time and memory than the matrices of the axes, of a chain of 1024 units and 128 latents 2.5 times
    less time; or whether those would be larger than any memory. A compiler is left to the matrices: it has no use for sizes
    that depend on the data."""
    if max(grid.rows, grid.cols) <= _SHORT or torch.compiler.is_compiling():
        return False
    return not has_factors(grid) or grid.rows**2 + grid.cols**2 > 2 * batch * grid.num_prototypes


def som_loss(
    z: Tensor, prototypes: Tensor, grid: Grid, temperature: float | Tensor, reduction: str, backend: str
) -> tuple[Tensor, Tensor]:
    """As ``functional.som_loss``, of checked arguments; the BMUs are those that the backend finds."""
    bmu, _ = ops.find_bmu(z.detach(), prototypes.detach(), backend, grid.rows, grid.cols)
    if z.shape[0] == 0:  # no sample pulls, not even on a prototype that is not finite
        return (z.sum() + prototypes[:0].sum()).to(accumulation_dtype(z.dtype)), bmu
    scale = reduction_scale(reduction, z.shape[0], grid.num_prototypes)
    if isinstance(temperature, Tensor):
        temperature = temperature.detach()
    with torch.autocast(z.device.type, enabled=False):
        if transforms.is_at_work():
            return _differentiable_loss(z, prototypes, bmu, grid, temperature, scale), bmu
        return _Loss.apply(z, prototypes, bmu, grid, temperature, scale), bmu


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, z: Tensor, prototypes: Tensor, bmu: Tensor, grid: Grid, temperature: float | Tensor, scale: float
    ) -> Tensor:
        dtype = accumulation_dtype(z.dtype)
        latents, units = unit_rows(z.to(dtype)), unit_rows(prototypes.to(dtype))
        # What the prototypes have in common is taken off: roundings are in proportion to what is left of them (n - z . S
        # cancels).
        centre = centre_of(units.unit)  # [D]
        exact = _dtype_of_sums(z)
        delta = (units.unit - centre).to(exact)
        attraction = torch.empty(z.shape, dtype=dtype, device=z.device)
        # 0 unless a prototype is not finite: be its weight 0, 0 * NaN is NaN.
        total = poison = 0 * units.unit.sum()
        for part in _parts(bmu, grid, temperature, dtype):
            weights = part.weights(bmu, grid, temperature, exact)  # [n, M]
            smoothed = product(weights, delta[part.units]).to(centre.dtype)  # [n, D]
            weight, rows = weights.sum(dim=1, dtype=centre.dtype), latents.unit[part.samples]
            total = total + (weight * (1 - rows @ centre) - (rows * smoothed).sum(dim=1)).sum()
            attraction[part.samples] = (smoothed + weight[:, None] * centre + poison).to(dtype)
        ctx.save_for_backward(z, prototypes, bmu, attraction)
        ctx.grid, ctx.temperature, ctx.scale = grid, temperature, scale
        return (total * scale).to(dtype)

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(grad_loss.device.type, enabled=False):  # the caller's may be on
            return _Loss._gradients(ctx, grad_loss)

    @staticmethod
    def _gradients(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        z, prototypes, bmu, attraction = ctx.saved_tensors
        how = (bmu, ctx.grid, ctx.temperature, attraction.dtype)
        for_z, for_prototypes = ctx.needs_input_grad[:2]
        grad_z = grad_prototypes = None
        if torch.is_grad_enabled() or torch._C._functorch.peek_interpreter_stack() is not None:
            again = partial(_differentiable_loss, bmu=how[0], grid=how[1], temperature=how[2], scale=ctx.scale)
            wanted = for_z, for_prototypes
            return *transforms.gradients_again(again, z, prototypes, wanted, grad_loss), None, None, None, None
        dtype = attraction.dtype
        latents = unit_rows(z.to(dtype))
        factor = grad_loss.to(latents.unit.dtype) * -ctx.scale
        if for_z:
            grad_z = through_unit_rows(attraction * factor, latents).to(z.dtype)
        if for_prototypes:
            pulled = torch.zeros(prototypes.shape, dtype=latents.unit.dtype, device=z.device)
            pulled += 0 * latents.unit.sum()
            centre = centre_of(latents.unit)  # [D]
            exact = _dtype_of_sums(z)
            delta = (latents.unit - centre).to(exact)
            for part in _parts(*how):
                weights = part.weights(*how[:3], exact)  # [n, M]
                pulled[part.units] += product(weights.T, delta[part.samples])
                pulled[part.units] += weights.sum(dim=0, dtype=centre.dtype)[:, None] * centre
            grad_prototypes = through_unit_rows(pulled * factor, unit_rows(prototypes.to(dtype))).to(prototypes.dtype)
        return grad_z, grad_prototypes, None, None, None, None


def _dtype_of_sums(z: Tensor) -> torch.dtype:
    """fp64 where that costs little, or roundings do not even out: those of 700 samples at one unit, added up in fp32, are 1e-6
    of them, and 3e-7 is promised."""
    return widest(z) if z.device.type == "cpu" or z.shape[1] <= FEW_FEATURES else accumulation_dtype(z.dtype)


def _differentiable_loss(
    z: Tensor, prototypes: Tensor, bmu: Tensor, grid: Grid, temperature: float | Tensor, scale: float
) -> Tensor:
    """The same in operations that can be differentiated any number of times, and hold all weights (B, K)."""
    dtype = accumulation_dtype(z.dtype)
    every = _Part(torch.arange(z.shape[0], device=z.device), *_places(grid, z.device), grid.cols)
    weights = every.weights(bmu, grid, temperature, dtype).to(widest(z))  # [B, K]
    units = unit_rows(prototypes.to(dtype)).unit
    attraction = weights @ units
    return ((weights.sum(dim=1) - (unit_rows(z.to(dtype)).unit * attraction).sum(dim=1)).sum() * scale).to(dtype)


class _Part(NamedTuple):
    """Some samples (n,), and the rows (H,) and columns (W,) of the grid that are within reach of them: M = H W units."""

    samples: Tensor
    rows: Tensor
    cols: Tensor
    grid_cols: int

    @property
    def units(self) -> Tensor:
        """(M,)"""
        return (self.rows[:, None] * self.grid_cols + self.cols).flatten()

    def weights(self, bmu: Tensor, grid: Grid, temperature: float | Tensor, dtype: torch.dtype) -> Tensor:
        """The Gaussian of the distances on the grid, (n, M)."""
        bmu = bmu[self.samples]
        row, col = bmu.div(grid.cols, rounding_mode="floor"), bmu % grid.cols  # [n]
        down = _wrapped(self.rows - row[:, None], grid.rows, grid.periodic)  # [n, H]
        across = 2 * (self.cols - col[:, None])[:, None, :]  # [n, 1, W], in halves of a column
        pitch = 1.0
        if grid.topology == "hexagonal":
            across = across + (self.rows % 2 - row[:, None] % 2)[:, :, None]  # [n, H, W]
            pitch = 0.75
        across = _wrapped(across, 2 * grid.cols, grid.periodic)
        squared = pitch * down.to(dtype).square()[:, :, None] + 0.25 * across.to(dtype).square()  # [n, H, W]
        return gaussian_weights(squared, temperature).flatten(1)


def _wrapped(offset: Tensor, length: int, periodic: bool) -> Tensor:
    """The shorter way around a circle of this length, in whole numbers."""
    return (offset + length // 2) % length - length // 2 if periodic else offset


def _places(grid: Grid, device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.arange(grid.rows, device=device), torch.arange(grid.cols, device=device)


def _parts(bmu: Tensor, grid: Grid, temperature: float | Tensor, dtype: torch.dtype) -> Iterator[_Part]:
    """All samples with all units whose weight is not 0 in this dtype, at most ``_CHUNK`` pairs at a time if one sample has no
    more."""
    rows, cols = _places(grid, bmu.device)
    length, across = max(grid.rows, grid.cols), min(grid.rows, grid.cols)
    if not memory.is_plain(bmu) or bmu.device.type != "cpu":  # to look at them would mean to wait for a device
        for samples in torch.arange(bmu.shape[0], device=bmu.device).split(max(1, _CHUNK // grid.num_prototypes)):
            yield _Part(samples, rows, cols, grid.cols)
        return
    along_rows = grid.rows > grid.cols
    place = bmu.div(grid.cols, rounding_mode="floor") if along_rows else bmu % grid.cols  # [B]
    order = place.argsort(stable=True)
    places = place[order].tolist()
    reach = _reach(float(temperature), dtype, along_rows and grid.topology == "hexagonal", length)
    begin = 0
    while begin < len(places):
        end = begin + 1
        while end < len(places) and _fits(places[begin], places[end], end + 1 - begin, reach, length, across):
            end += 1
        first, last = places[begin] - reach, places[end - 1] + reach + 1
        if last - first >= length:
            first, last = 0, length
        if not grid.periodic:
            first, last = max(first, 0), min(last, length)
        near = torch.arange(first, last, device=bmu.device) % length
        yield _Part(order[begin:end], near if along_rows else rows, cols if along_rows else near, grid.cols)
        begin = end


def _fits(first: int, last: int, samples: int, reach: int, length: int, across: int) -> bool:
    """Whether samples with BMUs between two places are taken together: not if most of their units were out of reach of most."""
    span = last - first
    return span <= max(2 * reach, length // 8) and samples * min(span + 2 * reach + 1, length) * across <= _CHUNK


def _reach(temperature: float, dtype: torch.dtype, is_dense: bool, length: int) -> int:
    """Places along the axis up to which a weight is not 0. Next to the weight 1 of the BMU far fewer count; but a gradient is
    divided by the length of its prototype, and one that is short needs them. Rows of a hexagonal grid are sqrt(3) / 2 apart."""
    if not temperature > 0:
        return length  # NaN, for all
    exponent = 746 if dtype == torch.float64 else 104  # exp of less is 0
    places = math.sqrt(2 * exponent) * temperature / (math.sqrt(0.75) if is_dense else 1.0) + 1
    return length if places >= length else math.ceil(places)
