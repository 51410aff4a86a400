"""The map: where each prototype sits. Nothing here depends on the latents, and nothing on how units pull on one another."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from vitsom_fast.arguments import whole_number
from vitsom_fast.choices import Topology

TOPOLOGIES: tuple[Topology, ...] = get_args(Topology)

# Distance between two rows of a hexagonal grid whose units are 1 apart.
HEXAGONAL_ROW_PITCH = math.sqrt(3) / 2

# Kernels number units in 32 bits.
_MOST_UNITS = 2**31 - 1


@dataclass(frozen=True)
class Grid:
    """A map of ``rows * cols`` units; unit ``k = row * cols + col``.

    Args:
        rows: number of rows, at least 1; any integer, NumPy's too, kept as an int.
        cols: number of columns, at least 1.
        topology: "rectangular" (unit spacing along both axes) or "hexagonal" (odd rows shifted by +0.5 column, row pitch
            sqrt(3)/2, so that the six neighbours of a unit are at distance 1).
        periodic: join opposite edges (a torus). A hexagonal torus needs an even number of rows, or the shift of the rows
            would not match across the seam.

    Raises:
        TypeError: ``rows`` or ``cols`` is not an integer, or ``periodic`` not a bool.
        ValueError: a size below 1, more than 2^31 - 1 units, an unknown topology, or a hexagonal torus with an odd number of
            rows.

    Example:
        >>> Grid(2, 3, topology="hexagonal").positions[3].tolist()  # the first unit of the second row
        [0.8660254037844386, 0.5]
    """

    rows: int
    cols: int
    topology: Topology = "rectangular"
    periodic: bool = False

    def __post_init__(self) -> None:
        for name in ("rows", "cols"):
            object.__setattr__(self, name, whole_number(name, getattr(self, name)))
        if self.num_prototypes > _MOST_UNITS:
            raise ValueError(f"rows * cols of a grid must be at most {_MOST_UNITS}, got {self.rows} * {self.cols}")
        if self.topology not in TOPOLOGIES:
            raise ValueError(f"topology must be one of {TOPOLOGIES}, got {self.topology!r}")
        if not isinstance(self.periodic, bool):
            raise TypeError(f"periodic must be a bool, got {self.periodic!r}")
        if self.periodic and self.topology == "hexagonal" and self.rows % 2:
            raise ValueError(f"rows must be even for a periodic hexagonal grid, got {self.rows}")

    @property
    def num_prototypes(self) -> int:
        """K = rows * cols."""
        return self.rows * self.cols

    @property
    def row_pitch(self) -> float:
        """Distance between two adjacent rows."""
        return HEXAGONAL_ROW_PITCH if self.topology == "hexagonal" else 1.0

    @property
    def extent(self) -> tuple[float, float]:
        """Length of the torus along (rows, columns); what a periodic grid wraps by."""
        return self.rows * self.row_pitch, float(self.cols)

    @property
    def lattice(self) -> Tensor:
        """(K, 2) float64 on the CPU: row, and column with the shift of its row, of every unit; integers and halves, which
        fp32 holds exactly. ``positions`` are these with rows ``row_pitch`` apart."""
        row, col = torch.meshgrid(
            *(torch.arange(n, dtype=torch.float64, device="cpu") for n in (self.rows, self.cols)), indexing="ij"
        )
        shift = 0.5 * (row % 2) if self.topology == "hexagonal" else 0.0
        return torch.stack([row, col + shift], dim=-1).reshape(-1, 2)

    @property
    def positions(self) -> Tensor:
        """(K, 2) float64 on the CPU: the coordinate across rows, then along columns, of every unit."""
        return self.lattice * torch.tensor([self.row_pitch, 1.0], dtype=torch.float64, device="cpu")


def wrap(offset: Tensor, extent: float) -> Tensor:
    """The shortest of the offsets that are equal on a circle of this length."""
    return offset - extent * torch.round(offset / extent)
