"""Where the numbers come from: the machine in words, its free memory and what to measure its peak by."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor

from vitsom_fast import available_backends

_INSTRUCTION_SETS = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "asimd", "sve", "bf16")


def describe() -> dict[str, str | int]:
    """CPU model, cores, threads, instruction sets (the processor's, and that of the kernels), memory and versions."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = _meminfo("MemTotal")
    return {
        "cpu": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "instruction_sets": _instruction_sets(),
        "cpu_kernels": _cpu_kernels(),
        "memory_gb": round(memory / 1e9) if memory else "",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }


def available_memory() -> int | None:
    """Bytes that a process can still take without swapping, or None where the system does not say."""
    return _meminfo("MemAvailable")


def peak_matmul(size: int = 2048) -> tuple[Callable[[], Tensor], float]:
    """torch's fp32 matrix product, size x size x size, and its floating-point operations: the peak that others are held to.

    To be timed in turns with them, so that what slows them down slows it down, too.
    """
    a, b, product = torch.randn(size, size), torch.randn(size, size), torch.empty(size, size)
    torch.mm(a, b, out=product)  # starts the threads
    return lambda: torch.mm(a, b, out=product), 2.0 * size**3


def _cpu_kernels() -> str:
    """The instruction set that backend "cpu" runs on, which VITSOM_CPU_ISA may have capped."""
    return "" if available_backends()["cpu"] else str(import_module("vitsom_fast._cpu").selected())


def _instruction_sets() -> str:
    flags = (_cpuinfo("flags") or _cpuinfo("Features") or "").split()
    found = [name for name in _INSTRUCTION_SETS if name in flags]
    return " ".join(found) or torch.backends.cpu.get_cpu_capability()


def _meminfo(field: str) -> int | None:
    value = _field("/proc/meminfo", field)
    return int(value.removesuffix(" kB")) * 1024 if value else None


def _cpuinfo(field: str) -> str | None:
    return _field("/proc/cpuinfo", field)


def _field(path: str, field: str) -> str | None:
    """The first value of a field in one of Linux's ``name : value`` files; None elsewhere."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == field), None)
