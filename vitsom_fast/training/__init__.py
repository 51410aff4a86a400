"""Training a ViT-SOM: settings, the loop, checkpoints and what a run leaves behind."""

from vitsom_fast.data import Dataset, load_dataset
from vitsom_fast.training.config import TrainConfig
from vitsom_fast.training.fit import fit

__all__ = ["Dataset", "TrainConfig", "fit", "load_dataset"]
