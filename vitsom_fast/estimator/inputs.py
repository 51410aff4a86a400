"""What users pass as rows and weights, checked: the names of features and their number as scikit-learn keeps them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data
from torch import Tensor

from vitsom_fast.arguments import device_of
from vitsom_fast.estimator import ranks
from vitsom_fast.estimator.rows import ChunkRows, Rows, SlicedRows, TensorRows, as_tensor, check_finite, from_numpy
from vitsom_fast.estimator.settings import as_numbers
from vitsom_fast.messages import one_line

_CPU = torch.device("cpu")


def rows_of(
    estimator: BaseEstimator,
    x: Any,
    sample_weight: Any,
    *,
    missing: str,
    device: torch.device | None,
    reset: bool,
) -> Rows:
    """Rows of x, whatever it is, on a device: that of a tensor, or else the CPU, where None is asked for.

    Args:
        x: array-like, table, scipy.sparse matrix, torch.Tensor, Dask collection; what has a shape (N, D) and can be sliced by
            rows; or an iterable of such chunks that begins anew each time.
        sample_weight: (N,) or None.
        reset: whether the estimator learns the number and the names of its features, or is held to them.

    Raises:
        TypeError: an iterator, which can be read once only.
        ValueError: another shape or number of features, or what is not finite.
    """
    weight = None if sample_weight is None else _checked_weight(sample_weight)
    if isinstance(x, np.ma.MaskedArray):  # scikit-learn would take what is masked for a number
        x = np.ma.filled(x.astype(np.float64), np.nan)
    rows = _special(x, weight, missing, device)
    if rows is None:
        x = validate_data(
            estimator, x, reset=reset, accept_sparse="csr", dtype=[np.float64, np.float32], ensure_all_finite=False
        )
        if hasattr(x, "toarray"):  # checked slice by slice
            rows = SlicedRows(x, device or _CPU, weight, missing)
        else:
            tensor = from_numpy(x)
            check_finite(tensor, missing)
            rows = TensorRows(tensor, device or _CPU, weight, missing)
    else:
        _keep_features(estimator, rows.dim, reset)
    if weight is not None and rows.length is not None and len(weight) != rows.length:
        raise ValueError(f"sample_weight must have shape ({rows.length},), a number for each row of X, got ({len(weight)},)")
    return rows


def computing_device(value: torch.device | str) -> torch.device:
    """``value`` as a device that computes here.

    Raises:
        ValueError: PyTorch knows no such device, or this machine has none.
    """
    device = device_of(value)
    try:
        if device.type != "cpu":
            torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device must be one that can compute here, got {str(value)!r}: {one_line(error)}") from error
    return device


def _special(x: Any, weight: Tensor | None, missing: str, device: torch.device | None) -> Rows | None:
    """Rows of what scikit-learn would make an array of, or would not know; None for all else."""
    if isinstance(x, Tensor):
        tensor = as_tensor(x)
        if tensor.device.type == "meta":
            raise ValueError("X must hold numbers, got a tensor on the device 'meta'")
        if len(tensor) == 0:
            raise ValueError(f"X must have at least one row, got shape {tuple(x.shape)}")
        check_finite(tensor, missing)
        return TensorRows(tensor, device or x.device, weight, missing)
    if type(x).__module__.partition(".")[0] in ("dask", "dask_expr"):
        from vitsom_fast.estimator.dask_rows import DaskRows  # an extra

        return DaskRows(x, weight, missing)
    if hasattr(x, "collect") and not hasattr(x, "shape"):
        raise TypeError(f"X must be a table that is there, got a {type(x).__name__} that is yet to be collected: X.collect()")
    if _can_be_sliced(x):
        if x.shape[0] < 1 or x.shape[1] < 1:
            raise ValueError(f"X must have at least one row and one feature, got shape {tuple(x.shape)}")
        return SlicedRows(x, device or _CPU, weight, missing)
    if isinstance(x, Iterator):
        raise TypeError(f"X must be an iterable of chunks that begins anew each time it is asked for, got {type(x).__name__}")
    if _has_chunks(x):
        return ChunkRows(x, device or _CPU, weight, missing)
    return None


def _can_be_sliced(x: Any) -> bool:
    """Of a file, most of all, which need not fit into memory: no array, table or sparse matrix that is already there."""
    if isinstance(x, np.memmap):
        return x.ndim == 2 and x.dtype.kind in "iuf"
    is_in_memory = isinstance(x, np.ndarray) or any(hasattr(x, name) for name in ("iloc", "__array_function__", "toarray"))
    shape = getattr(x, "shape", None)
    is_table = any(hasattr(x, name) for name in ("columns", "__dataframe__", "__array_namespace__"))
    return not is_in_memory and not is_table and isinstance(shape, tuple) and len(shape) == 2 and hasattr(x, "__getitem__")


def _has_chunks(x: Any) -> bool:
    """An object of its own that is iterated over; a list of rows is none, one of two-dimensional arrays is."""
    if isinstance(x, (list, tuple)):
        return len(x) > 0 and all(getattr(chunk, "ndim", 0) == 2 for chunk in x)
    is_array = any(hasattr(x, name) for name in ("shape", "__array__", "__dataframe__", "__array_interface__"))
    return isinstance(x, Iterable) and not is_array and not isinstance(x, (str, bytes, dict, set))


def _keep_features(estimator: Any, dim: int, reset: bool) -> None:
    if reset:
        estimator.n_features_in_ = dim
        if hasattr(estimator, "feature_names_in_"):
            del estimator.feature_names_in_
    elif dim != estimator.n_features_in_:
        name = type(estimator).__name__
        raise ValueError(f"X has {dim} features, but {name} is expecting {estimator.n_features_in_} features as input")


def _checked_weight(sample_weight: Any) -> Tensor:
    if isinstance(sample_weight, Tensor):
        sample_weight = sample_weight.detach().cpu()
    weight = as_numbers("sample_weight", sample_weight)
    if weight.ndim != 1:
        raise ValueError(f"sample_weight must have shape (N,), a number for each row of X, got {weight.shape}")
    if not np.isfinite(weight).all() or (weight < 0).any():
        raise ValueError(f"sample_weight must be finite and not negative, got {weight.min()} to {weight.max()}")
    if ranks.count() == 1 and (weight > 0).any():  # right up to a factor: the largest is made 0.5 to 1, so that all add up
        weight = np.ldexp(weight, -np.frexp(weight.max())[1])
    return torch.from_numpy(np.ascontiguousarray(weight))
