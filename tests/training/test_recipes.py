"""Settings by name; schedules as published; every model in one loop, and resumed."""

from __future__ import annotations

import importlib
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_run import lasting, small_pictures, tiny_config

from vitsom_fast.data import Dataset, load_dataset
from vitsom_fast.models import PRESETS, AveragedSOM, MapModel, ViTSOM, info_nce, load_model, preset
from vitsom_fast.training import TrainConfig, fit
from vitsom_fast.training.build import build_model, build_optimizer, spec_of
from vitsom_fast.training.checkpoint import load_checkpoint
from vitsom_fast.training.loop import train_epoch
from vitsom_fast.training.pictures import PICTURES
from vitsom_fast.training.rates import constant_rate_factor, set_learning_rates
from vitsom_fast.training.recipes import NAMES, recipe


@pytest.fixture(autouse=True)
def _small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    small_pictures(monkeypatch)


def blank(shape: tuple[int, int, int], classes: int, count: int = 4) -> Dataset:
    labels = torch.arange(count) % max(classes, 1)
    return Dataset("blank", torch.zeros(count, *shape, dtype=torch.uint8), labels, tuple(map(str, range(classes))))


@pytest.mark.parametrize("name", PRESETS)
def test_the_settings_of_a_preset_build_its_model(name: str) -> None:
    published, config = preset(name), recipe(name)
    found = spec_of(config, blank(published.spec.image_shape, published.spec.num_classes))
    smoothing = published.spec.label_smoothing if published.spec.num_classes else 0.0
    unused = {"latent_dim": found.latent_dim, "label_smoothing": smoothing}
    assert found == replace(published.spec, **unused)
    assert (config.epochs, config.batch_size, config.gamma) == (published.epochs, published.batch_size, published.gamma)
    assert (config.first_temperature, config.t_min, config.weight_decay) == (published.t_max, published.t_min, 0.05)
    assert config.augmentation == ("classification" if published.spec.num_classes else "none")


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_is_whole(name: str) -> None:
    config = recipe(name)
    assert TrainConfig.from_json(config.to_json()) == config
    assert recipe(name, seed=5) == replace(config, seed=5)


def test_an_unknown_recipe_is_named() -> None:
    with pytest.raises(ValueError, match=r"preset must be one of .*'consistency'.*'best'"):
        recipe("best")


# Learning rates


def rates(config: TrainConfig, dataset: Dataset, steps: range, per_epoch: int) -> list[tuple[float, float]]:
    """Of the network and of the prototypes, at each step."""
    optimizer = build_optimizer(build_model(config, dataset), config)
    found = []
    for step in steps:
        set_learning_rates(optimizer, config, step, per_epoch)
        found.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[2]["lr"]))
    return found


def test_the_published_rate_changes_with_the_epoch() -> None:
    config = recipe("usps", grid=(2, 2), epochs=100)
    found = rates(config, blank((1, 16, 16), 0), range(0, 1000, 5), 10)
    for step, (network, prototypes) in zip(range(0, 1000, 5), found, strict=True):
        epoch = step // 10
        factor = max(1e-5, min((epoch + 1) / 5, 0.5 * (1 + math.cos(math.pi * epoch / 100))))  # 25 of 500 epochs
        assert network == pytest.approx(0.01 * 128 / 256 * factor)
        assert prototypes == network


def test_prototypes_keep_learning_until_the_last_tenth(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, epochs=10, prototype_lr_scale=3.0, warmup=0.2)
    found = rates(config, load_dataset(config.dataset), range(100), 10)
    peak = 0.1 * 16 / 256
    assert found[9] == pytest.approx((peak / 2, 3 * peak / 2))
    assert [prototypes for _, prototypes in found[19:91]] == pytest.approx([3 * peak] * 72)
    assert [prototypes for _, prototypes in found[95:]] == pytest.approx([3 * peak * x / 10 for x in (5, 4, 3, 2, 1)])
    assert found[50][0] == pytest.approx(peak / 2)
    together = rates(replace(config, prototype_schedule="cosine"), load_dataset(config.dataset), range(100), 10)
    assert all(prototypes == pytest.approx(3 * network) for network, prototypes in together)


def test_the_constant_rate_is_never_below_its_floor() -> None:
    assert constant_rate_factor(10**7 - 1, 10**7, 0.0, 1e-3) == 1e-3
    assert constant_rate_factor(0, 1, 0.0) == 1.0


# One loop for all

