"""FusedSOMLoss: a module that owns the prototypes and is otherwise ``som_loss``."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from vitsom_fast import FusedSOMLoss, Grid, find_bmu, som_loss


def test_it_is_som_loss_of_its_prototypes(any_backend: str) -> None:
    module = FusedSOMLoss((4, 5), 8, topology="hexagonal", periodic=True, reduction="batchmean", backend=any_backend)
    z = torch.randn(33, 8)
    loss, bmu = module(z, 1.3, return_bmu=True)
    grid = Grid(4, 5, "hexagonal", periodic=True)
    expected, expected_bmu = som_loss(z, module.prototypes, grid, 1.3, reduction="batchmean", backend=any_backend)
    assert torch.equal(loss, expected)
    assert torch.equal(bmu, expected_bmu)
    assert torch.equal(module(z, 1.3), expected)
    found = find_bmu(z, module.prototypes, backend=any_backend)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(module.find_bmu(z), found, strict=True))


def test_more_dimensions_are_flattened(any_backend: str) -> None:
    module = FusedSOMLoss((4, 5), 24, backend=any_backend)
    z = torch.randn(7, 4, 3, 2).permute(0, 3, 1, 2)  # [B, 2, 4, 3], not contiguous
    assert torch.equal(module(z, 1.3), module(z.reshape(7, 24), 1.3))
    assert torch.equal(module.find_bmu(z)[0], module.find_bmu(z.reshape(7, 24))[0])


def test_gradients_reach_prototypes_and_encoder(any_backend: str) -> None:
    module, encoder = FusedSOMLoss((4, 5), 8, backend=any_backend), nn.Linear(6, 8)
    module(encoder(torch.randn(33, 6)), 1.3).backward()
    for parameter in (*module.parameters(), *encoder.parameters()):
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


def test_search_is_not_differentiable(any_backend: str) -> None:
    bmu, distance = FusedSOMLoss((4, 5), 8, backend=any_backend).find_bmu(torch.randn(3, 8, requires_grad=True))
    assert not bmu.requires_grad
    assert not distance.requires_grad


def test_training_fits_the_map_to_its_data(any_backend: str) -> None:
    """Three directions; little is left of the mean distance of the samples to their BMUs."""
    module = FusedSOMLoss((4, 4), 8, backend=any_backend)
    z = torch.eye(3, 8)[torch.randint(3, (60,))] + 0.01 * torch.randn(60, 8)
    before = module.find_bmu(z)[1].mean()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    for step in range(60):
        optimizer.zero_grad()
        module(z, 2.0 * 0.95**step).backward()
        optimizer.step()
    after = module.find_bmu(z)[1].mean()
    assert after < 0.1 * before


def test_state_dict_is_the_prototypes() -> None:
    module = FusedSOMLoss((4, 5), 8, topology="hexagonal")
    module(torch.randn(3, 8), 1.0)
    state = module.state_dict()
    assert list(state) == ["prototypes"]
    assert [name for name, _ in module.named_parameters()] == ["prototypes"]
    assert not list(module.buffers())
    other = FusedSOMLoss((4, 5), 8, topology="hexagonal")
    assert not torch.equal(other.prototypes, module.prototypes)
    other.load_state_dict(state)
    assert torch.equal(other.prototypes, module.prototypes)


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
def test_copies_compute_the_same_and_are_independent(any_backend: str, how: str) -> None:
    module = FusedSOMLoss((4, 5), 8, topology="hexagonal", periodic=True, reduction="sum", backend=any_backend)
    z = torch.randn(33, 8)
    expected = module(z, 1.3)
    expected.backward()
    if how == "deepcopy":
        twin = copy.deepcopy(module)
    elif how == "pickle":
        twin = pickle.loads(pickle.dumps(module))
    else:
        buffer = io.BytesIO()
        torch.save(module, buffer)
        buffer.seek(0)
        twin = torch.load(buffer, weights_only=False)
    assert torch.equal(twin(z, 1.3), expected)
    assert twin.grid == module.grid
    with torch.no_grad():
        twin.prototypes.neg_()
    assert torch.equal(module(z, 1.3), expected)
    assert not torch.equal(twin(z, 1.3), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_dtype_and_shape_of_the_prototypes(dtype: torch.dtype) -> None:
    module = FusedSOMLoss((4, 5), 8, dtype=dtype)
    assert module.prototypes.dtype == dtype
    assert module.prototypes.shape == (20, 8)
    loss = module(torch.randn(3, 8, dtype=dtype), 1.0)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_device_of_the_prototypes() -> None:
    assert FusedSOMLoss((4, 5), 8, device="meta").prototypes.device.type == "meta"


@pytest.mark.parametrize("dim", [8, 3136])
def test_initial_prototypes_have_length_1_and_all_directions(dim: int) -> None:
    prototypes = FusedSOMLoss((10, 10), dim).prototypes.detach()
    assert prototypes.norm(dim=1).mean().item() == pytest.approx(1, abs=0.1)
    assert prototypes.mean(0).norm() < 0.3


def test_reset_draws_again() -> None:
    module = FusedSOMLoss((4, 5), 8)
    before = module.prototypes.detach().clone()
    parameter = module.prototypes
    module.reset_parameters()
    assert module.prototypes is parameter
    assert not torch.equal(module.prototypes, before)


def test_repr_says_what_it_is() -> None:
    text = repr(FusedSOMLoss((4, 6), 8, topology="hexagonal", periodic=True, reduction="sum", backend="torch"))
    for part in ("grid_size=(4, 6)", "dim=8", "'hexagonal'", "periodic=True", "'sum'", "'torch'", "'cosine'", "'gaussian'"):
        assert part in text
