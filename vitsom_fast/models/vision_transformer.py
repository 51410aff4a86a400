"""The Vision Transformer of ViT-SOM as published: a class token, a choice of latents, and a decoder back to images."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitsom_fast.models.blocks import Block, initialize_linear_, make_blocks
from vitsom_fast.models.positions import sincos_positions

LATENTS = ("patches", "cls", "mean", "neck")

_POSITION_BASE = 10000.0  # of Vaswani et al. 2017


class VisionTransformer(nn.Module):
    """Images to tokens, tokens to latents, latents back to images (Luo & Yuan 2025; Dosovitskiy et al. 2021).

    Args:
        image_shape: (C, H, W) of the images.
        patch: side of a square patch in pixels; divides H and W.
        kernel: side of the square of pixels that a patch is embedded from, ``patch`` or larger by an even number of pixels,
            which are shared with its neighbours; 0 for ``patch``.
        width, depth, heads, mlp_ratio: of the encoder; ``width`` is a multiple of 4 and of ``heads``.
        drop_path: share of the samples for which the last block's branches are left out in training; less in blocks before.
        latent: "patches", the flattened tokens of all patches (the paper); "cls", the class token; "mean", the mean of the
            patches' tokens; "neck", a linear bottleneck over all of them, brought to the length sqrt(D).
        latent_dim: D of a "neck"; what the others have follows from the sizes.
        decoder_width, decoder_depth: of the decoder, which has the encoder's number of heads; a depth of 0 for none.

    Attributes:
        latent_dim: D.

    Raises:
        ValueError: a size below 1 or one that does not divide another as it must, an unknown latent; the message names it.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        patch: int = 4,
        kernel: int = 0,
        width: int = 64,
        depth: int = 2,
        heads: int = 2,
        mlp_ratio: int = 4,
        drop_path: float = 0.0,
        latent: str = "patches",
        latent_dim: int = 32,
        decoder_width: int = 16,
        decoder_depth: int = 1,
    ) -> None:
        super().__init__()
        channels, height, image_width = image_shape
        for name, size in (("depth", depth), ("heads", heads), ("mlp_ratio", mlp_ratio), ("latent_dim", latent_dim)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if decoder_depth < 0:
            raise ValueError(f"decoder_depth must be at least 0, got {decoder_depth}")
        if patch < 1 or height % patch or image_width % patch:
            raise ValueError(f"patch must divide the {height} x {image_width} pixels of an image, got {patch}")
        kernel = kernel or patch
        if kernel < patch or (kernel - patch) % 2:
            raise ValueError(f"kernel must be the patch {patch} or larger by an even number, got {kernel}")
        for name, size in (("width", width), ("decoder_width", decoder_width)):
            if size < 1 or size % 4 or size % heads:
                raise ValueError(f"{name} must be a multiple of 4 and of the number of heads {heads}, got {size}")
        if latent not in LATENTS:
            raise ValueError(f"latent must be one of {LATENTS}, got {latent!r}")
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path must be a share below 1, got {drop_path}")
        self.image_shape, self.patch, self.width, self.latent = image_shape, patch, width, latent
        rows, cols = height // patch, image_width // patch
        patches = rows * cols
        self.latent_dim = {"patches": patches * width, "cls": width, "mean": width, "neck": latent_dim}[latent]

        self.embed = nn.Conv2d(channels, width, kernel, stride=patch, padding=(kernel - patch) // 2)
        self.class_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.encoder = make_blocks(width, depth, heads, mlp_ratio, drop_path)
        self.norm = nn.LayerNorm(width)
        self.neck = nn.Linear(patches * width, latent_dim) if latent == "neck" else None
        self.register_buffer("positions", sincos_positions(rows, cols, width, _POSITION_BASE), persistent=False)
        self.positions: Tensor
        self.has_decoder = decoder_depth > 0
        if self.has_decoder:
            of_one_patch = latent == "patches"
            self.decoder_embed = nn.Linear(
                width if of_one_patch else self.latent_dim, decoder_width if of_one_patch else patches * decoder_width
            )
            self.decoder = make_blocks(decoder_width, decoder_depth, heads, mlp_ratio)
            self.to_pixels = nn.Sequential(nn.LayerNorm(decoder_width), nn.Linear(decoder_width, channels * patch * patch))
            positions = sincos_positions(rows, cols, decoder_width, _POSITION_BASE)
            self.register_buffer("decoder_positions", positions, persistent=False)
            self.decoder_positions: Tensor
        initialize_linear_(self)

    @property
    def latent_length(self) -> float:
        """That of latents, about: exact for a "neck", of features that are not correlated for the others."""
        if self.neck is not None:
            return self.latent_dim**0.5
        scale, shift = self.norm.weight.detach(), self.norm.bias.detach()
        return (self.latent_dim / self.width * (scale.square() + shift.square()).sum()).sqrt().item()

    def tokens(self, images: Tensor) -> Tensor:
        """(B, 1 + P, width) of images (B, C, H, W): the class token, then the patches row by row; each normalised."""
        return self.norm(self.encoder(self._embedded(images)))

    def _embedded(self, images: Tensor) -> Tensor:
        patches = self.embed(images).flatten(2).mT + self.positions  # [B, P, width]
        return torch.cat([self.class_token.expand(len(images), -1, -1), patches], dim=1)

    def attention(self, images: Tensor) -> Tensor:
        """(B, rows, cols): how much each patch of images (B, C, H, W) is looked at in the last block, a mean over heads; by the
        class token where that is the latent, or else by all tokens."""
        tokens = self._embedded(images)
        *before, last = self.encoder
        for block in before:
            tokens = block(tokens)
        weights = cast(Block, last).weights(tokens).mean(dim=1)  # [B, 1 + P, 1 + P]
        seen = weights[:, 0, 1:] if self.latent == "cls" else weights[:, :, 1:].mean(dim=1)
        return seen.unflatten(1, (self.image_shape[1] // self.patch, -1))

    def latents(self, tokens: Tensor) -> Tensor:
        """(B, D) of tokens (B, 1 + P, width)."""
        if self.latent == "cls":
            return tokens[:, 0]
        if self.latent == "mean":
            return tokens[:, 1:].mean(dim=1)
        flat = tokens[:, 1:].flatten(1)  # [B, P * width]
        return flat if self.neck is None else F.layer_norm(self.neck(flat), (self.latent_dim,))

    def encode(self, images: Tensor) -> Tensor:
        """Latents (B, D) of images (B, C, H, W)."""
        return self.latents(self.tokens(images))

    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, C, H, W) of latents (B, D).

        Raises:
            RuntimeError: the model has no decoder.
        """
        if not self.has_decoder:
            raise RuntimeError("a model with decoder_depth 0 has no decoder")
        if self.latent == "patches":
            tokens = self.decoder_embed(latents.unflatten(1, (-1, self.width)))  # [B, P, decoder_width]
        else:
            tokens = self.decoder_embed(latents).unflatten(1, (len(self.decoder_positions), -1))
        tokens = self.decoder(tokens + self.decoder_positions)
        return F.fold(self.to_pixels(tokens).mT, self.image_shape[1:], self.patch, stride=self.patch)
