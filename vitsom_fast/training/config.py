"""All settings of a training run in one place; the command line options are made from them."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import torch

from vitsom_fast import backends
from vitsom_fast.choices import Distance, Neighborhood, Reduction, Topology
from vitsom_fast.functional import DISTANCES
from vitsom_fast.grid import Grid
from vitsom_fast.models.spec import KINDS, PROTOTYPES
from vitsom_fast.models.vision_transformer import LATENTS
from vitsom_fast.neighborhoods import NEIGHBORHOODS

# What fp32 and the sizes of a model can hold.
_LARGEST = {int: 2**31 - 1, float: torch.finfo(torch.float32).max}
_LARGEST_OF = {"seed": 2**64 - 1, "threads": 1024}

_CHOICES = {
    "task": ("cluster", "classify"),
    "model": KINDS,
    "distance": DISTANCES,
    "neighborhood": NEIGHBORHOODS,
    "reduction": ("mean", "batchmean", "sum"),
    "latent": LATENTS,
    "augmentation": ("none", "classification"),
    "prototypes": PROTOTYPES,
    "prototype_schedule": ("constant", "cosine"),
    "lr_changes": ("step", "epoch"),
    "amp": ("none", "bf16"),
}

_NOT_NEGATIVE = (
    "seed",
    "threads",
    "gamma",
    "t_max",
    "weight_decay",
    "reconstruction_beta",
    "refit",
    "image_size",
    "consistency",
)

# What runs did that did not say so yet.
_BEFORE = {"prototype_schedule": "cosine"}


def _setting(default: Any, help: str, *, changes_result: bool = True) -> Any:
    return field(default=default, metadata={"help": help, "changes_result": changes_result})


@dataclass(frozen=True)
class TrainConfig:
    """The settings of ``vitsom-fast train``.

    The defaults suit scikit-learn's digits: purity and the map's errors were compared over grids of 8 to 16, T_min of 0.1 to
    0.5, gamma of 0.05 to 20, and one to four blocks of width 4 to 32.

    They also keep runs together that differ by rounding, as on two backends. Training a ViT at a high learning rate is
    chaotic: at 6e-3 with L1 the loss curves of two backends part by 20 % within 30 epochs, and so do those of an autoencoder
    without a map whose first weights differ by 1e-7. L1 adds to it, as its gradient jumps where a pixel is met exactly. At 1e-3
    with errors below 0.1 squared the curves of two backends stay within 4e-4 of each other (8e-4 with another seed).

    NumPy's scalars serve as settings, and any sequence of two as the grid.

    Raises:
        TypeError: a setting of another type than its default.
        ValueError: a setting out of its range; the message names it.
    """

    # Its name changes nothing: a checkpoint knows the images by their fingerprint.
    dataset: str = _setting(
        "digits",
        "'digits', 'digits-affine', 'photo-patches', a name as 'mnist', 'hf:REPOSITORY', an .npz file or a folder by class",
        changes_result=False,
    )
    grid: tuple[int, int] = _setting((16, 16), "rows and columns of the map")
    topology: Topology = _setting("rectangular", "'rectangular' or 'hexagonal'")
    periodic: bool = _setting(False, "join opposite edges of the map (a torus)")
    epochs: int = _setting(100, "passes over the data set")
    batch_size: int = _setting(64, "samples a step, at most")
    seed: int = _setting(0, "of the first weights and of the order of the samples")
    backend: str = _setting("auto", "'auto', 'reference', 'torch', 'cpu', 'triton' or 'cuda'")
    device: str = _setting("cpu", "where to train: 'cpu', 'cuda', 'cuda:1', ...")
    threads: int = _setting(0, "CPU threads; 0: one for a small model, or else PyTorch's choice", changes_result=False)
    gamma: float = _setting(1.0, "weight of the SOM loss, reached after half of the steps")
    t_max: float = _setting(0.0, "neighborhood radius at the first step, in units; 0: half the longer side of the map")
    t_min: float = _setting(0.2, "neighborhood radius at the last step, in units")
    reconstruction_beta: float = _setting(0.1, "pixel errors below this count by their square; 0: the paper's L1")
    lr: float = _setting(1e-3, "peak learning rate for batches of 256; scaled by batch size / 256")
    # A unit wins one sample in four batches, an encoder weight sees them all: at 1 the map lags behind its latents.
    prototype_lr_scale: float = _setting(10.0, "learning rate of the prototypes over that of the ViT")
    warmup: float = _setting(0.1, "share of the steps in which the learning rate rises")
    weight_decay: float = _setting(0.05, "AdamW's, on the weight matrices of the ViT")
    patch: int = _setting(2, "side of a square patch in pixels")
    width: int = _setting(16, "features of a patch in the encoder")
    depth: int = _setting(1, "transformer blocks of the encoder")
    heads: int = _setting(2, "attention heads")
    decoder_width: int = _setting(8, "features of a patch in the decoder")
    decoder_depth: int = _setting(1, "transformer blocks of the decoder")
    task: str = _setting("cluster", "'cluster' or 'classify'")
    model: str = _setting("compact", "'compact', 'vit-som', 'vit' (classifies without a map), 'desom' or 'som-vae'")
    image_size: int = _setting(0, "pixels a side to resize images to; 0: as they are")
    distance: Distance = _setting("cosine", "of the map: 'cosine', 'sqeuclidean', 'euclidean' or 'manhattan'")
    neighborhood: Neighborhood = _setting("gaussian", "'gaussian', 'bubble', 'mexican_hat', 'triangle' or 'manhattan_gaussian'")
    reduction: Reduction = _setting("mean", "of the SOM loss over units: 'mean', 'batchmean' or 'sum'")
    latent: str = _setting("patches", "of a 'vit-som': 'patches', 'cls', 'mean' or 'neck'")
    latent_dim: int = _setting(32, "features of a 'neck' and of the latents of 'desom' and 'som-vae'")
    kernel: int = _setting(0, "side of the square that a 'vit-som' embeds a patch from, in pixels; 0: the patch")
    mlp_ratio: int = _setting(4, "hidden features of a block's MLP over its width")
    drop_path: float = _setting(0.0, "share of the samples for which the last block is left out, of a 'vit-som' or 'vit'")
    squared_error: bool = _setting(False, "count pixels by the square of their error")
    label_smoothing: float = _setting(0.0, "of the cross entropy")
    augmentation: str = _setting("none", "of training images: 'none', or 'classification' as published")
    consistency: float = _setting(0.0, "weight of the InfoNCE between two affine views of each image of a part of a batch")
    prototypes: str = _setting("gradient", "how they learn: 'gradient' (the paper), or 'ema', a batch SOM of moving averages")
    prototype_schedule: str = _setting("constant", "their rate: 'constant' until the last tenth, or 'cosine' as the ViT's")
    refit: int = _setting(0, "epochs of a batch SOM on the final latents, in place of the trained prototypes; 0: none")
    lr_changes: str = _setting("step", "how often the learning rate changes: every 'step', or every 'epoch' as published")
    min_lr_factor: float = _setting(1e-5, "what the schedule multiplies the learning rate by at least")
    accumulate: int = _setting(1, "parts of a batch whose gradients are added up before a step")
    amp: str = _setting("none", "mixed precision: 'none' or 'bf16'")
    compile: bool = _setting(False, "compile encoder and decoder")

    def __post_init__(self) -> None:
        for setting in fields(self):
            value, expected = _plain(getattr(self, setting.name)), type(setting.default)
            if expected is float and type(value) is int and abs(value) < _LARGEST[float]:
                value = float(value)
            if type(value) is not expected:
                raise TypeError(f"{setting.name} must be of type {expected.__name__}, got {value!r}")
            object.__setattr__(self, setting.name, value)
        if len(self.grid) != 2:
            raise ValueError(f"grid must be (rows, cols), got {self.grid!r}")
        self.make_grid()  # checks grid, topology and periodic
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {choices}, got {getattr(self, name)!r}")
        for name in ("epochs", "batch_size", "latent_dim", "mlp_ratio", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in _NOT_NEGATIVE:
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite, got {getattr(self, name)}")
        for name in ("t_min", "lr", "prototype_lr_scale"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")
        for setting in fields(self):
            value, largest = getattr(self, setting.name), _LARGEST.get(type(setting.default), math.inf)
            largest = _LARGEST_OF.get(setting.name, largest)
            if isinstance(value, (int, float)) and value > largest:
                raise ValueError(f"{setting.name} must be at most {largest}, got {value}")
        # The first step of AdamW divides by 1 - 0.9, and multiplies with the decay.
        if 10 * self.lr * self.batch_size / 256 * max(1.0, self.prototype_lr_scale, self.weight_decay) > _LARGEST[float]:
            raise ValueError(f"lr must be so small that the first step is a finite number, got {self.lr}")
        for name in ("warmup", "drop_path", "label_smoothing", "min_lr_factor"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be a share between 0 and 1, got {getattr(self, name)}")
        if self.consistency > 0 and self.task == "classify":
            raise ValueError(
                f"consistency must be 0 for the task 'classify', whose loss has no such term, got {self.consistency}"
            )
        if self.backend not in ("auto", *backends.NAMES):
            raise ValueError(f"backend must be 'auto' or one of {backends.NAMES}, got {self.backend!r}")

    def make_grid(self) -> Grid:
        """The map as a ``Grid``."""
        return Grid(*self.grid, topology=self.topology, periodic=self.periodic)

    @property
    def first_temperature(self) -> float:
        """T at step 0: ``t_max``, or half the longer side of the map; never below ``t_min``."""
        return max(self.t_max or max(self.grid) / 2, self.t_min)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> TrainConfig:
        """The config that ``to_json`` wrote.

        Raises:
            ValueError, TypeError: the text is no such config.
        """
        return cls(**{**_BEFORE, **json.loads(text)})

    def differences(self, other: TrainConfig) -> list[str]:
        """The names of the settings that differ and change what a run ends with."""
        return [
            setting.name
            for setting in fields(self)
            if setting.metadata["changes_result"] and getattr(self, setting.name) != getattr(other, setting.name)
        ]


def _plain(value: Any) -> Any:
    """Python's own scalars in place of NumPy's, and tuples in place of lists and arrays."""
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    return tuple(map(_plain, value)) if isinstance(value, (list, tuple)) else value
