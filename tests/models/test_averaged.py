"""Prototypes that follow moving averages: held against the batch SOM written down, on every backend."""

from __future__ import annotations

import pytest
import torch
from helpers import BACKENDS
from torch.nn import functional as F

from vitsom_fast import reference
from vitsom_fast.models import AveragedSOM, ModelSpec, Step, build


@pytest.mark.parametrize("distance", ["cosine", "sqeuclidean"])
def test_prototypes_are_means_of_moving_averages(backend: str, distance: str) -> None:
    device = BACKENDS[backend]
    som = AveragedSOM((3, 4), 5, decay=0.9, distance=distance, backend=backend, device=device)
    sums, counts = torch.zeros(12, 5, dtype=torch.float64), torch.zeros(12, dtype=torch.float64)
    prototypes = som.prototypes.detach().cpu().double()
    for temperature in (2.0, 1.3, 0.4):
        z = torch.randn(7, 5)
        som(z.to(device), temperature)
        som.absorb()
        bmu = reference.distances(z.double(), prototypes, distance).argmin(1)
        rows = F.normalize(z.double()) if distance == "cosine" else z.double()
        sums = 0.9 * sums + torch.zeros(12, 5, dtype=torch.float64).index_add(0, bmu, rows)
        counts = 0.9 * counts + torch.bincount(bmu, minlength=12)
        g = reference.neighborhood_weights(torch.arange(12), som.grid, temperature, torch.float64)  # [K, K], of each BMU
        prototypes = (g.T @ sums) / (g.T @ counts)[:, None]
        torch.testing.assert_close(som.prototypes.cpu().double(), prototypes, rtol=2e-4, atol=1e-5)


def test_a_unit_that_nothing_reaches_stays() -> None:
    som = AveragedSOM((1, 50), 3, backend="torch")
    z = F.normalize(torch.randn(1, 3))
    with torch.no_grad():
        som.prototypes[0] = z
    before = som.prototypes.clone()
    som(z, 0.05)
    som.absorb()
    assert torch.equal(som.prototypes[40:], before[40:])
    assert torch.isfinite(som.prototypes).all()


def test_latents_are_pulled_and_prototypes_have_no_gradient() -> None:
    som, z = AveragedSOM((3, 3), 4, backend="torch"), torch.randn(5, 4, requires_grad=True)
    som(z, 1.0).backward()
    assert z.grad is not None
    assert z.grad.any()
    assert som.prototypes.grad is None


def test_nothing_is_absorbed_twice_or_in_evaluation() -> None:
    som = AveragedSOM((3, 3), 4, backend="torch")
    som(torch.randn(5, 4), 1.0)
    som.absorb()
    kept = som.prototypes.clone()
    som.absorb()
    som.eval()
    som(torch.randn(5, 4), 1.0)
    som.absorb()
    assert torch.equal(som.prototypes, kept)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_decay_is_a_share(decay: float) -> None:
    with pytest.raises(ValueError, match="decay must"):
        AveragedSOM((3, 3), 4, decay=decay)


def test_averages_are_part_of_the_state() -> None:
    som = AveragedSOM((2, 3), 4, backend="torch")
    som(torch.randn(5, 4), 1.0)
    som.absorb()
    other = AveragedSOM((2, 3), 4, backend="torch")
    other.load_state_dict(som.state_dict())
    z = torch.randn(5, 4)
    for each in (som, other):
        each(z, 0.7)
        each.absorb()
    assert torch.equal(som.prototypes, other.prototypes)


def test_a_model_absorbs_after_a_step() -> None:
    model = build(ModelSpec("vit-som", (1, 4, 4), grid=(3, 4), patch=2, width=8, depth=1, prototypes="ema"), "torch")
    assert isinstance(model.som, AveragedSOM)
    before = model.som.prototypes.clone()
    model.losses(torch.rand(5, 1, 4, 4), None, Step(1.0, 1.0))["loss"].backward()
    assert torch.equal(model.som.prototypes, before)  # or the backward pass would see others
    model.after_step()
    assert not torch.equal(model.som.prototypes, before)


def test_what_a_step_sees_is_added_up_and_not_kept() -> None:
    """In parts or at once it is the same batch; a loop that never absorbs holds no latents."""
    whole, parts = AveragedSOM((3, 4), 5, backend="torch"), AveragedSOM((3, 4), 5, backend="torch")
    parts.load_state_dict(whole.state_dict())
    z = torch.randn(9, 5)
    whole(z, 0.7)
    held = []
    for part in z.split(2):
        parts(part, 0.7)
        assert parts._seen is not None
        held.append([each.shape for each in parts._seen])
    assert held == [[(12, 5), (12,)]] * 5
    for each in (whole, parts):
        each.absorb()
    torch.testing.assert_close(parts.prototypes, whole.prototypes)


@pytest.mark.parametrize("distance", ["cosine", "sqeuclidean"])
def test_rows_that_are_not_finite_are_left_out(backend: str, distance: str) -> None:
    device = BACKENDS[backend]
    som = AveragedSOM((3, 4), 5, distance=distance, backend=backend, device=device)
    other = AveragedSOM((3, 4), 5, distance=distance, backend=backend, device=device)
    other.load_state_dict(som.state_dict())
    z = torch.randn(7, 5)
    z[2, 1], z[5] = torch.nan, torch.inf
    for each, rows in ((som, z), (other, z[[0, 1, 3, 4, 6]])):
        each(rows.to(device), 0.7)
        each.absorb()
    assert torch.equal(som.counts, other.counts)
    torch.testing.assert_close(som.prototypes, other.prototypes, rtol=1e-4, atol=1e-5)


def test_means_have_no_negative_weights() -> None:
    with pytest.raises(ValueError, match=r"neighborhood must .* got 'mexican_hat'"):
        AveragedSOM((3, 3), 4, neighborhood="mexican_hat")
