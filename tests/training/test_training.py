"""Settings, schedules and the loop."""

from __future__ import annotations

import importlib
import io
import json
import math
from base64 import b64encode
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import BACKENDS
from tiny_run import lasting, small_pictures, tiny_config

from vitsom_fast.models import ViTSOM
from vitsom_fast.progress import progress_bar
from vitsom_fast.training import TrainConfig, fit, load_dataset
from vitsom_fast.training.build import build_model, build_optimizer
from vitsom_fast.training.checkpoint import load_checkpoint
from vitsom_fast.training.loop import sample_order
from vitsom_fast.training.pictures import PICTURES
from vitsom_fast.training.rates import learning_rate_factor

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    small_pictures(monkeypatch)


# Settings


def test_config_survives_json() -> None:
    config = TrainConfig(grid=(3, 5), topology="hexagonal", lr=1e-3, periodic=False)
    assert TrainConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("setting", "value", "error"),
    [
        ("epochs", 0, ValueError),
        ("epochs", 2.5, TypeError),
        ("batch_size", -1, ValueError),
        ("seed", -1, ValueError),
        ("seed", True, TypeError),
        ("gamma", math.nan, ValueError),
        ("gamma", -1.0, ValueError),
        ("t_min", 0.0, ValueError),
        ("t_max", math.inf, ValueError),
        ("lr", 0.0, ValueError),
        ("lr", "fast", TypeError),
        ("warmup", 1.5, ValueError),
        ("backend", "tpu", ValueError),
        ("grid", (3,), ValueError),
        ("topology", "triangular", ValueError),
        ("seed", 2**64, ValueError),
        ("threads", 10**5, ValueError),
        ("width", 10**20, ValueError),
        ("epochs", np.int64(0), ValueError),
        ("epochs", np.float32(2), TypeError),
        ("gamma", 1e39, ValueError),
        ("lr", 1e38, ValueError),
        ("lr", 10**400, TypeError),
    ],
)
def test_config_names_what_is_wrong(setting: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=setting):
        TrainConfig(**{setting: value})


def test_config_takes_numpy_scalars() -> None:
    scalars = TrainConfig(
        grid=np.array([3, 5]),
        epochs=np.int32(2),
        periodic=np.bool_(True),
        topology=np.str_("rectangular"),
        t_max=np.float32(2.5),
    )
    plain = TrainConfig(grid=(3, 5), epochs=2, periodic=True, topology="rectangular", t_max=2.5)
    assert scalars == plain
    assert scalars.to_json() == plain.to_json()
    assert TrainConfig(grid=(np.int64(3), np.int64(5)), gamma=np.int64(2)) == TrainConfig(grid=(3, 5), gamma=2.0)


def test_config_differences_are_of_what_changes_the_result() -> None:
    config = TrainConfig()
    for setting in fields(TrainConfig):
        value = getattr(config, setting.name)
        changed = {
            bool: lambda v: not v,
            str: lambda v: v,
            tuple: lambda v: (3, 3),
            int: lambda v: v + 2,
            float: lambda v: v / 2 + 0.03,
        }
        other = replace(config, **{setting.name: changed[type(value)](value)})
        expected = [setting.name] if setting.metadata["changes_result"] and type(value) is not str else []
        assert config.differences(other) == expected
    assert config.differences(replace(config, dataset="moved.npz", threads=2, topology="hexagonal")) == ["topology"]


def test_first_temperature_is_half_the_longer_side_unless_given() -> None:
    assert TrainConfig(grid=(4, 10)).first_temperature == 5.0
    assert TrainConfig(grid=(4, 10), t_max=3).first_temperature == 3.0
    assert TrainConfig(grid=(1, 1), t_min=2.0).first_temperature == 2.0  # never below the last


# Schedules and order


