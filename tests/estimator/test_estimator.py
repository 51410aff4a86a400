"""The estimator as scikit-learn's tools use it."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from test_fit import blobs

from vitsom_fast import SOM, FusedSOMLoss


@parametrize_with_checks([SOM(3, 3, n_epochs=3)])
def test_checks_of_scikit_learn(estimator: SOM, check: Callable[[SOM], None]) -> None:
    check(estimator)


def test_a_search_and_a_pipeline() -> None:
    x = blobs(120) * [1, 10, 100, 1000]
    pipeline = make_pipeline(StandardScaler(), SOM(n_epochs=2))
    search = GridSearchCV(pipeline, {"som__n_rows": [1, 4], "som__metric": ["euclidean", "manhattan"]}, cv=2).fit(x)
    assert search.best_params_["som__n_rows"] == 4  # more units are nearer
    assert cross_val_score(pipeline, x, cv=3).max() < 0
    assert pipeline.fit(x).predict(x).shape == (120,)


def test_output_as_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    x = pandas.DataFrame(blobs(30), index=range(100, 130), columns=list("abcd"))
    som = SOM(2, 3, n_epochs=2).set_output(transform="pandas")
    distances = som.fit_transform(x)
    assert list(distances.columns) == [f"som{unit}" for unit in range(6)]
    assert list(som.feature_names_in_) == list("abcd")
    assert (distances.to_numpy().argmin(axis=1) == som.labels_).all()
    places = som.transform(x, output="coordinates")
    assert list(places.columns) == ["row", "column"]
    assert list(places.index) == list(x.index)


def test_places_are_those_of_the_grid() -> None:
    x = blobs(40)
    som = SOM(3, 4, topology="hexagonal", n_epochs=2).fit(x)
    np.testing.assert_allclose(som.transform(x, output="coordinates"), som.grid.positions.numpy()[som.labels_])


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "cosine", "manhattan"])
@pytest.mark.parametrize("batch_size", [7, None])
def test_distances_are_those_of_the_prototypes(metric: str, batch_size: int | None) -> None:
    x = blobs(50) + 100
    som = SOM(2, 3, metric=metric, n_epochs=2, batch_size=batch_size).fit(x)
    difference = x[:, None] - som.prototypes_
    expected = {
        "euclidean": np.linalg.norm(difference, axis=2),
        "sqeuclidean": (difference**2).sum(axis=2),
        "manhattan": np.abs(difference).sum(axis=2),
        "cosine": 1 - (x @ som.prototypes_.T) / np.outer(np.linalg.norm(x, axis=1), np.linalg.norm(som.prototypes_, axis=1)),
    }[metric]
    np.testing.assert_allclose(som.transform(x), expected, rtol=1e-6, atol=1e-12)
    assert som.transform(x.astype(np.float32)).dtype == np.float32


def test_pictures_of_numbers() -> None:
    x = blobs(200)
    som = SOM(4, 5, n_epochs=3).fit(x)
    assert som.hit_map(x).sum() == 200
    assert som.hit_map(x).shape == som.u_matrix().shape == (4, 5)
    a, b, c = som.prototypes_[[0, 1, 5]]
    corner = [np.linalg.norm(a - other) for other in (b, c, som.prototypes_[6])]
    assert som.u_matrix()[0, 0] == pytest.approx(np.mean(corner), rel=1e-5)
    assert 0 <= som.topographic_error(x) <= 1
    assert SOM(1, 1).fit(x).topographic_error(x) == 0


@pytest.mark.parametrize("form", ["pickle", "file"])
def test_a_map_is_kept(form: str, tmp_path: Path) -> None:
    x = blobs(60)
    settings = {"topology": "hexagonal", "metric": "manhattan", "init": x[:12]}
    som = SOM(3, 4, **settings, n_epochs=2).fit(x)
    if form == "pickle":
        again = pickle.loads(pickle.dumps(som))
    else:
        som.save(tmp_path / "map.safetensors")
        again = SOM.load(tmp_path / "map.safetensors")
        assert [path.name for path in tmp_path.iterdir()] == ["map.safetensors"]
    np.testing.assert_array_equal(again.prototypes_, som.prototypes_)
    np.testing.assert_array_equal(again.predict(x), som.labels_)
    np.testing.assert_array_equal(again.init, som.init)
    assert again.history_ == som.history_
    assert again.n_iter_ == 2
    for name, value in som.get_params().items():
        assert name == "init" or again.get_params()[name] == value


def test_names_of_features_are_kept(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    x = pandas.DataFrame(blobs(60), columns=list("abcd"))
    SOM(2, 2, n_epochs=1).fit(x).save(tmp_path / "map")
    again = SOM.load(tmp_path / "map")
    assert list(again.feature_names_in_) == list("abcd")
    with pytest.raises(ValueError, match="feature names"):
        again.predict(x[list("bacd")])


def test_files_that_hold_no_map(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="path"):
        SOM.load(tmp_path / "none")
    (tmp_path / "other").write_bytes(b"no map")
    with pytest.raises(ValueError, match=r"path must be a file of SOM\.save"):
        SOM.load(tmp_path / "other")


def test_prototypes_of_others() -> None:
    table = np.random.default_rng(0).normal(size=(3, 4, 5))
    som = SOM.from_prototypes(table, metric="cosine")
    assert (som.n_rows, som.n_cols, som.metric) == (3, 4, "cosine")
    np.testing.assert_array_equal(som.prototypes_, table.reshape(12, 5))
    np.testing.assert_array_equal(som.predict(table.reshape(12, 5)), np.arange(12))
    np.testing.assert_array_equal(SOM.from_prototypes(table.reshape(12, 5), 3, 4).prototypes_, som.prototypes_)


@pytest.mark.parametrize(
    "settings",
    [
        {"topology": "hexagonal"},
        {"metric": "cosine", "periodic": True, "neighborhood": "bubble"},
        {"metric": "manhattan", "backend": "torch"},
    ],
)
def test_to_a_loss_and_back(settings: dict) -> None:
    x = blobs(80)
    som = SOM(3, 4, **settings, n_epochs=2).fit(x)
    loss = FusedSOMLoss.from_estimator(som)
    assert loss.grid == som.grid
    assert (loss.distance, loss.neighborhood) == (som.metric, som.neighborhood)
    units, _ = loss.find_bmu(torch.from_numpy(x).float())
    np.testing.assert_array_equal(units.numpy(), som.labels_)
    again = SOM.from_loss(loss, n_epochs=2)
    np.testing.assert_allclose(again.prototypes_, som.prototypes_, rtol=1e-6)
    assert again.get_params() == som.get_params()


def test_units_of_minisom() -> None:
    minisom = pytest.importorskip("minisom")
    x = blobs(100)
    other = minisom.MiniSom(3, 4, 4, random_seed=0)
    other.train(x, 50)
    som = SOM.from_prototypes(other.get_weights())
    assert [divmod(unit, 4) for unit in som.predict(x).tolist()] == [tuple(map(int, other.winner(row))) for row in x]
    assert som.quantization_error(x) == pytest.approx(other.quantization_error(x), rel=1e-5)
    assert som.topographic_error(x) == pytest.approx(other.topographic_error(x), abs=0.02)


@pytest.mark.parametrize("rows", [6, 7])
def test_hexagons_of_minisom(rows: int) -> None:
    """Its second axis is our rows; where they are even in number, those shifted are shifted the other way."""
    minisom = pytest.importorskip("minisom")
    x = blobs(100)
    other = minisom.MiniSom(5, rows, 4, topology="hexagonal", sigma=1.5, random_seed=0)
    other.train(x, 50)
    turned = slice(None, None, -1 if rows % 2 == 0 else 1)
    som = SOM.from_prototypes(other.get_weights().transpose(1, 0, 2)[:, turned], topology="hexagonal")
    across, down = (places.T[:, turned] for places in other.get_euclidean_coordinates())
    if rows % 2 == 0:
        across = -across
    places = np.stack([down - down[0, 0], across - across[0, 0]], axis=-1).reshape(-1, 2)
    np.testing.assert_allclose(som.grid.positions.numpy(), places, atol=1e-12)
    assert som.topographic_error(x) == pytest.approx(other.topographic_error(x), abs=0.02)
    assert som.quantization_error(x) == pytest.approx(other.quantization_error(x), rel=1e-5)


WRONG = {
    "metric": ({"metric": "far"}, ValueError),
    "topology": ({"topology": "round"}, ValueError),
    "periodic": ({"periodic": 1}, TypeError),
    "neighborhood": ({"neighborhood": "flat"}, ValueError),
    "n_epochs": ({"n_epochs": 0}, ValueError),
    "sigma_initial": ({"sigma_initial": -1.0}, ValueError),
    "sigma_final": ({"sigma_final": np.inf}, ValueError),
    "schedule": ({"schedule": "slow"}, ValueError),
    "init": ({"init": "best"}, ValueError),
    "missing": ({"missing": "drop"}, ValueError),
    "batch_size": ({"batch_size": 0}, ValueError),
    "device": ({"device": "tpu9"}, ValueError),
    "backend": ({"backend": "fast"}, ValueError),
    "rows": ({"n_rows": 0}, ValueError),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_settings_are_named(name: str) -> None:
    settings, error = WRONG[name]
    with pytest.raises(error, match=name):
        SOM(**{"n_rows": 2, "n_cols": 2, **settings}).fit(blobs(10))


@pytest.mark.parametrize(
    ("init", "message"),
    [(np.zeros((3, 4)), r"\(4, D\) or \(2, 2, D\)"), (np.zeros((4, 3)), "4 features"), (np.full((4, 4), np.nan), "finite")],
)
def test_wrong_prototypes_are_named(init: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=f"init must .*{message}"):
        SOM(2, 2, init=init).fit(blobs(10))


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (iter([np.ones((3, 2))]), TypeError, "begins anew"),
        (torch.ones(3), ValueError, r"\(N, D\)"),
        (torch.full((3, 2), torch.inf), ValueError, "finite"),
        (torch.ones(3, 2, dtype=torch.complex64), ValueError, "real"),
        (torch.empty(0, 2), ValueError, "at least one row"),
        ([np.ones((3, 2)), np.ones((3, 3))], ValueError, "2 features"),
        ([np.ones((3, 2)), np.full((3, 2), np.inf)], ValueError, "finite"),
    ],
)
def test_wrong_rows_are_named(x: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.compile(f"X must .*{message}")):
        SOM(2, 2).fit(x)


@pytest.mark.parametrize("weight", [np.ones(9), np.ones(11), np.ones((10, 1)), -np.ones(10), np.full(10, np.nan), np.zeros(10)])
@pytest.mark.parametrize("chunks", [False, True])
def test_wrong_weights_are_named(weight: np.ndarray, chunks: bool) -> None:
    x = blobs(10)
    with pytest.raises(ValueError, match="sample_weight"):
        SOM(2, 2).fit([x[:5], x[5:]] if chunks else x, sample_weight=weight)


def test_other_features_are_refused() -> None:
    som = SOM(2, 2, n_epochs=1).fit(torch.from_numpy(blobs(10)))
    with pytest.raises(ValueError, match="3 features, but SOM is expecting 4"):
        som.predict(torch.ones(2, 3))


def test_stopped_by_hand() -> None:
    """After the second epoch: the map is that of it, and a warning says so."""
    x = blobs(50)

    class Interrupted:
        reads = 0

        def __iter__(self):
            Interrupted.reads += 1
            if Interrupted.reads == 6:  # its shape, its first row, its moments, two epochs
                raise KeyboardInterrupt
            yield x

    with pytest.warns(UserWarning, match=r"stopped in epoch 3 of 9: the map is that of epoch 2"):
        som = SOM(3, 3, n_epochs=9).fit(Interrupted())
    assert som.n_iter_ == 2
    expected = SOM(3, 3, n_epochs=9)
    for _ in range(2):
        expected.partial_fit(x)
    np.testing.assert_allclose(som.prototypes_, expected.prototypes_, atol=1e-5)
    np.testing.assert_array_equal(som.labels_, som.predict(x))


def test_a_bar_of_epochs(capsys: pytest.CaptureFixture[str]) -> None:
    SOM(2, 2, n_epochs=3, verbose=True).fit(blobs(10))
    shown = capsys.readouterr().err
    assert "3/3" in shown
    assert "quantization error" in shown


def test_the_package_is_imported_without_it() -> None:
    """Nor with what it needs; ``SOM`` is there all the same."""
    heavy = ("sklearn", "pandas", "matplotlib", "dask")
    code = f"import sys, vitsom_fast; print([name for name in {heavy} if name in sys.modules], 'SOM' in dir(vitsom_fast))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[] True"
