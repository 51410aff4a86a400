"""The registry: which backend serves a tensor, and why the others do not.

Every backend is a module with the same three functions, ``find_bmu``, ``som_forward`` and ``som_backward``; two that say where
it cannot be used, ``unavailable()`` on this machine and ``unsupported(device, dtype)`` for such inputs, both returning None or
a reason; and two that say what its forward keeps for its backward: ``context_size``, a number of ``CONTEXT_DTYPE``, and
``attraction_rows``, the number of rows of its attraction, in whatever order it likes. "reference" is no such module: it is
``vitsom_fast.reference`` with PyTorch's own autograd.
"""

from __future__ import annotations

import os
import warnings
from typing import Protocol

import torch
from torch import Tensor

from vitsom_fast.backends import cpu, cuda, installed, torch_ops, triton

NAMES = ("reference", "torch", "cpu", "triton", "cuda")
ENVIRONMENT_VARIABLE = "VITSOM_BACKEND"


class Backend(Protocol):
    """What a backend module offers; shapes and dtypes as in ``vitsom_fast.ops``."""

    def unavailable(self) -> str | None: ...

    def unsupported(self, device: torch.device, dtype: torch.dtype) -> str | None: ...

    CONTEXT_DTYPE: torch.dtype

    def context_size(self, batch: int, rows: int, cols: int) -> int: ...

    def attraction_rows(self, batch: int, num_prototypes: int) -> int: ...

    def find_bmu(self, z: Tensor, prototypes: Tensor) -> tuple[Tensor, Tensor]: ...

    def som_forward(
        self, z: Tensor, prototypes: Tensor, row_factors: Tensor, col_factors: Tensor, reduction: str
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]: ...

    def som_backward(
        self,
        grad_loss: Tensor,
        z: Tensor,
        prototypes: Tensor,
        row_factors: Tensor,
        col_factors: Tensor,
        bmu: Tensor,
        attraction: Tensor,
        context: Tensor,
        reduction: str,
        for_z: bool,
        for_prototypes: bool,
    ) -> tuple[Tensor, Tensor]: ...


# In the order in which "auto" tries them.
_modules: dict[str, Backend] = {"cpu": cpu, "triton": triton, "cuda": cuda, "torch": torch_ops}

# Kernels for GPUs can be run on the CPU for tests, slowly: "auto" never does.
_GPU_ONLY = ("triton", "cuda")


def get(name: str) -> Backend:
    """The module of a backend that ``resolve`` returned."""
    return _modules[name]


def available_backends() -> dict[str, str | None]:
    """Every backend by name, with None where it can run on this machine or else the reason why it cannot."""
    return {name: None if name == "reference" else _modules[name].unavailable() for name in NAMES}


def resolve(name: str, device: torch.device, dtype: torch.dtype) -> str:
    """The backend that serves such tensors.

    Args:
        name: "auto" (the environment variable VITSOM_BACKEND, or else the fastest that can) or a name of ``NAMES``.

    Raises:
        ValueError: an unknown name, or a named backend that cannot run here or on such tensors; who named it, the argument or
            the variable, is in the message.
    """
    named_by = "backend"
    if name == "auto":
        name, named_by = os.environ.get(ENVIRONMENT_VARIABLE) or "auto", ENVIRONMENT_VARIABLE
    if name == "auto":
        name = next(
            name
            for name in _modules
            if _reason_against(name, device, dtype) is None and not (device.type == "cpu" and name in _GPU_ONLY)
        )
        if name == "torch" and device.type == "cpu":
            _warn_of_slowness(dtype)
        return name
    if name not in NAMES:
        raise ValueError(f"{named_by} must be 'auto' or one of {NAMES}, got {name!r}")
    if name == "reference":
        return name
    if reason := _reason_against(name, device, dtype):
        raise ValueError(f"{named_by} {name!r} cannot be used: {reason}")
    return name


_has_warned = False


def _warn_of_slowness(dtype: torch.dtype) -> None:
    """Once, where the kernels for CPUs would serve if they were there."""
    global _has_warned
    if _has_warned or torch.compiler.is_compiling() or dtype not in cpu.DTYPES or not (reason := cpu.unavailable()):
        return
    _has_warned = True
    advice = installed.other_copy() or "With a C++17 compiler (GCC or Clang) at hand, reinstall it, without pip's cache"
    warnings.warn(
        f"vitsom_fast runs in PyTorch operations on this CPU, several times slower than its own kernels: {reason}. {advice}."
        f" {ENVIRONMENT_VARIABLE}=torch silences this.",
        stacklevel=5,
    )


def _reason_against(name: str, device: torch.device, dtype: torch.dtype) -> str | None:
    return _modules[name].unavailable() or _modules[name].unsupported(device, dtype)


# A compiler need not look into modules and drivers. This is torch.compiler.assume_constant_result without what that imports:
# all of torch._dynamo, and Triton with it.
_reason_against._dynamo_marked_constant = True  # type: ignore[attr-defined]
