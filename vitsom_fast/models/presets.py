"""The settings of the published ViT-SOM configurations, one for each data set (Luo & Yuan 2025 and its code)."""

from __future__ import annotations

from dataclasses import dataclass, field

from vitsom_fast.models.spec import ModelSpec


@dataclass(frozen=True)
class Augmentation:
    """What is done to training images at random.

    Attributes:
        horizontal_flip: probability of a mirror image.
        resize_scale, resize_ratio: the area of a crop, which is resized to the image, as a share of it, and its width over its
            height; (1, 1) each for no crop.
        random_operations: how many operations of RandAugment (Cubuk et al. 2020) an image undergoes.
        erase: probability that a rectangle is replaced by noise, a pixel each (Zhong et al. 2020).
    """

    horizontal_flip: float = 0.0
    resize_scale: tuple[float, float] = (1.0, 1.0)
    resize_ratio: tuple[float, float] = (1.0, 1.0)
    random_operations: int = 0
    erase: float = 0.0


OF_CLASSIFICATION = Augmentation(0.5, (0.08, 1.0), (0.75, 1.3333), random_operations=2, erase=0.25)


@dataclass(frozen=True)
class Preset:
    """A model and how it was trained.

    Attributes:
        lr_per_256: the learning rate is this times the batch size / 256.
        min_lr_factor: what the schedule multiplies it by at least.
        layer_decay: configured, but never applied there; nor is it here.
        trainable_parameters: counted on the published model; None where nobody has.
    """

    spec: ModelSpec
    gamma: float
    t_max: float
    t_min: float
    lr_per_256: float
    min_lr_factor: float
    trainable_parameters: int | None
    augmentation: Augmentation = field(default_factory=Augmentation)
    epochs: int = 500
    batch_size: int = 128
    warmup_epochs: int = 25
    weight_decay: float = 0.05
    layer_decay: float = 0.75


def _small(image_shape: tuple[int, int, int], num_classes: int = 0) -> ModelSpec:
    return ModelSpec(
        "vit-som",
        image_shape,
        num_classes,
        grid=(40, 40),
        patch=2,
        width=16,
        depth=4,
        heads=2,
        drop_path=0.1,
        decoder_width=4,
        decoder_depth=2,
        label_smoothing=0.1,
    )


def _tiny(side: int, num_classes: int, grid: int, patch: int) -> ModelSpec:
    """Of the size of ViT-Tiny."""
    return ModelSpec(
        "vit-som",
        (3, side, side),
        num_classes,
        grid=(grid, grid),
        patch=patch,
        width=192,
        depth=12,
        heads=3,
        drop_path=0.1,
        decoder_width=96,
        decoder_depth=2,
        label_smoothing=0.1,
    )


PRESETS = {
    "mnist": Preset(_small((1, 28, 28)), 0.005, 20, 0.001, 0.01, 1e-5, 5031432),
    "fmnist": Preset(_small((1, 28, 28)), 0.005, 20, 0.001, 0.01, 1e-5, 5031432),
    "usps": Preset(_small((1, 16, 16)), 0.005, 20, 0.001, 0.01, 1e-5, 1652232),
    "cifar-10": Preset(_tiny(32, 10, 4, 4), 0.01, 4, 0.1, 5e-4, 1e-6, 5793946, OF_CLASSIFICATION),
    "cifar-100": Preset(_tiny(32, 100, 14, 4), 0.5, 7, 0.1, 1e-3, 1e-6, 8023156, OF_CLASSIFICATION),
    "svhn": Preset(_small((3, 32, 32), 10), 0.05, 20, 0.001, 1e-3, 1e-5, 6567770, OF_CLASSIFICATION),
    "flowers-17": Preset(_tiny(224, 17, 14, 16), 0.5, 14, 0.1, 1e-3, 1e-6, 13182641, OF_CLASSIFICATION),
    "flowers-102": Preset(_tiny(224, 102, 14, 16), 0.5, 14, 0.1, 1e-3, 1e-6, None, OF_CLASSIFICATION),
    "tiny-imagenet": Preset(_tiny(64, 200, 14, 4), 0.5, 14, 0.1, 1e-3, 1e-6, 15267800, OF_CLASSIFICATION, batch_size=512),
    "medmnist": Preset(_tiny(28, 9, 14, 2), 0.5, 14, 0.1, 1e-3, 1e-6, 12962613, OF_CLASSIFICATION),
}


def preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {tuple(PRESETS)}, got {name!r}")
    return PRESETS[name]
