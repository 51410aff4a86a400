"""What an optimizer is told of a map."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

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
    assert prototypes["betas"][1] < matrices["betas"][1] == vectors["betas"][1]  # their pull falls with the radius
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


def test_the_example_of_the_readme_trains_a_map_that_is_used() -> None:
    """As it stands, for a few steps: with one rate and one decay for all, most units would win nothing in the end."""
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    (example,) = (block for block in blocks if "param_groups" in block)
    assert example.count("range(1000)") == 1
    names: dict[str, Any] = {}
    exec(example.replace("range(1000)", "range(2)"), names)
    of_the_map, *others = sorted(names["optimizer"].param_groups, key=lambda group: -group["lr"])
    assert [parameter is names["som"].prototypes for parameter in of_the_map["params"]] == [True]
    assert of_the_map["weight_decay"] == 0
    assert all(of_the_map["lr"] == pytest.approx(10 * group["lr"]) for group in others)
    assert names["bmu"].shape == (128,)


@pytest.mark.parametrize(("name", "value"), [("lr", -1.0), ("lr", float("nan")), ("weight_decay", -0.1)])
def test_wrong_numbers(name: str, value: float) -> None:
    arguments = {"lr": 1e-3, name: value}
    with pytest.raises(ValueError, match=f"{name} must be .* got {value}"):
        param_groups(_encoder(), FusedSOMLoss((3, 4), 6), **arguments)
