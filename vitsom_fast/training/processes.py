"""Several processes that train one model, as ``torchrun`` starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vitsom_fast.models import MapModel, Model, Step, ViTClassifier


class Processes(NamedTuple):
    """How many there are, and which of them this is; the first writes all files."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def part_of(self, batch: Tensor) -> Tensor:
        """This process's share of a batch (B, ...)."""
        return batch.tensor_split(self.size)[self.rank]

    def total(self, x: Tensor) -> Tensor:
        """The sum of x over all processes."""
        if self.size > 1:
            dist.all_reduce(x)
        return x

    def agreed(self, x: Any) -> Any:
        """What the first process has."""
        if self.size == 1:
            return x
        box = [x]
        dist.broadcast_object_list(box)
        return box[0]


ALONE = Processes()


class _Losses(nn.Module):
    """The losses of a model as a forward pass, which is what DistributedDataParallel watches."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, labels: Tensor | None, step: Step) -> dict[str, Tensor]:
        return self.model.losses(images, labels, step)


@contextmanager
def started_processes(device: torch.device) -> Iterator[tuple[Processes, torch.device]]:
    """The processes that ``torchrun`` has started, this one alone without it; and the device of this one."""
    count = int(os.environ.get("WORLD_SIZE", 1))
    if count == 1 or dist.is_initialized():
        yield ALONE, device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(dist.get_rank(), count), device
    finally:
        dist.destroy_process_group()


def apart(losses: Any, more: bool) -> AbstractContextManager[None]:
    """Where ``more`` parts of a batch follow: gradients of what ``distributed`` made stay in their process until the last."""
    return losses.no_sync() if more and isinstance(losses, DistributedDataParallel) else nullcontext()


def distributed(model: MapModel | ViTClassifier, processes: Processes) -> nn.Module:
    """What returns the losses of a model, with gradients that are means over the processes."""
    losses = _Losses(model)
    if processes.size == 1:
        return losses
    return DistributedDataParallel(losses, find_unused_parameters=bool(model.idle_parameters()))
