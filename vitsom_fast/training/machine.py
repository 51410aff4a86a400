"""What a run takes of the machine: its device, its threads and its kernels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vitsom_fast import backends, settings
from vitsom_fast.data import Dataset
from vitsom_fast.training.config import TrainConfig

# Pixels of a batch up to which one thread trains. The digits (2^13) gain little from a second core, and where that core is busy
# with something else a step waits for it 10 to 100 times as long as it computes.
_SMALL_BATCH = 1 << 15


def usable_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        ValueError: it is not "cpu", "cuda" or "cuda:N", or not there.
    """
    if name.split(":")[0] not in ("cpu", "cuda"):
        raise ValueError(f"device must be 'cpu', 'cuda' or 'cuda:N', got {name!r}")
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from error


def chosen_backend(name: str, device: torch.device) -> str:
    """The backend that ``name`` stands for there.

    Raises:
        ValueError: it cannot be used, or VITSOM_CPU_ISA names what the CPU kernels cannot run: PyTorch's operations in their
            place would take many times as long.
    """
    by_itself = name == "auto" and settings.backend() == "auto"
    reason = backends.cpu.unavailable() or ""
    if by_itself and device.type == "cpu" and "VITSOM_CPU_ISA" in reason:
        raise ValueError(reason)
    return backends.resolve(name, backends.Spec(device, torch.float32))


@contextmanager
def threads_of(config: TrainConfig, dataset: Dataset) -> Iterator[None]:
    """Run with ``config.threads`` CPU threads, then with as many as before."""
    before = torch.get_num_threads()
    pixels = config.batch_size * dataset.pixels[0].numel()
    torch.set_num_threads(config.threads or (1 if pixels <= _SMALL_BATCH else before))
    try:
        yield
    finally:
        torch.set_num_threads(before)
