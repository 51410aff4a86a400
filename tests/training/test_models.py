"""The ViT autoencoder, ViT-SOM and the plain SOM baseline."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

from vitsom_fast import FusedSOMLoss, Grid, find_bmu, metrics, reference
from vitsom_fast.models import ViTAutoencoder, ViTSOM, fit_plain_som
from vitsom_fast.models.vit import sincos_positions


def small_vit_som(grid: tuple[int, int] = (3, 4), shape: tuple[int, int, int] = (1, 4, 6)) -> ViTSOM:
    autoencoder = ViTAutoencoder(shape, patch=2, width=8, depth=1, heads=2, decoder_width=4, decoder_depth=1)
    return ViTSOM(autoencoder, FusedSOMLoss(grid, autoencoder.latent_dim, backend="torch"))


def test_every_latent_has_the_length_sqrt_dim() -> None:
    autoencoder = ViTAutoencoder((3, 4, 6), patch=2, width=8)
    z = autoencoder.encode(torch.rand(5, 3, 4, 6))
    assert z.shape == (5, 6 * 8) == (5, autoencoder.latent_dim)
    torch.testing.assert_close(z.norm(dim=1), torch.full((5,), 48.0**0.5), rtol=1e-4, atol=0)


@pytest.mark.parametrize("shape", [(1, 4, 6), (3, 6, 4)])
def test_can_learn_to_reconstruct(shape: tuple[int, int, int]) -> None:
    """Two images: better than any decoder that does not know which of the two it is to draw."""
    autoencoder = ViTAutoencoder(shape, patch=2, width=16, depth=1, decoder_width=16)
    images = torch.rand(2, *shape)
    blind = F.l1_loss(images.flip(0), images).item() / 2
    optimizer = torch.optim.Adam(autoencoder.parameters(), lr=1e-2)
    for _ in range(1000):  # a tenth of them do
        optimizer.zero_grad()
        loss = F.l1_loss(autoencoder.decode(autoencoder.encode(images)), images)
        if loss < blind / 3:
            return
        loss.backward()
        optimizer.step()
    pytest.fail(f"a loss of {loss.item():.3g} is left, without looking {blind:.3g}")


def test_patches_keep_their_places() -> None:
    autoencoder = ViTAutoencoder((2, 4, 6), patch=2, width=8)
    seen: list[torch.Tensor] = []
    autoencoder.embed.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    images = torch.rand(1, 2, 4, 6)
    autoencoder.encode(images)
    torch.testing.assert_close(seen[0][0, 4].view(2, 2, 2), images[0, :, 2:4, 2:4])  # row 1, column 1 of 2 x 3 patches


def test_blocks_do_not_start_equal() -> None:
    first, second = ViTAutoencoder((1, 4, 4), depth=2).encoder.layers
    assert not torch.equal(first.linear1.weight, second.linear1.weight)


def test_positions_tell_all_patches_apart() -> None:
    positions = sincos_positions(5, 7, 16)
    distances = torch.cdist(positions, positions) + 10 * torch.eye(35)
    assert distances.min() > 0.1
    rows, cols = positions.view(5, 7, 2, 8).unbind(2)  # halves of the features
    assert (rows == rows[:, :1]).all()
    assert (cols == cols[:1]).all()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"patch": 3}, "patch"),
        ({"patch": 0}, "patch"),
        ({"width": 6}, "width"),
        ({"decoder_width": 4, "heads": 8, "width": 8}, "decoder_width"),
        ({"depth": 0}, "depth"),
        ({"heads": 0}, "heads"),
    ],
)
def test_sizes_that_do_not_fit_are_named(settings: dict[str, int], named: str) -> None:
    with pytest.raises(ValueError, match=rf"^{named} must"):
        ViTAutoencoder((1, 4, 4), **settings)


def test_vit_som_is_the_two_losses_of_the_paper() -> None:
    model = small_vit_som()
    images = torch.rand(7, 1, 4, 6)
    output = model(images, 1.5)
    z = model.autoencoder.encode(images)
    som_loss, bmu = reference.som_loss(z, model.som.prototypes, model.som.grid, 1.5)
    torch.testing.assert_close(output.reconstruction_loss, (model.autoencoder.decode(z) - images).abs().mean())
    torch.testing.assert_close(output.som_loss, som_loss)
    assert torch.equal(output.bmu, bmu)


def test_both_losses_reach_the_encoder() -> None:
    model = small_vit_som()
    output = model(torch.rand(7, 1, 4, 6), 1.5)
    weight = model.autoencoder.embed.weight
    for loss in (output.reconstruction_loss, output.som_loss):
        (gradient,) = torch.autograd.grad(loss, weight, retain_graph=True)
        assert gradient.abs().max() > 0
    assert torch.autograd.grad(output.som_loss, model.som.prototypes)[0].abs().max() > 0


def test_som_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="som must have dim 48"):
        ViTSOM(ViTAutoencoder((1, 4, 6), width=8), FusedSOMLoss((2, 2), 47))


def test_a_prototype_stands_for_the_latent_of_its_direction() -> None:
    model = small_vit_som((1, 3))
    images = torch.rand(3, 1, 4, 6)
    with torch.no_grad():
        z = model.autoencoder.encode(images)
        model.som.prototypes.copy_(z * torch.tensor([[0.01], [1.0], [70.0]]))
        torch.testing.assert_close(model.decode_prototypes(chunk=2), model.autoencoder.decode(z), rtol=0, atol=1e-3)


def _digits() -> tuple[torch.Tensor, torch.Tensor]:
    pixels, labels = load_digits(return_X_y=True)
    return torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels)


@pytest.mark.parametrize(("side", "share"), [(4, 0.9), (8, 0.6), (16, 0.25)])
def test_plain_som_tells_digits_apart(side: int, share: float) -> None:
    """Of the digits that are not where they belong after its first epoch, this share at most is left after its last."""
    x, labels = _digits()
    maps = [fit_plain_som(x, Grid(side, side), epochs=n) for n in (1, 50)]
    astray = [1 - metrics.purity(find_bmu(x, prototypes, distance="euclidean")[0], labels) for prototypes in maps]
    assert astray[1] < share * astray[0] < 0.5


@pytest.mark.parametrize("topology", ["rectangular", "hexagonal"])
@pytest.mark.parametrize("periodic", [False, True])
def test_plain_som_is_ordered_and_repeatable(topology: str, periodic: bool) -> None:
    x, _ = _digits()
    grid = Grid(6, 8, topology=topology, periodic=periodic)
    prototypes = fit_plain_som(x, grid, epochs=20)
    assert torch.equal(prototypes, fit_plain_som(x, grid, epochs=20))
    on_grid = prototypes.view(6, 8, -1)
    near = torch.cat([(on_grid[1:] - on_grid[:-1]).flatten(0, 1), (on_grid[:, 1:] - on_grid[:, :-1]).flatten(0, 1)])
    assert near.norm(dim=1).mean() < 0.85 * torch.pdist(prototypes).mean()  # out of order it would be 1


@pytest.mark.parametrize("x", [torch.rand(1, 5), torch.ones(20, 3), torch.rand(30, 1)], ids=["one", "constant", "1-D"])
def test_plain_som_of_little_data_is_finite(x: torch.Tensor) -> None:
    prototypes = fit_plain_som(x, Grid(5, 4))
    assert torch.isfinite(prototypes).all()
    assert (x - prototypes[find_bmu(x, prototypes, distance="euclidean")[0]]).abs().max() < 0.3
