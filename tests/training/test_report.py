"""A report of which a part fails: it holds all else, says what is missing and why, and resuming makes it whole."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_run import lasting, small_pictures, tiny_config

from vitsom_fast import cli, plotting, sample_plots
from vitsom_fast.messages import one_line
from vitsom_fast.models import ViTAutoencoder
from vitsom_fast.training import evaluate, files, fit, report

NUMBERS = ("purity", "nmi", "quantization_error", "topographic_error")


@pytest.fixture(autouse=True)
def _small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    small_pictures(monkeypatch)


def no_nan(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def written(folder: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((folder / files.METRICS).read_text(), parse_constant=no_nan)
    return metrics


def failing(error: BaseException) -> Callable[..., Any]:
    def fail(*_args: Any, **_kwargs: Any) -> Any:
        raise error

    return fail


PARTS = {
    "evaluation": (report, "evaluate"),
    "prototypes.png": (plotting, "plot_prototypes"),
    "class_map.png": (plotting, "plot_class_map"),
    "component_planes.png": (plotting, "plot_component_planes"),
    "embedding.png": (sample_plots, "plot_embedding"),
    "attention.png": (sample_plots, "plot_attention"),
    "index.html": (report, "page"),
    "u_matrix.png": (plotting, "plot_u_matrix"),
    "hit_map.png": (plotting, "plot_hit_map"),
    "plain_som": (report, "evaluate_plain_som"),
}


@pytest.mark.parametrize("part", PARTS)
def test_what_fails_is_named_all_else_is_written_and_resuming_finishes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    config, folder = tiny_config(tmp_path, epochs=1), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(*PARTS[part], failing(RuntimeError("no memory\nfor 90 GB")))
        found = fit(config, folder, progress=False)
    assert json.loads(json.dumps(found)) == written(folder)
    missing = {part} | ({"class_map.png", "hit_map.png", "attention.png"} if part == "evaluation" else set())
    assert found["failed"].keys() == missing
    assert found["failed"][part] == "RuntimeError: no memory"
    assert part != "evaluation" or "evaluation" in found["failed"]["hit_map.png"]
    assert {name for name in PARTS if name.endswith(".png") and not (folder / name).exists()} == {
        name for name in missing if name.endswith(".png")
    }
    assert (found["plain_som"] is None) == (part == "plain_som")
    assert all((found[name] is None) == (part == "evaluation") for name in NUMBERS)
    whole = fit(config, folder, resume=True, progress=False)
    assert whole["failed"] == {}
    assert lasting(whole) == lasting(fit(config, tmp_path / "other", progress=False))


def test_a_report_takes_no_more_at_once_than_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are as large as memory allows; what comes after them must fit, too."""
    sizes: list[int] = []
    for name in ("encode", "decode"):
        real = getattr(ViTAutoencoder, name)

        def recording(self: ViTAutoencoder, x: torch.Tensor, real: Callable[..., Any] = real) -> torch.Tensor:
            sizes.append(len(x))
            found: torch.Tensor = real(self, x)
            return found

        monkeypatch.setattr(ViTAutoencoder, name, recording)
    fit(tiny_config(tmp_path, epochs=1, batch_size=8), tmp_path / "run", progress=False)
    assert max(sizes) <= 8
    # Two passes and one decoding of the samples, one of the prototypes; two of samples that are drawn; those of a unit.
    assert 0 < sum(sizes) - (5 * 50 + 12) <= 8


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError(), "MemoryError"),
        (ValueError("\n\n$\n  ^"), "ValueError: $"),
        (OSError(28, "full"), "OSError: [Errno 28] full"),
    ],
    ids=repr,
)
def test_an_error_is_one_line_whatever_its_message(error: Exception, line: str) -> None:
    assert one_line(error) == line


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_null_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    def evaluation(*args: Any) -> evaluate.Evaluation:
        found = evaluate.evaluate(*args)
        return evaluate.Evaluation(found.purity, found.nmi, value, found.topographic_error, found.bmu)

    monkeypatch.setattr(report, "evaluate", evaluation)
    fit(tiny_config(tmp_path, epochs=1), tmp_path / "run", progress=False)
    found = written(tmp_path / "run")
    assert found["quantization_error"] is None
    assert str(value) in found["failed"]["quantization_error"]
    assert found["purity"] is not None


def test_the_command_says_so_in_one_line_and_does_not_succeed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "evaluate_plain_som", failing(RuntimeError("no memory")))
    config = tiny_config(tmp_path)
    command = ["train", "--dataset", config.dataset, "--grid", "3", "4", "--epochs=1", "--out", str(tmp_path / "run")]
    assert cli.main(command) == 1
    captured = capsys.readouterr()
    assert "purity" in captured.out
    (line,) = (line for line in captured.err.splitlines() if line.startswith("vitsom-fast"))
    assert "plain_som (RuntimeError: no memory); --resume" in line


def test_ctrl_c_is_no_failing_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "evaluate_plain_som", failing(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        fit(tiny_config(tmp_path, epochs=1), tmp_path / "run", progress=False)


def test_images_without_a_label_do_not_count() -> None:
    bmu, labels = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([2, 2, -1, 0, -1])
    assert evaluate._against_labels(bmu, labels) == pytest.approx((1.0, 1.0))
    assert evaluate._against_labels(bmu, torch.full((5,), -1)) == (None, None)


def test_a_run_on_images_of_which_some_have_no_label(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, epochs=1)
    arrays = dict(np.load(config.dataset))
    np.savez(config.dataset, images=arrays["images"], labels=np.where(np.arange(50) < 30, arrays["labels"], ""))
    found = fit(config, tmp_path / "some", progress=False)
    assert found["dataset"]["classes"] == ["ant", "bee", "cat"]
    assert found["purity"] is not None
    np.savez(config.dataset, images=arrays["images"], labels=np.full(50, -1))
    assert fit(config, tmp_path / "none", progress=False)["purity"] is None
