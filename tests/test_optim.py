"""What an optimizer is told of a map, and what a map tells its user."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from vitsom_fast import FusedSOMLoss, param_groups


def _encoder() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 8), nn.LayerNorm(8), nn.Linear(8, 6))


@pytest.mark.parametrize("within", [False, True], ids=["beside the model", "within the model"])
def test_groups(within: bool) -> None:
    som = FusedSOMLoss((3, 4), 6)
    encoder = _encoder()
    model = nn.ModuleDict({"encoder": encoder, "som": som}) if within else encoder
    matrices, vectors, prototypes = param_groups(model, som, np.float32(1e-3))
    assert [p.shape for p in matrices["params"]] == [(8, 12), (6, 8)]
    assert [p.dim() for p in vectors["params"]] == [1, 1, 1, 1]
    assert [p is som.prototypes for p in prototypes["params"]] == [True]
    assert (matrices["weight_decay"] > 0, vectors["weight_decay"], prototypes["weight_decay"]) == (True, 0.0, 0.0)
    assert prototypes["lr"] == pytest.approx(10 * matrices["lr"])
    assert matrices["lr"] == vectors["lr"] == pytest.approx(1e-3)
    optimizer = torch.optim.AdamW([matrices, vectors, prototypes])
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 7


def test_prototypes_that_win_nothing_do_not_shrink() -> None:
    """As they would if they decayed; a decayed prototype turns faster and faster."""
    som = FusedSOMLoss((30, 30), 6)
    before = som.prototypes.detach().clone()
    optimizer = torch.optim.AdamW(param_groups(_encoder(), som, 1e-3))
    for _ in range(3):
        optimizer.zero_grad()
        som(torch.randn(1, 6), 1e-3).backward()
        optimizer.step()
    same = (som.prototypes.detach() == before).all(dim=1)
    assert same.sum() >= 897


@pytest.mark.parametrize(("name", "value"), [("lr", -1.0), ("lr", float("nan")), ("weight_decay", -0.1)])
def test_wrong_numbers(name: str, value: float) -> None:
    arguments = {"lr": 1e-3, name: value}
    with pytest.raises(ValueError, match=f"{name} must be .* got {value}"):
        param_groups(_encoder(), FusedSOMLoss((3, 4), 6), **arguments)


def test_a_map_that_uses_few_of_its_units_says_so_once() -> None:
    som = FusedSOMLoss((20, 20), 6)
    with torch.no_grad():
        som.prototypes[7:] = -som.prototypes[:1]
        som.prototypes[:7] = torch.randn(7, 6).abs()
        z = torch.randn(2000, 6).abs()
        with pytest.warns(UserWarning, match=r"of the 400 units .*param_groups"):
            som.find_bmu(z)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            som.find_bmu(z)


def test_a_map_in_use_says_nothing() -> None:
    """Nor does one at the start of its training, at a radius where all prototypes are alike on purpose."""
    used, started = FusedSOMLoss((20, 20), 6), FusedSOMLoss((20, 20), 6)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        used.find_bmu(torch.randn(4000, 6))
        started.prototypes[1:] = -started.prototypes[:1]
        started(torch.rand(9, 6), 10.0)
        started.find_bmu(torch.randn(4000, 6))


class _Pretrained(nn.Module):
    """Made and loaded as Hugging Face's ``from_pretrained`` does it: without memory at first, what the file lacks by
    ``_init_weights``."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = _encoder()
        self.som = FusedSOMLoss((3, 4), 6)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, FusedSOMLoss):
            module.reset_parameters()

    @classmethod
    def from_pretrained(cls, state: dict[str, torch.Tensor]) -> _Pretrained:
        with torch.device("meta"):
            model = cls()
        model.to_empty(device="cpu")
        for parameter in model.parameters():
            nn.init.constant_(parameter, torch.nan)
        missing, _ = model.load_state_dict(state, strict=False)
        lacking = {name.rpartition(".")[0] for name in missing}
        for name, module in model.named_modules():
            if name in lacking:
                model._init_weights(module)
        return model


def test_prototypes_of_a_pretrained_backbone() -> None:
    model = _Pretrained.from_pretrained({f"encoder.{name}": value for name, value in _encoder().state_dict().items()})
    assert model.som.prototypes.isfinite().all()
    assert model.som(model.encoder(torch.randn(5, 12)), 1.0).isfinite()
