"""The published configurations: as many parameters as were counted there, and a step of each."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from vitsom_fast.models import PRESETS, Step, ViTSOM, preset

# Counted on the published models; nobody has counted that of flowers-102.
COUNTED = {
    "mnist": 5031432,
    "fmnist": 5031432,
    "usps": 1652232,
    "cifar-10": 5793946,
    "cifar-100": 8023156,
    "svhn": 6567770,
    "flowers-17": 13182641,
    "tiny-imagenet": 15267800,
    "medmnist": 12962613,
}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_the_parameters_of_the_published_model_and_makes_a_step(name: str) -> None:
    model = ViTSOM.from_preset(name, backend="torch")
    spec = preset(name).spec
    if name in COUNTED:
        assert sum(parameter.numel() for parameter in model.parameters()) == COUNTED[name]
        assert preset(name).trainable_parameters == COUNTED[name]
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    labels = torch.tensor([0, spec.num_classes - 1]) if spec.num_classes else None
    model.losses(torch.rand(2, *spec.image_shape), labels, Step(2.0, 1.0))["loss"].backward()
    before = model.som.prototypes.detach().clone()
    optimizer.step()
    assert not torch.equal(model.som.prototypes, before)
    still = {name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()}
    # The decoder has no part in classification.
    assert all("decoder" in name or "to_pixels" in name for name in still) if spec.num_classes else not still


def test_a_preset_may_be_changed() -> None:
    model = ViTSOM.from_preset("mnist", grid=(3, 5), latent="neck", latent_dim=7, backend="torch")
    assert model.som.prototypes.shape == (15, 7)
    assert model.spec is not None
    assert model.spec.depth == 4


def test_an_unknown_preset_is_named() -> None:
    with pytest.raises(ValueError, match=r"preset must be one of .*'mnist'.*'imagenet'"):
        ViTSOM.from_preset("imagenet")
    with pytest.raises(TypeError, match="speed"):
        ViTSOM.from_preset("mnist", speed=3)


def test_the_package_has_it_when_it_is_asked_for() -> None:
    import vitsom_fast

    assert vitsom_fast.ViTSOM is ViTSOM
    code = "import sys, vitsom_fast; print('vitsom_fast.models' in sys.modules, 'ViTSOM' in dir(vitsom_fast))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "False True"
