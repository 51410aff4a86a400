"""How good a map is: purity and NMI against labels, topographic error and U-matrix without.

The quantization error needs no function: it is the mean of the distances that ``FusedSOMLoss.find_bmu`` returns.

Labels may be any numbers: they are names. -1, in a signed dtype, and NaN stand for no label; such samples are left out.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from vitsom_fast.choices import Distance, Missing
from vitsom_fast.functional import DISTANCES, DTYPES, check_choice, find_bmu
from vitsom_fast.grid import Grid, wrap

# Units closer than this are neighbours: the 8 around a unit of a rectangular grid, the 6 of a hexagonal one.
ADJACENT = 1.5

# Rows shorter than this are not brought to length 1: the eps of torch.nn.functional.normalize.
_EPS = 1e-12

# Cells of a table of counts: 1 GB. Labels that ask for more are ids.
_LARGEST_TABLE = 1 << 27


def purity(bmu: Tensor, labels: Tensor) -> float:
    """The share of samples whose class is the most frequent one of their BMU.

    Args:
        bmu: (N,) integers, the unit of every sample.
        labels: (N,) numbers, the class of every sample, -1 or NaN for none. Their size does not matter.

    Returns:
        A number in (0, 1], of the samples that have a label; NaN if none has.

    Raises:
        TypeError: bmu or labels is no tensor, or bmu not of integers.
        ValueError: the shapes differ or are not (N,), or N is 0.

    Example:
        >>> purity(torch.tensor([0, 0, 0, 5]), torch.tensor([1, 1, 2, 2]))
        0.75
    """
    unit, label = _numbered(bmu, labels)
    if len(unit) == 0:
        return math.nan
    classes = int(label.max()) + 1
    pairs, counts = torch.unique(unit * classes + label, return_counts=True)
    most = counts.new_zeros(int(unit.max()) + 1).scatter_reduce_(0, pairs // classes, counts, "amax")  # [units]
    return most.sum().item() / len(unit)


def nmi(bmu: Tensor, labels: Tensor) -> float:
    """Normalized mutual information of units and classes, normalised by the mean of the entropies.

    Arguments and errors are those of ``purity``; a number in [0, 1], or NaN if no sample has a label.

    Example:
        >>> round(nmi(torch.tensor([0, 0, 3, 3]), torch.tensor([7, 7, 9, 9])), 6)
        1.0
    """
    from sklearn.metrics import normalized_mutual_info_score  # a second to import, and nothing else here needs it

    unit, label = _numbered(bmu, labels)
    return float(normalized_mutual_info_score(label.numpy(), unit.numpy())) if len(unit) else math.nan


def class_counts(bmu: Tensor, labels: Tensor, num_prototypes: int) -> Tensor:
    """How many samples of each class every unit wins.

    Args:
        bmu: (N,) integers from 0 to ``num_prototypes - 1``.
        labels: (N,) integers that count from 0, -1 for a sample without a label, which is not counted.
        num_prototypes: K.

    Returns:
        (K, C) int64 on the device of ``bmu``, with C the largest label plus 1; (K, 0) if no sample has a label.

    Raises:
        TypeError: bmu or labels is no tensor of integers.
        ValueError: the shapes differ or are not (N,), a bmu that is no unit, or labels that are negative or so large that they
            must be ids: number them first.
    """
    _check_paired(bmu, labels)
    if not _holds_integers(labels):
        raise TypeError(f"labels must be integers that count from 0, got {labels.dtype}: {_HOW_TO_NUMBER}")
    known = _has_label(labels)
    bmu, labels = bmu.long()[known.to(bmu.device)], labels.to(bmu.device, torch.int64)[known.to(bmu.device)]
    if len(labels) == 0:
        return bmu.new_zeros(num_prototypes, 0)
    if bmu.min() < 0 or bmu.max() >= num_prototypes:
        raise ValueError(f"bmu must be from 0 to {num_prototypes - 1}, got {int(bmu.min())} to {int(bmu.max())}")
    smallest, largest = int(labels.min()), int(labels.max())
    if smallest < 0 or (largest + 1) * num_prototypes > _LARGEST_TABLE:
        raise ValueError(f"labels must count from 0, got {smallest} to {largest}: {_HOW_TO_NUMBER}")
    pairs = torch.bincount(bmu * (largest + 1) + labels, minlength=num_prototypes * (largest + 1))
    return pairs.view(num_prototypes, largest + 1)


def quantization_error(
    z: Tensor, prototypes: Tensor, *, distance: Distance = "cosine", missing: Missing = "error", backend: str = "auto"
) -> float:
    """The mean distance of the latents to their best-matching units (Kohonen 2001, section 2.9).

    Args:
        z: latents, (B, D) or (B, ...) flattened from dim 1, as ``find_bmu`` takes them.
        prototypes: (K, D).
        distance: that which trained the map.
        missing, backend: of the search, as in ``find_bmu``.

    Returns:
        A number in the units of the distance; NaN if a latent is not finite, or there are no latents.

    Raises:
        TypeError, ValueError: an argument of the wrong type, shape, dtype, device or value; the message names it.
    """
    _, nearest = find_bmu(z, prototypes, distance=distance, missing=missing, backend=backend)
    return _with_fp64(nearest).double().mean().item()


def topographic_error(
    z: Tensor,
    prototypes: Tensor,
    grid: Grid,
    *,
    distance: Distance = "cosine",
    missing: Missing = "error",
    backend: str = "auto",
) -> float:
    """The share of latents whose best and second-best units are not neighbours on the grid (Kiviluoto 1996).

    Neighbours are at most 1.5 apart: 8 on a rectangular grid, 6 on a hexagonal one, across the seam of a periodic one.

    Args:
        z: latents, (B, D) or (B, ...) flattened from dim 1, as ``find_bmu`` takes them.
        prototypes: (K, D).
        grid: the map, with ``grid.num_prototypes == K``.
        distance: that which trained the map.
        missing, backend: as in ``find_bmu``; where PyTorch has a device for it, both units are those of fp64.

    Returns:
        A number in [0, 1]; 0 for a map of one unit, which has no second-best; NaN if a latent or a prototype is not finite, or
        there are no latents.

    Raises:
        TypeError, ValueError: an argument of the wrong type, shape, dtype, device or value; the message names it.
    """
    _check_map(prototypes, grid)
    bmu, nearest = find_bmu(z, prototypes, distance=distance, grid=grid, k=2, missing=missing, backend=backend)
    if len(bmu) == 0 or not (nearest[:, 0].isfinite().all() and prototypes.isfinite().all()):
        return math.nan
    if grid.num_prototypes < 2:
        return 0.0
    return are_apart(grid, bmu).double().mean().item()


def are_apart(grid: Grid, units: Tensor) -> Tensor:
    """(N,) bool on the CPU: whether the two units of each row (N, 2) are no neighbours on the grid; one unit is apart from
    none."""
    best, second = units.cpu().unbind(dim=1)
    return _grid_distance(grid, best, second) > ADJACENT


def u_matrix(prototypes: Tensor, grid: Grid, *, distance: Distance = "cosine") -> Tensor:
    """The mean distance of each prototype to those of its neighbours on the grid (Ultsch & Siemon 1990).

    Ridges of large values separate clusters. Neighbours as in ``topographic_error``; a map of one unit is 0.

    Args:
        prototypes: (K, D) of any dtype of a map; the distances are computed in fp64.
        grid: the map, with ``grid.num_prototypes == K``.
        distance: that which trained the map.

    Returns:
        (rows, cols) float32 on the CPU; NaN at and around a prototype that is not finite.

    Raises:
        TypeError, ValueError: an argument of the wrong type, shape or dtype; the message names it.
    """
    _check_map(prototypes, grid)
    check_choice("distance", distance, DISTANCES)
    wide = _with_fp64(prototypes.detach())
    wide = _unit_rows(wide) if distance == "cosine" else wide.double()  # [K, D]
    row, col = torch.meshgrid(*(torch.arange(size, device="cpu") for size in (grid.rows, grid.cols)), indexing="ij")
    here = (row * grid.cols + col).flatten()  # [K]
    total = torch.zeros(grid.num_prototypes, dtype=torch.float64, device="cpu")
    count = torch.zeros_like(total)
    for row_offset, col_offset in itertools.product(_steps(grid.rows, grid.periodic), _steps(grid.cols, grid.periodic)):
        other_row, other_col = row + row_offset, col + col_offset
        inside = (other_row >= 0) & (other_row < grid.rows) & (other_col >= 0) & (other_col < grid.cols)
        there = (other_row % grid.rows * grid.cols + other_col % grid.cols).flatten()
        neighbour = (there != here) & (_grid_distance(grid, here, there) <= ADJACENT)
        if not grid.periodic:
            neighbour &= inside.flatten()
        apart = _between(wide, wide[there.to(wide.device)], distance).cpu()
        total += torch.where(neighbour, apart, 0.0)
        count += neighbour
    return (total / count.clamp_min(1)).clamp_min(0).float().view(grid.rows, grid.cols)


def _between(a: Tensor, b: Tensor, distance: str) -> Tensor:
    """(K,): distances of rows (K, D), of length 1 for the cosine."""
    if distance == "cosine":
        return 1 - (a * b).sum(dim=1)
    if distance == "sqeuclidean":
        return (a - b).square().sum(dim=1)
    return torch.linalg.vector_norm(a - b, ord=1 if distance == "manhattan" else 2, dim=1)


def _with_fp64(x: Tensor) -> Tensor:
    """x on a device that knows fp64."""
    return x.cpu() if x.device.type == "mps" else x


def _unit_rows(x: Tensor) -> Tensor:
    """x / max(|x|, 1e-12) of rows (N, D), in fp64; a row is divided by its largest element before it is squared."""
    x = x.double()
    largest = x.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)  # [N, 1]
    scaled = x / largest
    return scaled / torch.linalg.vector_norm(scaled, dim=1, keepdim=True).maximum(_EPS / largest)


def _steps(size: int, periodic: bool) -> tuple[int, ...]:
    """Steps to the neighbours along an axis; on a circle of two, both ways lead to the same one."""
    return (0, 1) if periodic and size == 2 else (-1, 0, 1) if size > 1 else (0,)


def _grid_distance(grid: Grid, a: Tensor, b: Tensor) -> Tensor:
    """(N,) float64: how far apart the units a and b, (N,) each, are on the grid."""
    positions = grid.positions
    offset = positions[a] - positions[b]  # [N, 2]
    if grid.periodic:
        offset = torch.stack([wrap(offset[:, axis], grid.extent[axis]) for axis in (0, 1)], dim=1)
    return torch.linalg.vector_norm(offset, dim=1)


def _check_map(prototypes: Tensor, grid: Grid) -> None:
    if not isinstance(grid, Grid):
        raise TypeError(f"grid must be a vitsom_fast.Grid, got {type(grid).__name__}")
    if not isinstance(prototypes, Tensor):
        raise TypeError(f"prototypes must be a torch.Tensor, got {type(prototypes).__name__}")
    if prototypes.dtype not in DTYPES:
        raise TypeError(f"prototypes must have one of the dtypes {DTYPES}, got {prototypes.dtype}")
    if prototypes.dim() != 2 or prototypes.shape[0] != grid.num_prototypes:
        raise ValueError(
            f"grid must have one unit for each prototype, got {grid.rows} x {grid.cols} = {grid.num_prototypes} units"
            f" for prototypes of shape {tuple(prototypes.shape)}"
        )


_HOW_TO_NUMBER = "number them first, by torch.unique(labels, return_inverse=True)[1]"


def _numbered(bmu: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Units and classes of the samples that have a label, (M,) int64 each on the CPU, both numbered from 0 without gaps."""
    _check_paired(bmu, labels)
    if len(bmu) == 0:
        raise ValueError("bmu and labels must have the same shape (N,), N at least 1, got (0,) and (0,)")
    bmu, labels = bmu.cpu(), labels.cpu()
    known = _has_label(labels)
    if _holds_integers(labels):
        labels = labels.long()  # torch.unique does not know all integers
    unit, label = (torch.unique(x[known], return_inverse=True)[1] for x in (bmu.long(), labels))
    return unit, label


def _has_label(labels: Tensor) -> Tensor:
    """(N,) bool. Compared in an unsigned dtype, -1 would be its largest number."""
    return (labels != -1) & ~labels.isnan() if labels.dtype.is_signed else torch.ones_like(labels, dtype=torch.bool)


def _holds_integers(x: Tensor) -> bool:
    return not (x.is_floating_point() or x.is_complex())


def _check_paired(bmu: Tensor, labels: Tensor) -> None:
    for name, x in (("bmu", bmu), ("labels", labels)):
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
    if not _holds_integers(bmu):
        raise TypeError(f"bmu must be integers, got {bmu.dtype}")
    if bmu.dim() != 1 or bmu.shape != labels.shape:
        raise ValueError(f"bmu and labels must have the same shape (N,), got {tuple(bmu.shape)} and {tuple(labels.shape)}")
