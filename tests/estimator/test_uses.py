"""What users do with an estimator beyond a fit: keep it, draw it, ask it for what it cannot do."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from test_fit import blobs

from vitsom_fast import SOM, FusedSOMLoss, plotting


def names_on(figure: object) -> set[str]:
    return {text.get_text() for text in figure.axes[0].texts}  # type: ignore[attr-defined]


@pytest.mark.parametrize("form", [np.asarray, torch.tensor, list, lambda labels: np.where(labels < 0, np.nan, labels)])
def test_labels_index_their_classes(form: object) -> None:
    """As they are, though not all are there."""
    x = blobs(40)
    som = SOM(2, 2, n_epochs=2).fit(x)
    labels = form(np.where(x[:, 0] > 0, 2, -1))  # type: ignore[operator]
    assert names_on(plotting.plot_hit_map(som, x, labels=labels, classes=["a", "b", "c"])) == {"c"}
    assert names_on(plotting.plot_hit_map(som, x, labels=labels)) == {"2"}
    with pytest.raises(ValueError, match="labels must be below 2"):
        plotting.plot_hit_map(som, x, labels=labels, classes=["a", "b"])


@pytest.mark.parametrize("nothing", [None, np.nan])
def test_names_as_labels(nothing: object) -> None:
    x = blobs(40)
    som = SOM(2, 2, n_epochs=2).fit(x)
    labels = ["more" if value > 0 else nothing for value in x[:, 0]]
    assert names_on(plotting.plot_hit_map(som, x, labels=labels)) == {"more"}
    assert names_on(plotting.plot_hit_map(som, x, labels=labels, classes=["less", "more"])) == {"more"}
    with pytest.raises(ValueError, match="labels must index classes or be among them"):
        plotting.plot_hit_map(som, x, labels=labels, classes=["less"])


def test_pictures_of_arrays() -> None:
    x = blobs(40)
    som = SOM(2, 3, n_epochs=2).fit(x)
    for figure, expected in (
        (plotting.plot_u_matrix(som.u_matrix(), som.grid), som.u_matrix()),
        (plotting.plot_hit_map(som.labels_, som.grid), som.hit_map(x)),
    ):
        np.testing.assert_allclose(figure.axes[0].collections[0].get_array(), expected.ravel())


def test_what_is_not_fitted() -> None:
    failed = SOM(2, 2)
    with pytest.raises(ValueError, match=r"X must be finite.*missing='ignore'"):
        failed.fit([[1.0, np.nan]])
    for use in (failed.u_matrix, lambda: failed.predict(blobs(3)), lambda: failed.save("map")):
        with pytest.raises(NotFittedError):
            use()
    for draw in (FusedSOMLoss.from_estimator, plotting.plot_component_planes, plotting.plot_u_matrix):
        with pytest.raises(NotFittedError):
            draw(SOM())


def test_scalars_of_numpy_are_kept(tmp_path: Path) -> None:
    som = SOM(np.int64(2), 3, n_epochs=np.int64(2), sigma_initial=np.float64(1.5), device=torch.device("cpu"))
    som.fit(blobs(20)).save(tmp_path / "map")
    again = SOM.load(tmp_path / "map")
    assert (again.n_rows, again.n_epochs, again.sigma_initial, again.device) == (2, 2, 1.5, "cpu")


def test_a_map_of_dask_is_pickled() -> None:
    da = pytest.importorskip("dask.array")
    x = blobs(40)
    som = SOM(2, 2, n_epochs=1).fit(da.from_array(x, chunks=(20, 4)))
    again = pickle.loads(pickle.dumps(som))
    np.testing.assert_array_equal(again.labels_.compute(scheduler="synchronous"), som.predict(x))


def test_places_of_what_is_fitted() -> None:
    x = blobs(20)
    som = SOM(2, 3, n_epochs=1)
    np.testing.assert_array_equal(som.fit_transform(x, output="coordinates"), som.transform(x, output="coordinates"))
    with pytest.raises(ValueError, match="output"):
        som.fit_transform(x, output="place")


@pytest.mark.parametrize("device", ["meta", "cuda:77"])
def test_devices_that_are_not_there(device: str) -> None:
    with pytest.raises(ValueError, match=f"device must be one that can compute here, got '{device}'"):
        SOM(2, 2, device=device).fit(blobs(10))


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.eye(4).to_sparse(), TypeError, "X must be a dense tensor"),
        (torch.empty(3, 2, device="meta"), ValueError, "X must hold numbers"),
        ([np.ones((0, 4))], ValueError, "X must have at least one row"),
        (np.array([[1.0, np.inf]]), ValueError, "X must be finite, got inf"),
    ],
)
def test_rows_that_cannot_be(x: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SOM(2, 2).fit(x)


def test_sizes_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="n_rows must be at least 1, got 0"):
        SOM(0, 3).fit(blobs(10))
    with pytest.raises(TypeError, match="loss must be a FusedSOMLoss, got 3"):
        SOM.from_loss(3)
    som = SOM(2, 2, n_epochs=1).fit(blobs(10)).set_params(n_rows=5)
    for use in (som.predict, som.transform, som.partial_fit, lambda x: som.u_matrix()):
        with pytest.raises(ValueError, match="n_rows and n_cols must be those of the fitted map of 4 units, got 5 and 2"):
            use(blobs(10))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"metric": "far"}, "metric must be one of"), ({"batch_size": 0}, "batch_size"), ({"topology": "round"}, "topology")],
)
def test_settings_made_wrong_after_a_fit(settings: dict, message: str) -> None:
    x = blobs(20)
    som = SOM(2, 2, n_epochs=1).fit(x).set_params(**settings)
    for use in (som.predict, som.transform, som.quantization_error, som.partial_fit, lambda x: som.u_matrix()):
        with pytest.raises(ValueError, match=message):
            use(x)


@pytest.mark.parametrize("init", ["pca", "sample"])
@pytest.mark.parametrize("random_state", [np.random.default_rng(0), -1, "a"])
def test_random_states_that_are_none(init: str, random_state: object) -> None:
    with pytest.raises(ValueError, match="random_state must be an int"):
        SOM(2, 2, init=init, random_state=random_state).fit(blobs(10))


def test_what_is_no_number_is_named() -> None:
    x, words = blobs(10), [["a"] * 4] * 4
    with pytest.raises(ValueError, match="init must be of real numbers"):
        SOM(2, 2, init=words).fit(x)
    with pytest.raises(ValueError, match="sample_weight must be of real numbers"):
        SOM(2, 2).fit(x, sample_weight=["a"] * 10)
    with pytest.raises(ValueError, match="prototypes must be of real numbers"):
        SOM.from_prototypes(x[:4] + 1j, 2, 2)
    with pytest.raises(TypeError, match="yet to be collected"):
        SOM(2, 2).fit(pytest.importorskip("polars").DataFrame(x).lazy())


def test_places_where_no_file_can_be(tmp_path: Path) -> None:
    som = SOM(2, 2, n_epochs=1).fit(blobs(10))
    for path in (tmp_path, tmp_path / "none" / "map"):
        with pytest.raises(FileNotFoundError, match="path must be a file in a folder that is there"):
            som.save(path)
    assert list(tmp_path.iterdir()) == []
