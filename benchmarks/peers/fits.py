"""Whole fits of other packages from given prototypes: rows X (N, D) fp32, prototypes (rows, cols, D), and radii from the first
epoch's to the last one's. Each returns its prototypes (K, D)."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]


def _beyond(first: float, last: float, epochs: int) -> float:
    """The radius after the last epoch, where a package's own schedule would end."""
    return first * (last / first) ** (epochs / (epochs - 1)) if epochs > 1 else last


def fastersom(x: Array, init: Array, epochs: int, first: float, last: float) -> Array:
    from fastersom import SOM

    rows, cols, dim = init.shape
    last = _beyond(first, last, epochs)
    som = SOM(rows, cols, n_epochs=epochs, init=init, device="cpu", sigma_initial=first, sigma_final=last).fit(x)
    return som.weights_.reshape(-1, dim)


def xpysom(x: Array, init: Array, epochs: int, first: float, last: float) -> Array:
    import numpy
    from xpysom import XPySom

    rows, cols, dim = init.shape
    radii = {"sigma": first, "sigmaN": _beyond(first, last, epochs)}
    som = XPySom(rows, cols, dim, learning_rate=1, learning_rateN=1, std_coeff=1, xp=numpy, **radii)
    som._weights = init.copy()
    som.train(x, epochs)
    return som._weights.reshape(-1, dim)


def minisom(x: Array, init: Array, epochs: int, first: float, last: float) -> Array:
    from minisom import MiniSom

    rows, cols, dim = init.shape
    som = MiniSom(rows, cols, dim, sigma=first, learning_rate=1.0)
    som._learning_rate_decay_function = lambda rate, _epoch, _epochs: rate
    som._sigma_decay_function = lambda radius, epoch, _epochs: radius * (last / first) ** (epoch / max(1, epochs - 1))
    som._weights = init.astype(float)
    som.train_batch_offline(x, epochs)
    return som.get_weights().reshape(-1, dim)
