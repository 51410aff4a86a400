"""The C++ kernels of csrc/cpu: every distance on CPU tensors in fp32, bf16 and fp16.

Only addresses, sizes and strides cross the border; memory is torch's, threads follow ``torch.set_num_threads``.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from vitsom_fast.backends.compiled import DTYPES, Kept, checked, in_place, matrix, neighborhood_of, problem_of, unserved
from vitsom_fast.backends.spec import Spec, reduction_scale

_cpu: Any = None
_reason: str | None = None
try:
    _cpu = importlib.import_module("vitsom_fast._cpu")
    _cpu.selected()
except ModuleNotFoundError:
    _reason = "installed without its compiled module vitsom_fast._cpu (no C++17 compiler then, or VITSOM_BUILD_CPU=0)"
except ImportError as error:
    _reason = f"the compiled module vitsom_fast._cpu cannot be loaded ({error})"
except RuntimeError as error:  # VITSOM_CPU_ISA names what this processor cannot run
    _reason = str(error)


def unavailable() -> str | None:
    return _reason


def unsupported(spec: Spec) -> str | None:
    if spec.device.type != "cpu":
        return f"it serves CPU tensors, got device {spec.device}"
    return unserved(spec)


def instruction_sets() -> list[str]:
    """Builds of the kernels that this processor can run, the widest first; empty without the compiled module."""
    return [] if _cpu is None else list(_cpu.instruction_sets())


_CPU = torch.device("cpu")  # said of each tensor made here: another device may be the default

CONTEXT_DTYPE = torch.float64


def context_size(batch: int, rows: int, cols: int) -> int:
    """As the module says: what it keeps of each sample and of each prototype."""
    return _cpu.saved_per_sample * batch + _cpu.saved_per_prototype * rows * cols


def attraction_rows(batch: int, num_prototypes: int) -> int:
    """A row for each distinct BMU: on 512 latents of 49152 features and 14 x 14 units that is 38 MB, not 100."""
    return torch.sym_min(batch, num_prototypes)


def search(z: Tensor, prototypes: Tensor, rows: int = 0, cols: int = 0) -> tuple[Tensor, Tensor]:
    """BMU (B,) int64 and cosine distance (B,) fp32 of each row of z (B, D) among the prototypes (K, D)."""
    return _find_bmu(z, prototypes, rows, cols, "cosine", 1)[:2]


def search_two(z: Tensor, prototypes: Tensor, rows: int = 0, cols: int = 0) -> tuple[Tensor, Tensor]:
    """The nearest two units (B, 2) int64 of each row, the nearest first, and their distances (B, 2) fp32, in one search."""
    return _find_bmu(z, prototypes, rows, cols, "cosine", 2)[:2]


def euclidean_search(z: Tensor, prototypes: Tensor, rows: int, cols: int, distance: str, k: int) -> tuple[Tensor, Tensor]:
    """The same by "sqeuclidean" or "euclidean" distance, for k of 1 or 2."""
    return _find_bmu(z, prototypes, rows, cols, distance, k)[:2]


def _find_bmu(z: Tensor, prototypes: Tensor, rows: int, cols: int, distance: str, k: int) -> tuple[Tensor, Tensor, Any]:
    """Units and distances, (B,) or (B, 2), and how the search went."""
    problem, _keep = _problem(z, prototypes, rows, cols, distance != "cosine")
    shape = (z.shape[0],) if k == 1 else (z.shape[0], k)
    units = torch.empty(shape, dtype=torch.int64, device=_CPU)
    nearest = torch.empty(shape, dtype=torch.float32, device=_CPU)
    counts = _cpu.find_bmu(problem, k, distance == "euclidean", units.data_ptr(), nearest.data_ptr())
    return units, nearest, counts


def searches_pairs(distance: str, k: int, pairs: int) -> bool:
    """Whether ``pair_search`` is the one to take for the k nearest units by this distance, of so many pairs."""
    return distance == "manhattan" and k == 1


def pair_search(z: Tensor, prototypes: Tensor, distance: str, k: int) -> tuple[Tensor, Tensor]:
    """BMU (B, 1) int64 and Manhattan distance (B, 1) fp32 of each row of z (B, D) among the prototypes (K, D)."""
    problem, _keep = _problem(z, prototypes)
    bmu = torch.empty(z.shape[0], k, dtype=torch.int64, device=_CPU)
    nearest = torch.empty(z.shape[0], k, dtype=torch.float32, device=_CPU)
    _cpu.search_manhattan(problem, bmu.data_ptr(), nearest.data_ptr())
    return bmu, nearest


def sum_by_bmu(x: Tensor, bmu: Tensor, num_prototypes: int) -> tuple[Tensor, Tensor]:
    """Sums (K, D) and counts (K,) fp32 of the rows x (B, D) of every BMU (B,)."""
    x, bmu = matrix("x", x), checked("bmu", bmu, (x.shape[0],), torch.int64)
    batch, dim = x.shape
    sums = torch.empty(num_prototypes, dim, dtype=torch.float32, device=_CPU)
    counts = torch.empty(num_prototypes, dtype=torch.float32, device=_CPU)
    rows = x.data_ptr(), x.stride(0), DTYPES[x.dtype], batch, dim
    _cpu.sum_by_bmu(*rows, bmu.data_ptr(), num_prototypes, torch.get_num_threads(), sums.data_ptr(), counts.data_ptr())
    return sums, counts


def add_by_bmu(sums: Tensor, x: Tensor, bmu: Tensor) -> None:
    """Adds the rows x (B, D) of every BMU (B,), and their number, to ``sums`` (K, D + 1) fp64, in place. The same by any number
    of threads."""
    x, bmu = matrix("x", x), checked("bmu", bmu, (x.shape[0],), torch.int64)
    batch, dim = x.shape
    in_place("sums", sums, (sums.shape[0], dim + 1), torch.float64)
    rows = x.data_ptr(), x.stride(0), DTYPES[x.dtype], batch, dim
    _cpu.add_by_bmu(*rows, bmu.data_ptr(), sums.shape[0], torch.get_num_threads(), sums.data_ptr())


# Maps that one pass over all units serves faster than a search and sums apart: from 1024 units on the search goes through the
# map in groups. A fit of 40 x 40 units of 10 features would take 1.07 of the time, and 1.5 on AVX2, of 64 x 64 of 3 features
# 1.45 and 2.1; of 25 x 25 of 26 features it takes 0.6.
_MOST_UNITS, _MOST_ELEMENTS, _MOST_FEATURES = 1023, 1 << 14, 64


def adds_nearest(prototypes: Tensor) -> bool:
    """Whether ``add_nearest`` is the way of an epoch of a map of these prototypes (K, D)."""
    count, dim = prototypes.shape
    return count <= _MOST_UNITS and dim <= _MOST_FEATURES and prototypes.numel() <= _MOST_ELEMENTS


def add_nearest(
    sums: Tensor, x: Tensor, prototypes: Tensor, centre: Tensor, unit: float, *, squared: bool
) -> tuple[float, Tensor]:
    """Adds the rows x (B, D) as they are seen, ``(x - centre) * unit``, and their number, to ``sums`` (K, D + 1) fp64 of their
    nearest prototypes (K, D) by Euclidean distance, in place; all else is fp32. Returns the sum of the distances, squared or
    not, and the places of the rows that are in neither sum, as fp32 cannot tell which of two units is nearer. The same bits by
    as many threads.

    Raises:
        ValueError: x is not fp32, or has more features than a block has room for; ``sums`` or the centre do not fit it.
    """
    if x.dtype != torch.float32 or x.shape[1] > _MOST_FEATURES:
        raise ValueError(f"x must be fp32 of at most {_MOST_FEATURES} features, got {x.dtype} of shape {tuple(x.shape)}")
    problem, _keep = _problem(x, prototypes)
    centre = checked("centre", centre, (x.shape[1],), torch.float32)
    in_place("sums", sums, (prototypes.shape[0], x.shape[1] + 1), torch.float64)
    left = torch.empty(x.shape[0], dtype=torch.int64, device=_CPU)
    count, distance = _cpu.add_nearest(problem, centre.data_ptr(), unit, squared, sums.data_ptr(), left.data_ptr())
    return distance, left[:count]


def smooth(x: Tensor, row_factors: Tensor, col_factors: Tensor) -> Tensor:
    """G x (K, D) for x (K, D), fp32."""
    neighborhood, _keep_factors = neighborhood_of(_cpu, x, row_factors, col_factors)
    x = checked("x", x, tuple(x.shape), torch.float32)
    out = torch.empty_like(x)
    _cpu.smooth(x.data_ptr(), x.shape[1], neighborhood, torch.get_num_threads(), out.data_ptr())
    return out


def search_counts(z: Tensor, prototypes: Tensor, wanted: int = 1, distance: str = "cosine") -> dict[str, int]:
    """How the search of these inputs, for so many units of a row, goes: the rows of z that each of its passes decides, "pruned"
    those that look into a few tiles of the map only, "grouped" those that do so in groups, "small" those of small maps in fp32,
    "narrow" those as seen from the one direction that all rows lie in, the others by the dtype that they multiply in; the
    "candidates", prototypes that were scored anew because bounds could not rule them out; the "tiles" of 16 prototypes that the
    pruned rows, and the groups of the grouped ones, looked into."""
    counts = _find_bmu(z, prototypes, 0, 0, distance, wanted)[2]
    passes = "pruned", "int8", "bf16", "grouped", "small", "fp32", "narrow", "fp64"
    return {name: getattr(counts, name) for name in (*passes, "candidates", "tiles")}


def som_forward(
    z: Tensor, prototypes: Tensor, row_factors: Tensor, col_factors: Tensor, reduction: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss () fp32, BMU (B,) int64, attraction (min(B, K), D) fp32, one row for each distinct BMU, and a context."""
    problem, _keep = _problem(z, prototypes)
    neighborhood, _keep_factors = neighborhood_of(_cpu, prototypes, row_factors, col_factors)
    loss = torch.empty((), dtype=torch.float32, device=_CPU)
    bmu = torch.empty(z.shape[0], dtype=torch.int64, device=_CPU)
    (batch, dim), num_prototypes = z.shape, prototypes.shape[0]
    attraction = torch.empty(min(batch, num_prototypes), dim, dtype=torch.float32, device=_CPU)
    context = torch.empty(context_size(batch, num_prototypes, 1), dtype=CONTEXT_DTYPE, device=_CPU)
    scale = reduction_scale(reduction, batch, num_prototypes)
    _cpu.som_forward(problem, neighborhood, scale, loss.data_ptr(), bmu.data_ptr(), attraction.data_ptr(), context.data_ptr())
    return loss, bmu, attraction, context


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
    problem, _keep = _problem(z, prototypes)
    neighborhood, _keep_factors = neighborhood_of(_cpu, prototypes, row_factors, col_factors)
    (batch, dim), num_prototypes = z.shape, prototypes.shape[0]
    bmu = checked("bmu", bmu, (batch,), torch.int64)
    attraction = checked("attraction", attraction, (min(batch, num_prototypes), dim), torch.float32)
    context = checked("context", context, (context_size(batch, num_prototypes, 1),), CONTEXT_DTYPE)
    grad_z = torch.empty(z.shape if for_z else 0, dtype=z.dtype, device=_CPU)
    grad_prototypes = torch.empty(prototypes.shape if for_prototypes else 0, dtype=prototypes.dtype, device=_CPU)
    scale = reduction_scale(reduction, batch, num_prototypes) * grad_loss.item()
    _cpu.som_backward(
        problem,
        neighborhood,
        scale,
        bmu.data_ptr(),
        attraction.data_ptr(),
        context.data_ptr(),
        grad_z.data_ptr(),
        grad_prototypes.data_ptr(),
    )
    return grad_z, grad_prototypes


