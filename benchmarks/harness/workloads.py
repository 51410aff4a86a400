"""What is timed: the shapes of a SOM in practice, on random data and on a trained map."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vitsom_fast import Grid, batch_update, exponential_decay, settings

CPU = torch.device("cpu")
PATCH = 8  # pixels along a side: 8 x 8 x 3 colours are D = 192


class Inputs(NamedTuple):
    """The arguments of ``som_loss`` in their order: z (B, D) and prototypes (K, D) are leaves that require gradients, on one
    device and of one dtype."""

    z: Tensor
    prototypes: Tensor
    grid: Grid
    temperature: float | Tensor


class Floor(NamedTuple):
    """The least that an operation can do: floating-point operations, and bytes moved if each is moved once."""

    flops: float
    bytes: float


@dataclass(frozen=True)
class Workload:
    """B latents of D features on a map of rows x cols prototypes at temperature T (in units of the grid).

    ``organised`` takes photo patches for latents and a trained map for prototypes, instead of normal deviates; those that are
    not in the ``default`` set are left for ``--full``.
    """

    name: str
    batch: int
    rows: int
    cols: int
    dim: int
    temperature: float
    organised: bool = False
    default: bool = True

    @property
    def grid(self) -> Grid:
        return Grid(self.rows, self.cols)

    @property
    def scores(self) -> int:
        """B K: how many pairs of a latent and a prototype there are."""
        return self.batch * self.rows * self.cols

    def inputs(self, device: torch.device = CPU, dtype: torch.dtype = torch.float32) -> Inputs:
        """The same numbers every time."""
        generator = torch.Generator().manual_seed(0)
        if self.organised:
            z, prototypes = photo_patches(self.batch, generator), organised_map(MapSettings(self.rows, self.cols))
        else:
            z = torch.randn(self.batch, self.dim, generator=generator)
            prototypes = torch.randn(self.rows * self.cols, self.dim, generator=generator) * self.dim**-0.5
        z, prototypes = (x.to(device, dtype).requires_grad_() for x in (z, prototypes))
        return Inputs(z, prototypes, self.grid, self.temperature)

    def floor(self, operation: str) -> Floor:
        """Of "search" or "step" in fp32: a product of B x K x D; a step smooths K x D along both axes, forward and backward."""
        z, prototypes, bmu = 4.0 * self.batch * self.dim, 4.0 * self.rows * self.cols * self.dim, 8.0 * self.batch
        search = 2.0 * self.scores * self.dim
        if operation == "search":
            return Floor(search, z + prototypes + bmu)
        smoothing = 2.0 * self.rows * self.cols * self.dim * (self.rows + self.cols)
        return Floor(search + 2 * smoothing, 2 * (z + prototypes) + bmu)  # the gradients are as large as the inputs


TINY = Workload("tiny", 8, 4, 4, 8, 1.0)

WORKLOADS = {
    workload.name: workload
    for workload in (
        TINY,
        Workload("paper-mnist", 128, 40, 40, 3136, 8.0),
        Workload("paper-tiny-imagenet", 512, 14, 14, 49152, 5.0, default=False),
        Workload("large", 4096, 128, 128, 192, 16.0),
        Workload("large-organised", 4096, 128, 128, 192, 16.0, organised=True),
        Workload("huge", 4096, 256, 256, 192, 16.0, default=False),
        Workload("huge-organised", 4096, 256, 256, 192, 16.0, organised=True, default=False),
    )
}


@dataclass(frozen=True)
class MapSettings:
    """How a map is fitted to photo patches; a fitted map is kept under a name made of these."""

    rows: int
    cols: int
    epochs: int = 12
    least_samples: int = 8192
    last_temperature: float = 2.0
    version: int = 2  # to be raised when the fit below changes

    @property
    def samples(self) -> int:
        """Drawn anew for every epoch. With fewer than one a prototype the map stays rough: where there was half of one, samples
        had to look into 2.8 % of the tiles of a map of 256 x 256, not 2.2 %."""
        return max(self.least_samples, self.rows * self.cols)


def photo_patches(count: int, generator: torch.Generator) -> Tensor:
    """(count, 192) fp32 in [0, 1]: patches from anywhere in scikit-learn's two sample photographs."""
    photos = _photos()
    photo, top, left = (
        torch.randint(stop, (count, 1, 1), generator=generator)
        for stop in (len(photos), photos.shape[1] - PATCH + 1, photos.shape[2] - PATCH + 1)
    )
    pixel = torch.arange(PATCH)
    return photos[photo, top + pixel[:, None], left + pixel].flatten(1).float() / 255


@cache
def _photos() -> Tensor:
    """(2, H, W, 3) uint8."""
    from sklearn.datasets import load_sample_images  # takes 2 s to import, which the random workloads need not wait for

    return torch.from_numpy(np.stack(load_sample_images().images))


def organised_map(settings: MapSettings) -> Tensor:
    """(K, 192) fp32, fitted once for these settings and then read from the user's cache directory."""
    key = hashlib.sha256(repr(sorted(asdict(settings).items())).encode()).hexdigest()[:16]
    path = _cache_directory() / f"map-{settings.rows}x{settings.cols}-{key}.npy"
    if not path.exists():
        prototypes = fit_map(settings)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}.npy")
        np.save(unfinished, prototypes.numpy())
        unfinished.replace(path)  # a run that is cut off leaves no half a map behind
    return torch.from_numpy(np.load(path))


def _cache_directory() -> Path:
    return settings.cache_folder() / "benchmarks"


@torch.no_grad()
def fit_map(settings: MapSettings) -> Tensor:
    """Prototypes (K, 192) of a batch SOM of photo patches under the cosine distance.

    From the plane of the first two principal components, the temperature decays from a quarter of the map to
    ``last_temperature``; an epoch replaces each prototype by the mean of all samples, weighted with the neighborhood.
    """
    generator = torch.Generator().manual_seed(1)  # not the patches that are searched for
    grid = Grid(settings.rows, settings.cols)
    temperature = exponential_decay(max(settings.rows, settings.cols) / 4, settings.last_temperature, settings.epochs)
    prototypes = _principal_plane(_unit(photo_patches(settings.samples, generator)), grid)
    for epoch in range(settings.epochs):
        samples = _unit(photo_patches(settings.samples, generator))
        prototypes, _ = batch_update(samples, prototypes, grid, temperature(epoch))
    return prototypes


def _principal_plane(samples: Tensor, grid: Grid) -> Tensor:
    """(K, D): the samples' mean, two standard deviations to either side along the first two components."""
    variance, component = torch.linalg.eigh(samples.double().T.cov())  # ascending
    reach = (component[:, -2:] * variance[-2:].sqrt()).float()  # [D, 2]
    across = torch.linspace(-2, 2, grid.rows)[:, None, None] * reach[:, 1]  # [rows, 1, D]
    along = torch.linspace(-2, 2, grid.cols)[:, None] * reach[:, 0]  # [cols, D]
    return (samples.mean(0) + across + along).flatten(0, 1)


def _unit(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x)
