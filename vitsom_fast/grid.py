"""The map: where each prototype sits, and how strongly the units of the map pull on one another.

Nothing here depends on the latents. A neighborhood is handed to the backends as data, a sum of separable terms, so that no
backend knows what a topology is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from vitsom_fast.arguments import device_of, whole_number

TOPOLOGIES = ("rectangular", "hexagonal")
NEIGHBORHOODS = ("gaussian",)

# Distance between two rows of a hexagonal grid whose units are 1 apart.
HEXAGONAL_ROW_PITCH = math.sqrt(3) / 2

# Kernels number units in 32 bits.
_MOST_UNITS = 2**31 - 1

# -1 / (2 T^2) must stay finite in fp32; a Gaussian this narrow is already 1 at its centre and exactly 0 elsewhere.
_SMALLEST_TEMPERATURE = 1e-18
_LARGEST_TEMPERATURE = 1e18


class Neighborhood(NamedTuple):
    """The weights h between all units: ``h[(r, c), (s, d)] = sum_t rows[t, r, s] * cols[t, c, d]``.

    ``rows`` is (terms, R, R) and ``cols`` (terms, C, C) for a grid of R rows and C columns. The sum over t is symmetric in
    its two units; a single term need not be.
    """

    rows: Tensor
    cols: Tensor


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
    """

    rows: int
    cols: int
    topology: str = "rectangular"
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

    def neighborhood(
        self,
        temperature: float | Tensor,
        kind: str = "gaussian",
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        weigh: Callable[[Tensor, float | Tensor], Tensor] | None = None,
    ) -> Neighborhood:
        """The Gaussian ``exp(-|r_k - r_j|^2 / (2 T^2))`` of the paper between all units, as separable factors.

        Args:
            temperature: T > 0, in units of the grid; a float, or a 0-dim tensor that is read on its device. A tensor that
                holds no positive number gives NaN weights: a check would have to wait for the device.
            kind: "gaussian".
            device, dtype: where and in what the factors are computed.
            weigh: ``gaussian_weights`` or a backend's own form of it.

        Raises:
            ValueError: an unknown kind or device.
        """
        if kind not in NEIGHBORHOODS:
            raise ValueError(f"neighborhood must be one of {NEIGHBORHOODS}, got {kind!r}")
        table = _squared_offsets(self, device_of(device), dtype)
        factors = (weigh or gaussian_weights)(table, temperature)  # one call for both axes
        if _axes_are_equal(self):
            return Neighborhood(factors, factors)
        terms = 3 if self.topology == "hexagonal" else 1
        split = terms * self.rows * self.rows
        return Neighborhood(
            factors[:split].view(terms, self.rows, self.rows), factors[split:].view(terms, self.cols, self.cols)
        )


def gaussian_weights(squared_offsets: Tensor, temperature: float | Tensor) -> Tensor:
    """``exp(-offset^2 / (2 T^2))`` in the dtype and on the device of the offsets; NaN where a tensor T is not positive."""
    exponent: float | Tensor
    if isinstance(temperature, Tensor):
        radius = temperature.detach().to(squared_offsets)
        radius = torch.where(radius > 0, radius.clamp(_SMALLEST_TEMPERATURE, _LARGEST_TEMPERATURE), math.nan)
        exponent = -0.5 / radius.square()
    else:
        exponent = -0.5 / min(max(temperature, _SMALLEST_TEMPERATURE), _LARGEST_TEMPERATURE) ** 2
    return (squared_offsets * exponent).exp_()


# Bytes of tables that are kept, of all grids together: one of 1024 x 1024 units on a hexagonal grid has 25 MB.
_MOST_BYTES = 32 << 20

_offset_tables: dict[tuple[Grid, torch.device, torch.dtype], Tensor] = {}


def _axes_are_equal(grid: Grid) -> bool:
    return grid.rows == grid.cols and grid.topology == "rectangular"


def _squared_offsets(grid: Grid, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Squared distances along each axis, flat: (terms, R, R) then (terms, C, C); +inf where a term does not apply. Of two equal
    axes only one, (1, R, R)."""
    # A compiled graph folds the table into the factors' own kernel; a mode or a transform may make of it what no other call can
    # use, nor can it use what others have made.
    if (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
    ):
        return _build_squared_offsets(grid, device, dtype)
    key = (grid, device, dtype)
    table = _offset_tables.get(key)
    if table is None:
        with torch.inference_mode(False), torch.no_grad():
            table = _build_squared_offsets(grid, device, dtype)
        # Memory of a graph under capture must not outlive this call.
        if not (device.type == "cuda" and torch.cuda.is_current_stream_capturing()):
            _keep(key, table)
    return table


def _keep(key: tuple[Grid, torch.device, torch.dtype], table: Tensor) -> None:
    """The oldest make room."""
    if table.nbytes > _MOST_BYTES:
        return
    for oldest in list(_offset_tables):
        if table.nbytes + sum(kept.nbytes for kept in list(_offset_tables.values())) <= _MOST_BYTES:
            break
        _offset_tables.pop(oldest, None)  # another thread may have been faster
    _offset_tables[key] = table


def _build_squared_offsets(grid: Grid, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Squares of integers and halves, wrapped as integers: exact but for one rounding to the dtype."""
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"dtype must be a floating torch.dtype, got {dtype!r}")
    row = torch.arange(grid.rows, device=device)
    col = torch.arange(grid.cols, device=device)
    row_offset = row[:, None] - row[None, :]  # [R, R]
    row_squares = _squared(row_offset, grid.rows, grid.periodic)
    if _axes_are_equal(grid):
        return row_squares.to(dtype)[None]
    col_offset = col[:, None] - col[None, :]  # [C, C]
    if grid.topology == "rectangular":
        rows, cols = row_squares[None], _squared(col_offset, grid.cols, grid.periodic)[None]
        return torch.cat([rows.flatten(), cols.flatten()]).to(dtype)
    # Quarters are integers: three of them are the square of the row pitch, and half a column is one of them squared.
    wide = torch.promote_types(dtype, torch.float32)
    across = (3 * row_squares).to(wide).div_(4)
    # The shift between two rows depends on their parities only: none, or half a column either way.
    parity = row % 2
    difference = parity[:, None] - parity[None, :]
    rows = torch.stack([across.masked_fill(difference != apart, math.inf) for apart in (0, 1, -1)])
    halves = torch.stack([2 * col_offset + shift for shift in (0, 1, -1)])
    cols = _squared(halves, 2 * grid.cols, grid.periodic).to(wide).div_(4)
    return torch.cat([rows.flatten(), cols.flatten()]).to(dtype)


def _squared(offset: Tensor, extent: int, periodic: bool) -> Tensor:
    """Squares of integer offsets, all of them shorter than the circle of this length."""
    length = offset.abs()
    return (torch.minimum(length, extent - length) if periodic else length).square()


def wrap(offset: Tensor, extent: float) -> Tensor:
    """The shortest of the offsets that are equal on a circle of this length."""
    return offset - extent * torch.round(offset / extent)
