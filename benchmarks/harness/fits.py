"""Contenders of a whole fit of the batch map, ours first."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

from benchmarks.peers import fits
from vitsom_fast import SOM

Fit = Callable[[Any, Any, int, float, float], Any]


def ours(x: Any, init: Any, epochs: int, first: float, last: float) -> Any:
    rows, cols, _ = init.shape
    return SOM(rows, cols, n_epochs=epochs, init=init, sigma_initial=first, sigma_final=last).fit(x).prototypes_


def contenders() -> dict[str, Fit]:
    """Those that are installed, by name."""
    peers: dict[str, Fit] = {"fastersom": fits.fastersom, "xpysom": fits.xpysom, "minisom": fits.minisom}
    return {"vitsom_fast": ours} | {name: fit for name, fit in peers.items() if importlib.util.find_spec(name)}
