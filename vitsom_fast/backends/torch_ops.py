"""The factorised form in PyTorch operations: any device, any dtype, differentiable twice.

With S = G W^ smoothed over the grid and n = G 1, the loss is ``sum_i [n_b - z^_i . S_b]`` over the BMUs b; its gradients are a
gather and a smoothed segment sum. Nothing of size B x K outlives a chunk of the search.

On a map that fits its data these are small differences. So everything is seen from a centre c, the mean of the unit prototypes:
with w^ = c + delta, the loss is ``sum_i [n_b (1 - z^_i . c) - z^_i . (G delta)_b]``. What the centre contributes is computed in
fp64, and fp32 sums over delta are off in proportion to |delta| only.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vitsom_fast.backends.products import may_be_rounded, product
from vitsom_fast.backends.ties import lowest_equal
from vitsom_fast.backends.unit_rows import EPS, UnitRows, centre_of, through_unit_rows, unit_rows, widest

# Scores searched at a time: 16 M keep a chunk at 64 MB in fp32, and larger ones were no faster.
_CHUNK = 1 << 24

# Elements computed with in fp64 at a time: 1 MB stays in a CPU's cache, where 16 MB would take three times as long.
_PIECE = 1 << 17

# Prototypes that the centre is the mean of.
_SAMPLE = 256

# Products B K D below which the number of launches is all that counts.
_SMALL = 1 << 14


def unavailable() -> str | None:
    return None


def unsupported(device: torch.device, dtype: torch.dtype) -> str | None:
    return None


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """fp32 for everything but fp64: sums never run in half precision."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def reduction_scale(reduction: str, batch: int, num_prototypes: int) -> float:
    """What the sum over samples and prototypes is multiplied with; an empty batch has loss 0, not 0/0."""
    batch = max(batch, 1)
    return {"mean": 1.0 / (batch * num_prototypes), "batchmean": 1.0 / batch, "sum": 1.0}[reduction]


CONTEXT_DTYPE = torch.float32


def context_size(batch: int, rows: int, cols: int) -> int:
    return 0


def attraction_rows(batch: int, num_prototypes: int) -> int:
    """The attraction of each sample, then the centre."""
    return batch + 1


def find_bmu(z: Tensor, prototypes: Tensor) -> tuple[Tensor, Tensor]:
    """BMU (B,) int64 and cosine distance (B,) of each row of z (B, D) among the prototypes (K, D)."""
    dtype = accumulation_dtype(z.dtype)
    z, prototypes = z.to(dtype), prototypes.to(dtype)
    if _is_small(z, prototypes):
        best, bmu = _scores(unit_rows(z).unit, unit_rows(prototypes).unit).max(dim=1)
        return bmu, (1 - best).clamp_(0, 2).to(dtype)
    bmu = torch.empty(z.shape[0], dtype=torch.int64, device=z.device)
    distance = torch.empty(z.shape[0], dtype=dtype, device=z.device)
    centre = _centre(prototypes)
    delta, norm = _deltas(prototypes, centre)
    for rows in _chunks(z, prototypes):
        unit, _ = _units(z[rows], centre)
        bmu[rows] = found = product(unit, delta.T).argmax(dim=1)  # from [rows, K]
        distance[rows] = (1 - _row_products(unit, delta, found, centre)).clamp_(0, 2)
    return lowest_equal(prototypes, norm, bmu), distance


