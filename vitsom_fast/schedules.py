"""How the neighborhood radius and the weight of the SOM loss change over training."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

Schedule = Callable[[int], float]


def exponential_decay(start: float, stop: float, total_steps: int) -> Schedule:
    """``T(step) = start * (stop / start) ** (step / (total_steps - 1))``: from ``start`` at step 0 to ``stop`` at the last.

    The temperature of the ViT-SOM paper. Steps beyond the last keep ``stop``; a schedule of one step is ``start``.

    Raises:
        TypeError: ``start`` or ``stop`` is not a number, or ``total_steps`` not an int.
        ValueError: ``start`` or ``stop`` is not positive and finite, or ``total_steps`` below 1.
    """
    for name, value in (("start", start), ("stop", stop)):
        _check_finite(name, value)
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
    _check_steps("total_steps", total_steps)
    return partial(_decayed, start, stop, total_steps)  # unlike a lambda, it can be pickled with what it belongs to


def linear_ramp(stop: float, ramp_steps: int) -> Schedule:
    """From 0 at step 0 to ``stop`` at step ``ramp_steps`` and after: the gamma of the ViT-SOM paper.

    Raises:
        TypeError: ``stop`` is not a number, or ``ramp_steps`` not an int.
        ValueError: ``stop`` is not finite, or ``ramp_steps`` below 1.
    """
    _check_finite("stop", stop)
    _check_steps("ramp_steps", ramp_steps)
    return partial(_ramped, stop, ramp_steps)


def _decayed(start: float, stop: float, total_steps: int, step: int) -> float:
    return float(start * (stop / start) ** _progress(step, total_steps))


def _ramped(stop: float, ramp_steps: int, step: int) -> float:
    return stop * min(max(step, 0) / ramp_steps, 1.0)


def _progress(step: int, total_steps: int) -> float:
    return min(max(step, 0) / (total_steps - 1), 1.0) if total_steps > 1 else 0.0


def _check_finite(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")


def _check_steps(name: str, steps: int) -> None:
    if isinstance(steps, bool) or not isinstance(steps, int):
        raise TypeError(f"{name} must be an int, got {steps!r}")
    if steps < 1:
        raise ValueError(f"{name} must be at least 1, got {steps}")
