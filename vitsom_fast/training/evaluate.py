"""The numbers that say how good a trained map is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vitsom_fast import metrics
from vitsom_fast.functional import find_bmu
from vitsom_fast.models import ViTSOM, fit_plain_som
from vitsom_fast.training.config import TrainConfig
from vitsom_fast.training.data import Dataset
from vitsom_fast.training.labels import NO_LABEL


@dataclass(frozen=True)
class Evaluation:
    """Metrics over the whole data set, and the BMU of every image, (N,) on the CPU; purity and NMI are
    of the images that have a label, or None."""

    purity: float | None
    nmi: float | None
    quantization_error: float
    topographic_error: float
    bmu: Tensor


@torch.no_grad()
def evaluate(model: ViTSOM, dataset: Dataset, chunk: int = 512) -> Evaluation:
    """Evaluate a model, on the device it is on; ``chunk`` images at a time, never all latents at once, nor an N x K matrix."""
    model.eval()
    som = model.som
    bmus, quantization, topographic = [], 0.0, 0.0
    for images in dataset.images.split(chunk):
        z = model.autoencoder.encode(images.to(som.prototypes.device))  # [chunk, D]
        bmu, distance = som.find_bmu(z)
        bmus.append(bmu.cpu())
        quantization += distance.double().sum().item()
        topographic += metrics.topographic_error(z, som.prototypes, som.grid) * len(images)
    bmu, count = torch.cat(bmus), len(dataset.images)
    purity, nmi = _against_labels(bmu, dataset.labels)
    return Evaluation(purity, nmi, quantization / count, topographic / count, bmu)


def evaluate_plain_som(config: TrainConfig, dataset: Dataset) -> dict[str, float | None] | None:
    """Purity and NMI of a plain SOM on the pixels, with the grid and the temperatures of the run; None without labels."""
    if dataset.labels is None:
        return None
    pixels = dataset.images.flatten(1)  # on the CPU: on a GPU its sums would differ from run to run
    prototypes = fit_plain_som(pixels, config.make_grid(), t_max=config.first_temperature, t_min=config.t_min)
    bmu, _ = find_bmu(pixels, prototypes, distance="sqeuclidean")
    purity, nmi = _against_labels(bmu, dataset.labels)
    return {"purity": purity, "nmi": nmi}


def _against_labels(bmu: Tensor, labels: Tensor | None) -> tuple[float | None, float | None]:
    if labels is None or not (known := labels != NO_LABEL).any():
        return None, None
    return metrics.purity(bmu[known], labels[known]), metrics.nmi(bmu[known], labels[known])
