"""The plain ViT that a ViT-SOM for classification is compared with."""

from __future__ import annotations

from torch import Tensor, nn

from vitsom_fast.models.spec import ModelSpec
from vitsom_fast.models.step import Model, Step
from vitsom_fast.models.vision_transformer import VisionTransformer
from vitsom_fast.models.vit_som import cross_entropy


class ViTClassifier(Model):
    """A ``VisionTransformer`` and a linear head on its class token; no map.

    Raises:
        ValueError: ``num_classes`` is below 1, or the ViT has a decoder.
    """

    def __init__(self, vit: VisionTransformer, num_classes: int, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        if vit.has_decoder:
            raise ValueError("vit must have decoder_depth 0: nothing is decoded")
        self.autoencoder: VisionTransformer = vit
        self.head = nn.Linear(vit.width, num_classes)
        self.label_smoothing = label_smoothing
        self.som = None
        self.spec: ModelSpec | None = None
        self.unit_classes: Tensor | None = None
        self.classes: tuple[str, ...] = ()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of images."""
        return self.autoencoder.image_shape

    def encode(self, images: Tensor) -> Tensor:
        """Latents (B, D) of images (B, C, H, W)."""
        return self.autoencoder.encode(images)

    def classify(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, C, H, W)."""
        return self.head(self.autoencoder.tokens(images)[:, 0])

    def losses(self, images: Tensor, labels: Tensor | None, step: Step) -> dict[str, Tensor]:
        """As ``step.Model`` says: "classification_loss" is the loss."""
        loss = cross_entropy(self.classify(images), labels, self.label_smoothing)
        return {"loss": loss, "classification_loss": loss}

    def idle_parameters(self) -> list[nn.Parameter]:
        """Those that the loss never reaches: of a neck."""
        return [] if self.autoencoder.neck is None else list(self.autoencoder.neck.parameters())

    forward = classify
