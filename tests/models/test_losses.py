"""What each model minimises, held against its formula written down once more; gradients reach all that should learn."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vitsom_fast import FusedSOMLoss, Grid, reference
from vitsom_fast.models import (
    ModelSpec,
    Step,
    affine_views,
    build,
    desom_as_configured,
    desom_as_first_published,
    info_nce,
)
from vitsom_fast.models.som_vae import units_and_neighbours

SHAPE = (1, 4, 4)
SMALL = ModelSpec("vit-som", SHAPE, grid=(3, 4), patch=2, width=8, depth=1, decoder_width=4)
STEP = Step(1.5, 0.3)


def images() -> Tensor:
    return torch.rand(6, *SHAPE)


def test_clustering_is_l1_and_gamma_times_the_map() -> None:
    model, x = build(SMALL, "torch"), images()
    found = model.losses(x, None, STEP)
    z = model.encode(x)
    l1 = (model.autoencoder.decode(z) - x).abs().mean()
    som, _ = reference.som_loss(z, model.som.prototypes, model.som.grid, 1.5)
    torch.testing.assert_close(found["loss"], l1 + 0.3 * som)
    torch.testing.assert_close(found["reconstruction_loss"], l1)
    torch.testing.assert_close(found["som_loss"], som)


def test_classification_is_cross_entropy_and_gamma_times_the_map() -> None:
    model, x = build(replace(SMALL, num_classes=3, label_smoothing=0.1), "torch"), images()
    labels = torch.tensor([0, 1, 2, -1, 1, 0])
    found = model.losses(x, labels, STEP)
    logits = model.head(model.autoencoder.tokens(x)[:, 0])
    torch.testing.assert_close(model.classify(x), logits)
    target = 0.9 * F.one_hot(labels.clamp_min(0), 3) + 0.1 / 3
    each = -(target * logits.log_softmax(1)).sum(1)
    expected = each[labels >= 0].mean()
    som, _ = reference.som_loss(model.encode(x), model.som.prototypes, model.som.grid, 1.5)
    torch.testing.assert_close(found["classification_loss"], expected)
    torch.testing.assert_close(found["loss"], expected + 0.3 * som)


def test_a_batch_without_a_label_has_no_cross_entropy() -> None:
    model = build(replace(SMALL, kind="vit", num_classes=3))
    assert model.losses(images(), torch.full((6,), -1), STEP)["loss"] == 0
    with pytest.raises(ValueError, match="labels"):
        model.losses(images(), None, STEP)


def test_the_plain_vit_has_no_map() -> None:
    model, x, labels = build(replace(SMALL, kind="vit", num_classes=3, decoder_depth=0)), images(), torch.arange(6) % 3
    torch.testing.assert_close(model.losses(x, labels, STEP)["loss"], F.cross_entropy(model(x), labels))
    assert not [name for name in model.state_dict() if "som" in name or "decoder" in name]


def test_desom_as_configured() -> None:
    model, x = build(desom_as_configured(SHAPE), "torch"), images()
    z = model.encode(x)
    som, _ = reference.som_loss(z, model.som.prototypes, Grid(8, 8), 1.5)
    l1 = (model.autoencoder.decode(z) - x).abs().mean()
    torch.testing.assert_close(model.losses(x, None, STEP)["loss"], l1 + 0.3 * som)


def test_desom_as_first_published() -> None:
    model, x = build(desom_as_first_published(SHAPE, (3, 5)), "torch"), images()
    z, w = model.encode(x), model.som.prototypes
    d = (z[:, None] - w).square().sum(2)  # [B, K]
    row, col = torch.arange(15) // 5, torch.arange(15) % 5
    apart = (row[:, None] - row).abs() + (col[:, None] - col).abs()  # [K, K]
    h = torch.exp(-(apart**2) / 1.5**2)[d.argmin(1)]
    expected = (model.autoencoder.decode(z) - x).square().mean() + 0.3 * (h * d).sum(1).mean()
    torch.testing.assert_close(model.losses(x, None, STEP)["loss"], expected, rtol=1e-4, atol=0)


def test_som_vae_is_its_three_terms() -> None:
    model, x = build(ModelSpec("som-vae", SHAPE, grid=(3, 4), latent_dim=5)), images()
    found = model.losses(x, None, STEP)
    z, w = model.encode(x), model.som.prototypes
    bmu = torch.cdist(z, w).argmin(1)
    decoded = [model.autoencoder.decode(latent) for latent in (z, w[bmu])]
    reconstruction = sum((each - x).square().mean() for each in decoded)
    commitment = (z - w[bmu]).square().mean()
    near = []
    for latent, unit in zip(z, bmu.tolist(), strict=True):
        row, col = divmod(unit, 4)
        for r, c in ((row, col), (row - 1, col), (row + 1, col), (row, col - 1), (row, col + 1)):
            if 0 <= r < 3 and 0 <= c < 4:
                near.append((latent - w[4 * r + c]).square().mean())
    som = torch.stack(near).mean()
    torch.testing.assert_close(found["loss"], reconstruction + 1.0 * commitment + 0.9 * som)
    assert found.keys() == {"loss", "reconstruction_loss", "commitment_loss", "som_loss"}


def test_the_map_of_a_som_vae_moves_prototypes_only() -> None:
    model = build(ModelSpec("som-vae", SHAPE, grid=(3, 4), latent_dim=5))
    model.losses(images(), None, STEP)["som_loss"].backward()
    assert model.som.prototypes.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in model.autoencoder.parameters())


def test_neighbours_end_at_an_edge_and_cross_a_seam() -> None:
    plane = units_and_neighbours(Grid(3, 4)).tolist()
    assert plane[0] == [0, -1, 4, -1, 1]
    assert plane[5] == [5, 1, 9, 4, 6]
    assert units_and_neighbours(Grid(3, 4, periodic=True)).tolist()[0] == [0, 8, 4, 3, 1]


def test_info_nce_is_that_of_the_formula() -> None:
    first, second = torch.randn(5, 3), torch.randn(5, 3)
    z = [*first, *second]
    total = 0.0
    for i in range(10):
        scores = [math.exp(F.cosine_similarity(z[i], z[k], dim=0).item() / 0.2) for k in range(10)]
        total -= math.log(scores[(i + 5) % 10] / (sum(scores) - scores[i]))
    assert info_nce(first, second, 0.2).item() == pytest.approx(total / 10, rel=1e-5)
    assert info_nce(torch.ones(5, 3), torch.ones(5, 3)).item() == pytest.approx(math.log(9), rel=1e-5)


def test_views_are_turned_scaled_and_moved_no_further_than_asked() -> None:
    x = torch.zeros(300, 1, 33, 33)
    x[:, :, 16, 22] = 1.0  # a dot right of the centre, which is at 16, 16
    views = affine_views(x, degrees=20, shift=0.0, scale=(1.0, 1.0)).flatten(1)
    place = views.argmax(1)
    angle = torch.atan2((place // 33 - 16).float(), (place % 33 - 16).float()).rad2deg()
    assert 10 < angle.abs().max() < 28  # a pixel is 9 degrees
    moved = affine_views(x, degrees=0, shift=0.1, scale=(1.0, 1.0)).flatten(1).argmax(1)
    assert (moved % 33 - 22).abs().max() in (3, 4)
    assert (moved // 33 - 16).abs().max() in (3, 4)
    scaled = affine_views(x, degrees=0, shift=0.0, scale=(0.5, 2.0)).flatten(1).argmax(1) % 33 - 16
    assert 3 <= scaled.min() <= 4
    assert 10 <= scaled.max() <= 12
    torch.testing.assert_close(affine_views(x[:2], degrees=0, shift=0, scale=(1, 1)), x[:2], rtol=0, atol=1e-4)


def test_views_come_from_the_random_numbers_of_the_cpu() -> None:
    x, state = torch.rand(4, 2, 5, 6), torch.get_rng_state()
    first, second = affine_views(x), affine_views(x)
    assert not torch.equal(first, second)
    torch.set_rng_state(state)
    assert torch.equal(affine_views(x), first)


@pytest.mark.parametrize("kind", ["vit-som", "desom"])
def test_consistency_stands_beside_reconstruction_and_map(kind: str) -> None:
    spec = replace(SMALL, kind=kind, latent="neck", latent_dim=6, normalize=True, consistency=0.5)
    model, x = build(spec, "torch"), images()
    state = torch.get_rng_state()
    found = model.losses(x, None, STEP)
    torch.set_rng_state(state)
    z = [model.encode(affine_views(x)) for _ in range(2)]
    expected = {
        "reconstruction_loss": torch.stack([(model.autoencoder.decode(each) - x).abs().mean() for each in z]).mean(),
        "som_loss": reference.som_loss(torch.cat(z), model.som.prototypes, model.som.grid, 1.5)[0],
        "consistency_loss": info_nce(z[0], z[1]),
    }
    total = expected["reconstruction_loss"] + 0.3 * expected["som_loss"] + 0.5 * expected["consistency_loss"]
    torch.testing.assert_close(found, {"loss": total, **expected})


KINDS = [
    SMALL,
    replace(SMALL, num_classes=3, decoder_depth=0),
    replace(SMALL, latent="neck", latent_dim=5, consistency=0.5),
    replace(SMALL, kind="compact"),
    replace(SMALL, kind="vit", num_classes=3, decoder_depth=0),
    desom_as_configured(SHAPE),
    desom_as_first_published(SHAPE),
    ModelSpec("desom", SHAPE, latent_dim=5, normalize=True, consistency=0.5),
    ModelSpec("som-vae", SHAPE, latent_dim=5),
]


@pytest.mark.parametrize("spec", KINDS, ids=lambda spec: f"{spec.kind}-{spec.latent}-{spec.num_classes}-{spec.reduction}")
def test_the_loss_reaches_every_parameter(spec: ModelSpec) -> None:
    model = build(spec, "torch")
    model.losses(images(), torch.arange(6) % 3, Step(4.0, 1.0))["loss"].backward()
    unreached = {name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()}
    assert unreached <= ({"autoencoder.class_token"} if spec.num_classes == 0 else set())


@pytest.mark.parametrize(
    ("change", "named"),
    [({"kind": "cnn"}, "kind"), ({"prototypes": "sgd"}, "prototypes"), ({"kind": "vit"}, "num_classes")],
)
def test_a_spec_names_what_is_wrong(change: dict[str, str], named: str) -> None:
    with pytest.raises(ValueError, match=rf"^{named} must"):
        replace(SMALL, **change)
    with pytest.raises(ValueError, match="kind must be 'vit-som' or 'vit'"):
        replace(SMALL, kind="desom", num_classes=3)


def test_a_som_vae_needs_euclidean_distances() -> None:
    from vitsom_fast.models import SOMVAE, DenseAutoencoder

    with pytest.raises(ValueError, match="sqeuclidean"):
        SOMVAE(DenseAutoencoder(SHAPE, latent_dim=3, hidden=(4,)), FusedSOMLoss((2, 2), 3))
