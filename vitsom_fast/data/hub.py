"""The paper's data sets and any other, through Hugging Face ``datasets``: downloaded once, then read from its cache."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vitsom_fast.data.arrays import numbered_together
from vitsom_fast.data.dataset import Dataset, Splits
from vitsom_fast.data.pictures import to_bytes
from vitsom_fast.messages import one_line

PREFIX = "hf:"


class Source(NamedTuple):
    """Where a data set is: repository and configuration; and the size of its images in the paper, 0 for as they are."""

    repository: str
    config: str | None = None
    image_size: int = 0


SOURCES = {
    "mnist": Source("ylecun/mnist"),
    "fmnist": Source("zalando-datasets/fashion_mnist"),
    "fashion-mnist": Source("zalando-datasets/fashion_mnist"),
    "usps": Source("flwrlabs/usps"),
    "cifar-10": Source("uoft-cs/cifar10"),
    "cifar-100": Source("uoft-cs/cifar100"),
    "svhn": Source("ufldl-stanford/svhn", "cropped_digits"),
    "tiny-imagenet": Source("zh-plus/tiny-imagenet"),
    "flowers-102": Source("nelorth/oxford-flowers", image_size=224),
}

# Splits by what they are for, and columns of labels, by the names that repositories give them; the first that is there counts.
_SPLITS = (("train",), ("test", "valid", "validation"), ("validation", "valid", "val"))
_LABELS = ("label", "fine_label", "labels")


def load_from_hub(name: str, image_size: int = 0) -> Splits:
    """A data set of the hub.

    Args:
        name: of ``SOURCES``, or "hf:REPOSITORY" or "hf:REPOSITORY:CONFIG"; a folder on this machine serves as a repository.
        image_size: pixels a side to resize images to; 0 for as they are.

    Raises:
        ValueError: the package ``datasets`` or the data set is not there, or holds no images; the message says what to do.
    """
    source = SOURCES.get(name)
    if source is None:
        repository, _, config = name.removeprefix(PREFIX).partition(":")
        source = Source(repository, config or None)
    try:
        import datasets
    except ImportError:
        raise ValueError(f"dataset {name!r} needs the package 'datasets': pip install 'vitsom_fast[data]'") from None
    try:
        found = datasets.load_dataset(source.repository, source.config)
    except Exception as error:  # of the network, of the hub, of the repository: each library below has its own
        raise ValueError(
            f"dataset {name!r} cannot be had from {source.repository!r} ({one_line(error)}): it needs a network once; without,"
            " give a folder of pictures by class or an .npz file"
        ) from error
    try:
        return _splits(name, found, image_size or source.image_size)
    except (ValueError, OSError) as error:
        raise ValueError(f"dataset {name!r} cannot be used: {error}") from error


def _splits(name: str, found: Any, image_size: int) -> Splits:
    chosen = [next((each for each in names if each in found), None) for names in _SPLITS]
    train, test, validation = chosen
    if train is None:
        raise ValueError(f"it must have a split 'train', got {sorted(found)}")
    if validation == test:
        validation = None
    names = [each for each in (train, test, validation) if each]
    image, label = _columns(found[train].features)
    channels, pixels = 0, []
    for each in names:
        rows = found[each]
        pixels.append(to_bytes((row[image] for row in rows.select_columns([image])), len(rows), image_size, channels))
        channels = pixels[0].shape[1]
    labels = [np.asarray(found[each][label]) if label else None for each in names]
    named: Any = found[train].features[label] if label else None
    numbers: list[tuple[Tensor | None, tuple[str, ...]]]
    if hasattr(named, "names"):  # numbers already, in an order of their own
        numbers = [(torch.from_numpy(each).long(), tuple(named.names)) for each in labels if each is not None]
    else:
        numbers = numbered_together([(each, len(own)) for each, own in zip(labels, pixels, strict=True)])
    parts = {each: Dataset(name, own, *known) for each, own, known in zip(names, pixels, numbers, strict=True)}
    return Splits(parts[train], parts.get(test or ""), parts.get(validation or ""))


def _columns(features: Any) -> tuple[str, str | None]:
    """The columns of images and of labels."""
    images = [name for name, feature in features.items() if type(feature).__name__ == "Image"]
    if not images:
        raise ValueError(f"it must have a column of images, got {dict(features)}")
    labels = [name for name in _LABELS if name in features]
    labels += [name for name, feature in features.items() if type(feature).__name__ == "ClassLabel"]
    return images[0], next(iter(labels), None)
