"""A map fitted anew to the latents that training ended with."""

from __future__ import annotations

import torch

from vitsom_fast.data import Dataset
from vitsom_fast.data.dataset import as_floats
from vitsom_fast.loss import FusedSOMLoss
from vitsom_fast.models import MapModel, ViTClassifier, fit_plain_som
from vitsom_fast.training.config import TrainConfig

_CHUNK = 512


@torch.no_grad()
def refit(model: MapModel | ViTClassifier, dataset: Dataset, config: TrainConfig) -> None:
    """Replace the prototypes of every map of a model by those of a batch SOM on its latents of the images (N, C, H, W), of
    ``config.refit`` epochs; nothing where that is 0. No randomness; it holds all latents, N x D, at once.

    While an encoder learns, a map follows what has already moved on, most of all at small radii.
    """
    maps = [part for part in model.modules() if isinstance(part, FusedSOMLoss)]
    if config.refit == 0 or not maps:
        return
    model.eval()
    device = maps[0].prototypes.device
    latents = torch.cat([model.encode(as_floats(pixels.to(device))).flatten(1) for pixels in dataset.pixels.split(_CHUNK)])
    for som in maps:
        fitted = fit_plain_som(latents, som.grid, epochs=config.refit, t_min=config.t_min, distance=som.distance)
        som.prototypes.copy_(fitted)
