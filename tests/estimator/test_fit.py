"""What a fit finds: the batch map of the textbook, however the rows come."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import torch
from numpy.typing import NDArray

from vitsom_fast import SOM, Grid, backends, batch_update, find_bmu
from vitsom_fast.backends.batch_map import add_rows, no_sums
from vitsom_fast.schedules import exponential_decay

Array = NDArray[np.float64]


def blobs(count: int = 300, dim: int = 4, seed: int = 0) -> Array:
    random = np.random.default_rng(seed)
    return random.normal(size=(6, dim))[random.integers(6, size=count)] * 3 + random.normal(size=(count, dim))


def textbook(x: Array, prototypes: Array, grid: Grid, epochs: int, **how: object) -> Array:
    """By steps of ``batch_update`` in fp64."""
    w, sigma = torch.from_numpy(prototypes), exponential_decay(2.0, 0.7, epochs)
    for epoch in range(epochs):
        w, _ = batch_update(torch.from_numpy(x), w, grid, sigma(epoch), backend="torch", **how)  # type: ignore[arg-type]
    return w.numpy()


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "cosine", "manhattan"])
@pytest.mark.parametrize("topology", ["rectangular", "hexagonal"])
def test_epochs_are_steps_of_the_batch_map(metric: str, topology: str) -> None:
    x = blobs()
    init = x[:20].copy()
    som = SOM(4, 5, metric=metric, topology=topology, n_epochs=4, sigma_initial=2.0, sigma_final=0.7, init=init).fit(x)
    expected = textbook(x, init, Grid(4, 5, topology), 4, distance=metric)
    np.testing.assert_allclose(som.prototypes_, expected, rtol=0, atol=2e-5)
    units, nearest = find_bmu(torch.from_numpy(x), torch.from_numpy(som.prototypes_), distance=metric, backend="torch")
    np.testing.assert_array_equal(som.labels_, units.numpy())
    assert som.quantization_error(x) == pytest.approx(nearest.mean().item(), rel=1e-5)
    assert som.score(x) == -som.quantization_error(x)
    assert som.n_iter_ == len(som.history_) == 4


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_history_is_the_error_that_an_epoch_finds(metric: str) -> None:
    x = blobs()
    som = SOM(3, 3, metric=metric, n_epochs=3).fit(x)
    before = SOM(3, 3, metric=metric, n_epochs=3)
    for error in som.history_[1:]:
        before.partial_fit(x)
        assert error == pytest.approx(before.quantization_error(x), rel=1e-3)


def test_epochs_one_by_one_are_a_fit() -> None:
    x = blobs()
    whole, parts = SOM(4, 4, n_epochs=5).fit(x), SOM(4, 4, n_epochs=5)
    for _ in range(5):
        parts.partial_fit(x)
    np.testing.assert_allclose(parts.prototypes_, whole.prototypes_, atol=1e-5)
    np.testing.assert_allclose(parts.history_, whole.history_, rtol=1e-3)


@pytest.mark.parametrize("batch_size", [1, 17, 59, None])
@pytest.mark.parametrize("missing", ["error", "ignore"])
def test_the_size_of_chunks_changes_the_order_of_sums_only(batch_size: int | None, missing: str) -> None:
    x = blobs(60)
    if missing == "ignore":
        x[::3, 1] = np.nan
    whole, parts = (SOM(3, 4, n_epochs=2, missing=missing, batch_size=size).fit(x) for size in (60, batch_size))
    np.testing.assert_allclose(parts.prototypes_, whole.prototypes_, atol=1e-5)
    np.testing.assert_array_equal(parts.labels_, whole.labels_)


class Chunks:
    """An iterable of arrays that begins anew each time."""

    def __init__(self, x: Array, size: int) -> None:
        self.x, self.size = x, size

    def __iter__(self):
        return (self.x[start : start + self.size] for start in range(0, len(self.x), self.size))


class Sliced:
    """A file of rows, as h5py and zarr open them."""

    def __init__(self, x: Array) -> None:
        self.x, self.shape, self.dtype = x, x.shape, x.dtype

    def __getitem__(self, rows: slice) -> Array:
        return self.x[rows]


class Columns(Sliced):
    """A table whose slices are columns by name, as those of a data set of Arrow files."""

    def __init__(self, x: Array) -> None:
        self.x, self.shape = x, x.shape

    def __getitem__(self, rows: slice) -> dict[str, list[float]]:  # type: ignore[override]
        return {f"f{i}": column.tolist() for i, column in enumerate(self.x[rows].T)}


def as_pandas(x: Array) -> object:
    return pytest.importorskip("pandas").DataFrame(x, columns=[f"f{i}" for i in range(x.shape[1])])


def as_polars(x: Array) -> object:
    return pytest.importorskip("polars").DataFrame(x, schema=[f"f{i}" for i in range(x.shape[1])])


def as_h5py(x: Array) -> object:
    h5py = pytest.importorskip("h5py")
    return h5py.File("rows", "w", driver="core", backing_store=False).create_dataset("x", data=x)


def as_zarr(x: Array) -> object:
    zarr = pytest.importorskip("zarr")
    array = zarr.create_array({}, shape=x.shape, chunks=(90, x.shape[1]), dtype=x.dtype)
    array[:] = x
    return array


def as_arrow(x: Array) -> object:
    return pytest.importorskip("datasets").Dataset.from_dict({f"f{i}": column for i, column in enumerate(x.T)})


FORMS = {
    "list": lambda x: x.tolist(),
    "fortran": np.asfortranarray,
    "reversed": lambda x: x[::-1].copy()[::-1],
    "torch": torch.from_numpy,
    "pandas": as_pandas,
    "polars": as_polars,
    "csr": scipy.sparse.csr_matrix,
    "coo": scipy.sparse.coo_array,
    "sliced": Sliced,
    "columns": Columns,
    "h5py": as_h5py,
    "zarr": as_zarr,
    "arrow": as_arrow,
    "chunks": lambda x: Chunks(x, 70),
    "list of arrays": lambda x: [x[:100], x[100:101], x[101:]],
    "loader": lambda x: torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.from_numpy(x)), batch_size=64),
}


@pytest.mark.parametrize("form", FORMS)
def test_rows_may_come_as_anything(form: str) -> None:
    x = blobs()
    expected, som = SOM(3, 4, n_epochs=3).fit(x), SOM(3, 4, n_epochs=3)
    given = FORMS[form](x)
    np.testing.assert_array_equal(som.fit_predict(given), expected.labels_)
    np.testing.assert_allclose(som.prototypes_, expected.prototypes_, atol=1e-5)
    np.testing.assert_array_equal(som.predict(given), expected.labels_)
    np.testing.assert_allclose(som.transform(given), expected.transform(x), atol=1e-5)
    assert som.quantization_error(given) == pytest.approx(expected.quantization_error(x), rel=1e-5)
    assert som.topographic_error(given) == pytest.approx(expected.topographic_error(x), abs=0.01)
    assert hasattr(som, "feature_names_in_") == (form in ("pandas", "polars"))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_what_is_far_from_the_origin_loses_nothing(dtype: type, offset: float) -> None:
    x = (blobs() + offset).astype(dtype)
    som = SOM(4, 4, n_epochs=6).fit(x)
    near = SOM(4, 4, n_epochs=6).fit(x.astype(np.float64) - offset)
    np.testing.assert_allclose(som.prototypes_ - offset, near.prototypes_, atol=1e-5)


@pytest.mark.parametrize(
    ("metric", "scale"),
    [(metric, scale) for metric in ("euclidean", "manhattan") for scale in (1e-60, 1e-30, 1e30, 1e60)] + [("cosine", 1e60)],
)
def test_any_magnitude(metric: str, scale: float) -> None:
    x = blobs()
    plain, scaled = (SOM(3, 3, metric=metric, n_epochs=3).fit(x * factor) for factor in (1.0, scale))
    factor = 1.0 if metric == "cosine" else scale
    np.testing.assert_allclose(scaled.prototypes_ / factor, plain.prototypes_, atol=1e-5)
    assert scaled.quantization_error(x * scale) / factor == pytest.approx(plain.quantization_error(x), rel=1e-5)


def test_the_same_bits() -> None:
    x = blobs(1000)
    first, second = (SOM(5, 5, n_epochs=3, init="random", random_state=3, batch_size=100).fit(x) for _ in range(2))
    assert first.prototypes_.tobytes() == second.prototypes_.tobytes()
    assert first.history_ == second.history_


@pytest.mark.parametrize("init", ["sample", "random"])
def test_random_prototypes_are_those_of_the_random_state(init: str) -> None:
    x = blobs()
    one, same, other = (SOM(3, 3, n_epochs=1, init=init, random_state=seed).fit(x).prototypes_ for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "manhattan"])
@pytest.mark.parametrize("init", ["pca", "random"])
def test_a_weight_is_a_number_of_rows(metric: str, init: str) -> None:
    x = blobs(200)
    weight = np.random.default_rng(1).integers(0, 4, 200)
    how = {"metric": metric, "init": init, "n_epochs": 3, "random_state": 0}
    weighted = SOM(3, 4, **how).fit(x, sample_weight=weight)
    repeated = SOM(3, 4, **how).fit(x.repeat(weight, axis=0))
    np.testing.assert_allclose(weighted.prototypes_, repeated.prototypes_, atol=1e-5)
    error = repeated.quantization_error(x.repeat(weight, axis=0))
    assert weighted.quantization_error(x, sample_weight=weight) == pytest.approx(error, rel=1e-5)


def test_rows_of_no_weight_are_never_drawn() -> None:
    x = blobs(50)
    x[:25] = 1e6
    som = SOM(2, 2, init="sample", n_epochs=1, random_state=0).fit(x, sample_weight=np.arange(50) >= 25)
    assert np.abs(som.prototypes_).max() < 1e3


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "manhattan"])
def test_missing_numbers(metric: str) -> None:
    """Of rows that lack a fifth of their features, the map is nearly that of whole rows."""
    x = blobs(600, dim=8)
    holes = np.where(np.random.default_rng(5).random(x.shape) < 0.2, np.nan, x)
    whole = SOM(3, 3, metric=metric, n_epochs=8).fit(x).quantization_error(x)
    som = SOM(3, 3, metric=metric, n_epochs=8, missing="ignore").fit(holes)
    assert som.quantization_error(x) < 1.2 * whole
    np.testing.assert_array_equal(som.labels_, som.predict(holes))
    np.testing.assert_array_equal(som.transform(holes).argmin(axis=1), som.labels_)
    with pytest.raises(ValueError, match="NaN"):
        SOM(3, 3).fit(holes)
    with pytest.raises(ValueError, match="missing='ignore'"):
        SOM(3, 3).fit(torch.from_numpy(holes))


def test_no_units_within_reach_stay_where_they_are() -> None:
    x = np.zeros((5, 2))
    init = np.array([[0.0, 0.0], [7.0, 7.0]])
    som = SOM(1, 2, init=init, n_epochs=1, sigma_initial=0.05, sigma_final=0.05).fit(x)
    np.testing.assert_allclose(som.prototypes_, init, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("init", ["pca", "sample", "random"])
def test_fewer_rows_than_units(count: int, init: str) -> None:
    x = blobs(count)
    som = SOM(4, 4, n_epochs=3, init=init, random_state=0).fit(x)
    assert np.isfinite(som.prototypes_).all()
    assert som.quantization_error(x) < 1e-2


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "cosine", "manhattan"])
def test_backends_agree(backend: str, metric: str) -> None:
    x = blobs()
    ours, other = (SOM(3, 4, metric=metric, n_epochs=3, backend=name).fit(x) for name in ("auto", backend))
    np.testing.assert_allclose(other.prototypes_, ours.prototypes_, atol=1e-5)
    np.testing.assert_allclose(other.history_, ours.history_, rtol=1e-3)
    np.testing.assert_array_equal(other.labels_, ours.labels_)


@pytest.mark.parametrize("threads", [1, 8])
@pytest.mark.parametrize("weighted", [False, True])
def test_sums_are_those_of_fp64_however_many_threads(threads: int, weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With many threads the backend adds up, with few PyTorch does: the number is asked for, not used."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    random = torch.Generator().manual_seed(0)
    x, unit = torch.randn(5000, 7, generator=random), torch.randint(9, (5000,), generator=random)
    weight = torch.rand(5000, generator=random, dtype=torch.float64) if weighted else None
    sums = no_sums(torch.empty(9, 7))
    for part in (slice(0, 1), slice(1, 3000), slice(3000, None)):
        add_rows(backends.get("torch"), sums, x[part], unit[part], None if weight is None else weight[part])
    each = torch.cat([x.double(), torch.ones(5000, 1)], dim=1) * (1.0 if weight is None else weight[:, None])
    expected = torch.stack([each[unit == k].sum(dim=0) for k in range(9)])
    torch.testing.assert_close(sums, expected, rtol=1e-6, atol=1e-5)
