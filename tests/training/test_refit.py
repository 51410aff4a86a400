"""A map fitted anew to the final latents is the plain SOM on them, whatever it was trained by; the encoder stays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_run import small_pictures, tiny_config

from vitsom_fast.data import load_dataset
from vitsom_fast.models import MapBank, ViTSOM, fit_plain_som
from vitsom_fast.training import fit
from vitsom_fast.training.build import build_model
from vitsom_fast.training.refit import refit


@pytest.mark.parametrize("distance", ["cosine", "sqeuclidean"])
@pytest.mark.parametrize("prototypes", ["gradient", "ema"])
def test_prototypes_are_those_of_a_batch_som_on_the_latents(tmp_path: Path, distance: str, prototypes: str) -> None:
    config = tiny_config(tmp_path, model="vit-som", refit=3, distance=distance, prototypes=prototypes, backend="torch")
    dataset = load_dataset(config.dataset)
    model = build_model(config, dataset)
    below = {name: value.clone() for name, value in model.autoencoder.state_dict().items()}
    refit(model, dataset, config)
    with torch.no_grad():
        latents = model.encode(dataset.images)
    expected = fit_plain_som(latents, config.make_grid(), epochs=3, t_min=config.t_min, distance=distance)
    torch.testing.assert_close(model.som.prototypes.detach(), expected)
    assert all(torch.equal(below[name], value) for name, value in model.autoencoder.state_dict().items())


def test_every_map_of_a_bank_is_fitted(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, refit=1, backend="torch")
    dataset = load_dataset(config.dataset)
    model, other = build_model(config, dataset), build_model(replace(config, grid=(2, 2)), dataset)
    before = [each.som.prototypes.detach().clone() for each in (model, other)]
    model.som = MapBank([model.som, other.som])
    refit(model, dataset, config)
    assert not any(torch.equal(each.prototypes, old) for each, old in zip(model.som.maps, before, strict=True))


def test_without_epochs_nothing_changes(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, backend="torch")
    dataset = load_dataset(config.dataset)
    model = build_model(config, dataset)
    before = model.som.prototypes.detach().clone()
    refit(model, dataset, config)
    assert torch.equal(model.som.prototypes, before)


def test_a_run_ends_with_the_map_fitted_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_pictures(monkeypatch)
    config = tiny_config(tmp_path, epochs=1, refit=2, backend="torch", lr=1e-3)
    report = fit(config, tmp_path / "run", progress=False)
    model = ViTSOM.from_pretrained(tmp_path / "run", backend="torch")
    dataset = load_dataset(config.dataset)
    with torch.no_grad():
        latents = model.encode(dataset.images)
    expected = fit_plain_som(latents, config.make_grid(), epochs=2, t_min=config.t_min, distance="cosine")
    torch.testing.assert_close(model.som.prototypes.detach(), expected, rtol=1e-4, atol=1e-5)
    assert fit(config, tmp_path / "run", resume=True, progress=False)["purity"] == report["purity"]
