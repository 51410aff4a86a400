"""Pictures of a trained map: its prototypes, the distances between them, and what lands where.

Every function returns a Matplotlib figure of its own, without pyplot's global state; ``figure.savefig(path)`` writes it. Where
one takes a fitted ``SOM``, it draws its map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from vitsom_fast.class_names import add_legend, drawable, letters, numbered, write_names
from vitsom_fast.grid import Grid
from vitsom_fast.metrics import class_counts

if TYPE_CHECKING:
    from vitsom_fast.som import SOM

_MOST_PLANES = 100
_WIDTH = 8.0  # inches of the longer side
_DPI = 160
_EMPTY = "#ececec"  # a unit that wins nothing
_UNLABELLED = "#333333"  # a unit that wins nothing with a label
_LARGEST_WITH_TEXT = 32  # units a side; more would be unreadable
_SMALLEST_LETTERS = 5.0  # points; names of classes that would be smaller are in a legend
_MOST_IN_LEGEND = 20


def plot_prototypes(images: Tensor, grid: Grid) -> Figure:
    """The decoded prototypes (K, C, H, W), values in [0, 1], laid out as the map; odd rows of a hexagonal grid are shifted.

    Raises:
        ValueError: images of another shape.
    """
    canvas = _mosaic(images, grid)
    # One pixel of the canvas is at least one of the picture, up to a size that viewers still open.
    dpi = min(max(_DPI, max(canvas.shape[:2]) / _WIDTH), 6 * _DPI)
    figure, axes = _figure(canvas.shape[1] / canvas.shape[0], dpi=dpi)
    axes.imshow(canvas, interpolation="nearest")
    axes.set_title(f"Decoded prototypes, {_describe(grid)}")
    return figure


def plot_u_matrix(distances: Tensor | NDArray[Any] | SOM, grid: Grid | None = None, *, distance: str = "cosine") -> Figure:
    """The U-matrix (rows, cols) of ``metrics.u_matrix``, or that of a ``SOM``: bright ridges separate clusters.

    Raises:
        ValueError: distances of another shape, or without their grid.
    """
    if not _is_array(distances):
        som: Any = distances
        distances, grid, distance = som.u_matrix(), som.grid, som.metric
    distances = torch.as_tensor(distances)
    if grid is None:
        raise ValueError("grid must be that of the distances, got None")
    if distances.shape != (grid.rows, grid.cols):
        raise ValueError(f"distances must be ({grid.rows}, {grid.cols}) as the grid is, got {tuple(distances.shape)}")
    figure, axes = _map_figure(grid, colorbar=True)
    heights = distances.detach().float().cpu().flatten().numpy()
    cells = PolyCollection(list(_cells(grid)), array=heights, cmap="magma", edgecolors="face", linewidths=0.3)
    axes.add_collection(cells)
    figure.colorbar(cells, ax=axes, label=f"mean {distance} distance to the neighbours", shrink=0.85, aspect=30, pad=0.02)
    axes.set_title(f"U-matrix, {_describe(grid)}")
    return figure


def plot_hit_map(bmu: Tensor | NDArray[Any] | SOM, grid: Any, *, labels: Any = None, classes: Sequence[str] = ()) -> Figure:
    """How many samples every unit wins, and of which class most of them are.

    Args:
        bmu: (N,) integers, the unit of every sample; or a ``SOM``.
        grid: the map; for a ``SOM`` the rows (N, D) that are drawn on it.
        labels: (N,), of any kind but for a tensor, which holds integers. Integers index ``classes``, anything else is one of
            them. -1, NaN and None stand for a sample without a label. With labels a unit has the colour and the
            name of its most frequent class (names too long for a unit are in a legend) and a size that grows with its hits, and
            is black where none has a label; without, a colour for its hits.
        classes: the names of the classes; if empty, the labels are.

    Raises:
        ValueError: a bmu beyond the grid, labels beyond ``classes`` or not one for each bmu.
    """
    if not _is_array(bmu):
        som: Any = bmu
        bmu, grid = np.asarray(som.predict(grid)), som.grid
    if labels is not None and not isinstance(labels, Tensor):
        numbers, classes = numbered(labels, classes)
        labels = torch.from_numpy(numbers)
    bmu = _checked_bmu(torch.as_tensor(bmu), grid)
    hits = torch.bincount(bmu, minlength=grid.num_prototypes).numpy()  # [K]
    if labels is None:
        return _plot_counts(hits, grid)
    majority, names = _majority(bmu, labels.cpu(), classes, grid)  # [K]
    figure, axes = _map_figure(grid, colorbar=False)
    cells = _cells(grid)
    palette = np.vstack([_palette(len(names)), to_rgba(_UNLABELLED)])  # the last one is that of majority -1
    centres = cells.mean(axis=1, keepdims=True)  # [K, 1, 2]
    # Area, not side, is what the eye compares; a single hit keeps a quarter of the side.
    side = 0.25 + 0.7 * np.sqrt(hits / max(hits.max(), 1))
    axes.add_collection(PolyCollection(list(cells), facecolors=_EMPTY, edgecolors="white", linewidths=1.0))
    shown = hits > 0
    shrunk = centres + (cells - centres) * side[:, None, None]
    axes.add_collection(PolyCollection(list(shrunk[shown]), facecolors=palette[majority[shown]], edgecolors="none"))
    axes.set_title(f"Most frequent class of every unit (size: number of samples), {_describe(grid)}")
    size = 0.42 * 72 * _WIDTH / max(grid.rows, grid.cols)  # points
    in_a_legend = len(names) <= _MOST_IN_LEGEND
    is_legible = letters(names, size) >= _SMALLEST_LETTERS or not in_a_legend
    if max(grid.rows, grid.cols) <= _LARGEST_WITH_TEXT and is_legible:
        named = majority >= 0
        write_names(axes, cells[named], [names[index] for index in majority[named]], size)
    elif in_a_legend:
        add_legend(axes, names, palette[:-1])
    return figure


def plot_class_map(bmu: Tensor, grid: Grid, *, labels: Tensor, classes: Sequence[str] = ()) -> Figure:
    """The most frequent class of every unit, and its purity: the share of the unit's samples that are of that class, in the
    strength of the colour and, on maps of up to 32 units a side, in per cent.

    Args:
        bmu, grid, labels, classes: as in ``plot_hit_map``, labels (N,) integers.

    Raises:
        ValueError: as in ``plot_hit_map``.
    """
    bmu = _checked_bmu(torch.as_tensor(bmu), grid)
    labels = labels.cpu()
    majority, names = _majority(bmu, labels, classes, grid)  # [K]
    known = labels >= 0
    counts = torch.bincount(bmu[known], minlength=grid.num_prototypes).numpy()
    numbers = labels.unique(return_inverse=True)[1] - int((~known).any()) if not classes else labels  # as ``majority`` has them
    right = known & (torch.from_numpy(majority)[bmu] == numbers)
    purity = torch.bincount(bmu[right], minlength=grid.num_prototypes).numpy() / np.maximum(counts, 1)  # [K]
    figure, axes = _map_figure(grid, colorbar=False)
    cells = _cells(grid)
    palette = _palette(len(names))
    named = majority >= 0
    colors = np.tile(to_rgba(_EMPTY), (grid.num_prototypes, 1))
    colors[named, :3] = 1 - 0.85 * purity[named, None] * (1 - palette[majority[named], :3])
    axes.add_collection(PolyCollection(list(cells), facecolors=colors, edgecolors="white", linewidths=0.6))
    written = max(grid.rows, grid.cols) <= _LARGEST_WITH_TEXT
    axes.set_title(f"Class of every unit (strength{', number' if written else ''}: purity), {_describe(grid)}")
    if written:
        size = 0.34 * 72 * _WIDTH / max(grid.rows, grid.cols)  # points
        for sign, part, texts in (
            (-0.14, 1.0, [names[index] for index in majority[named]]),
            (0.24, 0.62, [f"{100 * share:.0f}" for share in purity[named]]),
        ):
            write_names(axes, cells[named] + np.array([0.0, sign]), texts, part * size)
    elif len(names) <= 20:
        add_legend(axes, names, palette)
    return figure


def plot_component_planes(som: SOM | Tensor | NDArray[Any], grid: Grid | None = None, *, names: Sequence[str] = ()) -> Figure:
    """What each feature is on the map of a ``SOM``, in the units of the data, a plane a feature. Planes that look alike are
    features that go together.

    Args:
        som: a ``SOM``, or prototypes (K, D).
        grid: that of prototypes.
        names: of the features; if empty, those that the map was fitted with.

    Raises:
        ValueError: another number of names, prototypes without their grid, or more than 100 features.
    """
    planes, grid, known = _planes(som, grid)
    names = list(names) or known
    if len(names) != len(planes):
        raise ValueError(f"names must be {len(planes)}, one for each feature, got {len(names)}")
    if len(planes) > _MOST_PLANES:
        raise ValueError(f"som must have at most {_MOST_PLANES} features for a picture of each, got {len(planes)}")
    cells = _cells(grid)
    (left, top), (right, bottom) = cells.reshape(-1, 2).min(0), cells.reshape(-1, 2).max(0)
    columns = math.ceil(math.sqrt(len(planes) * (bottom - top) / (right - left)))
    rows = math.ceil(len(planes) / columns)
    width = 2 * _WIDTH / max(columns, 4)
    height = 0.8 * width * min((bottom - top) / (right - left), 2.0) + 0.3  # of a plane beside its bar, with its name
    size = (columns * width, rows * height + 0.4)
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    for place, (plane, name) in enumerate(zip(planes, names, strict=True), start=1):
        axes = figure.add_subplot(rows, columns, place)
        _frame(axes, cells)
        drawn = PolyCollection(list(cells), array=plane, cmap="viridis", edgecolors="face", linewidths=0.3)
        axes.add_collection(drawn)
        figure.colorbar(drawn, ax=axes, shrink=0.8, aspect=20, pad=0.02)
        axes.set_title(drawable(name), fontsize=9, parse_math=False)
    figure.suptitle(f"Component planes, {_describe(grid)}")
    return figure


def plot_trajectory(som: SOM, rows: Any) -> Figure:
    """The trajectory of rows (N, D), in their order, from unit to unit of a ``SOM``, over its U-matrix: from the dot to the
    star."""
    figure = plot_u_matrix(som)
    axes = figure.axes[0]
    places = som.grid.positions.numpy()[np.asarray(som.predict(rows)), ::-1]  # [N, (x, y)]
    axes.plot(*places.T, color="#7fdfff", linewidth=1.2)
    axes.plot(*places[0], "o", color="#7fdfff", markersize=8)
    axes.plot(*places[-1], "*", color="#7fdfff", markersize=14)
    axes.set_title(f"Trajectory of {len(places)} rows, {_describe(som.grid)}")
    return figure


def _planes(som: Any, grid: Grid | None) -> tuple[NDArray[Any], Grid, list[str]]:
    """Features (D, K), the grid, and the features' names."""
    if _is_array(som):
        prototypes = torch.as_tensor(som).detach().float().cpu().numpy()
        if grid is None or prototypes.ndim != 2 or len(prototypes) != grid.num_prototypes:
            raise ValueError(f"grid must be that of the prototypes {prototypes.shape}, got {grid}")
        return prototypes.T, grid, [str(index) for index in range(prototypes.shape[1])]
    from sklearn.utils.validation import check_is_fitted  # which whoever has a SOM has

    check_is_fitted(som)
    planes = som.prototypes_.T
    return planes, som.grid, [str(name) for name in getattr(som, "feature_names_in_", range(len(planes)))]


