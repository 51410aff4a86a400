"""A collection of maps in order, and what is searched for on them: pruning lives on what data are like."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.harness.workloads import photo_patches
from vitsom_fast import Grid, batch_update, exponential_decay, settings
from vitsom_fast.choices import Distance
from vitsom_fast.initialization import initial_prototypes

_VERSION = 1  # to be raised when what is fitted below changes
_LAST_TEMPERATURE = 2.0

Draw = Callable[[int, torch.Generator], Tensor]


@dataclass(frozen=True)
class Family:
    """Maps of one kind of data.

    Args:
        draw: so many rows (N, D) fp32, of a generator.
        distance: which fits and searches the map.
        start: "pca", "sample" or "random".
        epochs: of the fit; the radius shrinks from a quarter of the side to 2 units.
    """

    name: str
    draw: Draw
    distance: Distance = "cosine"
    start: str = "pca"
    epochs: int = 12

    def rows(self, count: int, seed: int) -> Tensor:
        return self.draw(count, torch.Generator().manual_seed(seed)).float().contiguous()

    def prototypes(self, side: int) -> Tensor:
        """(side^2, D), fitted once and then read from the user's cache folder."""
        key = hashlib.sha256(repr((_VERSION, self.name, self.distance, self.start, self.epochs)).encode()).hexdigest()[:12]
        return _kept(f"collection-{self.name}-{side}-{key}", lambda: self._fitted(side))

    @torch.no_grad()
    def _fitted(self, side: int) -> Tensor:
        grid, count = Grid(side, side), max(8192, side * side)
        generator = torch.Generator().manual_seed(1)
        first = self.draw(count, generator).float()
        prototypes = initial_prototypes(first, grid, self.start, generator=generator).float()
        temperature = exponential_decay(side / 4, _LAST_TEMPERATURE, max(self.epochs, 2))
        for epoch in range(self.epochs):
            rows = self.draw(count, generator).float()
            prototypes, _ = batch_update(rows, prototypes, grid, temperature(epoch), distance=self.distance)
        return prototypes


def _kept(name: str, make: Callable[[], Tensor]) -> Tensor:
    path = settings.cache_folder() / "benchmarks" / f"{name}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}.npy")
        np.save(unfinished, make().numpy())
        unfinished.replace(path)
    return torch.from_numpy(np.load(path))


def _centred(count: int, generator: torch.Generator) -> Tensor:
    """Patches less the mean of all."""
    return photo_patches(count, generator) - photo_patches(20_000, torch.Generator().manual_seed(2)).mean(0)


def _normalised(count: int, generator: torch.Generator) -> Tensor:
    """Each patch less its own mean, of length 1."""
    patches = photo_patches(count, generator)
    return normalize(patches - patches.mean(1, keepdim=True) + 1e-3 * torch.randn(patches.shape, generator=generator))


@cache
def _digits() -> Tensor:
    """(20000, 1, 16, 16) uint8."""
    from vitsom_fast.data.digits_affine import digits_affine

    return digits_affine(16, 20_000, 10).train.images


def _pixels(count: int, generator: torch.Generator) -> Tensor:
    images = _digits()
    return images[torch.randint(len(images), (count,), generator=generator)].flatten(1).float() / 255


@cache
def _latents_of_digits() -> Tensor:
    """(20000, D): what the encoder of a ViT-SOM makes of them after three epochs."""

    def trained() -> Tensor:
        from vitsom_fast.cli import main
        from vitsom_fast.models.vit_som import ViTSOM

        with tempfile.TemporaryDirectory() as folder, torch.enable_grad():
            run = str(Path(folder) / "run")
            if main(["train", "--data", "digits-affine", "--epochs", "3", "--out", run]):
                raise RuntimeError("training of the latents failed")
            model = ViTSOM.from_pretrained(run)
        with torch.no_grad():
            return torch.cat([model.encode(part.float() / 255) for part in _digits().split(512)])

    return _kept(f"latents-{_VERSION}", trained)


def _latents(count: int, generator: torch.Generator) -> Tensor:
    latents = _latents_of_digits()
    return latents[torch.randint(len(latents), (count,), generator=generator)]


def _mixture(dim: int) -> Draw:
    """Twelve Gaussian clusters."""

    def draw(count: int, generator: torch.Generator) -> Tensor:
        centres = 2 * torch.randn(12, dim, generator=torch.Generator().manual_seed(3))
        return centres[torch.randint(12, (count,), generator=generator)] + 0.7 * torch.randn(count, dim, generator=generator)

    return draw


def _colours(count: int, generator: torch.Generator) -> Tensor:
    """(count, 3): pixels of the photographs."""
    return photo_patches(count, generator)[:, :3]


def _texts(count: int, generator: torch.Generator) -> Tensor:
    """(count, 384), of length 1, as embeddings of sentences are: topics within topics, and most of the length beside them."""
    fixed = torch.Generator().manual_seed(4)
    topics = torch.randn(20, 384, generator=fixed)
    topics = torch.cat([topics[i] + 0.7 * torch.randn(30, 384, generator=fixed) for i in range(20)])
    chosen = topics[torch.randint(len(topics), (count,), generator=generator)]
    return normalize(chosen + 0.8 * torch.randn(count, 384, generator=generator))


def _lengths(count: int, generator: torch.Generator) -> Tensor:
    """(count, 64): directions of a few clusters, lengths over two powers of ten."""
    rows = normalize(_mixture(64)(count, generator))
    return rows * torch.exp(1.2 * torch.randn(count, 1, generator=generator))


FAMILIES = (
    Family("patches", photo_patches),
    Family("patches-sample-3", photo_patches, start="sample", epochs=3),
    Family("patches-pca-1", photo_patches, epochs=1),
    Family("patches-centred-random", _centred, start="random"),
    Family("patches-centred-pca-3", _centred, epochs=3),
    Family("patches-normalised-sample", _normalised, start="sample"),
    Family("patches-euclidean", photo_patches, distance="sqeuclidean"),
    Family("digits-pixels", _pixels),
    Family("digits-latents", _latents),
    Family("mixture-3", _mixture(3), distance="sqeuclidean"),
    Family("mixture-10", _mixture(10), distance="sqeuclidean"),
    Family("mixture-32", _mixture(32), distance="sqeuclidean"),
    Family("colours", _colours, distance="sqeuclidean"),
    Family("texts", _texts, start="sample"),
    Family("lengths", _lengths, distance="sqeuclidean", start="sample"),
)