def test_learning_rate_follows_the_paper() -> None:
    factors = [learning_rate_factor(step, 100, 0.1) for step in range(100)]
    assert factors[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert factors[50] == pytest.approx(0.5)
    assert factors[75] == pytest.approx(0.5 * (1 + math.cos(0.75 * math.pi)))
    assert learning_rate_factor(10**6 - 1, 10**6, 0.1) == 1e-5
    assert learning_rate_factor(0, 1, 0.0) == 1.0


def test_order_of_samples_depends_on_seed_and_epoch_alone() -> None:
    orders = {(seed, epoch): sample_order(100, seed, epoch) for seed in (0, 1, 2) for epoch in (0, 1, 2)}
    assert all(torch.equal(order.sort().values, torch.arange(100)) for order in orders.values())
    assert len({tuple(order.tolist()) for order in orders.values()}) == 9
    torch.rand(5)
    assert torch.equal(sample_order(100, 2, 1), orders[2, 1])


def test_every_parameter_is_trained_and_only_matrices_decay(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, weight_decay=0.02, prototype_lr_scale=3.0)
    model = build_model(config, load_dataset(config.dataset))
    groups = build_optimizer(model, config).param_groups
    trained = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(trained) == sorted(id(parameter) for parameter in model.parameters())
    decays = {id(p) for group in groups if group["weight_decay"] > 0 for p in group["params"]}
    assert decays == {id(p) for p in model.autoencoder.parameters() if p.dim() > 1}
    assert {group["weight_decay"] for group in groups} == {0.02, 0.0}
    assert {id(p): group["scale"] for group in groups for p in group["params"]} == {
        id(p): pytest.approx(3.0 if p is model.som.prototypes else 1.0) for p in model.parameters()
    }


# The loop


def test_same_seed_same_metrics_and_the_callers_random_numbers_untouched(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    torch.manual_seed(1)
    expected_next = torch.rand(3)
    torch.manual_seed(1)
    first = fit(config, tmp_path / "a", progress=False)
    assert torch.equal(torch.rand(3), expected_next)
    second = fit(config, tmp_path / "b", progress=False)  # begins with other random numbers in the air
    assert lasting(first) == lasting(second)
    other = fit(replace(config, seed=5), tmp_path / "c", progress=False)
    assert other["loss_per_epoch"] != first["loss_per_epoch"]


def test_a_run_leaves_metrics_and_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # real pictures, once
    config = tiny_config(tmp_path, epochs=40)
    report = fit(config, tmp_path / "run", progress=False)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == json.loads(json.dumps(report))
    assert len(report["loss_per_epoch"]) == len(report["seconds_per_epoch"]) == 40
    assert report["loss_per_epoch"][-1] < 0.7 * report["loss_per_epoch"][0]
    assert report["purity"] == 1.0  # three patterns on twelve units
    assert report["plain_som"]["purity"] == 1.0
    assert 0 < report["quantization_error"] < 0.5
    assert 0 <= report["topographic_error"] <= 1
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"checkpoint.safetensors", "metrics.json", "model.safetensors", "index.html", "latents", *PICTURES}
    page = (tmp_path / "run" / "index.html").read_text()
    for name in PICTURES:
        content = (tmp_path / "run" / name).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert b64encode(content).decode() in page
    assert {path.name for path in (tmp_path / "run" / "latents").iterdir()} == {f"epoch-{n}.npy" for n in (0, 10, 20, 40)}


def test_without_labels_there_is_no_purity(tmp_path: Path) -> None:
    np.savez(tmp_path / "plain.npz", images=np.random.default_rng(0).random((20, 4, 4)))
    config = replace(tiny_config(tmp_path, epochs=1), dataset=str(tmp_path / "plain.npz"))
    report = fit(config, tmp_path / "run", progress=False)
    assert report["purity"] is report["nmi"] is report["plain_som"] is None
    assert report["quantization_error"] > 0


@pytest.fixture(scope="module", params=["rectangular", "hexagonal"])
def reference_run(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TrainConfig, dict[str, Any]]:
    """A config, and the report of its run on the reference."""
    folder = tmp_path_factory.mktemp("reference")
    config = tiny_config(folder, epochs=3, lr=0.03, topology=request.param, periodic=True, grid=(4, 3), backend="reference")
    with pytest.MonkeyPatch.context() as patch:
        small_pictures(patch)
        return config, fit(config, folder / "run", progress=False)


def test_every_backend_gives_the_same_loss_curve(
    tmp_path: Path, backend: str, reference_run: tuple[TrainConfig, dict[str, Any]]
) -> None:
    config, expected = reference_run
    report = fit(replace(config, backend=backend, device=BACKENDS[backend]), tmp_path / backend, progress=False)
    assert report["backend"] == backend
    np.testing.assert_allclose(report["loss_per_epoch"], expected["loss_per_epoch"], rtol=1e-3)
    assert report["purity"] == pytest.approx(expected["purity"], abs=0.05)


def test_schedules_run_from_first_to_last_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temperatures, sizes = [], []
    forward = ViTSOM.forward

    def recording(self: ViTSOM, images: torch.Tensor, temperature: float) -> Any:
        temperatures.append(temperature)
        sizes.append(len(images))
        return forward(self, images, temperature)

    monkeypatch.setattr(ViTSOM, "forward", recording)
    fit(tiny_config(tmp_path, t_max=2.0, t_min=0.5, epochs=3), tmp_path / "run", progress=False)
    assert temperatures == pytest.approx([2.0 * 0.25 ** (step / 11) for step in range(12)])
    assert sizes == [13, 13, 12, 12] * 3  # 50 images in batches of at most 16, none of them small


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, lr=1e36)
    with pytest.raises(FloatingPointError, match="lower lr"):
        fit(config, tmp_path / "run", progress=False)
    tensors = load_checkpoint(tmp_path / "run" / "checkpoint.safetensors").tensors
    assert all(torch.isfinite(value).all() for name, value in tensors.items() if name.startswith("model."))


