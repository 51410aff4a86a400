"""Rows of length 1 as seen from a centre c that they have in common.

On a map that fits its data the loss and its gradients are small differences. With w^ = c + delta, the loss is
``sum_i [n_b (1 - z^_i . c) - z^_i . (G delta)_b]``: what the centre contributes is computed in fp64, and fp32 sums over delta
are off in proportion to |delta| only.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vitsom_fast.backends.unit_rows import EPS, UnitRows, centre_of, through_unit_rows, unit_rows, widest

# Elements computed with in fp64 at a time: 1 MB stays in a CPU's cache, where 16 MB would take three times as long. On a GPU as
# many as there is to be memory for.
_PIECE, _PIECE_ELSEWHERE = 1 << 17, 1 << 24

# Prototypes that the centre is the mean of.
_SAMPLE = 256


def prototype_centre(prototypes: Tensor) -> Tensor:
    """(D,), in the widest dtype, of numbers that fp32 holds: about the mean of the unit prototypes. Any other would be right,
    too, with larger rounding errors."""
    sample = prototypes.detach()[:: -(-prototypes.shape[0] // _SAMPLE)]
    return centre_of(unit_rows(sample).unit)


def centred_units(x: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """Unit rows of x (rows, D), in its dtype, and their products with the centre, (rows,) in the widest dtype."""
    units, along = torch.empty_like(x, memory_format=torch.contiguous_format), centre.new_empty(x.shape[0])
    for rows in pieces(x):
        unit, _ = unit_rows(x[rows])
        units[rows] = unit
        along[rows] = unit @ centre
    return units, along


def deltas(x: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """Unit rows of x (rows, D) less the centre, in the dtype of x, and norms, (rows, 1) in the widest dtype."""
    deltas, norm = torch.empty_like(x, memory_format=torch.contiguous_format), centre.new_empty(x.shape[0], 1)
    for rows in pieces(x):
        unit, norm[rows] = unit_rows(x[rows])
        deltas[rows] = unit.sub_(centre)
    return deltas, norm


def row_products(a: Tensor, table: Tensor, index: Tensor, origin: Tensor | float = 0.0) -> Tensor:
    """``a_i . (table[index_i] + origin)``, (rows,) in the widest dtype, from (rows, D) and (K, D)."""
    wide = widest(a)
    products = [((table[index[rows]].to(wide) + origin) * a[rows].to(wide)).sum(dim=1) for rows in pieces(a)]
    return torch.cat(products)


def poison(z: Tensor, prototypes: Tensor) -> Tensor:
    """(B,) in the widest dtype: 0 for a sample that is finite, as all prototypes are, else NaN. An infinite distance is no loss
    either."""
    is_finite = z.detach().isfinite().all(dim=1) & prototypes.detach().isfinite().all()
    return torch.where(is_finite, 0.0, torch.nan).to(widest(z))


def pieces(x: Tensor) -> Iterator[slice]:
    """Rows of x that are computed with at a time."""
    return slices(x.shape[0], (_PIECE if x.device.type == "cpu" else _PIECE_ELSEWHERE) // x.shape[1])


def slices(rows: int, step: int) -> Iterator[slice]:
    step = max(1, step)
    return (slice(start, start + step) for start in range(0, rows, step))


def near_centre(latents: UnitRows, centre: Tensor) -> tuple[Tensor, Tensor]:
    """1 for the latents that the centre is taken from, (B,), and what is left of all, (B, D). Those shorter than eps, which may
    be next to nothing, stay as they are."""
    near = (latents.norm >= EPS).to(centre.dtype)  # [B, 1]
    return near[:, 0], latents.unit - near * centre


def gradient_through(x: Tensor, pull: Tensor, weight: Tensor, centre: Tensor, factor: Tensor) -> Tensor:
    """(rows, D) in the dtype of x, whose unit rows have the gradient ``factor * (pull + weight * centre)``."""
    result = torch.empty_like(x, memory_format=torch.contiguous_format)
    for rows in pieces(x):
        grad = torch.addcmul(pull[rows].to(centre.dtype), weight[rows, None], centre).mul_(factor)
        result[rows] = through_unit_rows(grad, unit_rows(x[rows].to(pull.dtype)))
    return result
