"""Totals over the ranks of torch.distributed: where it is initialised, each rank has rows of its own and all have one map."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def count() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def add_up(totals: list[Tensor]) -> list[Tensor]:
    """The totals of all ranks on each, added up in one message for each tensor."""
    if count() > 1:
        for total in totals:
            here = _within_reach(total)
            dist.all_reduce(here)
            total.copy_(here)
    return totals


def same(x: Tensor) -> Tensor:
    """What the first rank has, on all."""
    if count() > 1:
        here = _within_reach(x)
        dist.broadcast(here, src=0)
        x = here.to(x.device)
    return x


def _within_reach(x: Tensor) -> Tensor:
    """x where the ranks can send it from: nccl sends from GPUs only."""
    return x.cuda() if dist.get_backend() == "nccl" and x.device.type == "cpu" else x.contiguous()
