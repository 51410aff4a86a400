"""A model that is saved comes back whole: weights, map, grid, classes of units."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from vitsom_fast.models import DESOM, MapModel, ModelSpec, ViTAutoencoder, ViTSOM, build, class_of_units
from vitsom_fast.models.pretrained import FILE

SPECS = [
    ModelSpec("vit-som", (1, 4, 6), grid=(4, 3), topology="hexagonal", periodic=True, patch=2, width=8, latent="neck"),
    ModelSpec("compact", (3, 4, 4), grid=(2, 3), patch=2, width=8, decoder_width=4),
    ModelSpec("desom", (1, 4, 4), grid=(2, 3), latent_dim=4, distance="sqeuclidean", neighborhood="bubble"),
    ModelSpec("som-vae", (1, 4, 4), grid=(2, 3), latent_dim=4),
    ModelSpec("vit-som", (1, 4, 4), grid=(2, 3), patch=2, width=8, prototypes="ema", num_classes=3),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.kind)
def test_a_saved_model_predicts_the_same(tmp_path: Path, spec: ModelSpec) -> None:
    model = build(spec, "torch").eval()
    count = spec.grid[0] * spec.grid[1]
    model.unit_classes, model.classes = torch.arange(count) % 4 - 1, ("ant", "bee", "cat")
    assert model.save_pretrained(tmp_path / "run") == tmp_path / "run" / FILE
    state = torch.get_rng_state()
    again = MapModel.from_pretrained(tmp_path / "run", backend="torch")
    assert torch.equal(torch.get_rng_state(), state)
    assert type(again) is type(model)
    assert again.spec == spec
    assert again.som.grid == model.som.grid
    assert again.classes == ("ant", "bee", "cat")
    assert not again.training
    images = torch.randint(0, 256, (9, *spec.image_shape), dtype=torch.uint8)
    for expected, found in zip(model.predict(images / 255), again.predict(images, chunk=4), strict=True):
        torch.testing.assert_close(found, expected)
    unit, distance, unit_class = again.predict(images)
    assert unit.shape == distance.shape == (9,)
    assert torch.equal(unit_class, unit % 4 - 1)
    assert torch.equal(again.decode_prototypes(), model.decode_prototypes())


def test_a_model_of_another_class_is_refused(tmp_path: Path) -> None:
    build(SPECS[2]).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="must hold a ViTSOM, got a DESOM"):
        ViTSOM.from_pretrained(tmp_path)
    assert isinstance(DESOM.from_pretrained(tmp_path / FILE), DESOM)


def test_a_model_without_a_spec_cannot_be_saved(tmp_path: Path) -> None:
    from vitsom_fast import FusedSOMLoss

    model = ViTSOM(ViTAutoencoder((1, 4, 4), width=8), FusedSOMLoss((2, 2), 32))
    with pytest.raises(ValueError, match="spec"):
        model.save_pretrained(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"garbage" * 99, safetensors.torch.save({"x": torch.zeros(1)})], ids=["empty", "garbage", "foreign"]
)
def test_what_is_no_model_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(ValueError, match=r"model '.*model\.safetensors' cannot be read: [^\n]+$"):
        ViTSOM.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="no trained model"):
        ViTSOM.from_pretrained(tmp_path / "typo")


@pytest.mark.parametrize(
    ("images", "error"),
    [
        (torch.zeros(2, 1, 6, 4), ValueError),
        (torch.zeros(1, 4, 6), ValueError),
        (torch.zeros(2, 1, 4, 6, dtype=torch.int64), TypeError),
        ([[0.0]], TypeError),
        (np.zeros((2, 1, 4, 6), np.float32), TypeError),
        (torch.full((2, 1, 4, 6), 255.0), ValueError),
        (torch.full((2, 1, 4, 6), torch.nan), ValueError),
    ],
)
def test_images_of_another_kind_are_named(images: torch.Tensor, error: type[Exception]) -> None:
    model = build(SPECS[0], "torch").train()
    with pytest.raises(error, match=r"^images (must|of floats must)") as raised:
        model.predict(images)
    assert model.training  # whatever happens
    assert not isinstance(images, np.ndarray) or "numpy.ndarray" in str(raised.value)


@pytest.mark.parametrize("chunk", [0, -1, 2.5])
def test_a_chunk_is_a_whole_number(chunk: int) -> None:
    with pytest.raises((ValueError, TypeError), match=r"^chunk must"):
        build(SPECS[0], "torch").predict(torch.zeros(2, 1, 4, 6), chunk)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_bytes_go_into_a_model_of_any_dtype(dtype: torch.dtype) -> None:
    images = torch.randint(0, 256, (3, 1, 4, 6), dtype=torch.uint8)
    model = build(SPECS[0], "torch").to(dtype)
    assert torch.equal(model.predict(images).unit, model.predict(images / 255).unit)


def test_no_image_is_no_prediction() -> None:
    assert [len(part) for part in build(SPECS[0], "torch").predict(torch.zeros(0, 1, 4, 6))] == [0, 0, 0]


def test_prediction_leaves_the_mode_as_it_is() -> None:
    model = build(SPECS[0], "torch").train()
    model.predict(torch.zeros(2, 1, 4, 6))
    assert model.training


def test_the_class_of_a_unit_is_that_of_most_of_its_images() -> None:
    bmu, labels = torch.tensor([0, 0, 0, 2, 2, 3, 4, 4]), torch.tensor([1, 0, 1, 2, 0, -1, -1, 2])
    assert class_of_units(bmu, labels, 6).tolist() == [1, -1, 0, -1, 2, -1]
    assert class_of_units(bmu, torch.full((8,), -1), 6).tolist() == [-1] * 6


def test_a_save_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(SPECS[2]).save_pretrained(tmp_path)
    before = (tmp_path / FILE).read_bytes()
    monkeypatch.setattr(os, "replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build(SPECS[0]).save_pretrained(tmp_path)
    assert (tmp_path / FILE).read_bytes() == before