def _is_array(x: Any) -> bool:
    return isinstance(x, (Tensor, np.ndarray))


def _plot_counts(hits: NDArray[np.int64], grid: Grid) -> Figure:
    figure, axes = _map_figure(grid, colorbar=True)
    cells = PolyCollection(list(_cells(grid)), array=hits, cmap="viridis", edgecolors="face", linewidths=0.3)
    axes.add_collection(cells)
    figure.colorbar(cells, ax=axes, label="samples", shrink=0.85, aspect=30, pad=0.02)
    axes.set_title(f"Hits, {_describe(grid)}")
    return figure


def _checked_bmu(bmu: Tensor, grid: Grid) -> Tensor:
    bmu = bmu.cpu()
    if bmu.dim() != 1 or bmu.is_floating_point():
        raise ValueError(f"bmu must be (N,) integers, got {tuple(bmu.shape)} {bmu.dtype}")
    if len(bmu) and not (bmu.min() >= 0 and bmu.max() < grid.num_prototypes):
        raise ValueError(f"bmu must be from 0 to {grid.num_prototypes - 1}, got {bmu.min().item()} to {bmu.max().item()}")
    return bmu.long()


def _majority(bmu: Tensor, labels: Tensor, classes: Sequence[str], grid: Grid) -> tuple[NDArray[np.int64], list[str]]:
    """The most frequent class of every unit, (K,), -1 where none of its samples has a label; and the classes' names."""
    if labels.shape != bmu.shape or labels.is_floating_point():
        raise ValueError(f"labels must be {tuple(bmu.shape)} integers as bmu is, got {tuple(labels.shape)} {labels.dtype}")
    known = labels >= 0
    if not known.any():
        return np.full(grid.num_prototypes, -1), list(classes)
    bmu, labels, names = bmu[known], labels[known].long(), list(classes)
    if not names:
        numbers, labels = labels.unique(return_inverse=True)
        names = [str(number) for number in numbers.tolist()]
    if labels.max() >= len(names):
        raise ValueError(f"labels must be below {len(names)}, the number of classes, got {labels.max().item()}")
    counts = class_counts(bmu, labels, grid.num_prototypes)  # [K, classes]
    return torch.where(counts.sum(dim=1) > 0, counts.argmax(dim=1), -1).numpy(), names


