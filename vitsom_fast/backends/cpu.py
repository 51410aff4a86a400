"""The C++ kernels of csrc/cpu: cosine distance on CPU tensors in fp32, bf16 and fp16.

Only addresses, sizes and strides cross the border; memory is torch's, threads follow ``torch.set_num_threads``.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

import torch
from torch import Tensor

from vitsom_fast.backends.torch_ops import reduction_scale

_cpu: Any = None
_reason: str | None = None
try:
    _cpu = importlib.import_module("vitsom_fast._cpu")
    _cpu.selected()
except ModuleNotFoundError:
    _reason = "installed without its compiled module vitsom_fast._cpu (no C++17 compiler then, or VITSOM_BUILD_CPU=0)"
except ImportError as error:
    _reason = f"the compiled module vitsom_fast._cpu cannot be loaded ({error})"
except RuntimeError as error:  # VITSOM_CPU_ISA names what this processor cannot run
    _reason = str(error)

# Whether the search is to rule out tiles of the map: a variable to compare with, and for tests to insist.
_PRUNING_VARIABLE = "VITSOM_CPU_PRUNING"
_PRUNING = {"auto": 0, "always": 1, "never": 2}

_DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


def unavailable() -> str | None:
    return _reason


def unsupported(device: torch.device, dtype: torch.dtype) -> str | None:
    if device.type != "cpu":
        return f"it serves CPU tensors, got device {device}"
    if dtype not in _DTYPES:
        return f"it serves the dtypes {tuple(_DTYPES)}, got {dtype}"
    return None


def instruction_sets() -> list[str]:
    """Builds of the kernels that this processor can run, the widest first; empty without the compiled module."""
    return [] if _cpu is None else list(_cpu.instruction_sets())


def context_size(batch: int, rows: int, cols: int) -> int:
    """Two doubles a sample (1 / |z| and z . S_b) and 1 / |w| of each prototype."""
    return 4 * batch + rows * cols


def attraction_rows(batch: int, num_prototypes: int) -> int:
    """A row for each distinct BMU: on 512 latents of 49152 features and 14 x 14 units that is 38 MB, not 100."""
    return torch.sym_min(batch, num_prototypes)


def find_bmu(z: Tensor, prototypes: Tensor) -> tuple[Tensor, Tensor]:
    """BMU (B,) int64 and cosine distance (B,) fp32 of each row of z (B, D) among the prototypes (K, D)."""
    problem, _keep = _problem(z, prototypes)
    bmu = torch.empty(z.shape[0], dtype=torch.int64, device=z.device)
    distance = torch.empty(z.shape[0], dtype=torch.float32, device=z.device)
    _cpu.find_bmu(problem, bmu.data_ptr(), distance.data_ptr())
    return bmu, distance


def search_counts(z: Tensor, prototypes: Tensor) -> dict[str, int]:
    """How the search of these inputs goes: the rows of z that each of its passes decides, "pruned" those that look into some
    tiles of the map only, the others by the dtype that they multiply in; the "candidates", prototypes that were scored anew
    because bounds could not rule them out; the "tiles" of 16 prototypes that the pruned rows looked into."""
    problem, _keep = _problem(z, prototypes)
    bmu, distance = torch.empty(z.shape[0], dtype=torch.int64), torch.empty(z.shape[0])
    counts = _cpu.find_bmu(problem, bmu.data_ptr(), distance.data_ptr())
    return {name: getattr(counts, name) for name in ("pruned", "int8", "bf16", "fp32", "candidates", "tiles")}


def som_forward(
    z: Tensor, prototypes: Tensor, row_factors: Tensor, col_factors: Tensor, reduction: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss () fp32, BMU (B,) int64, attraction (min(B, K), D) fp32, one row for each distinct BMU, and a context."""
    problem, _keep = _problem(z, prototypes)
    neighborhood, _keep_factors = _neighborhood(prototypes, row_factors, col_factors)
    loss = torch.empty((), dtype=torch.float32, device=z.device)
    bmu = torch.empty(z.shape[0], dtype=torch.int64, device=z.device)
    (batch, dim), num_prototypes = z.shape, prototypes.shape[0]
    attraction = torch.empty(min(batch, num_prototypes), dim, dtype=torch.float32, device=z.device)
    context = torch.empty(4 * batch + num_prototypes, dtype=torch.float32, device=z.device)
    scale = reduction_scale(reduction, batch, num_prototypes)
    _cpu.som_forward(problem, neighborhood, scale, loss.data_ptr(), bmu.data_ptr(), attraction.data_ptr(), context.data_ptr())
    return loss, bmu, attraction, context


