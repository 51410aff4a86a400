"""Where the pictures put things: tiles, cells, colours and names."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from vitsom_fast import Grid, metrics, plotting, sample_plots


def drawn(figure: Figure) -> np.ndarray:
    """The picture as (height, width, 4) bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def collections(figure: Figure) -> list[PolyCollection]:
    return [item for item in figure.axes[0].collections if isinstance(item, PolyCollection)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("topology", ["rectangular", "hexagonal"])
def test_tiles_lie_as_the_map(topology: str, channels: int) -> None:
    grid = Grid(3, 4, topology)
    shades = torch.linspace(0, 0.9, 12 * channels).view(12, channels, 1, 1)
    canvas = plotting._mosaic(shades.expand(12, channels, 50, 50), grid)  # too large to be enlarged
    gap = 2
    for unit in range(12):
        row, col = divmod(unit, 4)
        left = col * (50 + gap) + (26 if topology == "hexagonal" and row % 2 else 0)
        tile = canvas[row * (50 + gap) : row * (50 + gap) + 50, left : left + 50]
        np.testing.assert_allclose(tile, shades[unit].view(1, 1, channels).expand(50, 50, 3), atol=1e-6)
    assert (canvas[50:52] == 1).all()  # the gap


def test_pixels_keep_their_places_when_tiles_grow() -> None:
    images = torch.arange(6.0).view(1, 1, 2, 3) / 5
    canvas = plotting._mosaic(images, Grid(1, 1))
    scale = canvas.shape[0] // 2
    assert scale > 1
    np.testing.assert_allclose(canvas[scale // 2 :: scale, scale // 2 :: scale, 0], images[0, 0], atol=1e-6)


def test_mosaic_of_another_number_of_images_is_refused() -> None:
    with pytest.raises(ValueError, match="images must be 6"):
        plotting.plot_prototypes(torch.zeros(5, 1, 2, 2), Grid(2, 3))


@pytest.mark.parametrize("topology", ["rectangular", "hexagonal"])
def test_cells_fill_the_plane(topology: str) -> None:
    grid = Grid(4, 5, topology)
    cells = plotting._cells(grid)  # [K, corners, 2]
    x, y = cells[..., 0], cells[..., 1]
    area = 0.5 * np.abs((x * np.roll(y, -1, 1) - y * np.roll(x, -1, 1)).sum(1))
    np.testing.assert_allclose(area, grid.row_pitch)  # one unit of the lattice each, so neither overlap nor hole
    np.testing.assert_allclose(cells.mean(1)[:, ::-1], grid.positions, atol=1e-12)


def test_u_matrix_colours_are_the_distances() -> None:
    grid = Grid(3, 4, "hexagonal")
    distances = metrics.u_matrix(torch.randn(12, 5), grid)
    figure = plotting.plot_u_matrix(distances, grid)
    np.testing.assert_array_equal(collections(figure)[0].get_array(), distances.flatten())
    assert figure.axes[0].yaxis_inverted()  # row 0 on top


def test_hit_map_names_the_majority_and_scales_with_the_hits() -> None:
    grid = Grid(2, 2)
    bmu = torch.tensor([0] * 8 + [1, 1] + [3])
    labels = torch.tensor([1] * 5 + [0] * 3 + [0, 0] + [2])
    figure = plotting.plot_hit_map(bmu, grid, labels=labels, classes=("ant", "bee", "cat"))
    texts = {tuple(np.round(text.get_position(), 6)): text.get_text() for text in figure.axes[0].texts}
    assert texts == {(0, 0): "bee", (1, 0): "ant", (1, 1): "cat"}  # (x, y); unit 2 wins nothing
    background, units = collections(figure)
    assert len(background.get_paths()) == 4
    widths = [np.ptp(path.vertices[:, 0]) for path in units.get_paths()]
    assert 1 > widths[0] > widths[1] > widths[2] > 0.2
    assert tuple(units.get_facecolors()[0]) == to_rgba("tab:orange")


def test_class_map_colours_by_class_and_purity() -> None:
    bmu = torch.tensor([0, 0, 0, 0, 1, 1, 3, 3])
    labels = torch.tensor([1, 1, 1, 0, 0, -1, -1, -1])
    figure = plotting.plot_class_map(bmu, Grid(2, 2), labels=labels, classes=("ant", "bee"))
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["bee", "ant", "75", "100"]
    colors = collections(figure)[0].get_facecolors()
    orange = np.array(to_rgba("tab:orange")[:3])
    np.testing.assert_allclose(colors[0, :3], 1 - 0.85 * 0.75 * (1 - orange))
    assert [tuple(colors[unit]) for unit in (2, 3)] == [to_rgba(plotting._EMPTY)] * 2  # nothing with a label
    drawn(figure)


def test_class_map_of_labels_that_are_their_own_names() -> None:
    figure = plotting.plot_class_map(torch.tensor([0, 0, 1]), Grid(1, 3), labels=torch.tensor([7, 7, -1]))
    assert [text.get_text() for text in figure.axes[0].texts] == ["7", "100"]
    none = plotting.plot_class_map(torch.tensor([0, 0, 1]), Grid(1, 3), labels=torch.tensor([-1, -1, -1]))
    assert not none.axes[0].texts


@pytest.mark.parametrize("topology", ["rectangular", "hexagonal"])
def test_component_planes_of_prototypes(topology: str) -> None:
    prototypes = torch.randn(6, 3)
    figure = plotting.plot_component_planes(prototypes, Grid(2, 3, topology), names=["a", "b", "c"])
    planes = [axes.collections[0].get_array() for axes in figure.axes if axes.get_title()]
    np.testing.assert_allclose(np.stack(planes), prototypes.T)
    with pytest.raises(ValueError, match="grid must be that of the prototypes"):
        plotting.plot_component_planes(prototypes, Grid(2, 2))


def test_latents_have_the_colours_of_their_classes() -> None:
    places = {"start": np.zeros((3, 2)), "end": np.arange(6.0).reshape(3, 2)}
    figure = sample_plots.plot_embedding(places, labels=torch.tensor([1, -1, 0]), classes=("ant", "bee"), how="PCA")
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == ["start", "end"]
    points = panels[1].collections[0]
    np.testing.assert_array_equal(points.get_offsets(), places["end"])
    expected = [to_rgba(color, 0.85) for color in ("tab:orange", sample_plots._NO_LABEL, "tab:blue")]
    np.testing.assert_allclose(points.get_facecolors(), expected)
    drawn(figure)
    drawn(sample_plots.plot_embedding({"start": np.zeros((3, 2))}))


def test_attention_is_shown_in_units_of_an_even_one() -> None:
    attention = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.25] * 4]).view(2, 2, 2)
    figure = sample_plots.plot_attention(torch.rand(2, 3, 4, 4), attention, title="unit 3", names=["a", "$b"])
    shown = [axes.images[0].get_array() for axes in figure.axes if axes.images and axes.images[0].get_array().shape == (2, 2)]
    np.testing.assert_allclose(np.stack(shown), 4 * attention)
    drawn(figure)


