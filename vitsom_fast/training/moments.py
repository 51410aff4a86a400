"""What the latents were at the start, a quarter, half and the end of a training, for a picture of how they part."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitsom_fast.atomic import write_atomically
from vitsom_fast.data import Dataset
from vitsom_fast.data.dataset import as_floats
from vitsom_fast.models import MapModel, ViTClassifier

FOLDER = "latents"
_MOST = 1000  # images
_COMPONENTS = 50  # of their latents, which is what is kept: most of what there is to see in two dimensions


def moments(epochs: int) -> dict[int, str]:
    """Numbers of finished epochs, and what they are called."""
    named = {0: "start", round(epochs / 4): "a quarter", round(epochs / 2): "half", epochs: "end"}
    return {epoch: f"{name}: {epoch} epoch{'' if epoch == 1 else 's'}" for epoch, name in named.items()}


def chosen(count: int) -> Tensor:
    """The numbers of the images that are looked at, evenly spread over all ``count``."""
    return torch.linspace(0, count - 1, min(count, _MOST), dtype=torch.float64, device="cpu").round().long()


@torch.no_grad()
def remember(folder: Path, model: MapModel | ViTClassifier, dataset: Dataset, epoch: int, epochs: int, batch_size: int) -> None:
    """Keep the first principal components of the latents where this is one of the moments and they are numbers. No randomness,
    and nothing that a training would notice."""
    if epoch not in moments(epochs):
        return
    model.eval()
    pixels = dataset.pixels[chosen(len(dataset)).to(dataset.pixels.device)]
    with torch.compiler.set_stance("force_eager"):  # a compiler takes longer than all of this
        latents = torch.cat([model.encode(as_floats(part)).flatten(1) for part in pixels.split(min(batch_size, 512))])
    latents = latents.float().cpu()
    if not latents.isfinite().all():
        return
    content = BytesIO()
    np.save(content, principal_components(latents, _COMPONENTS).float().numpy())
    path = folder / FOLDER / f"epoch-{epoch}.npy"
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, content.getvalue())


def remembered(folder: Path, epochs: int) -> dict[str, NDArray[np.float32]]:
    """Of each moment that was kept (N, components), by what it is called."""
    paths = {name: folder / FOLDER / f"epoch-{epoch}.npy" for epoch, name in moments(epochs).items()}
    return {name: np.load(path) for name, path in paths.items() if path.exists()}


def principal_components(x: Tensor, count: int) -> Tensor:
    """(N, at most ``count``) scores of x (N, D), in fp64; the largest of each in size is positive."""
    x = (x - x.mean(0)).double()
    if x.shape[1] <= len(x):
        _, vectors = torch.linalg.eigh(x.T @ x)
        scores = x @ vectors.flip(1)[:, :count]
    else:
        values, vectors = torch.linalg.eigh(x @ x.T)
        scores = vectors.flip(1)[:, :count] * values.flip(0)[:count].clamp_min(0).sqrt()
    largest = scores.gather(0, scores.abs().argmax(0, keepdim=True))  # [1, count]
    return scores * torch.where(largest < 0, -1.0, 1.0)


def in_two_dimensions(latents: NDArray[np.float32]) -> tuple[NDArray[np.float64], str]:
    """(N, 2) of latents (N, D), and by what: UMAP (McInnes et al. 2018) where it is installed and there are enough of them, or
    else their first two principal components."""
    try:
        from umap import UMAP
    except ImportError:
        UMAP = None
    if UMAP is not None and len(latents) > 50:
        return np.asarray(UMAP(random_state=0).fit_transform(latents), dtype=np.float64), "UMAP"
    first = np.zeros((len(latents), 2))
    first[:, : min(2, latents.shape[1])] = latents[:, :2]
    return first, "first two principal components"
