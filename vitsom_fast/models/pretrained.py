"""A trained model in one file: weights, what they are of, the classes of its units."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from vitsom_fast.atomic import write_atomically
from vitsom_fast.models.spec import ModelSpec

FILE = "model.safetensors"
FORMAT = "vitsom_fast-model-1"
_WEIGHT, _UNIT_CLASSES = "model.", "unit_classes"
_TUPLES = ("image_shape", "grid")


def model_bytes(model: Any) -> bytes:
    """The content of such a file.

    Raises:
        ValueError: the model was not made by ``models.build``: nobody knows how to make it anew.
    """
    if model.spec is None:
        raise ValueError("spec of the model must be known to save it: models.build(ModelSpec(...)) makes such models")
    tensors = {_WEIGHT + name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    if model.unit_classes is not None:
        tensors[_UNIT_CLASSES] = model.unit_classes.cpu()
    metadata = {"format": FORMAT, "spec": json.dumps(asdict(model.spec)), "classes": json.dumps(model.classes)}
    return safetensors.torch.save(tensors, metadata)


def save(model: Any, folder: Path | str) -> Path:
    """Write ``model.safetensors`` into a folder, made if need be; returns its path."""
    path = Path(folder) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, model_bytes(model))
    return path


def load(run: Path | str, build: Callable[[ModelSpec, str], Any], backend: str = "auto") -> Any:
    """The model in a run's folder, or in such a file, for evaluation, on the CPU.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is damaged or none of ours; the message names it.
    """
    path = Path(run)
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"there is no trained model {str(path)!r}: a run leaves one once it has ended")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError(f"expected format {FORMAT!r}, got {metadata.get('format')!r}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        settings: dict[str, Any] = json.loads(metadata["spec"])
        settings |= {name: tuple(settings[name]) for name in _TUPLES}
        spec = ModelSpec(**settings)
        with torch.random.fork_rng(devices=[]):  # first weights that nobody needs
            model: nn.Module = build(spec, backend)
        weights = {name.removeprefix(_WEIGHT): value for name, value in tensors.items() if name.startswith(_WEIGHT)}
        model.load_state_dict(weights)
        model.unit_classes = tensors.get(_UNIT_CLASSES)  # type: ignore[assignment]
        model.classes = tuple(json.loads(metadata["classes"]))  # type: ignore[assignment]
    except (SafetensorError, ValueError, TypeError, KeyError, OSError, RuntimeError) as error:
        line = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"model {str(path)!r} cannot be read: {line[0]}") from error
    return model.eval()
