"""Which copy of the package Python has found: in a clone its source folder hides the one that pip has built kernels for."""

from __future__ import annotations

import importlib.machinery
import sys
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def other_copy() -> str | None:
    """Advice, where another copy on Python's path has the compiled module for CPUs that this one lacks."""
    for entry in sys.path:
        other = Path(entry or ".").resolve() / _PACKAGE.name
        if other != _PACKAGE and any((other / f"_cpu{suffix}").exists() for suffix in importlib.machinery.EXTENSION_SUFFIXES):
            return (
                f"The copy in {other} has them, but Python found the one in {_PACKAGE} first: work in another folder, or"
                " install that one with pip install -e"
            )
    return None
