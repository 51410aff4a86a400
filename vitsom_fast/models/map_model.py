"""What all models with a map on their latents have in common."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitsom_fast.arguments import whole_number
from vitsom_fast.loss import FusedSOMLoss
from vitsom_fast.models import pretrained
from vitsom_fast.models.averaged import AveragedSOM
from vitsom_fast.models.spec import ModelSpec
from vitsom_fast.models.step import Model

Self = TypeVar("Self", bound="MapModel")


class Autoencoder(Protocol):
    """What is below a map."""

    image_shape: tuple[int, int, int]
    latent_dim: int

    @property
    def latent_length(self) -> float: ...

    def encode(self, images: Tensor) -> Tensor: ...

    def decode(self, latents: Tensor) -> Tensor: ...


class Prediction(NamedTuple):
    """Of each image, (B,): its unit, how far its latent is from that, and the class of the unit: that of most images that it
    won in training, -1 where it won none with a class or the model does not know."""

    unit: Tensor
    distance: Tensor
    unit_class: Tensor


class MapModel(Model):
    """An autoencoder and a map on its latents.

    Attributes:
        spec: what it was built from by ``models.build``, or None.
        unit_classes: (K,) int64, the class of each unit, -1 for none; None before anybody has counted.
        classes: the names of the classes.

    Raises:
        ValueError: ``som`` is not of the autoencoder's ``latent_dim``.
    """

    def __init__(self, autoencoder: nn.Module, som: FusedSOMLoss) -> None:
        super().__init__()
        if som.dim != autoencoder.latent_dim:
            raise ValueError(f"som must have dim {autoencoder.latent_dim}, the autoencoder's latent_dim, got {som.dim}")
        self.autoencoder = autoencoder
        self.som = som
        self.spec: ModelSpec | None = None
        self.unit_classes: Tensor | None = None
        self.classes: tuple[str, ...] = ()

    @property
    def below(self) -> Autoencoder:
        """The autoencoder, as what it is."""
        return cast(Autoencoder, self.autoencoder)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of images."""
        return self.below.image_shape

    def encode(self, images: Tensor) -> Tensor:
        """Latents (B, D) of images (B, C, H, W)."""
        return self.below.encode(images)

    @property
    def has_pictures(self) -> bool:
        """Whether a decoder is trained, so that prototypes stand for images."""
        return True

    def idle_parameters(self) -> list[nn.Parameter]:
        """Those that the loss never reaches."""
        return []

    def after_step(self) -> None:
        """Let maps take in what they have seen that are not trained by gradients."""
        for part in self.modules():
            if isinstance(part, AveragedSOM):
                part.absorb()

    def save_pretrained(self, folder: Path | str) -> Path:
        """Write ``model.safetensors`` into a folder, made if need be: the weights, the map and its grid, the shape of images,
        the classes of the units. Returns its path.

        Raises:
            ValueError: the model was not made by ``models.build`` or ``from_preset``.
        """
        return pretrained.save(self, folder)

    @classmethod
    def from_pretrained(cls: type[Self], run: Path | str, *, backend: str = "auto") -> Self:
        """The model that a finished run or ``save_pretrained`` left in a folder, for evaluation, on the CPU.

        Raises:
            FileNotFoundError: there is none.
            ValueError: the file is damaged, none of ours, or of a model of another class; the message names it.
        """
        from vitsom_fast.models.build import build  # which makes what is made of this class

        model = pretrained.load(run, build, backend)
        if not isinstance(model, cls):
            raise ValueError(f"{str(run)!r} must hold a {cls.__name__}, got a {type(model).__name__}")
        return model

    @torch.no_grad()
    def predict(self, images: Tensor, chunk: int = 512) -> Prediction:
        """Unit, distance and class of the unit of every image.

        Args:
            images: (B, C, H, W) of the model's shape: uint8, or floats in [0, 1].
            chunk: images at a time.

        Raises:
            TypeError, ValueError: images of another kind or shape or out of their range, a chunk below 1.
        """
        shape, chunk = self.image_shape, whole_number("chunk", chunk)
        if not isinstance(images, Tensor) or not (images.dtype == torch.uint8 or images.is_floating_point()):
            got = images.dtype if isinstance(images, Tensor) else f"{type(images).__module__}.{type(images).__qualname__}"
            raise TypeError(f"images must be a torch.Tensor of uint8 or floats, got {got}")
        if images.dim() != 4 or tuple(images.shape[1:]) != tuple(shape):
            raise ValueError(f"images must have shape (B, {', '.join(map(str, shape))}), got {tuple(images.shape)}")
        training = self.training
        self.eval()
        try:
            found = [self._nearest(part) for part in images.split(chunk)]
        finally:
            self.train(training)
        device = self.som.prototypes.device
        unit = torch.cat([each for each, _ in found]) if found else torch.empty(0, dtype=torch.int64, device=device)
        distance = torch.cat([each for _, each in found]) if found else torch.empty(0, dtype=torch.float32, device=device)
        known = self.unit_classes
        if known is None:
            known = torch.full((self.som.grid.num_prototypes,), -1, dtype=torch.int64, device=device)
        return Prediction(unit, distance, known.to(device)[unit])

    def _nearest(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Units and distances of images as ``predict`` takes them."""
        pixels = images.to(self.som.prototypes.device)
        if pixels.dtype == torch.uint8:
            pixels = pixels.to(torch.float32) / 255
        elif not ((pixels >= 0) & (pixels <= 1)).all():  # false for NaN, too
            raise ValueError(f"images of floats must be finite and in [0, 1], got {pixels.min():g} to {pixels.max():g}")
        return self.som.find_bmu(self.encode(pixels.to(self.som.prototypes.dtype)))

    @torch.no_grad()
    def decode_prototypes(self, chunk: int = 1024) -> Tensor:
        """(K, C, H, W): the image that every prototype stands for, ``chunk`` of them decoded at a time."""
        latents: Tensor = self.som.prototypes  # [K, D]
        if self.som.distance == "cosine":  # which sees their direction alone
            latents = F.normalize(latents) * self.below.latent_length
        return torch.cat([self.below.decode(part) for part in latents.split(chunk)])


def class_of_units(bmu: Tensor, labels: Tensor, num_prototypes: int) -> Tensor:
    """(K,) int64: the most frequent class among the samples of each unit, the lowest number of equally frequent ones; -1 where
    no sample of a unit has one.

    Args:
        bmu: (N,) units.
        labels: (N,) int64, -1 for none.
    """
    known = labels >= 0
    if not known.any():
        return torch.full((num_prototypes,), -1, dtype=torch.int64, device="cpu")
    bmu, labels = bmu[known].cpu(), labels[known].cpu()
    classes = int(labels.max()) + 1
    counts = torch.bincount(bmu * classes + labels, minlength=num_prototypes * classes).view(num_prototypes, classes)
    most, which = counts.max(dim=1)
    return torch.where(most > 0, which, -1)
