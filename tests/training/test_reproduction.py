"""The comparisons, end to end on a few images: everyone is in the table, and what is there is not made again."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from vitsom_fast import FusedSOMLoss, cli
from vitsom_fast.data import Dataset, Splits, digits_affine
from vitsom_fast.models import MapBank
from vitsom_fast.reproduction import classification, clustering
from vitsom_fast.reproduction.contenders import CLUSTERING, PLAIN
from vitsom_fast.reproduction.figure import plot_sizes
from vitsom_fast.reproduction.memory import peak_megabytes
from vitsom_fast.reproduction.published import CLUSTERING as CLUSTERING_PUBLISHED
from vitsom_fast.reproduction.published import Published
from vitsom_fast.reproduction.results import Results, table

pytestmark = pytest.mark.filterwarnings("ignore:.*units of the map win:UserWarning")


module = importlib.import_module("vitsom_fast.reproduction.clustering")  # the package has a function of that name


@pytest.fixture(autouse=True)
def _small_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty one, but for what ``made`` draws: a real one takes most of the time."""
    for name in ("clustering", "classification"):
        inside = importlib.import_module(f"vitsom_fast.reproduction.{name}")
        monkeypatch.setattr(inside, "plot_sizes", lambda *_args, **_kwargs: Figure(figsize=(0.1, 0.1)))


@pytest.fixture(scope="module")
def splits() -> Splits:
    return digits_affine(16, train=200, test=60)


