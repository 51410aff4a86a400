"""A fitted map as a safetensors file: prototypes by name, settings as JSON, nothing that could be executed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from vitsom_fast.atomic import write_atomically

_FORMAT = "vitsom_fast.SOM"


def save(som: Any, path: Path) -> None:
    """Settings that are no JSON, as a random state that is an object, are left at their defaults, but for prototypes as
    ``init``, which are kept."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"path must be a file in a folder that is there, got {str(path)!r}")
    settings = {name: _plain(value) for name, value in som.get_params().items()}
    settings = {name: value for name, value in settings.items() if _is_plain(value)}
    arrays = {"prototypes": np.ascontiguousarray(som.prototypes_), "history": np.asarray(som.history_, dtype=np.float64)}
    if "init" not in settings:
        arrays["init"] = np.array(som.init, dtype=np.float64)
    about = {"format": _FORMAT, "settings": json.dumps(settings), "n_iter": str(som.n_iter_)}
    if hasattr(som, "feature_names_in_"):
        about["features"] = json.dumps(list(som.feature_names_in_))
    write_atomically(path, to_bytes(arrays, metadata=about))


def load(kind: Any, path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"path must be a file of SOM.save, got {str(path)!r}, which is none")
    try:
        with safe_open(path, framework="numpy") as file:
            about = file.metadata() or {}
            if about.get("format") != _FORMAT:
                raise ValueError("it holds no map")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
        settings = json.loads(about["settings"])
        if "init" in arrays:
            settings["init"] = arrays["init"]
        som = kind.from_prototypes(arrays["prototypes"], **settings)
        som.n_iter_, som.history_ = int(about["n_iter"]), arrays["history"].tolist()
        if "features" in about:
            som.feature_names_in_ = np.asarray(json.loads(about["features"]), dtype=object)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"path must be a file of SOM.save, got {str(path)!r}: {error}") from error
    return som


def _plain(value: Any) -> Any:
    """A scalar of NumPy as Python's, a device by its name."""
    if isinstance(value, torch.device):
        return str(value)
    return value.item() if isinstance(value, np.generic) else value


def _is_plain(value: Any) -> bool:
    return value is None or type(value) in (str, int, float, bool)
