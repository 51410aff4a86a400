"""A model whose weights are spread over processes, its map whole in each of them (FSDP)."""

from __future__ import annotations

from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor, nn

from vitsom_fast.models.classifier import ViTClassifier
from vitsom_fast.models.map_model import MapModel

M = TypeVar("M", MapModel, ViTClassifier)

_CALLED = ("encode", "decode", "tokens", "latents")  # of what is below a map


def shard(model: M, **settings: Any) -> M:
    """Give each process of the default group a part of the weights below a map, of which the others ask for it block by block
    (PyTorch's ``fully_shard``, in place); returns the model.

    Prototypes, and a head, stay whole in every process, where searches, metrics and pictures need them; their gradients are
    means over the processes as all others. All processes must begin with the same weights, and an optimizer is made after this.

    Args:
        model: of ``models.build`` or ``from_preset``; trained by its ``losses``.
        settings: of ``fully_shard``, as ``mesh`` or ``reshard_after_forward``.

    Raises:
        ValueError: there is no process group.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method  # which takes a second to import

    if not dist.is_initialized():
        raise ValueError("model must be sharded within a process group: call torch.distributed.init_process_group first")
    below = model.autoencoder
    for part in below.children():
        for block in part if isinstance(part, nn.Sequential) else ():
            if any(True for _ in block.parameters()):
                fully_shard(block, **settings)
    fully_shard(below, **settings)
    for name in _CALLED:
        if hasattr(below, name):
            register_fsdp_forward_method(below, name)
    inside = {id(parameter) for parameter in below.parameters()}
    for parameter in model.parameters():
        if id(parameter) not in inside and parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(_mean_over_processes)
    return model


def _mean_over_processes(parameter: Tensor) -> None:
    assert parameter.grad is not None
    dist.all_reduce(parameter.grad)
    parameter.grad /= dist.get_world_size()
