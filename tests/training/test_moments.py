"""Latents that are kept while a model is trained, for the picture of how they part."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_run import small_pictures, tiny_config

from vitsom_fast.data import load_dataset
from vitsom_fast.training import fit
from vitsom_fast.training.build import build_model
from vitsom_fast.training.moments import chosen, in_two_dimensions, moments, principal_components, remember, remembered


@pytest.mark.parametrize(("epochs", "kept"), [(1, [0, 1]), (2, [0, 1, 2]), (3, [0, 1, 2, 3]), (100, [0, 25, 50, 100])])
def test_moments_are_start_quarter_half_and_end(epochs: int, kept: list[int]) -> None:
    assert sorted(moments(epochs)) == kept


@pytest.mark.parametrize("count", [1, 7, 1000, 2345])
def test_images_are_spread_over_all(count: int) -> None:
    index = chosen(count)
    assert len(index.unique()) == len(index) == min(count, 1000)
    assert index[0] == 0
    assert index[-1] == count - 1


@pytest.mark.parametrize("shape", [(40, 6), (6, 40), (5, 5), (1, 3)], ids=str)
def test_principal_components_are_those_of_the_svd(shape: tuple[int, int]) -> None:
    x = torch.randn(shape, dtype=torch.float64)
    found = principal_components(x, 3)
    left, values, _ = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    scores = (left * values)[:, :3]
    torch.testing.assert_close(found.abs(), scores.abs(), atol=1e-6, rtol=1e-6)
    assert (found.max(0).values >= -found.min(0).values - 1e-12).all()


def test_umap_is_asked_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    class UMAP:
        def __init__(self, random_state: int) -> None:
            assert random_state == 0

        def fit_transform(self, x: np.ndarray) -> np.ndarray:
            return x[:, 1:3] + 1

    latents = np.random.default_rng(0).random((60, 4))
    monkeypatch.setitem(sys.modules, "umap", None)  # as if it were not installed
    np.testing.assert_array_equal(in_two_dimensions(latents)[0], latents[:, :2])
    assert in_two_dimensions(latents[:, :1])[0].shape == (60, 2)
    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=UMAP))
    places, how = in_two_dimensions(latents)
    np.testing.assert_array_equal(places, latents[:, 1:3] + 1)
    assert how == "UMAP"
    assert in_two_dimensions(latents[:9])[1] != "UMAP"  # too few for its neighborhoods


def test_nothing_is_noticed_by_the_training(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, model="vit-som", drop_path=0.5, prototypes="ema", backend="torch")
    dataset, model = load_dataset(config.dataset), None
    model = build_model(config, dataset)
    state = torch.get_rng_state()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    remember(tmp_path, model, dataset, 0, 4, 16)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items() if "extra" not in name)
    (kept,) = remembered(tmp_path, 4).values()
    assert kept.shape == (50, min(50, model.som.dim))
    with torch.no_grad():
        model.som.prototypes.fill_(0)
        model.autoencoder.embed.weight.fill_(float("nan"))
    remember(tmp_path, model, dataset, 3, 4, 16)  # is no moment
    remember(tmp_path, model, dataset, 2, 4, 16)  # is no number
    assert [path.name for path in (tmp_path / "latents").iterdir()] == ["epoch-0.npy"]


def test_a_run_that_was_stopped_has_them_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_pictures(monkeypatch)
    config = tiny_config(tmp_path)
    fit(config, tmp_path / "whole", progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(importlib.import_module("vitsom_fast.training.fit"), "remember", _stops_at(2))
        with pytest.raises(KeyboardInterrupt):
            fit(config, tmp_path / "stopped", progress=False)
    fit(config, tmp_path / "stopped", resume=True, progress=False)
    whole, stopped = (remembered(tmp_path / run, config.epochs) for run in ("whole", "stopped"))
    assert list(whole) == list(stopped) == ["start: 0 epochs", "a quarter: 1 epoch", "half: 2 epochs", "end: 4 epochs"]
    for name, latents in whole.items():
        np.testing.assert_array_equal(latents, stopped[name])


def _stops_at(last: int) -> object:
    def stopping(folder: Path, model: torch.nn.Module, dataset: object, epoch: int, *others: int) -> None:
        if epoch == last:
            raise KeyboardInterrupt
        remember(folder, model, dataset, epoch, *others)

    return stopping
