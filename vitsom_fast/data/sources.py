"""Data sets by what a user calls them: a name, a file, a folder, a repository."""

from __future__ import annotations

from pathlib import Path

from vitsom_fast.data.arrays import load_npz
from vitsom_fast.data.bundled import digits, photo_patches
from vitsom_fast.data.dataset import Dataset, Splits
from vitsom_fast.data.digits_affine import digits_affine
from vitsom_fast.data.hub import PREFIX, SOURCES, load_from_hub
from vitsom_fast.data.pictures import load_folder

# What presets ask for that nothing here can download.
_TO_FETCH = {
    "pathmnist.npz": "download it from https://medmnist.com",
    "flowers-17.npz": "sort the pictures of https://www.robots.ox.ac.uk/~vgg/data/flowers/17 into a folder by class",
}

BUNDLED = ("digits", "photo-patches", "digits-affine", "digits-affine-28")


def load_splits(name: str, image_size: int = 0) -> Splits:
    """A data set by name, with what its source has for the test and for validation.

    Args:
        name: one of

            - "digits" (scikit-learn's 1797 handwritten digits, 8 x 8, 10 classes) or "photo-patches" (the 8480 patches of 8 x 8
              x 3 of its two sample photographs, no labels);
            - "digits-affine" (20000 deformed digits of 16 x 16 and 4000 for the test) or "digits-affine-28" (of 28 x 28);
            - a name of ``hub.SOURCES``, as "mnist", or "hf:REPOSITORY", for Hugging Face ``datasets``;
            - the path of a folder of pictures by class (``pictures.load_folder``);
            - the path of an .npz file with

              - ``images``, (N, H, W) or (N, H, W, C), uint8 or floats in [0, 1];
              - ``labels``, if known: (N,) or (N, 1) text, bytes, numbers or dates, -1 or NaN where an image has none;
              - ``layout``, if need be: "NCHW" for images (N, C, H, W), "NHWC" to insist where images look like these, as they
                do where the last dimension is above 4 and the second is smaller than the two after it;
              - ``test_images``, ``test_labels``, ``val_images`` and ``val_labels``, if there are any; a file of MedMNIST
                serves, too.
        image_size: pixels a side to resize images to; 0 for as they are.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an unknown name, or a file that does not hold what it should; the message says what was expected.
    """
    train, *others = _found(name, image_size)
    return Splits(train.resized(image_size), *(part and part.resized(image_size) for part in others))


def _found(name: str, image_size: int) -> Splits:
    if name == "digits":
        return Splits(digits())
    if name == "photo-patches":
        return Splits(photo_patches())
    if name in ("digits-affine", "digits-affine-28"):
        return digits_affine(image_size or (28 if name.endswith("28") else 16))
    if name in _TO_FETCH and not Path(name).exists():
        raise FileNotFoundError(f"dataset {name!r}: there is no such file: {_TO_FETCH[name]}, and name its path as --data")
    if name.endswith(".npz"):
        return load_npz(Path(name))
    if name.strip() and Path(name).is_dir():
        return load_folder(Path(name), image_size)
    if name in SOURCES or name.startswith(PREFIX):
        return load_from_hub(name, image_size)
    raise ValueError(
        f"dataset must be one of {(*BUNDLED, *SOURCES)}, 'hf:REPOSITORY', or the path of an .npz file or of a folder of"
        f" pictures by class, got {name!r}"
    )


def load_dataset(name: str, image_size: int = 0) -> Dataset:
    """The training half of ``load_splits``."""
    return load_splits(name, image_size).train
