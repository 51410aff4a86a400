"""Numbers as users give them: Python's, NumPy's or PyTorch's, taken where they mean the same, and never a bool; and devices."""

from __future__ import annotations

import math
import numbers
import operator
from typing import Any

import torch


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """``value`` as an int.

    Raises:
        TypeError: it is no integer; a bool or a float is none.
        ValueError: it is below ``least``.
    """
    try:
        number = None if _is_bool(value) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise TypeError(f"{name} must be an int, got {value!r}")
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number


def finite_number(name: str, value: Any) -> float:
    """``value`` as a float.

    Raises:
        TypeError: it is no real number; a bool or a string is none.
        ValueError: it is not finite.
    """
    if _is_bool(value) or not isinstance(value, numbers.Real):  # NumPy's scalars are registered there
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not math.isfinite(number := float(value)):
        raise ValueError(f"{name} must be finite, got {number}")
    return number


def device_of(value: torch.device | str) -> torch.device:
    """``value`` as a device.

    Raises:
        ValueError: PyTorch knows no such device.
    """
    if type(value) is torch.device:
        return value
    try:
        return torch.device(value)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device must be a device of PyTorch, got {value!r}") from error


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool) or "bool" in str(getattr(value, "dtype", ""))