def test_weights_that_are_not_finite_stop_the_run_and_keep_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("vitsom_fast.training.fit")
    train_epoch = module.train_epoch

    def overflowing(model: ViTSOM, *args: Any) -> dict[str, Any]:
        record: dict[str, Any] = train_epoch(model, *args)  # its losses are finite: the last step alone went wrong
        with torch.no_grad():
            model.som.prototypes[2, 3] = math.inf
        return record

    monkeypatch.setattr(module, "train_epoch", overflowing)
    with pytest.raises(FloatingPointError, match=r"weights.*lower lr"):
        fit(tiny_config(tmp_path, epochs=1), tmp_path / "run", progress=False)
    kept = load_checkpoint(tmp_path / "run" / "checkpoint.safetensors")
    assert kept.history == []
    assert torch.isfinite(kept.tensors["model.som.prototypes"]).all()


def test_a_model_that_memory_cannot_hold_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_args: Any) -> ViTSOM:
        raise RuntimeError("can't allocate memory\nfor 4 TB")

    monkeypatch.setattr(importlib.import_module("vitsom_fast.training.fit"), "build_model", no_memory)
    with pytest.raises(ValueError, match=r"grid \(3, 4\) and width 8 cannot be made: RuntimeError: can't allocate memory$"):
        fit(tiny_config(tmp_path), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_two_runs_that_start_at_once_get_two_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = tiny_config(tmp_path, epochs=1)
    folders: list[Path] = []

    def other_starts(folder: Path) -> None:
        folders.append(folder)
        if len(folders) == 1:
            fit(config, progress=False, started=folders.append)

    fit(config, progress=False, started=other_starts)
    assert folders == [Path("runs/tiny"), Path("runs/tiny-2")]
    assert all((folder / "metrics.json").exists() for folder in folders)


def test_a_typo_in_the_instruction_set_is_no_slow_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "VITSOM_CPU_ISA must be one of avx2, baseline on this processor, got 'avx51'"
    monkeypatch.delenv("VITSOM_BACKEND", raising=False)
    monkeypatch.setattr("vitsom_fast.backends.cpu._reason", reason)
    with pytest.raises(ValueError, match="VITSOM_CPU_ISA"):
        fit(tiny_config(tmp_path), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
    assert fit(tiny_config(tmp_path, backend="torch", epochs=1), tmp_path / "run", progress=False)["backend"] == "torch"


class Gone:
    """stderr of a terminal that is no longer there."""

    encoding = "utf-8"

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.calls = 0

    def write(self, text: str) -> int:
        self.calls += 1
        raise self.error

    def flush(self) -> None:
        raise self.error


@pytest.mark.parametrize(
    "stream",
    [
        None,
        *map(Gone, [BrokenPipeError(32, "pipe"), OSError(5, "EIO"), OSError(9, "EBADF")]),
        *map(Gone, [ValueError("closed"), ValueError("detached")]),
    ],
    ids=["no stderr", "pipe", "terminal", "descriptor", "closed", "detached"],
)
def test_training_goes_on_without_its_progress_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: Any) -> None:
    config = tiny_config(tmp_path, epochs=2)
    with monkeypatch.context() as patch:
        patch.setattr("sys.stderr", stream)
        report = fit(config, tmp_path / "run", progress=True)
    assert len(report["loss_per_epoch"]) == 2
    assert stream is None or stream.calls


def test_a_log_has_lines_and_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """Carriage returns in a file leave one line of all epochs; a hundred of them leave ten."""
    log = io.StringIO()
    monkeypatch.setattr("sys.stderr", log)
    with progress_bar(100, 15, shown=True) as advance:
        for epoch in range(15, 100):
            advance({"loss": 1 / (epoch + 1)})
    lines = log.getvalue().splitlines()
    assert "\r" not in log.getvalue()
    assert [line.split(" ")[0] for line in lines] == [f"{done}/100" for done in range(20, 101, 10)]
    assert lines[-1].endswith("loss=0.01")


@pytest.mark.parametrize(("device", "message"), [("gpu", "'cpu', 'cuda'"), ("meta", "'cpu', 'cuda'"), ("cuda:77", "cuda:77")])
def test_unusable_device_is_explained(tmp_path: Path, device: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(tiny_config(tmp_path, device=device), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_threads_are_given_back(tmp_path: Path) -> None:
    torch.set_num_threads(2)
    report = fit(tiny_config(tmp_path, threads=0, epochs=1), tmp_path / "run", progress=False)
    assert report["threads"] == 1  # a tiny batch is not worth sharing
    assert torch.get_num_threads() == 2


def test_digits_in_a_few_epochs(tmp_path: Path) -> None:
    report = fit(TrainConfig(grid=(8, 8), epochs=25), tmp_path / "run", progress=False)
    assert report["purity"] >= 0.85
    assert report["topographic_error"] <= 0.25
