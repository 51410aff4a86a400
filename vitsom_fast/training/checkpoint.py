"""One safetensors file that holds all a run needs to go on as if it had never stopped."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from vitsom_fast.atomic import write_atomically
from vitsom_fast.messages import one_line
from vitsom_fast.training.config import TrainConfig

FORMAT = "vitsom_fast-1"
RECORD = ("loss", "temperature", "gamma", "seconds")  # what is known of an epoch, beside the parts of its loss
_MODEL, _OPTIMIZER, _RNG = "model.", "optimizer.", "rng"
_ADAMW = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Checkpoint:
    """A run after ``len(history)`` epochs.

    Attributes:
        tensors: the weights, the optimizer's state and the state of PyTorch's random numbers, by prefixed name.
        history: one dict an epoch, of the numbers that ``RECORD`` names and of the parts of its loss, ``..._loss``.
        fingerprint: of the data set.
    """

    config: TrainConfig
    history: list[dict[str, Any]]
    fingerprint: str
    tensors: dict[str, Tensor]

    @classmethod
    def of(
        cls,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: TrainConfig,
        history: list[dict[str, Any]],
        fingerprint: str,
    ) -> Checkpoint:
        """The present state of a run."""
        tensors = {_MODEL + name: value.detach() for name, value in _weights(model).items()}
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"{_OPTIMIZER}{index}.{key}": value for key, value in state.items()}
        tensors[_RNG] = torch.get_rng_state()
        return cls(config, history, fingerprint, tensors)

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Put the state into a model and an optimizer that were built from ``config``.

        Raises:
            ValueError: a part is missing, or is none of theirs, or of another shape or dtype; the message names it.
        """
        self._check_parts(model, optimizer)
        model.load_state_dict(self._with_prefix(_MODEL))
        states: dict[int, dict[str, Tensor]] = {}
        for name, value in self._with_prefix(_OPTIMIZER).items():
            index, key = name.split(".")
            states.setdefault(int(index), {})[key] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
        try:
            torch.set_rng_state(self.tensors[_RNG])
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"{_RNG} is no state of PyTorch's random numbers: {one_line(error)}") from error

    def _check_parts(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        expected = {_MODEL + name: (value.shape, value.dtype) for name, value in _weights(model).items()}
        expected[_RNG] = (torch.get_rng_state().shape, torch.uint8)
        if self.history:
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            for index, parameter in enumerate(parameters):
                for key in _ADAMW:
                    shape = torch.Size() if key == "step" else parameter.shape
                    expected[f"{_OPTIMIZER}{index}.{key}"] = (shape, torch.float32)
        for name in sorted(expected.keys() | self.tensors.keys()):
            if name not in self.tensors:
                raise ValueError(f"{name} is missing")
            if name not in expected:
                raise ValueError(f"{name} is no part of such a run")
            found = (self.tensors[name].shape, self.tensors[name].dtype)
            if found != expected[name]:
                raise ValueError(
                    f"{name} must be {tuple(expected[name][0])} {expected[name][1]}, got {tuple(found[0])} {found[1]}"
                )

    def _with_prefix(self, prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in self.tensors.items() if name.startswith(prefix)}

    def save(self, path: Path) -> None:
        """Write the file; a crash at any moment leaves the one before or this one, whole."""
        metadata = {
            "format": FORMAT,
            "config": self.config.to_json(),
            "history": json.dumps(self.history),
            "fingerprint": self.fingerprint,
        }
        tensors = {name: value.cpu().contiguous() for name, value in self.tensors.items()}
        write_atomically(path, safetensors.torch.save(tensors, metadata))


def check_exists(path: Path) -> None:
    """Raises FileNotFoundError, which names the folder, where there is no checkpoint."""
    if not path.exists():
        raise FileNotFoundError(f"nothing to resume in {str(path.parent)!r}: there is no {path.name} in it")


def load_checkpoint(path: Path) -> Checkpoint:
    """Read what ``Checkpoint.save`` wrote.

    Raises:
        FileNotFoundError: there is no such file, so that there is nothing to resume.
        ValueError: the file is damaged or no checkpoint of vitsom_fast; the message names it.
    """
    check_exists(path)
    if not path.is_file():  # opening a named pipe would wait for ever
        raise ValueError(f"checkpoint {str(path)!r} cannot be read: it is no file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError(f"expected format {FORMAT!r}, got {metadata.get('format')!r}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        config = TrainConfig.from_json(metadata["config"])
        return Checkpoint(config, _read_history(metadata["history"], config.epochs), metadata["fingerprint"], tensors)
    except (SafetensorError, ValueError, TypeError, KeyError, OSError, RecursionError) as error:
        raise ValueError(f"checkpoint {str(path)!r} cannot be read: {one_line(error)}") from error


def _read_history(text: str, epochs: int) -> list[dict[str, Any]]:
    history = json.loads(text)
    if not isinstance(history, list) or not all(_is_record(record) for record in history):
        raise ValueError(f"history must be a list with the finite numbers {RECORD} of every epoch")
    if len(history) > epochs:
        raise ValueError(f"history must have at most {epochs} epochs, as the run has, got {len(history)}")
    return history


def _is_record(record: Any) -> bool:
    if not isinstance(record, dict) or not {*record} >= {*RECORD}:
        return False
    if not all(name in RECORD or name.endswith("_loss") for name in record):
        return False
    return all(isinstance(value, (int, float)) and math.isfinite(value) for value in record.values())


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model but for what the config tells as well: the grid of its map."""
    return {name: value for name, value in model.state_dict().items() if not name.endswith("_extra_state")}
