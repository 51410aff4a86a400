"""The training loop of ViT-SOM."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitsom_fast.loss import FusedSOMLoss
from vitsom_fast.models import ViTAutoencoder, ViTSOM
from vitsom_fast.optim import param_groups
from vitsom_fast.progress import progress_bar
from vitsom_fast.schedules import exponential_decay, linear_ramp
from vitsom_fast.training.checkpoint import Checkpoint, check_exists
from vitsom_fast.training.config import TrainConfig
from vitsom_fast.training.data import Dataset, load_dataset
from vitsom_fast.training.files import CHECKPOINT, METRICS, claimed, make_run_folder
from vitsom_fast.training.machine import chosen_backend, threads_of, usable_device
from vitsom_fast.training.messages import one_line
from vitsom_fast.training.report import write_report
from vitsom_fast.training.resume import resume_from

_MAX_GRADIENT_NORM = 1.0
_LAST_LR_FACTOR = 1e-5  # the paper's floor of the cosine


def fit(
    config: TrainConfig,
    out: Path | str | None = None,
    *,
    resume: bool = False,
    progress: bool = True,
    started: Callable[[Path], None] | None = None,
) -> dict[str, Any]:
    """Train a ViT-SOM and leave a checkpoint, metrics and pictures in a folder.

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
        What ``metrics.json`` holds; ``failed`` in it says which parts could not be made, and why.

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
    device = usable_device(config.device)
    backend = chosen_backend(config.backend, device)
    dataset = load_dataset(config.dataset)
    fingerprint = dataset.fingerprint()
    with torch.random.fork_rng(devices=[]), threads_of(config, dataset), ExitStack() as stack:
        torch.manual_seed(config.seed)
        model, optimizer = _build(config, dataset, device)
        # Not before all else is known to be right, and the checkpoint comes at once: a kill in between leaves an empty folder.
        folder = make_run_folder(config.dataset) if out is None else Path(out)
        stack.enter_context(claimed(folder))
        if started:
            started(folder)
        if not resume and any((folder / name).exists() for name in (CHECKPOINT, METRICS)):
            raise ValueError(f"out {str(folder)!r} already holds a run: use --resume to go on with it, or another folder")
        path = folder / CHECKPOINT
        history: list[dict[str, Any]] = []
        if resume:
            history = resume_from(path, model, optimizer, config, fingerprint)
        else:
            Checkpoint.of(model, optimizer, config, history, fingerprint).save(path)
        images = dataset.images.to(device)
        with progress_bar(config.epochs, len(history), shown=progress) as advance:
            for epoch in range(len(history), config.epochs):
                record = train_epoch(model, optimizer, images, config, epoch)
                _check_finite(model, record, config)
                history.append(record)
                Checkpoint.of(model, optimizer, config, history, fingerprint).save(path)
                advance({name: record[name] for name in ("loss", "temperature", "gamma")})
        return write_report(folder, model, dataset, config, backend, history)


def _build(config: TrainConfig, dataset: Dataset, device: torch.device) -> tuple[ViTSOM, torch.optim.Optimizer]:
    try:
        model = build_model(config, dataset).to(device)
    except (RuntimeError, MemoryError) as error:
        raise ValueError(f"a model of grid {config.grid} and width {config.width} cannot be made: {one_line(error)}") from error
    return model, build_optimizer(model, config)


def _check_finite(model: ViTSOM, record: dict[str, Any], config: TrainConfig) -> None:
    broken = None if math.isfinite(record["loss"]) else f"the loss is {record['loss']}"
    if not all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters()):
        broken = broken or "weights are no finite numbers"
    if broken:
        raise FloatingPointError(f"{broken} after an epoch: try a lower lr, now {config.lr}")


def build_model(config: TrainConfig, dataset: Dataset) -> ViTSOM:
    """An untrained model for such images; its weights come from PyTorch's random numbers."""
    _, channels, height, width = dataset.images.shape
    autoencoder = ViTAutoencoder(
        (channels, height, width),
        patch=config.patch,
        width=config.width,
        depth=config.depth,
        heads=config.heads,
        decoder_width=config.decoder_width,
        decoder_depth=config.decoder_depth,
    )
    som = FusedSOMLoss(
        config.grid, autoencoder.latent_dim, topology=config.topology, periodic=config.periodic, backend=config.backend
    )
    return ViTSOM(autoencoder, som, reconstruction_beta=config.reconstruction_beta)


def build_optimizer(model: ViTSOM, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW of ``param_groups``; ``scale`` is a group's learning rate over that of the schedule."""
    groups = param_groups(
        model.autoencoder,
        model.som,
        config.lr,
        weight_decay=config.weight_decay,
        prototype_lr_scale=config.prototype_lr_scale,
    )
    return torch.optim.AdamW([{**group, "scale": group["lr"] / config.lr} for group in groups])


def train_epoch(
    model: ViTSOM, optimizer: torch.optim.Optimizer, images: Tensor, config: TrainConfig, epoch: int
) -> dict[str, Any]:
    """One pass over the images (N, C, H, W); returns its mean losses, its last temperature and gamma, and its seconds."""
    began = time.perf_counter()
    model.train()
    # Batches of equal size, but for one: a small last one would count as much as the others.
    batches = sample_order(len(images), config.seed, epoch).to(images.device).tensor_split(-(-len(images) // config.batch_size))
    total_steps = config.epochs * len(batches)
    temperature = exponential_decay(config.first_temperature, config.t_min, total_steps)
    gamma = linear_ramp(config.gamma, max(1, total_steps // 2))
    totals = torch.zeros(3, dtype=torch.float64, device=images.device)
    for step, batch in enumerate(batches, start=epoch * len(batches)):
        _set_learning_rate(optimizer, config, step, total_steps)
        reconstruction, som, _ = model(images[batch], temperature(step))
        loss = reconstruction + gamma(step) * som
        optimizer.zero_grad()
        with torch.autograd.set_multithreading_enabled(False):  # on an H200 a step's second thread took 0.2 to 0.3 ms
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), _MAX_GRADIENT_NORM)
        optimizer.step()
        totals += torch.stack([loss, reconstruction, som]).detach() * len(batch)
    losses = (totals / len(images)).tolist()
    return {
        **dict(zip(("loss", "reconstruction_loss", "som_loss"), losses, strict=True)),
        "temperature": temperature(step),
        "gamma": gamma(step),
        "seconds": time.perf_counter() - began,
    }


def sample_order(count: int, seed: int, epoch: int) -> Tensor:
    """The order (count,) of the samples in an epoch, from the seed and the epoch alone, so that any epoch can be redone."""
    return torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(count))


def learning_rate_factor(step: int, total_steps: int, warmup: float) -> float:
    """The paper's schedule by step instead of by epoch: the lower of a linear warm-up and a cosine, never below 1e-5."""
    rise = (step + 1) / max(1.0, warmup * total_steps)
    fall = 0.5 * (1 + math.cos(math.pi * step / total_steps))
    return max(_LAST_LR_FACTOR, min(rise, fall))


def _set_learning_rate(optimizer: torch.optim.Optimizer, config: TrainConfig, step: int, total_steps: int) -> None:
    lr = config.lr * config.batch_size / 256 * learning_rate_factor(step, total_steps, config.warmup)
    for group in optimizer.param_groups:
        group["lr"] = lr * group["scale"]