MODELS = {
    "vit-som": {"model": "vit-som", "width": 8, "drop_path": 0.2, "depth": 2},
    "ema": {"model": "vit-som", "prototypes": "ema"},
    "consistency": {"model": "vit-som", "latent": "neck", "latent_dim": 4, "consistency": 0.5, "kernel": 4},
    "desom": {"model": "desom", "latent_dim": 4},
    "som-vae": {"model": "som-vae", "latent_dim": 4, "distance": "sqeuclidean"},
    "classify": {"model": "vit-som", "task": "classify", "label_smoothing": 0.1, "augmentation": "classification"},
    "vit": {"model": "vit", "task": "classify"},
    "vit with a neck": {"model": "vit", "task": "classify", "latent": "neck"},
    "no decoder": {"model": "vit-som", "task": "classify", "decoder_depth": 0},
    "accumulated": {"model": "compact", "accumulate": 3},
    "bf16": {"model": "vit-som", "amp": "bf16", "prototypes": "ema"},
}


@pytest.mark.parametrize("name", MODELS)
def test_every_model_trains_and_resumes_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    config = tiny_config(tmp_path, epochs=2, lr=1e-3, backend="torch", **MODELS[name])
    expected = fit(config, tmp_path / "whole", progress=False)
    assert expected["failed"] == {}
    assert len(expected["loss_per_epoch"]) == 2

    class Stop(BaseException):
        pass

    def stopping(*args: object) -> dict[str, float]:
        if args[4] == 1:
            raise Stop
        return train_epoch(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(importlib.import_module("vitsom_fast.training.fit"), "train_epoch", stopping)
        with pytest.raises(Stop):
            fit(config, tmp_path / "run", progress=False)
    found = fit(config, tmp_path / "run", resume=True, progress=False)
    assert lasting(found) == lasting(expected)
    tensors = [load_checkpoint(tmp_path / each / "checkpoint.safetensors").tensors for each in ("whole", "run")]
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
    images = load_dataset(config.dataset).images
    for run in ("whole", "run"):
        model = load_model(tmp_path / run, backend="torch")
        assert model.classes == ("ant", "bee", "cat")
        if isinstance(model, MapModel):
            assert model.unit_classes is not None
            assert (model.predict(images).unit_class >= 0).all()


@pytest.mark.parametrize("name", ["classify", "vit", "desom"])
def test_parts_of_the_loss_and_accuracies_are_reported(tmp_path: Path, name: str) -> None:
    config = tiny_config(tmp_path, epochs=1, backend="torch", lr=1e-3, **MODELS[name])
    report = fit(config, tmp_path / "run", progress=False)
    parts = {"classify": ("classification", "som"), "vit": ("classification",), "desom": ("reconstruction", "som")}[name]
    assert {key for key in report if key.endswith("_loss_per_epoch")} == {f"{part}_loss_per_epoch" for part in parts}
    assert (report["accuracy"] is None) == (name == "desom")
    assert (report["purity"] is None) == (name == "vit")
    if report["accuracy"]:
        assert 0 <= report["accuracy"]["train"] <= 1
        assert report["accuracy"]["test"] is None
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == json.loads(json.dumps(report))


def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, epochs=1, backend="torch", batch_size=50, lr=1e-3)
    weights = []
    for accumulate in (1, 4):
        torch.manual_seed(0)
        each = replace(config, accumulate=accumulate)
        dataset = load_dataset(config.dataset)
        model = build_model(each, dataset)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        optimizer.param_groups[0].update(scale=1.0, of_prototypes=False)
        record = train_epoch(model, optimizer, dataset, each, 0)
        weights.append((record["loss"], [p.detach() for p in model.parameters()]))
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-4, atol=1e-6)


def test_ema_prototypes_are_not_the_optimizers(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, model="vit-som", prototypes="ema")
    model = build_model(config, load_dataset(config.dataset))
    assert isinstance(model.som, AveragedSOM)
    trained = {id(p) for group in build_optimizer(model, config).param_groups for p in group["params"]}
    assert trained == {id(p) for p in model.autoencoder.parameters()}


def test_the_decoder_of_a_classifier_is_not_trained(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, model="vit-som", task="classify")
    model = build_model(config, load_dataset(config.dataset))
    trained = {id(p) for group in build_optimizer(model, config).param_groups for p in group["params"]}
    idle = {name for name, p in model.named_parameters() if id(p) not in trained}
    assert idle == {name for name, _ in model.named_parameters() if "decoder" in name or "to_pixels" in name}
    assert idle


def test_runs_of_before_keep_the_schedule_that_they_had(tmp_path: Path) -> None:
    settings = json.loads(tiny_config(tmp_path).to_json())
    for name in list(settings)[list(settings).index("task") :]:
        del settings[name]  # as they were written before
    assert TrainConfig.from_json(json.dumps(settings)) == tiny_config(tmp_path, prototype_schedule="cosine")


def test_classification_needs_labels(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, model="vit", task="classify")
    with pytest.raises(ValueError, match="labels for the task 'classify'"):
        spec_of(config, Dataset("d", torch.zeros(2, 1, 4, 6)))


