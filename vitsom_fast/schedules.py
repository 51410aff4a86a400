"""How the neighborhood radius and the weight of the SOM loss change over training."""

from __future__ import annotations

from collections.abc import Callable

Schedule = Callable[[int], float]


def exponential_decay(start: float, stop: float, total_steps: int) -> Schedule:
    """``T(step) = start * (stop / start) ** (step / (total_steps - 1))``: from ``start`` at step 0 to ``stop`` at the last.

    The temperature of the ViT-SOM paper. Steps beyond the last keep ``stop``; a schedule of one step is ``start``.

    Raises:
        ValueError: ``start`` or ``stop`` not positive, or ``total_steps`` below 1.
    """
    for name, value in (("start", start), ("stop", stop)):
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
    _check_steps("total_steps", total_steps)

    def value(step: int) -> float:
        return float(start * (stop / start) ** _progress(step, total_steps))

    return value


def linear_ramp(stop: float, ramp_steps: int) -> Schedule:
    """From 0 at step 0 to ``stop`` at step ``ramp_steps`` and after: the gamma of the ViT-SOM paper.

    Raises:
        ValueError: ``ramp_steps`` below 1.
    """
    _check_steps("ramp_steps", ramp_steps)
    return lambda step: stop * min(max(step, 0) / ramp_steps, 1.0)


def _progress(step: int, total_steps: int) -> float:
    return min(max(step, 0) / (total_steps - 1), 1.0) if total_steps > 1 else 0.0


def _check_steps(name: str, steps: int) -> None:
    if steps < 1:
        raise ValueError(f"{name} must be at least 1, got {steps}")
