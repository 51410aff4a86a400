"""How the neighborhood radius and the weight of the SOM loss change over training."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from vitsom_fast.arguments import finite_number, whole_number

Schedule = Callable[[int], float]


def exponential_decay(start: float, stop: float, total_steps: int) -> Schedule:
    """``T(step) = start * (stop / start) ** (step / (total_steps - 1))``: from ``start`` at step 0 to ``stop`` at the last.

    The temperature of the ViT-SOM paper. Steps beyond the last keep ``stop``; a schedule of one step is ``start``.

    Raises:
        TypeError: ``start`` or ``stop`` is not a number, or ``total_steps`` not an int.
        ValueError: ``start`` or ``stop`` is not positive and finite, or ``total_steps`` below 1.
    """
    start, stop = finite_number("start", start), finite_number("stop", stop)
    for name, value in (("start", start), ("stop", stop)):
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
    total_steps = whole_number("total_steps", total_steps)
    return partial(_decayed, start, stop, total_steps)  # unlike a lambda, it can be pickled with what it belongs to


def linear_ramp(stop: float, ramp_steps: int) -> Schedule:
    """From 0 at step 0 to ``stop`` at step ``ramp_steps`` and after: the gamma of the ViT-SOM paper.

    Raises:
        TypeError: ``stop`` is not a number, or ``ramp_steps`` not an int.
        ValueError: ``stop`` is not finite, or ``ramp_steps`` below 1.
    """
    return partial(_ramped, finite_number("stop", stop), whole_number("ramp_steps", ramp_steps))


def _decayed(start: float, stop: float, total_steps: int, step: int) -> float:
    return float(start * (stop / start) ** _progress(step, total_steps))


def _ramped(stop: float, ramp_steps: int, step: int) -> float:
    return float(stop * min(max(step, 0) / ramp_steps, 1.0))


def _progress(step: int, total_steps: int) -> float:
    return min(max(step, 0) / (total_steps - 1), 1.0) if total_steps > 1 else 0.0