@pytest.fixture(scope="module")
def made(splits: Splits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clustering")
    clustering(splits, folder, sides=(2, 3), seeds=1, epochs=1, progress=False, tell=lambda _: None)
    return folder


def test_everyone_is_in_the_table_at_every_size(made: Path) -> None:
    text = (made / "table.md").read_text()
    rows = json.loads((made / "results.json").read_text())["rows"]
    names = {*PLAIN, *(each.name for each in CLUSTERING)}
    assert {(row["model"], row["size"]) for row in rows} == {(name, size) for name in names for size in ("2x2", "3x3")}
    for row in rows:
        assert f"| {row['model']} | {row['size']} | 1 | {row['purity']:.3f} | {row['accuracy']:.3f} |" in text
        assert 0.1 <= row["purity"] <= 1
    assert "As published, on other data" in text
    assert "| ViT-SOM (40x40) | MNIST | 0.955 ± 0.001 | 5.0M |" in text
    for each in CLUSTERING:
        seconds = {row["train_seconds"] for row in rows if row["model"] == each.name}
        assert len(seconds) == (1 if each.one_encoder else 2)


def test_sizes_and_scores_are_drawn(made: Path) -> None:
    """Figure 1 of the paper, from ``results.json`` alone."""
    rows = json.loads((made / "results.json").read_text())["rows"]
    figure = plot_sizes(rows, CLUSTERING_PUBLISHED, score="accuracy, held out", published_score="purity")
    ours, theirs = figure.axes
    assert [text.get_text() for text in ours.get_legend().get_texts()] == list(dict.fromkeys(row["model"] for row in rows))
    lines = {container.get_label(): container.lines[0].get_xydata() for container in ours.containers}
    wanted = [[row["parameters"], row["accuracy"]] for row in rows if row["model"] == "DESOM"]
    np.testing.assert_allclose(lines["DESOM"], sorted(wanted))
    assert len(theirs.collections) == 3  # data sets
    assert {text.get_text() for text in theirs.texts} >= {"DESOM", "ViT-SOM (40x40)"}
    with pytest.raises(ValueError, match="at least one model"):
        plot_sizes([], CLUSTERING_PUBLISHED, score="", published_score="")


def test_parameters_are_those_of_the_encoder_and_one_map(made: Path) -> None:
    rows = {(row["model"], row["size"]): row for row in json.loads((made / "results.json").read_text())["rows"]}
    assert rows["SOM, cosine", "3x3"]["parameters"] == 9 * 256
    published = [rows["ViT-SOM as published", size]["parameters"] for size in ("2x2", "3x3")]
    assert published == [13832 + 4 * 1024, 13832 + 9 * 1024]  # what the usps preset has beside its map


def test_what_is_there_is_not_made_again(made: Path, splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_args: object, **_options: object) -> None:
        raise AssertionError

    before = (made / "results.json").read_bytes()
    for name in ("train", "fit_plain_som"):
        monkeypatch.setattr(importlib.import_module("vitsom_fast.reproduction.clustering"), name, never)
    clustering(splits, made, sides=(2, 3), seeds=1, epochs=1, progress=False, tell=never)
    assert (made / "results.json").read_bytes() == before
    with pytest.raises(ValueError, match="other settings"):
        clustering(splits, made, sides=(2, 4), seeds=1, epochs=1)


def test_the_same_again_gives_the_same_scores(made: Path, splits: Splits, tmp_path: Path) -> None:
    name = "ViT-SOM + consistency"
    clustering(splits, tmp_path, sides=(2, 3), seeds=1, epochs=1, contenders=[name], progress=False, tell=lambda _: None)
    old, new = (json.loads((folder / "results.json").read_text())["rows"] for folder in (made, tmp_path))
    scores = ("size", "purity", "accuracy", "nmi")
    assert [[row[s] for s in scores] for row in new] == [[row[s] for s in scores] for row in old if row["model"] == name]


def test_a_budget_becomes_epochs(splits: Splits, tmp_path: Path) -> None:
    """So little time that one epoch is all there is."""
    name = "DESOM"
    clustering(splits, tmp_path, sides=(2,), seeds=1, minutes=1e-6, contenders=[name], progress=False, tell=lambda _: None)
    assert [row["epochs"] for row in json.loads((tmp_path / "results.json").read_text())["rows"]] == [1]


def test_classification_on_few_and_on_more_images(splits: Splits, tmp_path: Path) -> None:
    text = classification(splits, tmp_path, images=(50, 100), seeds=2, epochs=1, progress=False, tell=lambda _: None)
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert len(rows) == 2 * 2 * 2
    for name in ("ViT", "ViT-SOM"):
        assert f"| {name}, 100 images | 100 | 2 |" in text
    counts = {row["model"]: row["parameters"] for row in rows}
    assert counts["ViT-SOM, 50 images"] - counts["ViT, 50 images"] == 64 * 16 * 64  # the map alone


def test_the_command_prints_and_keeps_the_table(
    splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("vitsom_fast.commands.reproduce.load_splits", lambda *_: splits)
    command = ["reproduce", "clustering", "--seeds", "1", "--epochs", "1", "--sides", "2", "--out", str(tmp_path / "out")]
    assert cli.main([*command, "--only", "SOM, cosine", "--images", "150", "--threads", "1"]) == 0
    assert (tmp_path / "out" / "table.md").read_text() in capsys.readouterr().out
    assert cli.main([*command[:-1], str(tmp_path / "held"), "--only", "SOM, cosine", "--validation"]) == 0


# The pieces


def test_a_bank_is_the_sum_of_its_maps_each_at_its_own_radius() -> None:
    maps = [FusedSOMLoss((4, 6), 5, backend="torch"), FusedSOMLoss((2, 3), 5, backend="torch")]
    bank, z = MapBank(maps), torch.randn(7, 5)
    loss, bmu = bank(z, 3.0, return_bmu=True)
    torch.testing.assert_close(loss, maps[0](z, 3.0) + maps[1](z, 1.5))
    assert torch.equal(bmu, maps[0].find_bmu(z)[0])
    assert torch.equal(bank(z, 3.0), loss)
    assert {id(p) for p in bank.parameters()} == {id(each.prototypes) for each in maps}
    with pytest.raises(ValueError, match="dim"):
        MapBank([maps[0], FusedSOMLoss((2, 2), 4)])
    with pytest.raises(ValueError, match="at least one"):
        MapBank([])


def test_a_table_is_of_means_and_deviations(tmp_path: Path) -> None:
    rows = [{"model": "A", "size": "2x2", "seed": seed, "score": score, "n": 7} for seed, score in enumerate((0.5, 0.7))]
    rows += [{"model": "B", "size": "2x2", "seed": 0, "score": None, "n": 12345}]
    text = table(rows, {"score": "score", "n": "count"}, [Published("C", "MNIST", 0.9, None, "1M")], "purity", ["A note."])
    assert "| A | 2x2 | 2 | 0.600 ± 0.141 | 7 |" in text
    assert "| B | 2x2 | 1 | - | 12345 |" in text
    assert "| C | MNIST | 0.900 | 1M |" in text
    assert text.rstrip().endswith("A note.")


def test_results_survive_a_stop(tmp_path: Path) -> None:
    results = Results(tmp_path, {"sides": (2, 3)})
    results.add([{"model": "A", "size": "2x2", "seed": 0}])
    again = Results(tmp_path, {"sides": [2, 3]})
    assert again.has("A", 0)
    assert not again.has("A", 1)
    with pytest.raises(ValueError, match="other settings"):
        Results(tmp_path, {"sides": [2]})


def test_peak_memory_is_of_what_runs_within() -> None:
    with peak_megabytes(torch.device("cpu")) as peak:
        if peak() is None:
            pytest.skip("this system does not tell")
        block = torch.ones(30_000_000)
        del block
        found = peak()
    assert found is not None
    assert 100 < found < 400


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"settings": {"seeds": 1}, "rows": [{"model": "A"}]}', '{"settings": 1, "rows": []}']
)
def test_results_that_cannot_be_read_are_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ValueError, match=r"^results '.*results\.json' cannot be read [^\n]+$"):
        Results(tmp_path, {"seeds": 1})