def test_hit_map_without_labels_shows_the_counts() -> None:
    figure = plotting.plot_hit_map(torch.tensor([2, 2, 0]), Grid(1, 3))
    np.testing.assert_array_equal(collections(figure)[0].get_array(), [1, 0, 2])


def test_samples_without_a_label_count_as_hits_only() -> None:
    bmu, labels = torch.tensor([0, 0, 0, 1, 3]), torch.tensor([-1, -1, 1, -1, 0])
    figure = plotting.plot_hit_map(bmu, Grid(2, 2), labels=labels, classes=("ant", "bee"))
    texts = {tuple(np.round(text.get_position(), 6)): text.get_text() for text in figure.axes[0].texts}
    assert texts == {(0, 0): "bee", (1, 1): "ant"}
    colors = [tuple(color) for color in collections(figure)[1].get_facecolors()]
    assert colors == [to_rgba("tab:orange"), to_rgba(plotting._UNLABELLED), to_rgba("tab:blue")]
    drawn(plotting.plot_hit_map(bmu, Grid(2, 2), labels=torch.full((5,), -1), classes=("ant", "bee")))


def test_labels_without_classes_are_their_own_names() -> None:
    figure = plotting.plot_hit_map(torch.tensor([0, 1, 2]), Grid(1, 3), labels=torch.tensor([10**8, 7, -1]))
    assert [text.get_text() for text in figure.axes[0].texts] == ["100000000", "7"]


