"""The pictures of a finished run."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from vitsom_fast import metrics, plotting, sample_plots
from vitsom_fast.atomic import write_atomically
from vitsom_fast.data import Dataset
from vitsom_fast.data.dataset import as_floats
from vitsom_fast.models import MapModel, ViTClassifier
from vitsom_fast.training.config import TrainConfig
from vitsom_fast.training.evaluate import Evaluation
from vitsom_fast.training.moments import chosen, in_two_dimensions, remembered
from vitsom_fast.training.noted import noted

# Of a run, in this order, and what they show.
PICTURES = {
    "prototypes.png": "What each unit stands for: its prototype, decoded to an image.",
    "class_map.png": "The class of most images of each unit, and how many of its images are of that class.",
    "hit_map.png": "How many images each unit wins.",
    "u_matrix.png": "How far each prototype is from its neighbours: bright ridges separate clusters.",
    "component_planes.png": "The features of the prototypes that differ most over the map.",
    "embedding.png": "Latents in two dimensions, as the training went on.",
    "attention.png": "Images of the unit that wins most, and what the last block of the ViT looks at in them.",
}
_PLANES = 12
_IMAGES = 8  # of one prototype


def draw(
    folder: Path,
    model: MapModel | ViTClassifier,
    dataset: Dataset,
    evaluation: Evaluation | None,
    config: TrainConfig,
    chunk: int,
    failed: dict[str, str],
) -> None:
    """Write the pictures that such a model has; why one could not be made goes into ``failed``.

    Args:
        evaluation: of a map, or None where it failed.
        chunk: images, or prototypes, that are computed with at a time.
    """
    made: dict[str, Callable[[], Figure]] = {}
    if isinstance(model, MapModel):
        grid, labels = model.som.grid, dataset.labels
        if model.has_pictures:
            made["prototypes.png"] = lambda: plotting.plot_prototypes(model.decode_prototypes(chunk).cpu(), grid)
        if labels is not None and (labels >= 0).any():
            made["class_map.png"] = lambda: plotting.plot_class_map(
                _bmu(evaluation), grid, labels=labels, classes=dataset.classes
            )
        made["hit_map.png"] = lambda: plotting.plot_hit_map(_bmu(evaluation), grid, labels=labels, classes=dataset.classes)
        made["u_matrix.png"] = lambda: plotting.plot_u_matrix(metrics.u_matrix(model.som.prototypes, grid), grid)
        made["component_planes.png"] = lambda: _planes(model)
        if hasattr(model.autoencoder, "attention"):
            made["attention.png"] = lambda: _attention(model, dataset, _bmu(evaluation), chunk)
    made["embedding.png"] = lambda: _embedding(folder, dataset, config)
    for name in PICTURES:
        if name in made:
            with noted(failed, name):
                _save(folder / name, made[name]())


def _bmu(evaluation: Evaluation | None) -> Tensor:
    if evaluation is None:
        raise RuntimeError("it shows the evaluation, which failed")
    return evaluation.bmu


def _planes(model: MapModel) -> Figure:
    prototypes = model.som.prototypes.detach().float().cpu()
    if model.som.distance == "cosine":  # which sees their direction alone
        prototypes = torch.nn.functional.normalize(prototypes)
    features = prototypes.var(dim=0, correction=0).argsort(descending=True, stable=True)[:_PLANES]
    names = [f"feature {index}" for index in features.tolist()]
    return plotting.plot_component_planes(prototypes[:, features], model.som.grid, names=names)


@torch.no_grad()
def _attention(model: MapModel, dataset: Dataset, bmu: Tensor, chunk: int) -> Figure:
    grid = model.som.grid
    unit = int(torch.bincount(bmu, minlength=grid.num_prototypes).argmax())
    index = (bmu == unit).nonzero()[:, 0][:chunk]
    images = as_floats(dataset.pixels[index])
    there = images.to(model.som.prototypes.device)
    nearest = model.som.find_bmu(model.encode(there))[1].argsort(stable=True)[:_IMAGES].cpu()
    attention = model.below.attention(there[nearest.to(there.device)]).float().cpu()  # type: ignore[attr-defined]
    names = [""] * len(nearest)
    if dataset.labels is not None:
        names = [dataset.classes[label] if label >= 0 else "" for label in dataset.labels[index[nearest]].tolist()]
    row, col = divmod(unit, grid.cols)
    title = f"Images nearest to unit {unit} (row {row}, column {col}), and attention to their patches (1: even)"
    return sample_plots.plot_attention(images[nearest], attention, title=title, names=names)


def _embedding(folder: Path, dataset: Dataset, config: TrainConfig) -> Figure:
    kept = remembered(folder, config.epochs)
    if not kept:
        raise RuntimeError("no latents were kept while the model was trained")
    found = {name: in_two_dimensions(latents) for name, latents in kept.items()}
    labels = None if dataset.labels is None else dataset.labels[chosen(len(dataset))]
    places = {name: where for name, (where, _) in found.items()}
    how = next(how for _, how in found.values())
    return sample_plots.plot_embedding(places, labels=labels, classes=dataset.classes, how=how)


def _save(path: Path, figure: Figure) -> None:
    picture = BytesIO()
    figure.savefig(picture, format="png")
    write_atomically(path, picture.getvalue())
