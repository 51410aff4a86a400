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

    Example:
        >>> temperature = exponential_decay(start=8.0, stop=0.5, total_steps=5)
        >>> [temperature(step) for step in range(6)]
        [8.0, 4.0, 2.0, 1.0, 0.5, 0.5]
    """
    return partial(_decayed, *_checked_decay(start, stop, total_steps))


def linear_decay(start: float, stop: float, total_steps: int) -> Schedule:
    """``T(step) = start + (stop - start) * step / (total_steps - 1)``; steps beyond the last keep ``stop``.

    Raises:
        TypeError, ValueError: as ``exponential_decay``.
    """
    return partial(_linear, *_checked_decay(start, stop, total_steps))


def inverse_decay(start: float, stop: float, total_steps: int) -> Schedule:
    """``T(step) = start / (1 + c step)`` with c such that the last step has ``stop``; steps beyond it keep that.

    Raises:
        TypeError, ValueError: as ``exponential_decay``.
    """
    return partial(_inverse, *_checked_decay(start, stop, total_steps))


# Of a first and a last value, by name.
SCHEDULES: dict[str, Callable[[float, float, int], Schedule]] = {
    "exponential": exponential_decay,
    "linear": linear_decay,
    "inverse": inverse_decay,
}


def asymptotic_decay(start: float, total_steps: int) -> Schedule:
    """``T(step) = start / (1 + 2 step / total_steps)``: a third of ``start`` after all steps, and less beyond them.

    Raises:
        TypeError, ValueError: as ``exponential_decay``.
    """
    start, _, total_steps = _checked_decay(start, start, total_steps)
    return partial(_asymptotic, start, total_steps)


def constant(value: float) -> Schedule:
    """``value`` at every step.

    Raises:
        TypeError: it is not a number.
        ValueError: it is not positive and finite.
    """
    value, _, _ = _checked_decay(value, value, 1, name="value")
    return partial(_constant, value)


def linear_ramp(stop: float, ramp_steps: int) -> Schedule:
    """From 0 at step 0 to ``stop`` at step ``ramp_steps`` and after: the gamma of the ViT-SOM paper.

    Raises:
        TypeError: ``stop`` is not a number, or ``ramp_steps`` not an int.
        ValueError: ``stop`` is not finite, or ``ramp_steps`` below 1.

    Example:
        >>> gamma = linear_ramp(stop=2.0, ramp_steps=4)
        >>> [gamma(step) for step in range(6)]
        [0.0, 0.5, 1.0, 1.5, 2.0, 2.0]
    """
    return partial(_ramped, finite_number("stop", stop), whole_number("ramp_steps", ramp_steps))


def _checked_decay(start: float, stop: float, total_steps: int, name: str = "start") -> tuple[float, float, int]:
    start, stop = finite_number(name, start), finite_number("stop", stop)
    for which, value in ((name, start), ("stop", stop)):
        if not value > 0:
            raise ValueError(f"{which} must be positive, got {value}")
    return start, stop, whole_number("total_steps", total_steps)


# Functions of this module, not lambdas: what they are part of can be pickled.


def _linear(start: float, stop: float, total_steps: int, step: int) -> float:
    return float(start + (stop - start) * _progress(step, total_steps))


def _inverse(start: float, stop: float, total_steps: int, step: int) -> float:
    return float(start / (1 + (start / stop - 1) * _progress(step, total_steps)))


def _asymptotic(start: float, total_steps: int, step: int) -> float:
    return float(start / (1 + 2 * max(step, 0) / total_steps))


def _constant(value: float, step: int) -> float:
    return value


def _decayed(start: float, stop: float, total_steps: int, step: int) -> float:
    return float(start * (stop / start) ** _progress(step, total_steps))


def _ramped(stop: float, ramp_steps: int, step: int) -> float:
    return float(stop * min(max(step, 0) / ramp_steps, 1.0))


def _progress(step: int, total_steps: int) -> float:
    return min(max(step, 0) / (total_steps - 1), 1.0) if total_steps > 1 else 0.0