@pytest.mark.parametrize(
    ("bmu", "labels", "named"),
    [
        ([0, 9], None, "bmu must be from 0 to 8, got 0 to 9"),
        ([-1, 3], None, "bmu"),
        ([[0, 1]], None, "bmu"),
        ([0.0, 1.0], None, "bmu"),
        ([0, 9], [0, 1], "bmu"),
        ([0, 5], [0, 2], "labels must be below 2, the number of classes, got 2"),
        ([0, 5], [0], "labels"),
        ([0, 5], [0.0, 1.0], "labels"),
    ],
)
def test_what_the_hit_map_cannot_show_is_named(bmu: list[int], labels: list[int] | None, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        plotting.plot_hit_map(
            torch.tensor(bmu), Grid(3, 3), labels=None if labels is None else torch.tensor(labels), classes=("a", "b")
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_tensors_of_a_training_can_be_drawn(dtype: torch.dtype) -> None:
    grid = Grid(2, 3)
    drawn(plotting.plot_prototypes(torch.rand(6, 3, 4, 4, dtype=dtype, requires_grad=True), grid))
    drawn(plotting.plot_u_matrix(torch.rand(2, 3, dtype=dtype, requires_grad=True), grid))
    drawn(plotting.plot_hit_map(torch.tensor([0, 5], dtype=torch.int32), grid, labels=torch.tensor([0, 1], dtype=torch.int16)))


def test_distances_and_images_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"distances must be \(2, 3\)"):
        plotting.plot_u_matrix(torch.rand(3, 2), Grid(2, 3))
    with pytest.raises(ValueError, match="images must be"):
        plotting.plot_prototypes(torch.rand(6, 4, 4), Grid(2, 3))


# By name: the name of a class, and what of it the picture shows.
NAMES = {
    "mathematics": ("$0k_$10k", "$0k_$10k"),
    "one dollar": ("$50k+", "$50k+"),
    "broken mathematics": (r"$\frac{$ \ {}", r"$\frac{$ \ {}"),
    "an underscore in front": ("_hidden", "_hidden"),
    "half a surrogate pair": ("a\ud800b", "a\N{REPLACEMENT CHARACTER}b"),
    "control characters": ("a\nb\tc\x00", "a b c "),
    "percent and hash": ("50% #1 & ^~", "50% #1 & ^~"),
    "nothing": ("", ""),
}


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("cols", [2, 40])  # with names on the units, and with a legend
@pytest.mark.filterwarnings("error")
def test_names_are_drawn_as_they_are(kind: str, cols: int) -> None:
    name, shown = NAMES[kind]
    bmu, labels = torch.tensor([0, 1]), torch.tensor([0, 1])
    figure = plotting.plot_hit_map(bmu, Grid(1, cols), labels=labels, classes=(name, "bee"))
    legend = figure.axes[0].get_legend()
    texts = figure.axes[0].texts if legend is None else legend.get_texts()
    assert [text.get_text() for text in texts] == [shown, "bee"]
    assert not any(text.get_parse_math() or text.get_usetex() for text in texts)
    drawn(figure)


@pytest.mark.parametrize("length", [100, 5000])
@pytest.mark.parametrize("grid", [Grid(3, 3), Grid(40, 40)], ids=str)
@pytest.mark.filterwarnings("error")
def test_very_long_names_leave_the_map_its_room(length: int, grid: Grid) -> None:
    bmu = torch.arange(12) % 9
    figures = [
        plotting.plot_hit_map(bmu, grid, labels=bmu, classes=[letter * size for letter in "abcdefghi"]) for size in (1, length)
    ]
    widths = []
    for figure in figures:
        drawn(figure)
        widths.append(figure.axes[0].get_window_extent().width)
    assert widths[1] > widths[0] / 2


def test_very_long_names_stay_in_their_unit() -> None:
    """In the smallest letters that there are, they would run over their neighbours."""
    grid, bmu = Grid(1, 3), torch.zeros(3, dtype=torch.int64)
    pictures = []
    for name in ("a", "a" * 1000):
        figure = plotting.plot_hit_map(bmu, grid, labels=bmu, classes=[name, *map(str, range(20))])  # too many for a legend
        pixels = drawn(figure)
        left = figure.axes[0].transData.transform((0.55, 0))[0]  # unit 1 begins at 0.5
        pictures.append(pixels[pixels.shape[0] // 2 :, round(left) :])  # without the title
    np.testing.assert_array_equal(*pictures)


def test_words_that_would_be_unreadable_are_in_a_legend() -> None:
    """On 16 x 16 units "automobile" had letters of three points."""
    bmu = torch.arange(256)
    for classes, side, is_legend in (
        (("automobile", "ship"), 16, True),
        (("automobile", "ship"), 4, False),
        (("a", "b"), 16, False),
    ):
        units = bmu[: side * side]
        axes = plotting.plot_hit_map(units, Grid(side, side), labels=units % 2, classes=classes).axes[0]
        assert (axes.get_legend() is not None) == is_legend
        assert len(axes.texts) == (0 if is_legend else side * side)


def test_large_maps_have_a_legend_instead_of_names() -> None:
    figure = plotting.plot_hit_map(torch.tensor([0, 5]), Grid(1, 40), labels=torch.tensor([0, 1]), classes=("ant", "bee"))
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["ant", "bee"]
    assert not figure.axes[0].texts


@pytest.mark.parametrize("grid", [Grid(1, 1), Grid(1, 20), Grid(20, 1), Grid(2, 3, "hexagonal", periodic=True)], ids=str)
def test_every_shape_of_map_can_be_drawn(grid: Grid) -> None:
    count = grid.num_prototypes
    figures = [
        plotting.plot_prototypes(torch.rand(count, 1, 4, 4), grid),
        plotting.plot_u_matrix(torch.rand(grid.rows, grid.cols), grid),
        plotting.plot_hit_map(torch.zeros(3, dtype=torch.int64), grid, labels=torch.tensor([0, 1, 1]), classes=("a", "b")),
    ]
    for figure in figures:
        pixels = drawn(figure)
        assert max(pixels.shape[:2]) <= 20 * 160
        assert pixels[..., :3].std() > 1  # something was drawn


def test_palette_has_a_colour_for_each_of_many_classes() -> None:
    for count in (1, 10, 20, 100):
        assert len({tuple(color) for color in plotting._palette(count)}) == count
