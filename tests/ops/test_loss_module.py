"""FusedSOMLoss: a module that owns the prototypes and is otherwise ``som_loss``."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from helpers import is_emulated
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from vitsom_fast import FusedSOMLoss, Grid, find_bmu, som_loss


@pytest.mark.usefixtures("default_device")
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


@pytest.mark.usefixtures("default_device")
def test_more_dimensions_are_flattened(any_backend: str) -> None:
    module = FusedSOMLoss((4, 5), 24, backend=any_backend)
    z = torch.randn(7, 4, 3, 2).permute(0, 3, 1, 2)  # [B, 2, 4, 3], not contiguous
    assert torch.equal(module(z, 1.3), module(z.reshape(7, 24), 1.3))
    assert torch.equal(module.find_bmu(z)[0], module.find_bmu(z.reshape(7, 24))[0])


@pytest.mark.usefixtures("default_device")
def test_gradients_reach_prototypes_and_encoder(any_backend: str) -> None:
    module, encoder = FusedSOMLoss((4, 5), 8, backend=any_backend), nn.Linear(6, 8)
    module(encoder(torch.randn(33, 6)), 1.3).backward()
    for parameter in (*module.parameters(), *encoder.parameters()):
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


@pytest.mark.usefixtures("default_device")
def test_search_is_not_differentiable(any_backend: str) -> None:
    bmu, distance = FusedSOMLoss((4, 5), 8, backend=any_backend).find_bmu(torch.randn(3, 8, requires_grad=True))
    assert not bmu.requires_grad
    assert not distance.requires_grad


@pytest.mark.usefixtures("default_device")
def test_training_fits_the_map_to_its_data(any_backend: str) -> None:
    """Three directions; little is left of the mean distance of the samples to their BMUs."""
    module = FusedSOMLoss((4, 4), 8, backend=any_backend)
    count = 15 if is_emulated(any_backend) else 60
    z = torch.eye(3, 8)[torch.arange(count) % 3] + 0.01 * torch.randn(count, 8)
    before = module.find_bmu(z)[1].mean()
    steps, lr = (24, 0.25) if is_emulated(any_backend) else (60, 0.05)
    optimizer = torch.optim.Adam(module.parameters(), lr=lr)
    for step in range(steps):
        optimizer.zero_grad()
        module(z, 2.0 * 0.05 ** (step / steps)).backward()
        optimizer.step()
    after = module.find_bmu(z)[1].mean()
    assert after < 0.1 * before


def test_state_dict_is_the_prototypes_and_the_grid() -> None:
    module = FusedSOMLoss((4, 5), 8, topology="hexagonal")
    module(torch.randn(3, 8), 1.0)
    state = module.state_dict()
    assert list(state) == ["prototypes", "_extra_state"]
    assert state["_extra_state"].tolist() == [4, 5, 1, 0, 0, 0]
    assert [name for name, _ in module.named_parameters()] == ["prototypes"]
    assert not list(module.buffers())
    other = FusedSOMLoss((4, 5), 8, topology="hexagonal")
    assert not torch.equal(other.prototypes, module.prototypes)
    other.load_state_dict(state)
    assert torch.equal(other.prototypes, module.prototypes)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("grid_size", "options"),
    [
        ((5, 4), {}),
        ((4, 5), {"topology": "hexagonal"}),
        ((4, 5), {"periodic": True}),
        ((2, 10), {}),
        ((4, 5), {"distance": "euclidean"}),
        ((4, 5), {"neighborhood": "bubble"}),
    ],
)
def test_a_state_dict_of_another_map_is_refused(grid_size: tuple[int, int], options: dict[str, Any], strict: bool) -> None:
    """The prototypes have the same shape; in another order they are a scrambled map. Nothing is copied."""
    saved = nn.ModuleDict({"som": FusedSOMLoss((4, 5), 8)})
    other = nn.ModuleDict({"som": FusedSOMLoss(grid_size, 8, **options)})
    before = other["som"].prototypes.detach().clone()
    with pytest.raises(RuntimeError) as caught:
        other.load_state_dict(saved.state_dict(), strict=strict)
    assert str(saved["som"].grid) in str(caught.value)
    assert str(other["som"].grid) in str(caught.value)
    assert all(repr(value) in str(caught.value) for value in options.values() if value is not True)
    assert "som._extra_state" in str(caught.value)
    assert torch.equal(other["som"].prototypes, before)
    with pytest.raises(ValueError, match="Grid"):
        other["som"].set_extra_state(saved["som"].get_extra_state())


@pytest.mark.parametrize("state", [[2**40, 3, 0, 0], [4, 5, 7, 0], [4, 5, -1, 0], [4, 5], [4.0, 5.0, 0.0, 0.0], 3], ids=str)
def test_what_is_no_grid_is_not_compared(state: Any) -> None:
    """Loaders hand over memory that they never filled where a checkpoint has no such entry."""
    module = FusedSOMLoss((4, 5), 8)
    module.set_extra_state(torch.tensor(state))
    assert module.grid == Grid(4, 5)


def test_a_state_of_the_grid_alone_is_compared_by_that() -> None:
    """As maps were saved before they had distances."""
    module = FusedSOMLoss((4, 5), 8, distance="euclidean")
    module.set_extra_state(torch.tensor([4, 5, 0, 0]))
    with pytest.raises(ValueError, match=r"Grid\(rows=5, cols=4"):
        module.set_extra_state(torch.tensor([5, 4, 0, 0]))


@pytest.mark.parametrize("strict", [True, False])
def test_a_state_dict_without_a_grid_loads(strict: bool) -> None:
    """As they were saved before, and as plain tensors are handed around."""
    module = nn.ModuleDict({"som": FusedSOMLoss((4, 5), 8)})
    prototypes = torch.randn(20, 8)
    loaded = module.load_state_dict({"som.prototypes": prototypes}, strict=strict)
    assert not loaded.missing_keys
    assert torch.equal(module["som"].prototypes, prototypes)
    with pytest.raises(RuntimeError, match=r"som\.prototypes"):
        module.load_state_dict({}, strict=True)


def test_state_dict_in_safetensors(tmp_path: Path) -> None:
    module, other = FusedSOMLoss((4, 5), 8), FusedSOMLoss((4, 5), 8)
    safetensors.torch.save_file(module.state_dict(), tmp_path / "map.safetensors")
    other.load_state_dict(safetensors.torch.load_file(tmp_path / "map.safetensors"))
    assert torch.equal(other.prototypes, module.prototypes)


def test_state_dict_on_other_devices() -> None:
    with torch.device("meta"):
        module = FusedSOMLoss((4, 5), 8)
        state = module.state_dict()
    assert state["_extra_state"].device.type == "cpu"
    module.load_state_dict(FusedSOMLoss((4, 5), 8).state_dict(), assign=True)
    assert module.prototypes.device.type == "cpu"
    with FakeTensorMode():
        fake = FusedSOMLoss((4, 5), 8)
        fake.load_state_dict(FusedSOMLoss((4, 5), 8).state_dict())


@pytest.mark.usefixtures("default_device")
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


# Frameworks that make modules without data, and then fill in what a checkpoint has


class _PreTrained(nn.Module):
    """What ``transformers.PreTrainedModel.from_pretrained`` does: what the checkpoint lacks is what memory held, until it is
    given to ``_init_weights``, module by module."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.som = nn.Linear(6, 8), FusedSOMLoss((4, 5), 8)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, FusedSOMLoss):
            module.reset_parameters()

    @classmethod
    def from_pretrained(cls, state: dict[str, Any]) -> _PreTrained:
        with torch.device("meta"):
            model = cls()
        model.to_empty(device="cpu")
        for parameter in model.parameters():
            nn.init.constant_(parameter, torch.nan)
        missing, _ = model.load_state_dict(state, strict=False)
        for name in missing:
            model._init_weights(model.get_submodule(name.rpartition(".")[0]))
        return model


