"""One safetensors file that holds all a run needs to go on as if it had never stopped."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from vitsom_fast.training.config import TrainConfig
from vitsom_fast.training.files import write_atomically

FORMAT = "vitsom_fast-1"
_MODEL, _OPTIMIZER, _RNG = "model.", "optimizer.", "rng"


@dataclass(frozen=True)
class Checkpoint:
    """A run after ``len(history)`` epochs.

    Attributes:
        tensors: the weights, the optimizer's state and the state of PyTorch's random numbers, by prefixed name.
        history: one dict an epoch, as ``fit`` records it.
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
        tensors = {_MODEL + name: value.detach() for name, value in model.state_dict().items()}
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"{_OPTIMIZER}{index}.{key}": value for key, value in state.items()}
        tensors[_RNG] = torch.get_rng_state()
        return cls(config, history, fingerprint, tensors)

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Put the state into a model and an optimizer that were built from ``config``."""
        model.load_state_dict(self._with_prefix(_MODEL))
        states: dict[int, dict[str, Tensor]] = {}
        for name, value in self._with_prefix(_OPTIMIZER).items():
            index, key = name.split(".")
            states.setdefault(int(index), {})[key] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
        torch.set_rng_state(self.tensors[_RNG])

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


def load_checkpoint(path: Path) -> Checkpoint:
    """Read what ``Checkpoint.save`` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or no checkpoint of vitsom_fast; the message names it.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError(f"expected format {FORMAT!r}, got {metadata.get('format')!r}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        return Checkpoint(
            TrainConfig.from_json(metadata["config"]), json.loads(metadata["history"]), metadata["fingerprint"], tensors
        )
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"checkpoint {str(path)!r} cannot be read: {error}") from error
