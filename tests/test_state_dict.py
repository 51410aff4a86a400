"""What a map saves, and what it takes back."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import safetensors.torch
import torch

from vitsom_fast import FusedSOMLoss


def _saved_by_torch(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return dict(torch.load(file, weights_only=True))


def _saved_by_safetensors(state: dict[str, Any]) -> dict[str, Any]:
    return safetensors.torch.load(safetensors.torch.save(dict(state)))


@pytest.mark.parametrize("saved", [dict, _saved_by_torch, _saved_by_safetensors])
@pytest.mark.parametrize("strict", [True, False])
def test_a_map_of_another_grid_is_refused(saved: Any, strict: bool) -> None:
    """Of as many units, elsewhere: a scrambled map without a word, if it were not."""
    trained, other = FusedSOMLoss((8, 12), 4, topology="hexagonal"), FusedSOMLoss((12, 8), 4)
    before = other.prototypes.detach().clone()
    with pytest.raises(RuntimeError, match=r"rows=8, cols=12, topology='hexagonal'.*rows=12, cols=8, topology='rectangular'"):
        other.load_state_dict(saved(trained.state_dict()), strict=strict)
    assert torch.equal(other.prototypes, before)
    torus = FusedSOMLoss((8, 12), 4, topology="hexagonal", periodic=True)
    with pytest.raises(RuntimeError, match="periodic=True"):
        torus.load_state_dict(saved(trained.state_dict()), strict=strict)


@pytest.mark.parametrize("saved", [dict, _saved_by_torch, _saved_by_safetensors])
def test_a_map_of_the_same_grid_is_taken(saved: Any) -> None:
    trained, other = (torch.nn.Sequential(FusedSOMLoss((8, 12), 4, topology="hexagonal")) for _ in range(2))
    other.load_state_dict(saved(trained.state_dict()))
    assert torch.equal(other[0].prototypes, trained[0].prototypes)


def test_prototypes_alone_are_taken_as_they_are() -> None:
    """As an earlier version saved them."""
    prototypes = torch.randn(96, 4)
    som = FusedSOMLoss((8, 12), 4)
    som.load_state_dict({"prototypes": prototypes})
    assert torch.equal(som.prototypes, prototypes)


def test_copies() -> None:
    som = FusedSOMLoss((8, 12), 4, periodic=True)
    for copied in (copy.deepcopy(som), pickle.loads(pickle.dumps(som))):
        assert copied.grid == som.grid
        assert torch.equal(copied.prototypes, som.prototypes)
