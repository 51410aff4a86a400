"""Clustering: plain SOMs, SOM-VAE, DESOM and ViT-SOM, with maps of several sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitsom_fast import metrics
from vitsom_fast.data import Dataset, Splits
from vitsom_fast.data.dataset import as_floats
from vitsom_fast.data.labels import NO_LABEL
from vitsom_fast.functional import find_bmu
from vitsom_fast.grid import Grid
from vitsom_fast.loss import FusedSOMLoss
from vitsom_fast.models import MapBank, class_of_units, fit_plain_som
from vitsom_fast.reproduction import published
from vitsom_fast.reproduction.contenders import CLUSTERING, PLAIN, Contender
from vitsom_fast.reproduction.figure import plot_sizes
from vitsom_fast.reproduction.memory import peak_megabytes
from vitsom_fast.reproduction.results import Results, table
from vitsom_fast.reproduction.training import Trained, epochs_within, timed, train
from vitsom_fast.training.evaluate import held_out

COLUMNS = {
    "purity": "purity, in sample",
    "accuracy": "accuracy, held out",
    "nmi": "NMI, held out",
    "parameters": "parameters",
    "epochs": "epochs",
    "train_seconds": "training, s",
    "inference_seconds": "inference, s",
    "megabytes": "peak memory, MB",
}

_PLAIN_EPOCHS, _PLAIN_T_MIN = 20, 0.2
_FOR_TRAINING = 0.85  # of the budget; the rest is for plain SOMs and for looking
_CHUNK = 1000


def clustering(
    splits: Splits,
    folder: Path,
    *,
    sides: Sequence[int] = (8, 16, 24),
    seeds: int = 3,
    minutes: float = 40.0,
    epochs: int = 0,
    contenders: Sequence[str] = (),
    device: str = "cpu",
    progress: bool = True,
    tell: Callable[[str], None] = print,
) -> str:
    """Train everyone and write ``results.json``, ``table.md`` and ``model_size.png``; what is in the folder already is not made
    again.

    Args:
        splits: images with labels; ``test`` is what is held out.
        sides: of the square maps, in units.
        seeds: runs of each model, from 0.
        minutes: for everything; each model takes its share of it, which decides how many epochs it gets.
        epochs: of each model in place of a budget; 0 for that.
        contenders: names of those to take part; none for all.
        progress: show a bar of epochs for each model.
        tell: is called with a line at a time.

    Returns:
        The table, in Markdown.

    Raises:
        ValueError: there are no labels or nothing is held out, an unknown contender, or the folder holds results of other
            settings.
    """
    test = splits.test
    if test is None or splits.train.labels is None or test.labels is None:
        raise ValueError(f"data must have labels and a test half, got {splits.train.name!r}")
    everyone = [*PLAIN, *(each.name for each in CLUSTERING)]
    if unknown := set(contenders) - set(everyone):
        raise ValueError(f"contenders must be of {everyone}, got {sorted(unknown)}")
    chosen = [name for name in everyone if not contenders or name in contenders]
    sides = list(dict.fromkeys(sides))
    results = Results(
        folder,
        {
            "task": "clustering",
            "data": splits.train.fingerprint(),
            "sides": sides,
            "minutes": None if epochs else minutes,
            "epochs": epochs,
            "seeds": seeds,
        },
    )
    grids = [(side, side) for side in sorted(sides, reverse=True)]
    shares = sum(each.share for each in CLUSTERING if each.name in chosen)
    for seed in range(seeds):
        for name in PLAIN:
            if name in chosen and not results.has(name, seed):
                tell(f"{name}, seed {seed}")
                results.add([_plain(name, splits, grid, seed) for grid in grids])
        for each in CLUSTERING:
            if each.name in chosen and not results.has(each.name, seed):
                seconds = 60 * minutes * _FOR_TRAINING * each.share / shares / results.settings["seeds"]
                tell(f"{each.name}, seed {seed}" + ("" if epochs else f", {seconds:.0f} s"))
                results.add(list(_trained(each, splits, test, grids, seed, seconds, epochs, device, progress)))
    text = table(results.rows, COLUMNS, published.CLUSTERING, "purity", _notes(epochs, minutes))
    results.write_table(text)
    results.write_figure(plot_sizes(results.rows, published.CLUSTERING, score=COLUMNS["accuracy"], published_score="purity"))
    return text


def _plain(name: str, splits: Splits, grid: tuple[int, int], seed: int) -> dict[str, Any]:
    """The same for all seeds: a batch SOM draws no random numbers."""
    train_images = splits.train.images.flatten(1)
    assert splits.test is not None
    test_images = splits.test.images.flatten(1)
    distance, device = PLAIN[name], torch.device("cpu")
    with peak_megabytes(device) as peak:
        prototypes, seconds = timed(
            lambda: fit_plain_som(train_images, Grid(*grid), epochs=_PLAIN_EPOCHS, t_min=_PLAIN_T_MIN, distance=distance)
        )
        megabytes = peak()

    def search(x: Tensor) -> Tensor:
        return find_bmu(x, prototypes, distance=distance)[0]

    found, inference = timed(lambda: search(test_images))
    scores = _scores(search(train_images), found, splits, grid)
    return _row(name, grid, seed, scores, prototypes.numel(), _PLAIN_EPOCHS, seconds, inference, megabytes)


def _trained(
    contender: Contender,
    splits: Splits,
    test: Dataset,
    grids: Sequence[tuple[int, int]],
    seed: int,
    seconds: float,
    epochs: int,
    device: str,
    progress: bool,
) -> Iterator[dict[str, Any]]:
    runs = [list(grids)] if contender.one_encoder else [[grid] for grid in grids]
    for sizes in runs:
        config = replace(contender.config, seed=seed, device=device)
        count = epochs or epochs_within(config, splits.train, sizes, seconds / len(runs))
        config = replace(config, epochs=count)
        done = train(config, splits.train, sizes, progress=progress)
        yield from _rows(contender.name, done, splits, test, sizes, seed, count)


@torch.no_grad()
def _rows(
    name: str, done: Trained, splits: Splits, test: Dataset, grids: Sequence[tuple[int, int]], seed: int, epochs: int
) -> Iterator[dict[str, Any]]:
    model = done.model
    maps = list(model.som.maps) if isinstance(model.som, MapBank) else [model.som]
    device = maps[0].prototypes.device

    def encoded(dataset: Dataset) -> Tensor:
        return torch.cat([model.encode(as_floats(pixels.to(device))) for pixels in dataset.pixels.split(_CHUNK)])

    latents, (held, encoding) = encoded(splits.train), timed(lambda: encoded(test))
    below = sum(parameter.numel() for parameter in model.autoencoder.parameters())
    for grid, som in zip(grids, maps, strict=True):
        assert isinstance(som, FusedSOMLoss)
        (found, _), search = timed(partial(som.find_bmu, held))
        scores = _scores(som.find_bmu(latents)[0].cpu(), found.cpu(), splits, grid)
        parameters = below + som.prototypes.numel()
        yield _row(name, grid, seed, scores, parameters, epochs, done.seconds, encoding + search, done.megabytes)


def _scores(bmu: Tensor, held: Tensor, splits: Splits, grid: tuple[int, int]) -> dict[str, float | None]:
    assert splits.train.labels is not None
    assert splits.test is not None
    labels = splits.train.labels
    classes, known = class_of_units(bmu, labels, grid[0] * grid[1]), labels != NO_LABEL
    purity = metrics.purity(bmu[known], labels[known]) if known.any() else None
    return {"purity": purity, **(held_out(classes, held, splits.test.labels) or {})}


def _row(
    name: str,
    grid: tuple[int, int],
    seed: int,
    scores: dict[str, float | None],
    parameters: int,
    epochs: int,
    train_seconds: float,
    inference_seconds: float,
    megabytes: float | None,
) -> dict[str, Any]:
    return {
        "model": name,
        "size": f"{grid[0]}x{grid[1]}",
        "seed": seed,
        **scores,
        "parameters": parameters,
        "epochs": epochs,
        "train_seconds": train_seconds,
        "inference_seconds": inference_seconds,
        "megabytes": megabytes,
    }


def _notes(epochs: int, minutes: float) -> list[str]:
    how = f"{epochs} epochs each" if epochs else f"{minutes:g} minutes for all, shared out beforehand"
    return [
        f"Budget: {how}. Maps of all sizes are trained on one encoder, but for SOM-VAE;",
        "training seconds are those of all sizes together. Accuracy held out is by the most frequent class of each unit.",
    ]
