"""Where images come from: data sets by name, files, folders, the hub."""

from vitsom_fast.data.dataset import Dataset, Splits
from vitsom_fast.data.digits_affine import digits_affine
from vitsom_fast.data.sources import load_dataset, load_splits

__all__ = ["Dataset", "Splits", "digits_affine", "load_dataset", "load_splits"]
