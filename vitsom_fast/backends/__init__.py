"""The registry: which backend serves what is asked, and why the others do not.

Every backend is a module with three primitives, ``search``, ``sum_by_bmu`` and ``smooth``, and two functions that say where it
cannot be used, ``unavailable()`` on this machine and ``unsupported(spec)`` for such problems, both returning None or a reason
(``compose.Primitives``). Forward and backward are made of these, unless it has fused forms of its own: ``som_forward``,
``som_backward`` and what the one keeps for the other, ``context_size``, a number of ``CONTEXT_DTYPE``, and ``attraction_rows``,
the number of rows of its attraction, in whatever order it likes. ``pair_losses`` and ``pair_gradients``, where it has them, are
the losses under distances that do not factorise (``vitsom_fast.pair_ops``), for all dtypes but fp64; ``pair_search`` is the
search that goes through all pairs, where ``searches_pairs`` says that it is the one to take. "reference" is no such
module: it is ``vitsom_fast.reference`` with PyTorch's own autograd.
"""

from __future__ import annotations

import warnings
from typing import Any, Protocol

import torch
from torch import Tensor

from vitsom_fast import settings
from vitsom_fast.backends import cpu, cuda, installed, torch_ops, triton
from vitsom_fast.backends.compose import Primitives, whole
from vitsom_fast.backends.spec import Spec

_OWN_NAMES = ("reference", "torch", "cpu", "triton", "cuda")
NAMES: tuple[str, ...] = _OWN_NAMES
ENVIRONMENT_VARIABLE = settings.BACKEND


class Backend(Primitives, Protocol):
    """A whole backend; shapes and dtypes as in ``vitsom_fast.ops``."""

    CONTEXT_DTYPE: torch.dtype

    def context_size(self, batch: int, rows: int, cols: int) -> int: ...

    def attraction_rows(self, batch: int, num_prototypes: int) -> int: ...

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
_modules: dict[str, Backend] = {"cpu": whole(cpu), "triton": whole(triton), "cuda": whole(cuda), "torch": whole(torch_ops)}

# Kernels for GPUs can be run on the CPU for tests, slowly: "auto" never does.
_GPU_ONLY = ("triton", "cuda")


def get(name: str) -> Backend:
    """The module of a backend that ``resolve`` returned."""
    return _modules[name]


def register(name: str, own: Any, *, before: str | None = None) -> None:
    """Adds a backend: a module or an object with the functions of ``compose.Primitives``, and fused forms where it has them.

    Args:
        before: the backend that "auto" is to ask after this one; None: it is asked last, and serves who names it.

    Raises:
        ValueError: the name is taken, or no backend is called ``before``.
    """
    global NAMES
    if name in NAMES or name == "auto":
        raise ValueError(f"name must be that of no other backend, got {name!r}")
    if before is not None and before not in _modules:
        raise ValueError(f"before must be one of {tuple(_modules)}, got {before!r}")
    order = list(_modules)
    order.insert(len(order) if before is None else order.index(before), name)
    _modules[name] = whole(own)
    for each in order:  # a dict keeps the order in which its keys came
        _modules[each] = _modules.pop(each)
    NAMES = (*NAMES, name)


def unregister(name: str) -> None:
    """Takes a backend out that ``register`` added.

    Raises:
        ValueError: it is none.
    """
    global NAMES
    if name not in NAMES[len(_OWN_NAMES) :]:
        raise ValueError(f"name must be that of a registered backend, one of {NAMES[len(_OWN_NAMES) :]}, got {name!r}")
    del _modules[name]
    NAMES = tuple(each for each in NAMES if each != name)


def available_backends() -> dict[str, str | None]:
    """Every backend by name, with None where it can run on this machine or else the reason why it cannot."""
    return {name: None if name == "reference" else _modules[name].unavailable() for name in NAMES}


def resolve(name: str, spec: Spec) -> str:
    """The backend that serves such problems.

    Args:
        name: "auto" (the environment variable VITSOM_BACKEND, or else the fastest that can) or a name of ``NAMES``.

    Raises:
        ValueError: an unknown name, or a named backend that cannot run here or serve such problems; who named it, the argument
            or the variable, is in the message.
    """
    named_by = "backend"
    if name == "auto":
        name, named_by = settings.backend(), ENVIRONMENT_VARIABLE
    if name == "auto":
        is_cpu = spec.device.type == "cpu"
        for name in _modules:
            if not (is_cpu and name in _GPU_ONLY) and _reason_against(name, *spec) is None:
                break
        if is_cpu and name == "torch":
            _warn_of_slowness(spec.dtype)
        return name
    if name not in NAMES:
        raise ValueError(f"{named_by} must be 'auto' or one of {NAMES}, got {name!r}")
    if name == "reference":
        return name
    if reason := _reason_against(name, *spec):
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


def _reason_against(name: str, *spec: Any) -> str | None:
    return _modules[name].unavailable() or _modules[name].unsupported(Spec(*spec))


# A compiler need not look into modules and drivers, nor can it make a named tuple again for them. This is
# torch.compiler.assume_constant_result without what that imports: all of torch._dynamo, and Triton with it.
_reason_against._dynamo_marked_constant = True  # type: ignore[attr-defined]
