"""Settings, data sets, schedules and the loop."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_run import lasting, small_pictures, tiny_config

from vitsom_fast.training import TrainConfig, fit, load_dataset
from vitsom_fast.training.fit import build_model, build_optimizer, learning_rate_factor, sample_order


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
    ],
)
def test_config_names_what_is_wrong(setting: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=setting):
        TrainConfig(**{setting: value})


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
        expected = [setting.name] if setting.name != "threads" and type(value) is not str else []
        assert config.differences(other) == expected
    assert config.differences(replace(config, dataset="photo-patches", topology="hexagonal")) == ["dataset", "topology"]


def test_first_temperature_is_half_the_longer_side_unless_given() -> None:
    assert TrainConfig(grid=(4, 10)).first_temperature == 5.0
    assert TrainConfig(grid=(4, 10), t_max=3).first_temperature == 3.0
    assert TrainConfig(grid=(1, 1), t_min=2.0).first_temperature == 2.0  # never below the last


# Data


def test_digits() -> None:
    digits = load_dataset("digits")
    assert digits.images.shape == (1797, 1, 8, 8)
    assert digits.images.aminmax() == (0.0, 1.0)
    assert digits.classes == tuple("0123456789")
    assert digits.labels is not None
    assert torch.bincount(digits.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_photo_patches_are_cut_from_the_photographs() -> None:
    from sklearn.datasets import load_sample_image

    patches = load_dataset("photo-patches")
    assert patches.images.shape == (2 * 53 * 80, 3, 8, 8)
    assert patches.labels is None
    expected = torch.tensor(load_sample_image("china.jpg")[8:16, 24:32]).permute(2, 0, 1) / 255
    torch.testing.assert_close(patches.images[80 + 3], expected)


def test_npz_of_bytes_with_channels_and_named_labels(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
    np.savez(tmp_path / "pets.npz", images=images, labels=["dog", "cat", "dog", "ant", "cat"])
    pets = load_dataset(str(tmp_path / "pets.npz"))
    assert pets.name == "pets"
    torch.testing.assert_close(pets.images[2, 1], torch.from_numpy(images[2, :, :, 1]) / 255)
    assert pets.classes == ("ant", "cat", "dog")
    assert pets.labels is not None
    assert pets.labels.tolist() == [2, 1, 2, 0, 1]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pixels": np.zeros((2, 4, 4))}, "'images'.*pixels"),
        ({"images": np.zeros((2, 4))}, r"shape \(N, H, W\)"),
        ({"images": np.zeros((0, 4, 4))}, "shape"),
        ({"images": np.zeros((2, 4, 4), dtype=np.int32)}, "int32"),
        ({"images": np.full((2, 4, 4), 1.5)}, r"\[0, 1\]"),
        ({"images": np.full((2, 4, 4), np.nan)}, "finite"),
        ({"images": np.zeros((2, 4, 4)), "labels": np.zeros(3)}, "labels"),
        ({"images": np.array([[["a"]]], dtype=object)}, "cannot be used"),
    ],
)
def test_unusable_npz_is_explained(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=f"bad.npz.*{message}"):
        load_dataset(str(tmp_path / "bad.npz"))


def test_other_unusable_datasets_are_explained(tmp_path: Path) -> None:
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(ValueError, match=r"torn\.npz"):
        load_dataset(str(tmp_path / "torn.npz"))
    with pytest.raises(FileNotFoundError, match=r"none\.npz"):
        load_dataset(str(tmp_path / "none.npz"))
    with pytest.raises(ValueError, match=r"'digits'.*'imagenet'"):
        load_dataset("imagenet")


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
    config = tiny_config(tmp_path)
    model = build_model(config, load_dataset(config.dataset))
    groups = build_optimizer(model, config).param_groups
    trained = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(trained) == sorted(id(parameter) for parameter in model.parameters())
    decays = {id(p) for group in groups if group["weight_decay"] > 0 for p in group["params"]}
    assert decays == {id(p) for p in model.autoencoder.parameters() if p.dim() > 1}


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
    assert names == {"checkpoint.safetensors", "metrics.json", "prototypes.png", "u_matrix.png", "hit_map.png"}
    for name in ("prototypes.png", "u_matrix.png", "hit_map.png"):
        assert (tmp_path / "run" / name).read_bytes().startswith(b"\x89PNG")


def test_without_labels_there_is_no_purity(tmp_path: Path) -> None:
    np.savez(tmp_path / "plain.npz", images=np.random.default_rng(0).random((20, 4, 4)))
    config = replace(tiny_config(tmp_path, epochs=1), dataset=str(tmp_path / "plain.npz"))
    report = fit(config, tmp_path / "run", progress=False)
    assert report["purity"] is report["nmi"] is report["plain_som"] is None
    assert report["quantization_error"] > 0


@pytest.mark.parametrize("topology", ["rectangular", "hexagonal"])
def test_every_backend_gives_the_same_loss_curve(tmp_path: Path, backend: str, topology: str) -> None:
    config = tiny_config(tmp_path, epochs=10, lr=0.03, topology=topology, periodic=True, grid=(4, 3))
    expected = fit(replace(config, backend="reference"), tmp_path / "reference", progress=False)
    report = fit(replace(config, backend=backend), tmp_path / backend, progress=False)
    assert report["backend"] == backend
    np.testing.assert_allclose(report["loss_per_epoch"], expected["loss_per_epoch"], rtol=1e-3)
    assert report["purity"] == pytest.approx(expected["purity"], abs=0.05)


def test_schedules_run_from_first_to_last_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vitsom_fast.models import ViTSOM

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
    from vitsom_fast.training.checkpoint import load_checkpoint

    tensors = load_checkpoint(tmp_path / "run" / "checkpoint.safetensors").tensors
    assert all(torch.isfinite(value).all() for name, value in tensors.items() if name.startswith("model."))


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
