"""What a launch has to know of the device: its architecture, its size, and whether there is one at all."""

from __future__ import annotations

import functools

import torch
from vitsom_fast.kernels.launch import configs

from vitsom_fast import settings

# So many programs at a time are enough for an interpreter, which runs one after the other.
_MULTIPROCESSORS_OF_AN_INTERPRETER = 4


@functools.cache
def interprets() -> bool:
    """Whether Triton interprets its kernels, on CPU tensors."""
    return settings.interprets_triton()


if interprets():
    from vitsom_fast.kernels.launch import interpreter

    interpreter.install()


@functools.cache
def family(device: torch.device) -> str:
    """The family of architectures whose configurations serve a device."""
    if interprets():
        return settings.interpreted_family()
    from triton.runtime import driver

    with torch.cuda.device(device):
        target = driver.active.get_current_target()
    return configs.family(target.backend, target.arch)


def precision(device: torch.device) -> str:
    """How its fp32 operands are multiplied; an interpreter knows no more than one way."""
    return "ieee" if interprets() else configs.precision(family(device))


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """How many programs of the larger kernels run at the same time."""
    if interprets():
        return _MULTIPROCESSORS_OF_AN_INTERPRETER
    return torch.cuda.get_device_properties(device).multi_processor_count


def blocks(count: int, size: int) -> int:
    """How many blocks of a size cover a count."""
    return -(-count // size)
