"""A training run: its folder, its checkpoints, its end."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from vitsom_fast.data import Dataset, load_splits
from vitsom_fast.messages import one_line
from vitsom_fast.models import MapModel, ViTClassifier
from vitsom_fast.progress import progress_bar
from vitsom_fast.training.build import build_model, build_optimizer
from vitsom_fast.training.checkpoint import Checkpoint, check_exists
from vitsom_fast.training.config import TrainConfig
from vitsom_fast.training.files import CHECKPOINT, METRICS, claimed, make_run_folder
from vitsom_fast.training.loop import number_of_batches, train_epoch
from vitsom_fast.training.machine import chosen_backend, threads_of, usable_device
from vitsom_fast.training.moments import remember
from vitsom_fast.training.processes import distributed, started_processes
from vitsom_fast.training.refit import refit
from vitsom_fast.training.resume import resume_from


def fit(
    config: TrainConfig,
    out: Path | str | None = None,
    *,
    resume: bool = False,
    progress: bool = True,
    started: Callable[[Path], None] | None = None,
) -> dict[str, Any]:
    """Train a model and leave a checkpoint, metrics and pictures in a folder.

    The same config, machine and number of threads give the same bits, also where a run was killed, at any moment, and resumed:
    a checkpoint is written before the first and after every epoch, and what an epoch does depends on that and the seed only.

    Args:
        out: the folder, made if need be; None for a new one, ``runs/DATASET`` or the first of ``runs/DATASET-2``, ... that is
            not there.
        resume: go on from the checkpoint there; after the last epoch, write the results anew. The data set may have another
            path by now, but must hold the same images.
        progress: show a bar on stderr.
        started: called with the folder once it is this run's.

    Returns:
        What ``metrics.json`` holds; ``failed`` in it says which parts could not be made, and why. Of several processes, as
        ``torchrun`` starts them, the first returns it and writes all files, and the others return nothing.

    Raises:
        FileNotFoundError: there is no such data set, or no checkpoint to resume from.
        ValueError: a data set, device or backend that cannot be used here, or a model that is too large; a folder that holds a
            run and no ``resume``, or that another process uses; a checkpoint that is damaged or of other settings or images.
        FloatingPointError: the loss or the weights are no longer finite; the last checkpoint stays.
    """
    if resume:
        if out is None:
            raise ValueError("out must be the folder of a run to resume, got None")
        check_exists(Path(out) / CHECKPOINT)  # before a folder is made
    with ExitStack() as stack:
        together = stack.enter_context(ExitStack())
        processes, device = together.enter_context(started_processes(usable_device(config.device)))
        backend = chosen_backend(config.backend, device)
        splits = load_splits(config.dataset, config.image_size)
        dataset = splits.train
        _check_shares(config, len(dataset), processes.size)
        fingerprint = dataset.fingerprint()
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(threads_of(config, dataset))
        torch.manual_seed(config.seed)
        model, optimizer = _build(config, dataset, device)
        # Not before all else is known to be right, and the checkpoint comes at once: a kill in between leaves an empty folder.
        folder = Path() if out is None else Path(out)
        if processes.is_first:
            folder = make_run_folder(config.dataset) if out is None else folder
            stack.enter_context(claimed(folder))
            if started:
                started(folder)
            if not resume and any((folder / name).exists() for name in (CHECKPOINT, METRICS)):
                raise ValueError(f"out {str(folder)!r} already holds a run: use --resume to go on with it, or another folder")
        path = processes.agreed(folder) / CHECKPOINT
        history: list[dict[str, Any]] = []
        if resume:
            history = resume_from(path, model, optimizer, config, fingerprint)
        elif processes.is_first:
            Checkpoint.of(model, optimizer, config, history, fingerprint).save(path)
        there, losses = dataset.to(device), distributed(model, processes)
        if processes.is_first:
            remember(folder, model, there, len(history), config.epochs, config.batch_size)
        with progress_bar(config.epochs, len(history), shown=progress and processes.is_first) as advance:
            for epoch in range(len(history), config.epochs):
                record = train_epoch(model, optimizer, there, config, epoch, processes, losses)
                _check_finite(model, record, config)
                history.append(record)
                if processes.is_first:
                    Checkpoint.of(model, optimizer, config, history, fingerprint).save(path)
                    remember(folder, model, there, len(history), config.epochs, config.batch_size)
                advance({name: record[name] for name in ("loss", "temperature", "gamma")})
        together.close()  # the rest is the first process's own: a sum over all would wait for those that have left
        if not processes.is_first:
            return {}
        refit(model, there, config)
        from vitsom_fast.training.report import write_report  # and Matplotlib with it, that --help can do without

        return write_report(folder, model, splits, config, backend, history)


def _check_shares(config: TrainConfig, count: int, processes: int) -> None:
    if (smallest := count // number_of_batches(count, config.batch_size)) < processes:
        raise ValueError(
            f"batch_size must leave an image for each of {processes} processes, got {config.batch_size}: of {count} images the"
            f" smallest batch has {smallest}"
        )


def _build(
    config: TrainConfig, dataset: Dataset, device: torch.device
) -> tuple[MapModel | ViTClassifier, torch.optim.Optimizer]:
    try:
        model = build_model(config, dataset).to(device)
    except (RuntimeError, MemoryError) as error:
        raise ValueError(f"a model of grid {config.grid} and width {config.width} cannot be made: {one_line(error)}") from error
    return model, build_optimizer(model, config)


def _check_finite(model: MapModel | ViTClassifier, record: dict[str, Any], config: TrainConfig) -> None:
    broken = None if math.isfinite(record["loss"]) else f"the loss is {record['loss']}"
    if not all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters()):
        broken = broken or "weights are no finite numbers"
    if broken:
        raise FloatingPointError(f"{broken} after an epoch: try a lower lr, now {config.lr}")
