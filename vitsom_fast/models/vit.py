"""A compact Vision Transformer autoencoder, built from torch.nn's own transformer blocks."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from vitsom_fast.models.positions import sincos_positions


class ViTAutoencoder(nn.Module):
    """Images to latents and back, as in ViT-SOM (Luo & Yuan 2025): a latent is the image's flattened patch embeddings.

    Every latent has the length sqrt(D): the cosine distance that the map uses is then the squared Euclidean distance over 2 D,
    and a prototype's direction alone says which latent it stands for. The whole latent is normalised, not each patch: that
    would make an empty patch as loud as a full one (of the 8 x 8 digits, 98.8 % have the class of their nearest neighbour by
    pixels, 96.4 % by normalised patches).

    Args:
        image_shape: (C, H, W) of the images.
        patch: side of a square patch in pixels; divides H and W.
        width, depth, heads: of the encoder; ``width`` is the number of features of a patch, a multiple of 4 and of ``heads``.
        decoder_width, decoder_depth: of the decoder, which has the encoder's number of heads.
        mlp_ratio: hidden features of a block's MLP over its width.

    Attributes:
        latent_dim: D = (H / patch) * (W / patch) * width.

    Raises:
        ValueError: a size below 1, or one that does not divide another as it must; the message names it.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        patch: int = 2,
        width: int = 16,
        depth: int = 2,
        heads: int = 2,
        decoder_width: int = 16,
        decoder_depth: int = 1,
        mlp_ratio: int = 4,
    ) -> None:
        super().__init__()
        channels, height, image_width = image_shape
        for name, size in (("depth", depth), ("heads", heads), ("decoder_depth", decoder_depth), ("mlp_ratio", mlp_ratio)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if patch < 1 or height % patch or image_width % patch:
            raise ValueError(f"patch must divide the {height} x {image_width} pixels of an image, got {patch}")
        for name, size in (("width", width), ("decoder_width", decoder_width)):
            if size < 1 or size % 4 or size % heads:
                raise ValueError(f"{name} must be a multiple of 4 and of the number of heads {heads}, got {size}")
        self.image_shape = image_shape
        self.patch = patch
        rows, cols = height // patch, image_width // patch
        self.latent_dim = rows * cols * width

        self.embed = nn.Linear(channels * patch * patch, width)
        self.encoder = _blocks(width, depth, heads, mlp_ratio)
        self.normalize = nn.LayerNorm((rows * cols, width), elementwise_affine=False)
        self.decoder_embed = nn.Linear(width, decoder_width)
        self.decoder = _blocks(decoder_width, decoder_depth, heads, mlp_ratio)
        self.to_pixels = nn.Sequential(nn.LayerNorm(decoder_width), nn.Linear(decoder_width, channels * patch * patch))
        self.register_buffer("positions", sincos_positions(rows, cols, width), persistent=False)
        self.register_buffer("decoder_positions", sincos_positions(rows, cols, decoder_width), persistent=False)
        self.positions: Tensor
        self.decoder_positions: Tensor

    @property
    def latent_length(self) -> float:
        """That of every latent."""
        return self.latent_dim**0.5

    def encode(self, images: Tensor) -> Tensor:
        """Latents (B, D) of images (B, C, H, W)."""
        patches = F.unfold(images, self.patch, stride=self.patch).mT  # [B, P, C * patch * patch]
        tokens = self.embed(patches) + self.positions  # [B, P, width]
        return self.normalize(self.encoder(tokens)).flatten(1)

    def attention(self, images: Tensor) -> Tensor:
        """(B, rows, cols): how much each patch of images (B, C, H, W) is looked at in the last block; a mean over heads."""
        tokens = self.embed(F.unfold(images, self.patch, stride=self.patch).mT) + self.positions  # [B, P, width]
        *before, last = self.encoder.layers
        for layer in before:
            tokens = layer(tokens)
        tokens = last.norm1(tokens)
        _, weights = last.self_attn(tokens, tokens, tokens, need_weights=True)  # [B, P, P], a mean over heads
        return weights.mean(dim=1).unflatten(1, (self.image_shape[1] // self.patch, -1))

    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, C, H, W) of latents (B, D)."""
        tokens = latents.unflatten(1, self.positions.shape)  # [B, P, width]
        tokens = self.decoder(self.decoder_embed(tokens) + self.decoder_positions)  # [B, P, decoder_width]
        return F.fold(self.to_pixels(tokens).mT, self.image_shape[1:], self.patch, stride=self.patch)


def _blocks(width: int, depth: int, heads: int, mlp_ratio: int) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(
        width, heads, mlp_ratio * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    blocks = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
    for parameter in blocks.parameters():  # nn.TransformerEncoder copies one layer: without this all would start equal
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
    return blocks