def _mosaic(images: Tensor, grid: Grid) -> NDArray[np.float32]:
    """(height, width, 3): the tiles on white, with a gap between them."""
    if images.dim() != 4:
        raise ValueError(f"images must be (K, C, H, W), got {tuple(images.shape)}")
    count, channels, height, width = images.shape
    if count != grid.num_prototypes:
        raise ValueError(f"images must be {grid.num_prototypes}, one for each unit of the grid, got {count}")
    pixels = images.detach().float().cpu().clamp(0, 1).permute(0, 2, 3, 1).numpy()  # [K, H, W, C]
    pixels = pixels if channels == 3 else pixels.mean(axis=-1, keepdims=True).repeat(3, axis=-1)
    # Small tiles grow, so that the gap can be thin against them.
    scale = max(1, min(48 // max(height, width), 4096 // (max(grid.rows, grid.cols) * max(height, width))))
    pixels = pixels.repeat(scale, axis=1).repeat(scale, axis=2)
    height, width = height * scale, width * scale
    gap = max(1, max(height, width) // 24)
    shift = (width + gap) // 2 if grid.topology == "hexagonal" and grid.rows > 1 else 0
    canvas = np.ones((grid.rows * (height + gap) - gap, grid.cols * (width + gap) - gap + shift, 3), dtype=np.float32)
    for unit, tile in enumerate(pixels):
        row, col = divmod(unit, grid.cols)
        top, left = row * (height + gap), col * (width + gap) + shift * (row % 2)
        canvas[top : top + height, left : left + width] = tile
    return canvas


def _cells(grid: Grid) -> NDArray[np.float64]:
    """(K, corners, 2): the outline of every unit as (x, y); squares or hexagons that fill the plane."""
    centres = grid.positions.numpy()[:, ::-1]  # [K, 2]
    if grid.topology == "hexagonal":
        angles, radius = np.arange(6) * math.pi / 3 + math.pi / 6, 1 / math.sqrt(3)
    else:
        angles, radius = np.arange(4) * math.pi / 2 + math.pi / 4, 1 / math.sqrt(2)
    corners = radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)  # [corners, 2]
    return centres[:, None, :] + corners


def _map_figure(grid: Grid, *, colorbar: bool) -> tuple[Figure, Axes]:
    cells = _cells(grid)
    width, height = np.ptp(cells.reshape(-1, 2), axis=0)
    figure, axes = _figure(width * (1.15 if colorbar else 1.0) / height)
    _frame(axes, cells)
    return figure, axes


def _frame(axes: Axes, cells: NDArray[np.float64]) -> None:
    """Axes that show all cells (K, corners, 2), in their proportions."""
    (left, top), (right, bottom) = cells.reshape(-1, 2).min(0), cells.reshape(-1, 2).max(0)
    axes.set_axis_off()
    axes.set_aspect("equal")
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)  # row 0 on top, as in the mosaic


def _figure(aspect: float, *, dpi: float = _DPI) -> tuple[Figure, Axes]:
    """A figure for a drawing of this width over height, with room for a title."""
    # A map of one row still needs the width of its title.
    width = min(max(_WIDTH * min(1.0, aspect), 4.5), _WIDTH)
    figure = Figure(figsize=(width, min(max(width / aspect, 1.0), 2 * _WIDTH) + 0.35), dpi=dpi, layout="constrained")
    axes = figure.add_subplot()
    axes.set_axis_off()
    return figure, axes


def _palette(count: int) -> NDArray[np.float64]:
    """(count, 4): colours that are told apart as well as so many can be."""
    if count <= 20:
        return np.asarray(colormaps["tab10" if count <= 10 else "tab20"](np.arange(count)))
    return colormaps["turbo"](np.linspace(0, 1, count))


def _describe(grid: Grid) -> str:
    return f"{grid.rows} x {grid.cols} {grid.topology}{' torus' if grid.periodic else ''}"
