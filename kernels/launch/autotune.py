"""Opt-in with VITSOM_AUTOTUNE=1: times the configurations of a search once and keeps the fastest on disk.

Off by default: the fixed configurations need no warm-up and give the same result bits on every run. Never while a CUDA graph is
being captured: there a configuration that was timed before is used, or else the fixed one.
"""

from __future__ import annotations

import functools
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import triton
from vitsom_fast.kernels.launch.configs import Config
from vitsom_fast.kernels.launch.device import interprets

from vitsom_fast import settings

_REPETITIONS = 7


def is_on() -> bool:
    """Whether the user asked for it, and there is a device to time on."""
    return settings.autotunes() and not interprets()


def cache_file() -> Path:
    """Where the fastest configurations are kept, by device, Triton version, dtype and size."""
    return settings.cache_folder() / "triton_configs.json"


def key(device: torch.device, dtype: torch.dtype, *sizes: int) -> str:
    """Sizes count as their next power of two: what is fastest for one is for its neighbours."""
    rounded = "x".join(str(1 << (size - 1).bit_length()) for size in sizes)
    return f"{torch.cuda.get_device_name(device)} triton-{triton.__version__} {dtype} {rounded}"


def fastest(key: str, default: Config, candidates: list[Config], launch: Callable[[Config], object]) -> Config:
    """The configuration that was or is now found to be the fastest; ``default`` during capture if none was."""
    known = _known()
    if key in known:
        return known[key]
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        return default
    seconds = {place: _median_seconds(launch, config) for place, config in enumerate(candidates)}
    best = min(seconds, key=lambda place: seconds[place])
    known[key] = candidates[best] if seconds[best] < float("inf") else default
    _write(known)
    return known[key]


def _median_seconds(launch: Callable[[Config], object], config: Config) -> float:
    """Of some launches, after a first one that compiles; infinite where this device cannot run it."""
    try:
        launch(config)
    except triton.runtime.errors.OutOfResources:
        return float("inf")
    times = []
    for _ in range(_REPETITIONS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        launch(config)
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times)


@functools.cache
def _known() -> dict[str, Config]:
    try:
        stored = json.loads(cache_file().read_text())
        return {name: Config(**fields) for name, fields in stored.items()}
    except (OSError, ValueError, TypeError, AttributeError):  # none yet, or not ours: it is made anew
        return {}


def _write(known: dict[str, Config]) -> None:
    """A whole file or none: other processes read it."""
    path = cache_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = {
        name: {"blocks": config.blocks, "num_warps": config.num_warps, "num_stages": config.num_stages}
        for name, config in known.items()
    }
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".json", delete=False) as file:
        json.dump(stored, file, indent=1)
    os.replace(file.name, path)
