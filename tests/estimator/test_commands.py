"""``vitsom-fast fit`` and ``vitsom-fast predict``, and pictures of an estimator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from test_fit import blobs

from vitsom_fast import SOM, plotting
from vitsom_fast.cli import main


def table_of(folder: Path, suffix: str) -> Path:
    """Rows in four columns, the third a thousand times the others, and in a table a column of classes."""
    path, x = folder / f"data.{suffix}", blobs(60) * [1, 1, 1000, 1]
    if suffix == "npy":
        np.save(path, x)
        return path
    pandas = pytest.importorskip("pandas")
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    table = pandas.DataFrame(x, columns=list("abcd"))
    table["kind"] = np.where(x[:, 0] > 0, "more", "less")
    (table.to_parquet if suffix == "parquet" else table.to_csv)(path, index=False)
    return path


@pytest.mark.parametrize("suffix", ["csv", "parquet", "npy"])
def test_a_table_is_fitted_and_predicted(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = table_of(tmp_path, suffix)
    label = [] if suffix == "npy" else ["--label", "kind"]
    how = ["--rows", "3", "--cols", "4", "--topology", "hexagonal", "--epochs", "3", "--standardize", *label]
    assert main(["fit", str(path), *how]) == 0
    out = tmp_path / "data-som"
    names = {"map.safetensors", "scaling.json", "units.csv", "u_matrix.png", "hits.png", "planes.png"}
    assert {each.name for each in out.iterdir()} == names | ({"classes.png"} if label else set())
    assert "60 rows of 4 features, 3 x 4 units, quantization error" in capsys.readouterr().out
    x = blobs(60) * [1, 1, 1000, 1]
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    som = SOM(3, 4, topology="hexagonal", n_epochs=3).fit(x)
    found = np.loadtxt(out / "units.csv", delimiter=",", skiprows=1, dtype=int)
    np.testing.assert_array_equal(found, np.stack([som.labels_, *np.divmod(som.labels_, 4)], axis=1))
    assert main(["predict", str(path), "--map", str(out)]) == 0
    assert (tmp_path / "data-units.csv").read_text() == (out / "units.csv").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "none.csv"], "data must be a file"),
        (["fit", "data.txt"], "one of"),
        (["fit", "data.npy", "--label", "kind"], "label"),
        (["fit", "data.npy", "--out", "data.npy"], "out must be a folder"),
        (["fit", "data.npy", "--epochs", "0"], "n_epochs"),
        (["fit", "data.npy", "--rows", "0"], "rows"),
        (["predict", "data.npy", "--map", "none"], "SOM.save"),
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table_of(tmp_path, "npy")
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("vitsom-fast: error: ")
    assert message in said
    assert not (tmp_path / "data-som").exists()


def test_columns_that_are_no_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Are said to be left out; truth values are numbers, and some rows may have no class."""
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(blobs(30), columns=list("abcd"))
    table["b"] = table["b"].astype(object)
    table.loc[3, "b"] = "?"
    table["c"] = table["c"] > 0
    table["kind"] = np.where(table["a"] > 0, "more", None)
    table.to_csv(tmp_path / "data.csv", index=False)
    how = ["--rows", "2", "--cols", "2", "--epochs", "2", "--schedule", "linear", "--batch-size", "7", "--backend", "torch"]
    assert main(["fit", str(tmp_path / "data.csv"), *how, "--device", "cpu", "--label", "kind"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "left out, since not all of it is numbers: b"
    assert "30 rows of 3 features" in said[1]
    som = SOM.load(tmp_path / "data-som" / "map.safetensors")
    assert list(som.feature_names_in_) == list("acd")
    assert (som.schedule, som.batch_size, som.backend, som.device) == ("linear", 7, "torch", "cpu")
    assert (tmp_path / "data-som" / "classes.png").exists()
    assert main(["predict", str(tmp_path / "data.csv"), "--map", str(tmp_path / "data-som")]) == 0


def test_a_fit_that_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SOM, "fit", stopped)
    assert main(["fit", str(table_of(tmp_path, "npy"))]) == 130
    assert capsys.readouterr().err.splitlines() == ["vitsom-fast: stopped"]


def test_missing_numbers_ask_for_their_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = blobs(20)
    x[3, 1] = np.nan
    np.save(tmp_path / "x.npy", x)
    assert main(["fit", str(tmp_path / "x.npy")]) == 2
    assert "--missing ignore" in capsys.readouterr().err


def cells_of(figure: Figure) -> list[PolyCollection]:
    return [each for axes in figure.axes for each in axes.collections if isinstance(each, PolyCollection)]


@pytest.mark.parametrize(("topology", "corners"), [("rectangular", 4), ("hexagonal", 6)])
def test_pictures_of_an_estimator(topology: str, corners: int) -> None:
    x = blobs(80)
    som = SOM(3, 4, topology=topology, n_epochs=2).fit(x)
    hits = plotting.plot_hit_map(som, x)
    np.testing.assert_array_equal(cells_of(hits)[0].get_array(), som.hit_map(x).ravel())
    np.testing.assert_allclose(cells_of(plotting.plot_u_matrix(som))[0].get_array(), som.u_matrix().ravel())
    planes = cells_of(plotting.plot_component_planes(som, names=list("abcd")))
    for plane, values in zip(planes, som.prototypes_.T, strict=True):
        np.testing.assert_array_equal(plane.get_array(), values)
        assert {len(path.vertices) - 1 for path in plane.get_paths()} == {corners}
    classes = plotting.plot_hit_map(som, x, labels=np.where(x[:, 0] > 0, "more", "less"))
    assert {text.get_text() for text in classes.axes[0].texts} == {"more", "less"}
    way = plotting.plot_trajectory(som, x[:5]).axes[0].lines[0].get_xydata()
    np.testing.assert_allclose(way, som.grid.positions.numpy()[som.predict(x[:5])][:, ::-1])
    with pytest.raises(ValueError, match="names must be 4"):
        plotting.plot_component_planes(som, names=["a"])
