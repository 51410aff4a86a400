"""What a model is made of, as data: sizes and choices, and nothing of its training."""

from __future__ import annotations

from dataclasses import dataclass

from vitsom_fast.choices import Distance, Neighborhood, Reduction, Topology

KINDS = ("compact", "vit-som", "vit", "desom", "som-vae")
PROTOTYPES = ("gradient", "ema")


@dataclass(frozen=True)
class ModelSpec:
    """Sizes and choices of a model that ``models.build`` makes; see there for what each kind takes.

    Attributes:
        kind: "vit-som", a ``VisionTransformer`` with a map; "vit", without one, a classifier; "compact", the ``ViTAutoencoder``
            with a map; "desom" and "som-vae", a dense autoencoder with a map.
        image_shape: (C, H, W).
        num_classes: 0 for clustering; else a "vit-som" or "vit" has a linear head on the class token.
        prototypes: "gradient", or "ema": an ``AveragedSOM``.
        consistency: weight of InfoNCE between two views.

    Raises:
        ValueError: choices that are none, or that do not go together; the message names them.
    """

    kind: str = "vit-som"
    image_shape: tuple[int, int, int] = (1, 28, 28)
    num_classes: int = 0
    grid: tuple[int, int] = (16, 16)
    topology: Topology = "rectangular"
    periodic: bool = False
    distance: Distance = "cosine"
    neighborhood: Neighborhood = "gaussian"
    reduction: Reduction = "mean"
    prototypes: str = "gradient"
    patch: int = 4
    kernel: int = 0
    width: int = 64
    depth: int = 2
    heads: int = 2
    mlp_ratio: int = 4
    drop_path: float = 0.0
    latent: str = "patches"
    latent_dim: int = 32
    decoder_width: int = 16
    decoder_depth: int = 1
    normalize: bool = False
    reconstruction_beta: float = 0.0
    squared_error: bool = False
    label_smoothing: float = 0.0
    consistency: float = 0.0

    def __post_init__(self) -> None:
        for name in ("image_shape", "grid"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.num_classes < 0:
            raise ValueError(f"num_classes must be at least 0, got {self.num_classes}")
        for name, choices in (("kind", KINDS), ("prototypes", PROTOTYPES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {choices}, got {getattr(self, name)!r}")
        if self.kind == "som-vae" and self.prototypes == "ema":
            raise ValueError("prototypes must be 'gradient' for a 'som-vae', which trains them by its own loss, got 'ema'")
        if self.kind == "som-vae" and self.consistency > 0:
            raise ValueError(f"consistency must be 0 for a 'som-vae', whose loss has no such term, got {self.consistency}")
        if self.num_classes and self.kind not in ("vit-som", "vit"):
            raise ValueError(f"kind must be 'vit-som' or 'vit' for classification, got {self.kind!r}")
        if self.kind == "vit" and not self.num_classes:
            raise ValueError("num_classes must be at least 1 for a 'vit', which does nothing but classify, got 0")
