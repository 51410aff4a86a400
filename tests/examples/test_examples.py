"""Models of other libraries with a map on their latents, as the examples train them."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from host_build import ROOT
from torch import Tensor, nn

from vitsom_fast import FusedSOMLoss, param_groups
from vitsom_fast.data import load_dataset

# The example, what it cannot do without, its model, and how long it is trained here.
EXAMPLES: dict[str, tuple[str, tuple[str, ...], Callable[[Any], Any], dict[str, int]]] = {
    "plain": ("plain_pytorch", (), lambda example: example.ViT(), {"steps": 15}),
    **{
        f"huggingface-{latent}": (
            "huggingface",
            ("transformers", "accelerate"),
            lambda example, latent=latent: example.ViTWithMap(example.ViTConfig(**example.CONFIG, som_latent=latent)),
            {"steps": 15},
        )
        for latent in ("cls", "patches")
    },
    "timm": ("timm_vit", ("timm",), lambda example: example.ViTWithMap(**example.SIZES), {"steps": 15}),
    "lightning": ("lightning_module", ("pytorch_lightning",), lambda example: example.ViTSOM(), {"steps": 15}),
    "accelerate": ("accelerate_loop", ("accelerate",), lambda example: example.ViTWithMap(), {"epochs": 1}),
}


def imported(case: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    name, needed, *_ = EXAMPLES[case]
    for package in needed:
        try:
            importlib.import_module(package)
        except Exception as error:  # a torchvision of another torch raises whatever it comes upon
            pytest.skip(f"could not import {package}: {error}")
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    return importlib.import_module(name)


@pytest.fixture(params=EXAMPLES)
def case(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def model(case: str, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """Untrained."""
    module: nn.Module = EXAMPLES[case][2](imported(case, monkeypatch))
    return module


def loss_of(model: nn.Module) -> Tensor:
    """Of 64 digits, at the radius that a model begins with."""
    found = model(*load_dataset("digits").batch(torch.arange(64)))
    loss: Tensor = getattr(found, "loss", found)
    return loss


def test_training_lowers_the_loss(case: str, model: nn.Module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # for what a library writes without being asked
    trained = copy.deepcopy(model)
    imported(case, monkeypatch).train(trained, **EXAMPLES[case][3])
    if hasattr(model, "temperature"):
        assert 0.5 <= trained.temperature < model.temperature  # it fell
        trained.temperature = model.temperature
    with torch.no_grad():
        assert loss_of(trained.eval()) < loss_of(model.eval())
    assert not torch.equal(trained.som.prototypes, model.som.prototypes)


def test_gradients_reach_both(model: nn.Module) -> None:
    """By way of the map alone, too."""
    prototypes, encoder = (
        model.som.prototypes,
        [p for name, p in model.named_parameters() if "attention" in name or "attn" in name],
    )
    assert encoder
    for loss in (loss_of(model), _map_loss(model)):
        gradients = torch.autograd.grad(loss, [prototypes, *encoder], allow_unused=True)
        assert gradients[0].norm() > 0
        assert sum(float(gradient.norm()) for gradient in gradients[1:] if gradient is not None) > 0


def _map_loss(model: nn.Module) -> Tensor:
    found: list[Tensor] = []
    handle = model.som.register_forward_hook(lambda _module, _inputs, loss: found.append(loss))
    loss_of(model)
    handle.remove()
    return found[0]


def test_prototypes_are_a_group_of_their_own(model: nn.Module) -> None:
    *others, prototypes = param_groups(model, model.som, lr=1e-3)
    assert [p is model.som.prototypes for p in prototypes["params"]] == [True]
    assert sum(len(group["params"]) for group in others) + 1 == len(list(model.parameters()))


def test_a_state_dict_round_trips(case: str, model: nn.Module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = EXAMPLES[case][2](imported(case, monkeypatch))
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    with torch.no_grad():
        assert torch.equal(loss_of(other.eval()), loss_of(model.eval()))


def test_the_whole_model_compiles(model: nn.Module) -> None:
    torch._dynamo.reset()
    expected, expected_gradient = _with_gradient(model)
    found, gradient = _with_gradient(torch.compile(model, backend="eager", fullgraph=True))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient, expected_gradient)


def _with_gradient(model: nn.Module) -> tuple[Tensor, Tensor]:
    loss = loss_of(model)
    (gradient,) = torch.autograd.grad(loss, [model.som.prototypes])
    return loss, gradient


@pytest.mark.parametrize("latent", ["cls", "patches"])
def test_from_pretrained(latent: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Prototypes come out of a file, and where it has none they are random; never what memory held."""
    case = f"huggingface-{latent}"
    example = imported(case, monkeypatch)
    model = EXAMPLES[case][2](example).eval()
    model.save_pretrained(tmp_path / "whole")
    with torch.no_grad():
        assert torch.equal(loss_of(example.ViTWithMap.from_pretrained(tmp_path / "whole").eval()), loss_of(model))
    example.ViTForImageClassification(model.config).save_pretrained(tmp_path / "no map")
    loaded = example.ViTWithMap.from_pretrained(tmp_path / "no map")
    lengths = loaded.som.prototypes.detach().norm(dim=1)
    assert lengths.isfinite().all()
    assert (lengths > 0.1).all()
    assert lengths.max() < 10
    assert isinstance(loaded.som, FusedSOMLoss)