@pytest.mark.parametrize("setting", ["task", "model", "latent", "augmentation", "prototypes", "lr_changes", "amp", "distance"])
def test_a_choice_that_is_none_is_named(setting: str) -> None:
    with pytest.raises(ValueError, match=f"^{setting} must be one of"):
        TrainConfig(**{setting: "other"})


def test_a_finished_run_is_back_in_one_line(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, epochs=1, backend="torch")
    report = fit(config, tmp_path / "run", progress=False)
    model = ViTSOM.from_pretrained(tmp_path / "run", backend="torch")
    unit, _, unit_class = model.predict(load_dataset(config.dataset).images)
    labels = load_dataset(config.dataset).labels
    assert labels is not None
    assert (unit_class == labels).double().mean().item() == pytest.approx(report["purity"])
    assert model.som.grid == config.make_grid()
    assert unit.max() < 12


@pytest.mark.parametrize("model", ["compact", "vit-som", "desom"])
def test_compile_is_of_encoder_and_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    compiled: list[torch.nn.Module] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **_options: compiled.append(self))
    config = tiny_config(tmp_path, model=model, compile=True, latent_dim=4)
    built = build_model(config, load_dataset(config.dataset))
    assert compiled == [built.autoencoder.encoder, built.autoencoder.decoder]


@pytest.mark.parametrize(
    ("settings", "seen"),
    [
        ({}, {"augmented": 0, "autocast": False, "parts": 4, "absorbed": 0}),
        ({"augmentation": "classification"}, {"augmented": 4, "autocast": False, "parts": 4, "absorbed": 0}),
        ({"amp": "bf16"}, {"augmented": 0, "autocast": True, "parts": 4, "absorbed": 0}),
        ({"accumulate": 3}, {"augmented": 0, "autocast": False, "parts": 12, "absorbed": 0}),
        ({"prototypes": "ema"}, {"augmented": 0, "autocast": False, "parts": 4, "absorbed": 4}),
    ],
    ids=["plain", "augmented", "bf16", "accumulated", "ema"],
)
def test_a_pass_does_what_the_settings_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], seen: dict[str, int]
) -> None:
    """50 images in batches of at most 16 are four steps."""
    found = {"augmented": 0, "autocast": False, "parts": 0, "absorbed": 0}
    config = tiny_config(tmp_path, model="vit-som", backend="torch", epochs=1, lr=1e-3, **settings)
    dataset = load_dataset(config.dataset)
    model = build_model(config, dataset)
    losses, absorb = model.losses, AveragedSOM.absorb

    def augmenting(images: torch.Tensor, *_args: object) -> torch.Tensor:
        found["augmented"] += 1
        return images

    def recording(*args: object) -> dict[str, torch.Tensor]:
        found["parts"] += 1
        found["autocast"] = torch.is_autocast_enabled("cpu")
        return losses(*args)

    def absorbing(self: AveragedSOM) -> None:
        found["absorbed"] += 1
        absorb(self)

    monkeypatch.setattr("vitsom_fast.training.loop.augmented", augmenting)
    monkeypatch.setattr(model, "losses", recording)
    monkeypatch.setattr(AveragedSOM, "absorb", absorbing)
    before = model.som.prototypes.detach().clone()
    train_epoch(model, build_optimizer(model, config), dataset, config, 0)
    assert found == seen
    assert not torch.equal(model.som.prototypes, before)


def test_consistency_has_no_part_in_classification() -> None:
    with pytest.raises(ValueError, match="consistency must be 0 for the task"):
        TrainConfig(model="vit-som", consistency=0.5, task="classify")


def test_consistency_compares_the_images_of_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three parts of the 12 or 13 images of each batch, whose latents are those of two views each."""
    config = tiny_config(tmp_path, epochs=1, model="vit-som", consistency=0.5, accumulate=3, backend="torch", lr=1e-3)
    compared: list[int] = []

    def counting(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        compared.append(len(first))
        return info_nce(first, second)

    monkeypatch.setattr("vitsom_fast.models.som_autoencoder.info_nce", counting)
    dataset = load_dataset(config.dataset)
    model = build_model(config, dataset)
    record = train_epoch(model, build_optimizer(model, config), dataset, config, 0)
    assert sum(compared) == 50
    assert set(compared) == {4, 5}
    assert 0 < record["consistency_loss"] < 3  # 1.9 and 2.2 by chance


@pytest.mark.parametrize("task", ["cluster", "classify"])
def test_prototypes_are_drawn_by_a_decoder_that_was_trained(tmp_path: Path, task: str) -> None:
    config = tiny_config(tmp_path, epochs=1, model="vit-som", task=task, backend="torch", lr=1e-3)
    assert fit(config, tmp_path / "run", progress=False)["failed"] == {}
    pictures = {path.name for path in (tmp_path / "run").glob("*.png")}
    assert pictures == {*PICTURES} - ({"prototypes.png"} if task == "classify" else set())
