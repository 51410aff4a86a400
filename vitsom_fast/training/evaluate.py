"""The numbers that say how good a trained map is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vitsom_fast import metrics
from vitsom_fast.data import Dataset
from vitsom_fast.data.dataset import as_floats
from vitsom_fast.data.labels import NO_LABEL
from vitsom_fast.functional import find_bmu
from vitsom_fast.models import MapModel, ViTClassifier, ViTSOM, fit_plain_som
from vitsom_fast.training.config import TrainConfig


@dataclass(frozen=True)
class Evaluation:
    """Metrics over a whole data set, and the BMU of every image, (N,) on the CPU; purity and NMI are of the images that have a
    label, or None."""

    purity: float | None
    nmi: float | None
    quantization_error: float
    topographic_error: float
    bmu: Tensor


@torch.no_grad()
def evaluate(model: MapModel, dataset: Dataset, chunk: int = 512) -> Evaluation:
    """Evaluate a map, on the device it is on; ``chunk`` images at a time, never all latents at once, nor an N x K matrix."""
    model.eval()
    som = model.som
    bmus, quantization, topographic = [], 0.0, 0.0
    for pixels in dataset.pixels.split(chunk):
        z = model.encode(as_floats(pixels.to(som.prototypes.device)))  # [chunk, D]
        bmu, distance = som.find_bmu(z)
        bmus.append(bmu.cpu())
        quantization += distance.double().sum().item()
        topographic += metrics.topographic_error(z, som.prototypes, som.grid, distance=som.distance) * len(pixels)
    bmu, count = torch.cat(bmus), len(dataset)
    purity, nmi = _against_labels(bmu, dataset.labels)
    return Evaluation(purity, nmi, quantization / count, topographic / count, bmu)


@torch.no_grad()
def accuracy(model: ViTSOM | ViTClassifier, dataset: Dataset, chunk: int = 512) -> float | None:
    """The share of the images with a label whose class the head names; None where none has one."""
    if dataset.labels is None or not (known := dataset.labels != NO_LABEL).any():
        return None
    model.eval()
    device = next(model.parameters()).device
    found = [model.classify(as_floats(pixels.to(device))).argmax(1).cpu() for pixels in dataset.pixels.split(chunk)]
    return (torch.cat(found) == dataset.labels)[known].double().mean().item()


def held_out(unit_classes: Tensor, bmu: Tensor, labels: Tensor | None) -> dict[str, float | None] | None:
    """Of images that no unit's class was counted on: "accuracy", the share whose class is that of their unit, and "nmi"; None
    where none has a label.

    Args:
        unit_classes: (K,), as ``class_of_units`` counts them.
        bmu: (N,), their units.
        labels: (N,), -1 for none.
    """
    if labels is None or not (known := labels != NO_LABEL).any():
        return None
    right = unit_classes[bmu[known]] == labels[known]
    return {"accuracy": right.double().mean().item(), "nmi": metrics.nmi(bmu[known], labels[known])}


def evaluate_plain_som(config: TrainConfig, dataset: Dataset) -> dict[str, float | None] | None:
    """Purity and NMI of a plain SOM on the pixels, with the grid and the temperatures of the run; None without labels, and for
    classification, which has another rival."""
    if dataset.labels is None or config.task == "classify":
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
