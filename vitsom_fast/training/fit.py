"""The training loop of ViT-SOM."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from vitsom_fast import backends
from vitsom_fast.loss import FusedSOMLoss
from vitsom_fast.models import ViTAutoencoder, ViTSOM
from vitsom_fast.schedules import exponential_decay, linear_ramp
from vitsom_fast.training.checkpoint import Checkpoint, load_checkpoint
from vitsom_fast.training.config import TrainConfig
from vitsom_fast.training.data import Dataset, load_dataset
from vitsom_fast.training.files import CHECKPOINT, METRICS, claimed
from vitsom_fast.training.report import write_report

_BETAS = (0.9, 0.999)
# The pull on a prototype falls by orders of magnitude as T does: with 0.999 the early gradients would be remembered over a
# whole run, and steps would be too small for the late ones.
_PROTOTYPE_BETAS = (0.9, 0.95)
_MAX_GRADIENT_NORM = 1.0
_LAST_LR_FACTOR = 1e-5  # the paper's floor of the cosine

# Pixels of a batch up to which one thread trains. The digits (2^13) gain little from a second core, and where that core is busy
# with something else a step waits for it 10 to 100 times as long as it computes.
_SMALL_BATCH = 1 << 15


def fit(config: TrainConfig, out: Path | str, *, resume: bool = False, progress: bool = True) -> dict[str, Any]:
    """Train a ViT-SOM and leave a checkpoint, metrics and pictures in a folder.

    The same config, machine and number of threads give the same bits, also where a run was killed, at any moment, and resumed:
    a checkpoint is written before the first and after every epoch, and what an epoch does depends on that and the seed only.

    Args:
        out: the folder, made if need be.
        resume: go on from the checkpoint there, if there is one; after the last epoch, write the results anew.
        progress: show a bar on stderr.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        FileNotFoundError, ValueError: a data set, device or backend that cannot be used here; a folder that holds a run and no
            ``resume``; a checkpoint that is damaged or of other settings or data.
        FloatingPointError: the loss is no longer finite; the last checkpoint stays.
    """
    folder = Path(out)
    device = _usable_device(config.device)
    backend = backends.resolve(config.backend, device, torch.float32)
    dataset = load_dataset(config.dataset)
    with torch.random.fork_rng(devices=[]), _threads(config, dataset), ExitStack() as stack:
        torch.manual_seed(config.seed)
        model = build_model(config, dataset).to(device)
        optimizer = build_optimizer(model, config)
        stack.enter_context(claimed(folder))  # not before all else is known to be right: it makes the folder
        path = folder / CHECKPOINT
        if not resume and any((folder / name).exists() for name in (CHECKPOINT, METRICS)):
            raise ValueError(f"out {str(folder)!r} already holds a run: use --resume to go on with it, or another folder")
        history: list[dict[str, Any]] = []
        fingerprint = dataset.fingerprint()
        if resume and path.exists():
            checkpoint = load_checkpoint(path)
            _check_same_run(path, checkpoint, config, fingerprint)
            checkpoint.restore(model, optimizer)
            history = checkpoint.history
        else:
            Checkpoint.of(model, optimizer, config, history, fingerprint).save(path)
        images = dataset.images.to(device)
        with tqdm(total=config.epochs, initial=len(history), unit="epoch", disable=not progress) as bar:
            for epoch in range(len(history), config.epochs):
                record = train_epoch(model, optimizer, images, config, epoch)
                if not math.isfinite(record["loss"]):
                    raise FloatingPointError(
                        f"the loss is {record['loss']} in epoch {epoch + 1}: try a lower lr, now {config.lr}"
                    )
                history.append(record)
                Checkpoint.of(model, optimizer, config, history, fingerprint).save(path)
                bar.set_postfix({name: f"{record[name]:.4g}" for name in ("loss", "temperature", "gamma")}, refresh=False)
                bar.update()
        return write_report(folder, model, dataset, config, backend, history)


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
    """AdamW in three groups; ``scale`` is a group's learning rate over that of the schedule.

    Only weight matrices decay. The cosine distance does not see a prototype's length: decay would only make its direction turn
    faster and faster, most of all in units that win nothing.
    """
    parameters = list(model.autoencoder.parameters())
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": config.weight_decay, "scale": 1.0},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0, "scale": 1.0},
        {
            "params": [model.som.prototypes],
            "weight_decay": 0.0,
            "scale": config.prototype_lr_scale,
            "betas": _PROTOTYPE_BETAS,
        },
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=_BETAS)


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


def _check_same_run(path: Path, checkpoint: Checkpoint, config: TrainConfig, fingerprint: str) -> None:
    if different := config.differences(checkpoint.config):
        settings = ", ".join(
            f"{name} {getattr(config, name)!r} (there {getattr(checkpoint.config, name)!r})" for name in different
        )
        raise ValueError(f"checkpoint {str(path)!r} is of a run with other settings: {settings}")
    if checkpoint.fingerprint != fingerprint:
        raise ValueError(f"checkpoint {str(path)!r} is of a run on other images: the data set {config.dataset!r} has changed")


@contextmanager
def _threads(config: TrainConfig, dataset: Dataset) -> Iterator[None]:
    """Run with ``config.threads`` CPU threads, then with as many as before."""
    before = torch.get_num_threads()
    pixels = config.batch_size * dataset.images[0].numel()
    torch.set_num_threads(config.threads or (1 if pixels <= _SMALL_BATCH else before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _usable_device(name: str) -> torch.device:
    if name.split(":")[0] not in ("cpu", "cuda"):
        raise ValueError(f"device must be 'cpu', 'cuda' or 'cuda:N', got {name!r}")
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from error