def test_a_backbone_without_a_map_is_loaded() -> None:
    backbone = {f"encoder.{name}": value for name, value in nn.Linear(6, 8).state_dict().items()}
    model = _PreTrained.from_pretrained(backbone)
    assert model.som.prototypes.isfinite().all()
    assert model.som.prototypes.norm(dim=1).mean().item() == pytest.approx(1, abs=0.3)
    assert model.som(model.encoder(torch.randn(3, 6)), 1.0).isfinite()
    again = _PreTrained.from_pretrained(model.state_dict())
    assert torch.equal(again.som.prototypes, model.som.prototypes)


# A map that uses few of its units


def _collapsed(grid_size: tuple[int, int] = (10, 10)) -> FusedSOMLoss:
    """One unit wins everything that is near the first axis."""
    module = FusedSOMLoss(grid_size, 8)
    with torch.no_grad():
        module.prototypes.copy_(-torch.eye(8)[:1] + 0.01 * torch.randn_like(module.prototypes))
        module.prototypes[7] = torch.eye(8)[0]
    return module


_LATENTS = torch.eye(8)[:1] + 0.01 * torch.randn(50, 8)


def test_a_collapsed_map_is_told_of_once() -> None:
    module = _collapsed()
    for _ in range(7):
        module.find_bmu(_LATENTS)
    with pytest.warns(UserWarning, match=r"1 of the 100 units .* 400 samples.*param_groups"):
        module.find_bmu(_LATENTS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(20):
            module.find_bmu(_LATENTS)


@pytest.mark.parametrize("case", ["few samples", "large radius", "radius on the device", "many units", "compiled"])
def test_nobody_is_warned_too_early(case: str) -> None:
    module = _collapsed()
    calls = 7 if case == "few samples" else 20
    if case == "large radius":
        module(_LATENTS, 5.0)
    elif case == "radius on the device":
        module(_LATENTS, torch.tensor(0.5))
    elif case == "many units":
        module.reset_parameters()
    find = torch.compile(module.find_bmu, backend="eager", fullgraph=True) if case == "compiled" else module.find_bmu
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for _ in range(calls):
            find(torch.randn(50, 8) if case == "many units" else _LATENTS)


def test_a_map_is_judged_at_the_end_of_its_training() -> None:
    module = _collapsed()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module(_LATENTS, 5.0)
        for _ in range(20):
            module.find_bmu(_LATENTS)
    module(_LATENTS, 0.5)
    with pytest.warns(UserWarning, match="units"):
        module.find_bmu(_LATENTS.repeat(20, 1))
