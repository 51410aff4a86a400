"""How good a map is: purity and NMI against labels, topographic error and U-matrix without.

The quantization error needs no function: it is the mean of the distances that ``FusedSOMLoss.find_bmu`` returns.
"""

from __future__ import annotations

import itertools

import torch
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor
from torch.nn import functional as F

from vitsom_fast.grid import Grid, wrap

# Units closer than this are neighbours: the 8 around a unit of a rectangular grid, the 6 of a hexagonal one.
ADJACENT = 1.5

# Scores held at a time: 16 M are 64 MB in fp32.
_CHUNK = 1 << 24


def purity(bmu: Tensor, labels: Tensor) -> float:
    """The share of samples whose class is the most frequent one of their BMU; bmu and labels are (N,) integers.

    Raises:
        ValueError: the lengths differ or are 0.
    """
    _check_paired(bmu, labels)
    return class_counts(bmu, labels, int(bmu.max()) + 1).max(dim=1).values.sum().item() / bmu.shape[0]


def nmi(bmu: Tensor, labels: Tensor) -> float:
    """Normalized mutual information of units and classes, normalised by the mean of the entropies; (N,) integers each.

    Raises:
        ValueError: the lengths differ or are 0.
    """
    _check_paired(bmu, labels)
    return float(normalized_mutual_info_score(labels.cpu().numpy(), bmu.cpu().numpy()))


def class_counts(bmu: Tensor, labels: Tensor, num_prototypes: int) -> Tensor:
    """(K, classes) int64: how many samples of each class every unit wins. Labels count from 0."""
    classes = int(labels.max()) + 1
    pairs = torch.bincount(bmu * classes + labels, minlength=num_prototypes * classes)
    return pairs.view(num_prototypes, classes)


def topographic_error(z: Tensor, prototypes: Tensor, grid: Grid) -> float:
    """The share of latents (N, D) whose best and second-best units are not neighbours on the grid (Kiviluoto 1996).

    Neighbours are at most 1.5 apart: 8 on a rectangular grid, 6 on a hexagonal one, across the seam of a periodic one.
    A map of one unit has no second-best: 0.
    """
    if grid.num_prototypes < 2:
        return 0.0
    targets = F.normalize(prototypes).T  # [D, K]
    step = max(1, _CHUNK // grid.num_prototypes)
    pairs = torch.cat([(F.normalize(rows) @ targets).topk(2, dim=1).indices for rows in z.split(step)])  # [N, 2]
    return (_grid_distance(grid, pairs[:, 0].cpu(), pairs[:, 1].cpu()) > ADJACENT).double().mean().item()


def u_matrix(prototypes: Tensor, grid: Grid) -> Tensor:
    """(rows, cols): the mean cosine distance of each prototype to those of its neighbours on the grid (Ultsch & Siemon 1990).

    Ridges of large values separate clusters. Neighbours as in ``topographic_error``; a map of one unit is 0.
    """
    unit = F.normalize(prototypes.detach())  # [K, D]
    row, col = torch.meshgrid(torch.arange(grid.rows), torch.arange(grid.cols), indexing="ij")
    here = (row * grid.cols + col).flatten()  # [K]
    total, count = torch.zeros(grid.num_prototypes), torch.zeros(grid.num_prototypes)
    for row_offset, col_offset in itertools.product(_steps(grid.rows, grid.periodic), _steps(grid.cols, grid.periodic)):
        other_row, other_col = row + row_offset, col + col_offset
        inside = (other_row >= 0) & (other_row < grid.rows) & (other_col >= 0) & (other_col < grid.cols)
        there = (other_row % grid.rows * grid.cols + other_col % grid.cols).flatten()
        neighbour = (there != here) & (_grid_distance(grid, here, there) <= ADJACENT)
        if not grid.periodic:
            neighbour &= inside.flatten()
        distance = 1 - (unit * unit[there.to(unit.device)]).sum(dim=1).cpu().float()
        total += torch.where(neighbour, distance, 0.0)
        count += neighbour
    return (total / count.clamp_min(1)).clamp_min(0).view(grid.rows, grid.cols)


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


def _check_paired(bmu: Tensor, labels: Tensor) -> None:
    if bmu.dim() != 1 or bmu.shape != labels.shape or bmu.shape[0] < 1:
        raise ValueError(
            f"bmu and labels must have the same shape (N,), N at least 1, got {tuple(bmu.shape)} and {tuple(labels.shape)}"
        )
