"""Classification: a ViT with a map on its latents against the same without, on few and on many images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from vitsom_fast.data import Splits
from vitsom_fast.reproduction import published
from vitsom_fast.reproduction.contenders import CLASSIFICATION
from vitsom_fast.reproduction.figure import plot_sizes
from vitsom_fast.reproduction.results import Results, table
from vitsom_fast.reproduction.training import epochs_within, timed, train
from vitsom_fast.training.evaluate import accuracy

COLUMNS = {
    "train_accuracy": "accuracy, in sample",
    "accuracy": "accuracy, test",
    "parameters": "parameters",
    "epochs": "epochs",
    "train_seconds": "training, s",
    "inference_seconds": "inference, s",
    "megabytes": "peak memory, MB",
}

_FOR_TRAINING = 0.9  # of the budget


def classification(
    splits: Splits,
    folder: Path,
    *,
    images: Sequence[int] = (1000, 5000, 20000),
    seeds: int = 3,
    minutes: float = 40.0,
    epochs: int = 0,
    device: str = "cpu",
    progress: bool = True,
    tell: Callable[[str], None] = print,
) -> str:
    """Train both and write ``results.json``, ``table.md`` and ``model_size.png``; what is in the folder already is not made
    again.

    Args:
        images: how many to train on, one after the other; the first of the training half.
        minutes: for everything; of each size and seed both models get as many epochs as the slower one has time for.
        splits, seeds, epochs, device, progress, tell: as in ``clustering``.

    Returns:
        The table, in Markdown.

    Raises:
        ValueError: there are no labels or no test half, more images than there are, or the folder holds results of other
            settings.
    """
    test = splits.test
    if test is None or splits.train.labels is None or test.labels is None:
        raise ValueError(f"data must have labels and a test half, got {splits.train.name!r}")
    if max(images) > len(splits.train) or min(images) < 1:
        raise ValueError(f"images must be from 1 to the {len(splits.train)} of the training half, got {list(images)}")
    images = list(dict.fromkeys(images))
    settings = {
        "task": "classification",
        "data": splits.train.fingerprint(),
        "images": images,
        "minutes": None if epochs else minutes,
        "epochs": epochs,
        "seeds": seeds,
    }
    results = Results(folder, settings)
    seconds = 60 * minutes * _FOR_TRAINING / len(CLASSIFICATION) / len(images) / results.settings["seeds"]
    for seed in range(seeds):
        for count in images:
            part = splits.train.part(torch.arange(count, device="cpu"))
            configs = {each.name: replace(each.config, seed=seed, device=device) for each in CLASSIFICATION}
            names = [f"{name}, {count} images" for name in configs]
            if all(results.has(name, seed) for name in names):
                continue
            length = epochs or min(epochs_within(config, part, (), seconds) for config in configs.values())
            for name, config in zip(names, configs.values(), strict=True):
                if results.has(name, seed):
                    continue
                tell(f"{name}, seed {seed}, {length} epochs")
                done = train(replace(config, epochs=length), part, progress=progress)
                found, inference = timed(partial(accuracy, done.model, test))
                row = {
                    "model": name,
                    "size": str(count),
                    "seed": seed,
                    "train_accuracy": accuracy(done.model, part),
                    "accuracy": found,
                    "parameters": sum(p.numel() for p in done.model.parameters())
                    - sum(p.numel() for p in done.model.idle_parameters()),
                    "epochs": length,
                    "train_seconds": done.seconds,
                    "inference_seconds": inference,
                    "megabytes": done.megabytes,
                }
                results.add([row])
    how = f"{epochs} epochs each" if epochs else f"{minutes:g} minutes for all; both models get the same number of epochs"
    text = table(results.rows, COLUMNS, published.CLASSIFICATION, "accuracy", [f"Budget: {how}."])
    results.write_table(text)
    results.write_figure(
        plot_sizes(results.rows, published.CLASSIFICATION, score=COLUMNS["accuracy"], published_score="accuracy")
    )
    return text