def som_backward(
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
) -> tuple[Tensor, Tensor]:
    """Gradients (B, D) and (K, D) in the dtype of their input; an empty tensor for one that is not asked for."""
    problem, _keep = _problem(z, prototypes)
    neighborhood, _keep_factors = _neighborhood(prototypes, row_factors, col_factors)
    (batch, dim), num_prototypes = z.shape, prototypes.shape[0]
    expected = ((batch,), (min(batch, num_prototypes), dim), (4 * batch + num_prototypes,))
    if (bmu.shape, attraction.shape, context.shape) != expected:
        raise ValueError(
            f"bmu, attraction and context must be those of z {tuple(z.shape)}, got shapes {tuple(bmu.shape)},"
            f" {tuple(attraction.shape)} and {tuple(context.shape)}"
        )
    bmu, attraction, context = bmu.contiguous(), attraction.contiguous(), context.contiguous()
    grad_z = torch.empty(z.shape if for_z else 0, dtype=z.dtype, device=z.device)
    grad_prototypes = torch.empty(prototypes.shape if for_prototypes else 0, dtype=prototypes.dtype, device=z.device)
    scale = reduction_scale(reduction, batch, num_prototypes) * grad_loss.item()
    _cpu.som_backward(
        problem,
        neighborhood,
        scale,
        bmu.data_ptr(),
        attraction.data_ptr(),
        context.data_ptr(),
        grad_z.data_ptr(),
        grad_prototypes.data_ptr(),
    )
    return grad_z, grad_prototypes


def _problem(z: Tensor, prototypes: Tensor) -> tuple[object, tuple[Tensor, Tensor]]:
    """The inputs as the module takes them, and the tensors that must live as long."""
    if z.dtype != prototypes.dtype or z.dim() != 2 or prototypes.dim() != 2 or z.shape[1] != prototypes.shape[1]:
        raise ValueError(
            f"z and prototypes must be (B, D) and (K, D) of one dtype, got {tuple(z.shape)} {z.dtype} and"
            f" {tuple(prototypes.shape)} {prototypes.dtype}"
        )
    z, prototypes = _with_contiguous_rows(z), _with_contiguous_rows(prototypes)
    problem = _cpu.Problem(
        z.data_ptr(),
        z.stride(0),
        prototypes.data_ptr(),
        prototypes.stride(0),
        _DTYPES[z.dtype],
        z.shape[0],
        prototypes.shape[0],
        z.shape[1],
        torch.get_num_threads(),
        _pruning(),
    )
    return problem, (z, prototypes)


def _pruning() -> int:
    wanted = os.environ.get(_PRUNING_VARIABLE) or "auto"
    if wanted not in _PRUNING:
        raise ValueError(f"{_PRUNING_VARIABLE} must be one of {tuple(_PRUNING)}, got {wanted!r}")
    return _PRUNING[wanted]


def _neighborhood(prototypes: Tensor, row_factors: Tensor, col_factors: Tensor) -> tuple[object, tuple[Tensor, Tensor]]:
    terms, rows, cols = row_factors.shape[0], row_factors.shape[1], col_factors.shape[1]
    if (
        row_factors.shape != (terms, rows, rows)
        or col_factors.shape != (terms, cols, cols)
        or rows * cols != prototypes.shape[0]
        or row_factors.dtype != torch.float32
        or col_factors.dtype != torch.float32
    ):
        raise ValueError(
            f"row_factors and col_factors must be fp32 factors of a grid of {prototypes.shape[0]} units, got"
            f" {tuple(row_factors.shape)} {row_factors.dtype} and {tuple(col_factors.shape)} {col_factors.dtype}"
        )
    row_factors, col_factors = row_factors.contiguous(), col_factors.contiguous()
    neighborhood = _cpu.Neighborhood(rows, cols, terms, row_factors.data_ptr(), col_factors.data_ptr())
    return neighborhood, (row_factors, col_factors)


def _with_contiguous_rows(x: Tensor) -> Tensor:
    return x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()