def test_seeds_are_added_with_the_time_that_each_had(tmp_path: Path) -> None:
    Results(tmp_path, {"seeds": 2, "minutes": 40}).add([{"model": "A", "size": "2x2", "seed": 0}])
    more = Results(tmp_path, {"seeds": 3, "minutes": 40})
    assert more.has("A", 0)
    assert more.settings["seeds"] == 2
    with pytest.raises(ValueError, match="other settings"):
        Results(tmp_path, {"seeds": 2, "minutes": 41})


def test_sizes_that_are_asked_for_twice_are_made_once(splits: Splits, tmp_path: Path) -> None:
    only = {"contenders": ["SOM, cosine"], "seeds": 1, "epochs": 1, "progress": False, "tell": lambda _: None}
    clustering(splits, tmp_path, sides=(2, 2), **only)
    (row,) = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert row["size"] == "2x2"


def test_images_without_a_label_are_no_class_of_the_purity() -> None:
    labels = torch.tensor([0, 0, -1, -1, -1])
    images = torch.zeros(5, 1, 2, 2)
    splits = Splits(Dataset("d", images, labels, ("a",)), Dataset("d", images, labels, ("a",)))
    bmu = torch.zeros(5, dtype=torch.int64)
    assert module._scores(bmu, bmu, splits, (1, 2))["purity"] == 1.0
    unknown = Splits(Dataset("d", images, torch.full_like(labels, -1)), splits.test)
    assert module._scores(bmu, bmu, unknown, (1, 2))["purity"] is None  # NaN is no JSON


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured on Linux alone")
def test_peak_memory_of_a_second_run_is_that_of_the_first() -> None:
    """What the first has freed is not there for the second to use unseen."""

    def measured() -> float:
        with peak_megabytes(torch.device("cpu")) as peak:
            many = [torch.ones(4000) for _ in range(4000)]  # 64 MB in pieces that the allocator keeps
            del many
            found = peak()
        assert found is not None
        return found

    first, second = measured(), measured()
    assert min(first, second) > 40
