"""The most memory that something took."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

_PROCESS = Path("/proc/self")


@contextmanager
def peak_megabytes(device: torch.device) -> Iterator[Callable[[], float | None]]:
    """Yields what is to be called for the peak so far, in MB beyond what there was before: of the device, or on a CPU of the
    process, where the system is Linux; None elsewhere."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield lambda: (torch.cuda.max_memory_allocated(device) - before) / 1e6
        return
    # Else what an earlier run has left to the allocator would be used first, unseen.
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        (_PROCESS / "clear_refs").write_text("5")  # the high-water mark is what is resident now
        resident = _kilobytes("VmRSS")
    except OSError:
        yield lambda: None
        return
    yield lambda: (_kilobytes("VmHWM") - resident) / 1e3


def _kilobytes(name: str) -> int:
    lines = (_PROCESS / "status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
