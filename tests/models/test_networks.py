"""The published Vision Transformer and its pieces, the dense autoencoder."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from vitsom_fast.models import DenseAutoencoder, ModelSpec, VisionTransformer, ViTAutoencoder, build
from vitsom_fast.models.blocks import Attention, DropPath, make_blocks
from vitsom_fast.models.positions import sincos_positions
from vitsom_fast.models.vision_transformer import LATENTS


def test_attention_is_that_of_the_formula() -> None:
    attention, tokens = Attention(12, heads=3), torch.randn(2, 5, 12)
    q, k, v = attention.qkv(tokens).chunk(3, dim=2)
    heads = []
    for head in range(3):
        q_h, k_h, v_h = (x[:, :, 4 * head : 4 * head + 4] for x in (q, k, v))
        heads.append(torch.softmax(q_h @ k_h.mT / 4**0.5, dim=2) @ v_h)
    torch.testing.assert_close(attention(tokens), attention.project(torch.cat(heads, dim=2)))


def test_drop_path_leaves_out_whole_samples_in_training_only() -> None:
    drop, branch = DropPath(0.25), torch.ones(2000, 3, 2)
    kept = drop(branch)
    values = kept[:, 0, 0]
    assert (kept == values[:, None, None]).all()
    assert set(values.tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert 0.1 < (values == 0).float().mean() < 0.45
    assert torch.equal(drop.eval()(branch), branch)


def test_drop_path_grows_from_block_to_block() -> None:
    assert [block.drop_path.share for block in make_blocks(4, 5, 1, 2, 0.1)] == pytest.approx([0, 0.025, 0.05, 0.075, 0.1])
    assert [block.drop_path.share for block in make_blocks(4, 1, 1, 2, 0.1)] == [0.0]


@pytest.mark.parametrize("latent", LATENTS)
@pytest.mark.parametrize("kernel", [0, 4])
def test_latents_are_of_the_tokens_and_can_be_decoded(latent: str, kernel: int) -> None:
    vit = VisionTransformer((3, 4, 6), patch=2, kernel=kernel, width=8, latent=latent, latent_dim=5, decoder_width=4)
    images = torch.rand(7, 3, 4, 6)
    tokens, latents = vit.tokens(images), vit.encode(images)
    assert tokens.shape == (7, 7, 8)
    expected = {
        "patches": lambda: tokens[:, 1:].reshape(7, 48),
        "cls": lambda: tokens[:, 0],
        "mean": lambda: tokens[:, 1:].mean(1),
        "neck": lambda: F.layer_norm(vit.neck(tokens[:, 1:].flatten(1)), (5,)),
    }
    torch.testing.assert_close(latents, expected[latent]())
    assert latents.shape == (7, vit.latent_dim)
    assert vit.decode(latents).shape == images.shape


def test_a_patch_is_decoded_to_its_own_place() -> None:
    vit = VisionTransformer((2, 4, 6), patch=2, width=8, decoder_width=4)
    vit.decoder = torch.nn.Sequential()  # no attention: patches know of no others
    latents = torch.randn(1, vit.latent_dim)
    other = latents.clone()
    other[0, 4 * 8 : 5 * 8] += 1.0  # row 1, column 1 of 2 x 3 patches
    changed = (vit.decode(latents) != vit.decode(other))[0].any(0)  # [4, 6]
    expected = torch.zeros(4, 6, dtype=torch.bool)
    expected[2:4, 2:4] = True
    assert torch.equal(changed, expected)


def test_positions_are_fixed_and_not_saved() -> None:
    vit = VisionTransformer((1, 4, 4), patch=2)
    assert not [name for name in vit.state_dict() if "position" in name]
    assert not [name for name, _ in vit.named_parameters() if "position" in name]


@pytest.mark.parametrize("latent", ["patches", "neck"])
def test_latents_are_about_as_long_as_is_said(latent: str) -> None:
    vit = VisionTransformer((1, 8, 8), patch=2, width=16, latent=latent)
    with torch.no_grad():
        vit.norm.weight.mul_(1.5)
        length = vit.encode(torch.rand(5, 1, 8, 8)).norm(dim=1)
    assert vit.latent_length == pytest.approx(length.mean().item(), rel=0.01)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"patch": 3}, "patch"),
        ({"kernel": 1}, "kernel"),
        ({"kernel": 3}, "kernel"),
        ({"width": 6}, "width"),
        ({"heads": 3, "width": 8}, "width"),
        ({"depth": 0}, "depth"),
        ({"latent": "max"}, "latent"),
        ({"latent_dim": 0}, "latent_dim"),
        ({"drop_path": 1.0}, "drop_path"),
        ({"decoder_depth": -1}, "decoder_depth"),
    ],
)
def test_sizes_that_do_not_fit_are_named(settings: dict[str, int], named: str) -> None:
    with pytest.raises(ValueError, match=rf"^{named} must"):
        VisionTransformer((1, 4, 4), **{"patch": 2, "width": 8, **settings})


def test_without_a_decoder_nothing_is_decoded() -> None:
    vit = VisionTransformer((1, 4, 4), patch=2, decoder_depth=0)
    with pytest.raises(RuntimeError, match="decoder"):
        vit.decode(torch.rand(1, vit.latent_dim))


def test_dense_autoencoder_is_500_500_2000_10_and_back() -> None:
    dense = DenseAutoencoder((1, 28, 28))
    sizes = [784, 500, 500, 2000, 10, 2000, 500, 500, 784]
    weights = [p for p in dense.parameters() if p.dim() == 2]
    assert [tuple(w.shape) for w in weights] == [(b, a) for a, b in pairwise(sizes)]
    images = torch.rand(3, 1, 28, 28)
    x = images.flatten(1)
    for weight, bias in list(zip(weights, (p for p in dense.parameters() if p.dim() == 1), strict=True))[:4]:
        x = F.linear(x.relu() if weight is not weights[0] else x, weight, bias)
    torch.testing.assert_close(dense.encode(images), x)
    assert dense.decode(x).shape == images.shape


def test_normalized_latents_have_the_length_sqrt_dim() -> None:
    dense = DenseAutoencoder((1, 4, 4), latent_dim=7, hidden=(9,), normalize=True)
    length = dense.encode(torch.rand(5, 1, 4, 4)).norm(dim=1)
    torch.testing.assert_close(length, torch.full((5,), math.sqrt(7)), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"kind": "som-vae", "prototypes": "ema"}, "prototypes must be 'gradient' for a 'som-vae'"),
        ({"kind": "som-vae", "consistency": 0.5}, "consistency must be 0 for a 'som-vae'"),
        ({"decoder_depth": 0}, "decoder_depth must be at least 1 for clustering"),
        ({"num_classes": -1}, "num_classes must be at least 0, got -1"),
    ],
    ids=["ema", "consistency", "decoder", "classes"],
)
def test_choices_that_do_not_go_together_are_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        build(ModelSpec(**settings))


def test_lists_serve_as_sizes() -> None:
    assert ModelSpec(grid=[3, 4], image_shape=[1, 4, 4]) == ModelSpec(grid=(3, 4), image_shape=(1, 4, 4))  # type: ignore[arg-type]


def test_positions_follow_the_default_dtype_from_fp32() -> None:
    expected = sincos_positions(3, 5, 16)
    torch.set_default_dtype(torch.float64)
    try:
        found = sincos_positions(3, 5, 16)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == torch.float64
    assert torch.equal(found.float(), expected)


@pytest.mark.parametrize("latent", ["patches", "cls"])
def test_attention_is_what_the_last_block_does(latent: str) -> None:
    """Shares that add up to what patches get of the whole; of one block, what its fused attention mixes."""
    vit = VisionTransformer((1, 8, 12), patch=4, width=8, depth=2, heads=2, latent=latent, decoder_width=4).eval()
    images = torch.rand(3, 1, 8, 12)
    attention = vit.attention(images)
    assert attention.shape == (3, 2, 3)
    assert (attention >= 0).all()
    assert (attention.sum(dim=(1, 2)) < 1).all()  # the rest is the class token's
    block = vit.encoder[1].attention
    tokens = torch.randn(3, 7, 8)
    value = block.qkv(tokens).chunk(3, dim=2)[2].unflatten(2, (2, 4)).transpose(1, 2)
    mixed = block.project((block.weights(tokens) @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(mixed, block(tokens))


def test_attention_of_a_compact_model() -> None:
    vit = ViTAutoencoder((1, 4, 6), patch=2, width=8, depth=2, decoder_width=4).eval()
    attention = vit.attention(torch.rand(5, 1, 4, 6))
    assert attention.shape == (5, 2, 3)
    torch.testing.assert_close(attention.sum(dim=(1, 2)), torch.ones(5))
