"""ViT-SOM: a Vision Transformer and the map on its latents, trained together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from torch import Tensor, nn
from torch.nn import functional as F

from vitsom_fast.loss import FusedSOMLoss
from vitsom_fast.models.presets import preset
from vitsom_fast.models.som_autoencoder import SOMAutoencoder
from vitsom_fast.models.step import Step
from vitsom_fast.models.vision_transformer import VisionTransformer


class ViTSOM(SOMAutoencoder):
    """An autoencoder of images with a ``FusedSOMLoss`` on its latents (Luo & Yuan 2025), for clustering or for classification.

    Args:
        autoencoder: a ``VisionTransformer`` as published, or a ``ViTAutoencoder``.
        num_classes: 0 for clustering: reconstruction and map. Else the loss is the cross entropy of a linear head on the class
            token of a ``VisionTransformer``, and the map; the decoder has no part in it.
        label_smoothing: of the cross entropy.
        reconstruction_beta, squared_error, consistency: as in ``SOMAutoencoder``.

    Raises:
        ValueError: ``som`` is not of the autoencoder's ``latent_dim``, a head on an autoencoder without a class token, or
            clustering with one without a decoder.
    """

    def __init__(
        self,
        autoencoder: nn.Module,
        som: FusedSOMLoss,
        *,
        num_classes: int = 0,
        label_smoothing: float = 0.0,
        **settings: Any,
    ) -> None:
        super().__init__(autoencoder, som, **settings)
        if num_classes and not isinstance(autoencoder, VisionTransformer):
            raise ValueError(f"autoencoder must have a class token to classify, got a {type(autoencoder).__name__}")
        if not num_classes and isinstance(autoencoder, VisionTransformer) and not autoencoder.has_decoder:
            raise ValueError("decoder_depth must be at least 1 for clustering, which decodes latents, got 0")
        self.label_smoothing = label_smoothing
        self.head = nn.Linear(self._vit.width, num_classes) if num_classes else None

    @property
    def _vit(self) -> VisionTransformer:
        return cast(VisionTransformer, self.autoencoder)

    @classmethod
    def from_preset(cls, name: str, *, backend: str = "auto", **changes: Any) -> ViTSOM:
        """An untrained model as published for a data set.

        Args:
            name: of ``models.PRESETS``, as "mnist" or "cifar-10".
            backend: of the map.
            changes: fields of ``ModelSpec`` to be others, as ``grid=(24, 24)``.

        Raises:
            TypeError, ValueError: there is no such preset or field, or sizes do not fit together.
        """
        from vitsom_fast.models.build import build  # which makes this class

        return cast(ViTSOM, build(replace(preset(name).spec, **changes), backend))

    def classify(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, C, H, W).

        Raises:
            RuntimeError: the model is one for clustering.
        """
        if self.head is None:
            raise RuntimeError("a ViTSOM for clustering has no head")
        logits: Tensor = self.head(self._vit.tokens(images)[:, 0])
        return logits

    @property
    def has_pictures(self) -> bool:
        """Whether a decoder is trained: not in classification."""
        return self.head is None

    def idle_parameters(self) -> list[nn.Parameter]:
        """The decoder's, in classification."""
        if self.head is None or not self._vit.has_decoder:
            return []
        parts: list[nn.Module] = [self._vit.decoder_embed, self._vit.decoder, self._vit.to_pixels]
        return [parameter for part in parts for parameter in part.parameters()]

    def losses(self, images: Tensor, labels: Tensor | None, step: Step) -> dict[str, Tensor]:
        """As ``step.Model`` says: the parts of a ``SOMAutoencoder``, or "classification_loss" and "som_loss"."""
        if self.head is None:
            return super().losses(images, labels, step)
        tokens = self._vit.tokens(images)  # [B, 1 + P, width]
        classification = cross_entropy(self.head(tokens[:, 0]), labels, self.label_smoothing)
        som = self.som(self._vit.latents(tokens), step.temperature)
        return {"loss": classification + step.gamma * som, "classification_loss": classification, "som_loss": som}


def cross_entropy(logits: Tensor, labels: Tensor | None, label_smoothing: float) -> Tensor:
    """The mean over the images that have a label; 0 where none has.

    Raises:
        ValueError: there are no labels at all.
    """
    if labels is None:
        raise ValueError("labels must be there for classification, got None")
    total = F.cross_entropy(logits, labels, ignore_index=-1, label_smoothing=label_smoothing, reduction="sum")
    return total / (labels >= 0).sum().clamp_min(1)