def pair_losses(z: Tensor, prototypes: Tensor, bmu: Tensor, row_factors: Tensor, col_factors: Tensor, distance: str) -> Tensor:
    """``sum_k h_bk d(z_i, w_k)`` (B,) fp64 for the BMUs b (B,), "euclidean" or "manhattan"."""
    problem, _keep = _problem(z, prototypes)
    neighborhood, _keep_factors = neighborhood_of(_cpu, prototypes, row_factors, col_factors)
    bmu = checked("bmu", bmu, (z.shape[0],), torch.int64)
    losses = torch.empty(z.shape[0], dtype=torch.float64, device=_CPU)
    _cpu.pair_losses(problem, neighborhood, distance, bmu.data_ptr(), losses.data_ptr())
    return losses


def pair_gradients(
    grad_losses: Tensor,
    z: Tensor,
    prototypes: Tensor,
    bmu: Tensor,
    row_factors: Tensor,
    col_factors: Tensor,
    distance: str,
    for_z: bool,
    for_prototypes: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients (B, D) and (K, D) of the losses (B,) in the dtype of their input; an empty tensor for one that is not asked
    for."""
    problem, _keep = _problem(z, prototypes)
    neighborhood, _keep_factors = neighborhood_of(_cpu, prototypes, row_factors, col_factors)
    bmu = checked("bmu", bmu, (z.shape[0],), torch.int64)
    grad_losses = checked("grad_losses", grad_losses.to(torch.float64), (z.shape[0],), torch.float64)
    grad_z = torch.empty(z.shape if for_z else 0, dtype=z.dtype, device=_CPU)
    grad_prototypes = torch.empty(prototypes.shape if for_prototypes else 0, dtype=prototypes.dtype, device=_CPU)
    _cpu.pair_gradients(
        problem,
        neighborhood,
        distance,
        grad_losses.data_ptr(),
        bmu.data_ptr(),
        grad_z.data_ptr(),
        grad_prototypes.data_ptr(),
    )
    return grad_z, grad_prototypes


def lift(z: Tensor, prototypes: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (B, D + 6) and (K, D + 6) fp32, as ``distances.lifted.lift``: what the search by squared distance makes where it has
    no pass of its own."""
    problem, _keep = _problem(z, prototypes)
    width = z.shape[1] + _cpu.lifted
    stride = -(-width // 16) * 16  # whole vectors, which are written past the cache
    lifted = [torch.empty(x.shape[0], stride, dtype=torch.float32, device=_CPU) for x in (z, prototypes)]
    _cpu.lift(problem, lifted[0].data_ptr(), lifted[1].data_ptr(), stride)
    return lifted[0][:, :width], lifted[1][:, :width]


def squared_losses(
    z: Tensor, prototypes: Tensor, row_factors: Tensor, col_factors: Tensor, bmu: Tensor
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Under the squared Euclidean distance, the sum of h d over all prototypes of each sample, (B,) fp64, attraction
    (min(B, K), D) fp32 and a context; None where sums in fp32 have lost too many digits. NaN for a row that is not finite."""
    problem, _keep = _problem(z, prototypes)
    neighborhood, _keep_factors = neighborhood_of(_cpu, prototypes, row_factors, col_factors)
    (batch, dim), num_prototypes = z.shape, prototypes.shape[0]
    bmu = checked("bmu", bmu, (batch,), torch.int64)
    attraction = torch.empty(min(batch, num_prototypes), dim, dtype=torch.float32, device=_CPU)
    context = torch.empty(context_size(batch, num_prototypes, 1), dtype=CONTEXT_DTYPE, device=_CPU)
    losses = torch.empty(batch, dtype=torch.float64, device=_CPU)
    addresses = bmu.data_ptr(), attraction.data_ptr(), context.data_ptr(), losses.data_ptr()
    return (losses, attraction, context) if _cpu.squared_losses(problem, neighborhood, *addresses) else None


def squared_gradients(
    grad: Tensor,
    z: Tensor,
    prototypes: Tensor,
    row_factors: Tensor,
    col_factors: Tensor,
    bmu: Tensor,
    attraction: Tensor,
    context: Tensor,
    for_z: bool,
    for_prototypes: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients (B, D) and (K, D) in the dtype of their input, from those of the losses, grad (B,) fp64."""
    problem, _keep = _problem(z, prototypes)
    neighborhood, _keep_factors = neighborhood_of(_cpu, prototypes, row_factors, col_factors)
    (batch, dim), num_prototypes = z.shape, prototypes.shape[0]
    grad = checked("grad", grad, (batch,), torch.float64)
    bmu = checked("bmu", bmu, (batch,), torch.int64)
    attraction = checked("attraction", attraction, (min(batch, num_prototypes), dim), torch.float32)
    context = checked("context", context, (context_size(batch, num_prototypes, 1),), CONTEXT_DTYPE)
    grad_z = torch.empty(z.shape, dtype=z.dtype, device=_CPU) if for_z else None
    grad_prototypes = torch.empty(prototypes.shape, dtype=prototypes.dtype, device=_CPU) if for_prototypes else None
    _cpu.squared_gradients(
        problem,
        neighborhood,
        bmu.data_ptr(),
        attraction.data_ptr(),
        context.data_ptr(),
        grad.data_ptr(),
        0 if grad_z is None else grad_z.data_ptr(),
        0 if grad_prototypes is None else grad_prototypes.data_ptr(),
    )
    return grad_z, grad_prototypes


def _problem(z: Tensor, prototypes: Tensor, rows: int = 0, cols: int = 0, is_squared: bool = False) -> tuple[object, Kept]:
    if rows > 0 and rows * cols != prototypes.shape[0]:
        raise ValueError(f"rows and cols must be those of {prototypes.shape[0]} prototypes, got {rows} and {cols}")
    return problem_of(_cpu, z, prototypes, torch.get_num_threads(), rows, cols, is_squared)
