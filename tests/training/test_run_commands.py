"""``train`` with presets and tasks, ``evaluate``, ``predict`` and ``reproduce``, end to end on a few images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_run import small_pictures, write_dataset

from vitsom_fast import cli

TINY = ["--epochs=1", "--batch-size=16", "--width=8", "--depth=1", "--decoder-width=4", "--threads=1", "--backend=torch"]


@pytest.fixture(autouse=True)
def _small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    small_pictures(monkeypatch)


@pytest.fixture
def halves(tmp_path: Path) -> Path:
    """The tiny data set with a test half."""
    arrays = dict(np.load(write_dataset(tmp_path)))
    path = tmp_path / "halves.npz"
    images, labels = arrays["images"], arrays["labels"]
    np.savez(path, images=images[:40], labels=labels[:40], test_images=images[40:], test_labels=labels[40:])
    return path


def trained(halves: Path, *options: str) -> Path:
    run = halves.parent / "run"
    assert cli.main(["train", "--data", str(halves), "--out", str(run), "--grid", "3", "4", *TINY, *options]) == 0
    return run


def test_a_run_is_evaluated_on_each_half(halves: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(halves)
    report = json.loads((run / "metrics.json").read_text())
    assert report["held_out"]["accuracy"] is not None
    assert f"{'held out, accuracy':<20}{report['held_out']['accuracy']:>9.4f}" in capsys.readouterr().out
    assert cli.main(["evaluate", str(run)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {"train", "test"}
    assert found["train"]["purity"] == pytest.approx(report["purity"])
    assert found["train"]["accuracy_of_units"] == pytest.approx(report["purity"])
    assert found["test"]["accuracy_of_units"] == pytest.approx(report["held_out"]["accuracy"])
    assert found["test"]["images"] == 10


def test_a_run_is_evaluated_on_other_data_by_its_own_classes(halves: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(halves)
    arrays = dict(np.load(halves))
    only = arrays["labels"] != "ant"
    other = halves.parent / "other.npz"
    np.savez(other, images=arrays["images"][only], labels=arrays["labels"][only])
    units = {}
    for data in (halves, other):
        capsys.readouterr()
        assert cli.main(["evaluate", str(run), "--data", str(data)]) == 0
        units[data] = json.loads(capsys.readouterr().out)["train"]
    assert units[other]["images"] == only.sum()
    model = __import__("vitsom_fast.models", fromlist=["load_model"]).load_model(run)
    from vitsom_fast.data import load_dataset

    bees = load_dataset(str(other))
    named = [model.classes[each] for each in model.predict(bees.images).unit_class]
    assert units[other]["accuracy_of_units"] == pytest.approx(np.mean(np.array(named) == arrays["labels"][only]))


def test_a_classifier_is_trained_evaluated_and_asked(halves: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(halves, "--task", "classify")
    report = json.loads((run / "metrics.json").read_text())
    assert report["config"]["model"] == "vit-som"
    assert report["accuracy"].keys() == {"train", "test", "validation"}
    assert "accuracy, test" in capsys.readouterr().out
    assert cli.main(["evaluate", str(run)]) == 0
    assert json.loads(capsys.readouterr().out)["test"]["accuracy"] == pytest.approx(report["accuracy"]["test"])


@pytest.mark.parametrize("model", ["compact", "vit"])
def test_pictures_are_predicted(halves: Path, capsys: pytest.CaptureFixture[str], model: str) -> None:
    run = trained(halves, *(["--model", "vit", "--task", "classify"] if model == "vit" else []))
    pixels = (np.load(halves)["images"] * 255).astype(np.uint8)
    folder = halves.parent / "pictures"
    folder.mkdir()
    for index in range(3):
        Image.fromarray(pixels[index]).save(folder / f"{index}.png")
    np.savez(halves.parent / "three.npz", images=pixels[:3])
    answers = []
    for asked in ([str(folder)], [str(folder / f"{index}.png") for index in range(3)], [str(halves.parent / "three.npz")]):
        capsys.readouterr()
        assert cli.main(["predict", str(run), *asked]) == 0
        lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
        assert lines[0] == (["image", "class"] if model == "vit" else ["image", "unit", "distance", "class"])
        answers.append([line[1:] for line in lines[1:]])
    assert answers[0] == answers[1] == answers[2]
    assert len(answers[0]) == 3
    assert {line[-1] for line in answers[0]} <= {"ant", "bee", "cat"}


def test_a_preset_is_where_settings_begin(
    halves: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}

    def recording(config: object, *_args: object, **_options: object) -> None:
        seen["config"] = config
        raise KeyboardInterrupt

    from vitsom_fast.training.recipes import recipe

    monkeypatch.setattr(cli, "fit", recording)
    assert cli.main(["train", "--preset", "cifar-10", "--data", str(halves), "--epochs", "7"]) == 130
    assert seen["config"] == recipe("cifar-10", dataset=str(halves), epochs=7)
    with pytest.raises(SystemExit):
        cli.main(["train", "--preset", "best"])
    assert "consistency" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (["evaluate", "typo"], "no trained model 'typo'"),
        (["predict", "typo", "a.png"], "no trained model 'typo'"),
        (["predict", "typo"], "images must be given after the run"),
        (["predict", "typo", "a.png", "--out", "b.csv"], "out is where the units of a table go"),
        (["train", "--task", "classify", "--model", "desom", "--data", "DATA"], "kind must be 'vit-som' or 'vit'"),
        (["train", "--task", "sort"], "task must be one of"),
        (["reproduce", "clustering", "--seeds", "0"], "seeds must be above 0"),
        (["reproduce", "clustering", "--budget", "nan"], "budget must be above 0"),
        (["reproduce", "clustering", "--data", "digits"], "test half"),
        (["reproduce", "classification", "--data", "DATA", "--images", "41", "--out", "here"], "40 of the training half"),
        (["reproduce", "clustering", "--data", "DATA", "--images", "9", "20"], "images must be one number for clustering"),
        (["train", "--preset", "medmnist"], "https://medmnist.com"),
        (["train", "--data", ""], "dataset must be one of"),
        (["train", "--model", "vit-som", "--decoder-depth", "0", "--data", "DATA"], "decoder_depth must be at least 1"),
        (["reproduce", "clustering", "--data", "DATA", "--only", "GPT"], r"contenders must be of"),
    ],
)
def test_errors_are_one_line(
    halves: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: list[str], named: str
) -> None:
    monkeypatch.chdir(halves.parent)
    assert cli.main([str(halves) if word == "DATA" else word for word in command]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("vitsom-fast: error: ")
    assert named in line


def test_pictures_that_do_not_fit_are_named(halves: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(halves)
    Image.fromarray(np.zeros((9, 9), dtype=np.uint8)).save(halves.parent / "large.png")
    assert cli.main(["predict", str(run), str(halves.parent / "large.png")]) == 2
    assert "images must have shape (B, 1, 4, 6), got (1, 1, 9, 9)" in capsys.readouterr().err
    np.savez(halves.parent / "large.npz", images=np.zeros((2, 8, 8)))
    assert cli.main(["evaluate", str(run), "--data", str(halves.parent / "large.npz")]) == 2
    assert "data must have images of shape (1, 4, 6)" in capsys.readouterr().err


def test_a_comparison_is_of_one_process(
    halves: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(["reproduce", "clustering", "--data", str(halves)]) == 2
    assert "reproduce must run in one process, got 2: start it without torchrun" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{}", "[]", "{"])
def test_metrics_without_a_config_name_no_data(halves: Path, capsys: pytest.CaptureFixture[str], content: str) -> None:
    run = trained(halves)
    (run / "metrics.json").write_text(content)
    assert cli.main(["evaluate", str(run)]) == 2
    assert "data must be given" in capsys.readouterr().err
    assert cli.main(["evaluate", str(run), "--data", str(halves)]) == 0
    assert cli.main(["evaluate", str(run), "--data", ""]) == 2


def test_a_run_of_a_vit_is_resumed_as_it_is(halves: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(halves, "--task", "classify", "--model", "vit")
    table = capsys.readouterr().out
    assert f"{'':<20}{'ViT':>9}" in table
    assert "ViT-SOM" not in table
    assert cli.main(["train", "--resume", "--task", "classify", "--out", str(run)]) == 0


def test_a_command_that_is_stopped_says_what_it_can(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_args: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vitsom_fast.commands.evaluate.load_model", stopped)
    assert cli.main(["evaluate", "run"]) == 130
    assert capsys.readouterr().err == "vitsom-fast: stopped\n"
    monkeypatch.setattr("vitsom_fast.commands.reproduce.load_splits", stopped)
    assert cli.main(["reproduce", "clustering"]) == 130
    assert "the same command goes on" in capsys.readouterr().err