def som_forward(
    z: Tensor, prototypes: Tensor, row_factors: Tensor, col_factors: Tensor, reduction: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss (), BMU (B,), and of every sample G delta at its BMU, with the centre in the last row (B + 1, D), which is all that
    the gradients need: no context."""
    dtype = accumulation_dtype(z.dtype)
    z, prototypes = z.to(dtype), prototypes.to(dtype)
    weight = _total_weight(row_factors, col_factors)  # [K]
    if _is_small(z, prototypes):  # all in fp64, as seen from the origin
        unit, unit_prototypes = unit_rows(z).unit, unit_rows(prototypes).unit
        bmu = _scores(unit, unit_prototypes).argmax(dim=1)
        at_bmu = smooth(unit_prototypes, row_factors.to(unit.dtype), col_factors.to(unit.dtype))[bmu]
        total = weight[bmu].sum() - (unit * at_bmu).sum()
        attraction = torch.cat([at_bmu, at_bmu.new_zeros(1, z.shape[1])]).to(dtype)
    else:
        bmu = torch.empty(z.shape[0], dtype=torch.int64, device=z.device)
        attraction = torch.empty(z.shape[0] + 1, z.shape[1], dtype=dtype, device=z.device)
        attraction[-1] = centre = _centre(prototypes)
        delta, norm = _deltas(prototypes, centre)
        smoothed = smooth(delta, row_factors, col_factors)  # [K, D]
        unit, along = _units(z, centre)
        for rows in _chunks(z, prototypes):
            bmu[rows] = product(unit[rows], delta.T).argmax(dim=1)  # from [rows, K]
        bmu = lowest_equal(prototypes, norm, bmu)
        torch.index_select(smoothed, 0, bmu, out=attraction[:-1])
        total = (weight[bmu] * (1 - along) - _row_products(unit, smoothed, bmu)).sum()
    loss = total.to(dtype) * reduction_scale(reduction, z.shape[0], prototypes.shape[0])
    return loss, bmu, attraction, z.new_empty(0, dtype=torch.float32)


def _is_small(z: Tensor, prototypes: Tensor) -> bool:
    """Whether the number of launches is all that counts."""
    return z.shape[0] * prototypes.numel() <= _SMALL


def _scores(unit: Tensor, unit_prototypes: Tensor) -> Tensor:
    """(B, K) from (B, D) and (K, D), the same for prototypes that are the same, as products of matrices need not be."""
    return (unit[:, None, :] * unit_prototypes).sum(dim=2)


def _centre(prototypes: Tensor) -> Tensor:
    """(D,), in the widest dtype, of numbers that fp32 holds: about the mean of the unit prototypes. Any other would be right,
    too, with larger rounding errors."""
    sample = prototypes.detach()[:: -(-prototypes.shape[0] // _SAMPLE)]
    return centre_of(unit_rows(sample).unit)


def _units(x: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """Unit rows of x (rows, D), in its dtype, and their products with the centre, (rows,) in the widest dtype."""
    units, along = torch.empty_like(x, memory_format=torch.contiguous_format), centre.new_empty(x.shape[0])
    for rows in _pieces(x):
        unit, _ = unit_rows(x[rows])
        units[rows] = unit
        along[rows] = unit @ centre
    return units, along


def _deltas(x: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """Unit rows of x (rows, D) less the centre, in the dtype of x, and norms, (rows, 1) in the widest dtype."""
    deltas, norm = torch.empty_like(x, memory_format=torch.contiguous_format), centre.new_empty(x.shape[0], 1)
    for rows in _pieces(x):
        unit, norm[rows] = unit_rows(x[rows])
        deltas[rows] = unit.sub_(centre)
    return deltas, norm


def _row_products(a: Tensor, table: Tensor, index: Tensor, origin: Tensor | float = 0.0) -> Tensor:
    """``a_i . (table[index_i] + origin)``, (rows,) in the widest dtype, from (rows, D) and (K, D)."""
    wide = widest(a)
    products = [((table[index[rows]].to(wide) + origin) * a[rows].to(wide)).sum(dim=1) for rows in _pieces(a)]
    return torch.cat(products)


def _pieces(x: Tensor) -> Iterator[slice]:
    """Rows of x that stay in cache while they are computed with; on a GPU as many as there is to be memory for."""
    return _slices(x.shape[0], (_PIECE if x.device.type == "cpu" else _CHUNK) // x.shape[1])


def _chunks(z: Tensor, prototypes: Tensor) -> Iterator[slice]:
    """Rows of z that are searched at a time."""
    return _slices(z.shape[0], _CHUNK // max(prototypes.shape))


def _slices(rows: int, step: int) -> Iterator[slice]:
    step = max(1, step)
    return (slice(start, start + step) for start in range(0, rows, step))


def loss_at(
    bmu: Tensor, z: Tensor, prototypes: Tensor, row_factors: Tensor, col_factors: Tensor, reduction: str
) -> tuple[Tensor, Tensor]:
    """The loss for given BMUs, differentiable any number of times and ways in z and the prototypes, and the attraction."""
    dtype = accumulation_dtype(z.dtype)
    z, prototypes = z.to(dtype), prototypes.to(dtype)
    if z.shape[0] == 0:
        return z.sum() + prototypes[:0].sum(), z.new_zeros(1, z.shape[1])
    centre = _centre(prototypes)
    latents, delta = unit_rows(z), unit_rows(prototypes).unit - centre
    # [B, D] in the widest dtype, in which gradients of one BMU are then added up
    at_bmu = smooth(delta.to(dtype), row_factors, col_factors).to(centre.dtype)[bmu]
    # The latents are seen from a centre of their own: their pulls are what is smoothed for the gradients of the prototypes.
    middle = centre_of(latents.unit.detach())
    near, rest = _near_centre(latents, middle)
    weight, shift = _total_weight(row_factors, col_factors), _smooth_widely(delta @ middle, row_factors, col_factors)
    total = (weight[bmu] * (1 - latents.unit @ centre) - near * shift[bmu] - (rest * at_bmu).sum(dim=1)).sum()
    loss = total.to(dtype) * reduction_scale(reduction, z.shape[0], prototypes.shape[0])
    return loss, torch.cat([at_bmu, centre[None]]).to(dtype)


def som_backward(
    grad_loss: Tensor,
    z: Tensor,
    prototypes: Tensor,
    row_factors: Tensor,
    col_factors: Tensor,
    bmu: Tensor,
    attraction: Tensor,
    context: Tensor,
    reduction: str,
    for_z: bool,
    for_prototypes: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients (B, D) and (K, D) in the dtype of their input; an empty tensor for one that is not asked for."""
    if z.shape[0] == 0:  # no sample pulls, not even on a prototype that is not finite
        return z.new_empty(z.shape if for_z else 0), prototypes.new_zeros(prototypes.shape if for_prototypes else 0)
    dtype = accumulation_dtype(z.dtype)
    centre = attraction[-1].to(widest(z))
    factor = grad_loss.to(centre.dtype) * -reduction_scale(reduction, z.shape[0], prototypes.shape[0])
    grad_z, grad_prototypes = z.new_empty(0), prototypes.new_empty(0)
    if for_z:
        weight = _total_weight(row_factors, col_factors)[bmu]  # [B]
        grad_z = _gradient(z, attraction[:-1], weight, centre, factor)
    if for_prototypes:
        row_factors, col_factors = row_factors.mT, col_factors.mT
        latents = unit_rows(z.to(dtype))
        centre = centre_of(latents.unit)  # of the latents, whose pulls are what is smoothed
        near, rest = _near_centre(latents, centre)  # [B], [B, D]
        spread = smooth(_segment_sum(rest, bmu, prototypes.shape[0], dtype), row_factors, col_factors)  # [K, D]
        hits = centre.new_zeros(prototypes.shape[0]).index_add_(0, bmu, near)  # whole numbers, in any order
        weight = _smooth_widely(hits, row_factors, col_factors)  # [K]
        grad_prototypes = _gradient(prototypes, spread, weight, centre, factor)
    return grad_z, grad_prototypes


def _near_centre(latents: UnitRows, centre: Tensor) -> tuple[Tensor, Tensor]:
    """1 for the latents that the centre is taken from, (B,), and what is left of all, (B, D). Those shorter than eps, which may
    be next to nothing, stay as they are."""
    near = (latents.norm >= EPS).to(centre.dtype)  # [B, 1]
    return near[:, 0], latents.unit - near * centre


def _gradient(x: Tensor, pull: Tensor, weight: Tensor, centre: Tensor, factor: Tensor) -> Tensor:
    """(rows, D) in the dtype of x, whose unit rows have the gradient ``factor * (pull + weight * centre)``."""
    result = torch.empty_like(x, memory_format=torch.contiguous_format)
    for rows in _pieces(x):
        grad = torch.addcmul(pull[rows].to(centre.dtype), weight[rows, None], centre).mul_(factor)
        result[rows] = through_unit_rows(grad, unit_rows(x[rows].to(pull.dtype)))
    return result


def smooth(x: Tensor, row_factors: Tensor, col_factors: Tensor) -> Tensor:
    """G x for x (K, D): one small matrix product along each axis of the grid and each separable term."""
    (_, rows, _), (_, cols, _) = row_factors.shape, col_factors.shape
    width, dtype = x.shape[1], x.dtype
    if may_be_rounded(x):  # not in fp64, which takes no longer than this has to be right
        x, row_factors, col_factors = (each.to(torch.float64) for each in (x, row_factors, col_factors))
    terms = []
    for row_factor, col_factor in zip(row_factors, col_factors, strict=True):
        along_cols = col_factor @ x.reshape(rows, cols, width)  # [rows, cols, D]
        terms.append((row_factor @ along_cols.view(rows, cols * width)).view(rows * cols, width))
    return (terms[0] if len(terms) == 1 else torch.stack(terms).sum(0)).to(dtype)


def _smooth_widely(x: Tensor, row_factors: Tensor, col_factors: Tensor) -> Tensor:
    """G x for one number of each unit (K,), in the widest dtype."""
    return smooth(x[:, None], row_factors.to(x.dtype), col_factors.to(x.dtype))[:, 0]


def _total_weight(row_factors: Tensor, col_factors: Tensor) -> Tensor:
    """n = G 1, (K,), in the widest dtype."""
    dtype = widest(row_factors)
    row_sums, col_sums = row_factors.sum(dim=2, dtype=dtype), col_factors.sum(dim=2, dtype=dtype)  # [terms, R], [terms, C]
    return (row_sums.T @ col_sums).flatten()


def _segment_sum(x: Tensor, bmu: Tensor, num_prototypes: int, dtype: torch.dtype) -> Tensor:
    """The sum of the rows of every BMU, (K, D) in this dtype, added in that of x (20000 samples of one unit summed up in fp32
    are wrong by 6e-6) and in an order that does not change from run to run."""
    batch = x.shape[0]
    index = torch.arange(batch, device=bmu.device)
    # The samples of a BMU are summed up at the place of its first one: (B, D) is the smaller table where fp64 matters.
    first = torch.full((num_prototypes,), batch, device=bmu.device).scatter_reduce_(0, bmu, index, "amin")[bmu]  # [B]
    sums = torch.zeros_like(x)
    if x.device.type == "cpu":
        sums.index_add_(0, first, x)
    else:  # on a GPU index_add_ adds with atomics; index_put_ sorts the indices first
        sums.index_put_((first,), x, accumulate=True)
    pulled = torch.zeros(num_prototypes, x.shape[1], dtype=dtype, device=x.device)
    pulled[bmu] = sums[first].to(dtype)  # the same row for all samples of a BMU
    return pulled
