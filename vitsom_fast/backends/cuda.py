"""The CUDA kernels of csrc/cuda: cosine distance on CUDA tensors in fp32, bf16 and fp16.

Only addresses, sizes, strides and the current stream cross the border; all memory is torch's, and nothing waits for the device.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

import torch
from torch import Tensor

from vitsom_fast import settings
from vitsom_fast.backends import torch_ops, transforms
from vitsom_fast.backends.compiled import DTYPES, checked, in_place, matrix, neighborhood_of, problem_of, unserved
from vitsom_fast.backends.memory import in_memory
from vitsom_fast.backends.spec import Spec, reduction_scale

_MODULE = settings.cuda_module()

_cuda: Any = None
_reason: str | None = None
try:
    _cuda = importlib.import_module(_MODULE)
except ModuleNotFoundError:
    _reason = f"installed without its compiled module {_MODULE} (no nvcc then, or VITSOM_BUILD_CUDA=0)"
except ImportError as error:
    _reason = f"the compiled module {_MODULE} cannot be loaded ({error})"


def unavailable() -> str | None:
    return _reason or _no_device()


@functools.cache
def _no_device() -> str | None:
    """Asks neither driver for a context: a process that has one cannot fork any more."""
    if _cuda.DEVICE_TYPE == "cpu":
        return None
    if torch.version.cuda is None and _cuda.driver_version() > 0:
        return "this build of PyTorch has no CUDA"
    if torch.cuda.device_count() == 0:
        return "no CUDA device is present"
    driver, runtime = _cuda.driver_version() // 1000, _cuda.runtime_version() // 1000
    if driver < runtime:
        return f"its kernels need a driver for CUDA {runtime}, this one serves CUDA {driver}"
    return None


def unsupported(spec: Spec) -> str | None:
    if spec.device.type != _cuda.DEVICE_TYPE:
        return f"it serves {_cuda.DEVICE_TYPE.upper()} tensors, got device {spec.device}"
    if reason := unserved(spec):
        return reason
    if spec.device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(spec.device)
        if 10 * major + minor < _cuda.lowest_architecture():
            return f"it was built for compute capability {_cuda.lowest_architecture() / 10} or later, got {major}.{minor}"
    return None


CONTEXT_DTYPE = torch.float32


def context_size(batch: int, rows: int, cols: int) -> int:
    """The norms of z and the samples sorted by their BMU."""
    return 5 * batch + 2 * cols + 1


def attraction_rows(batch: int, num_prototypes: int) -> int:
    return batch


def gaussian_weights(squared_offsets: Tensor, temperature: float | Tensor) -> Tensor:
    """``exp(-offset^2 / (2 T^2))`` in one launch, wherever the temperature is; NaN where T is not positive."""
    squared_offsets = checked("squared_offsets", squared_offsets, tuple(squared_offsets.shape), torch.float32)
    weights = torch.empty_like(squared_offsets)
    on_device = in_memory("temperature", temperature.to(torch.float32)) if isinstance(temperature, Tensor) else None
    radius, address = (temperature, 0) if on_device is None else (0.0, on_device.data_ptr())
    execution, _workspace = _execution(squared_offsets.device, 0)
    _cuda.gaussian_weights(execution, squared_offsets.data_ptr(), weights.numel(), radius, address, weights.data_ptr())
    return weights


def search(z: Tensor, prototypes: Tensor, rows: int = 0, cols: int = 0) -> tuple[Tensor, Tensor]:
    """BMU (B,) int64 and cosine distance (B,) fp32 of each row of z (B, D) among the prototypes (K, D)."""
    problem, _keep = problem_of(_cuda, z, prototypes)
    bmu = torch.empty(z.shape[0], dtype=torch.int64, device=z.device)
    distance = torch.empty(z.shape[0], dtype=torch.float32, device=z.device)
    execution, _workspace = _execution(z.device, _cuda.find_bmu_workspace(problem))
    _cuda.find_bmu(execution, problem, bmu.data_ptr(), distance.data_ptr())
    return bmu, distance


def sum_by_bmu(x: Tensor, bmu: Tensor, num_prototypes: int) -> tuple[Tensor, Tensor]:
    """Sums (K, D) and counts (K,) fp32 of the rows x (B, D) of every BMU (B,), in two launches."""
    if transforms.asks_for_operations(x):
        return torch_ops.sum_by_bmu(x, bmu, num_prototypes)
    sums = torch.empty(num_prototypes, x.shape[1], dtype=torch.float32, device=x.device)
    counts = torch.empty(num_prototypes, dtype=torch.float32, device=x.device)
    _sum(_cuda.sum_by_bmu, x, bmu, num_prototypes, sums.data_ptr(), counts.data_ptr())
    return sums, counts


def add_by_bmu(sums: Tensor, x: Tensor, bmu: Tensor) -> None:
    """Adds the rows x (B, D) of every BMU (B,), and their number, to ``sums`` (K, D + 1) fp64, in place and in two launches."""
    if transforms.asks_for_operations(sums, x):
        torch_ops.add_sums(sums, x, bmu)
        return
    in_place("sums", sums, (sums.shape[0], x.shape[1] + 1), torch.float64)
    _sum(_cuda.add_by_bmu, x, bmu, sums.shape[0], sums.data_ptr())


def _sum(function: Any, x: Tensor, bmu: Tensor, num_prototypes: int, *sums: int) -> None:
    x, bmu = matrix("x", x), checked("bmu", bmu, (x.shape[0],), torch.int64)
    batch, dim = x.shape
    execution, _workspace = _execution(x.device, _cuda.sums_workspace(batch, num_prototypes))
    rows = x.data_ptr(), x.stride(0), DTYPES[x.dtype], batch, dim
    function(execution, *rows, bmu.data_ptr(), num_prototypes, *sums)


def smooth(x: Tensor, row_factors: Tensor, col_factors: Tensor) -> Tensor:
    """G x (K, D) for x (K, D), fp32, in two launches a term."""
    if transforms.asks_for_operations(x, row_factors, col_factors):
        return torch_ops.smooth(x, row_factors, col_factors)
    if x.dtype != torch.float32:
        raise ValueError(f"x must be torch.float32, got {x.dtype}")
    transposed = row_factors.mT.is_contiguous() and col_factors.mT.is_contiguous()  # as they are stored, not copied
    if transposed:
        row_factors, col_factors = row_factors.mT, col_factors.mT
    x = matrix("x", x)
    neighborhood, _keep_factors = neighborhood_of(_cuda, x, row_factors, col_factors)
    smoothed = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    execution, _workspace = _execution(x.device, _cuda.smooth_workspace(neighborhood, x.shape[1]))
    _cuda.smooth(execution, neighborhood, transposed, x.data_ptr(), x.stride(0), x.shape[1], smoothed.data_ptr())
    return smoothed


def som_forward(
    z: Tensor, prototypes: Tensor, row_factors: Tensor, col_factors: Tensor, reduction: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss () fp32, BMU (B,) int64, attraction (B, D) fp32 and the context."""
    problem, _keep = problem_of(_cuda, z, prototypes)
    neighborhood, _keep_factors = neighborhood_of(_cuda, prototypes, row_factors, col_factors)
    loss = torch.empty((), dtype=torch.float32, device=z.device)
    bmu = torch.empty(z.shape[0], dtype=torch.int64, device=z.device)
    attraction = torch.empty(z.shape, dtype=torch.float32, device=z.device)
    size = context_size(z.shape[0], row_factors.shape[1], col_factors.shape[1])
    context = torch.empty(size, dtype=torch.float32, device=z.device)
    execution, _workspace = _execution(z.device, _cuda.som_forward_workspace(problem, neighborhood))
    _cuda.som_forward(
        execution,
        problem,
        neighborhood,
        reduction_scale(reduction, z.shape[0], prototypes.shape[0]),
        loss.data_ptr(),
        bmu.data_ptr(),
        attraction.data_ptr(),
        context.data_ptr(),
    )
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
    problem, _keep = problem_of(_cuda, z, prototypes)
    neighborhood, _keep_factors = neighborhood_of(_cuda, prototypes, row_factors, col_factors)
    size = context_size(z.shape[0], row_factors.shape[1], col_factors.shape[1])
    grad_loss = checked("grad_loss", grad_loss.to(torch.float32), (), torch.float32)
    attraction = checked("attraction", attraction, tuple(z.shape), torch.float32)
    context = checked("context", context, (size,), torch.float32)
    if z.shape[0] == 0:  # no sample pulls, not even on a prototype that is not finite
        return z.new_empty(z.shape if for_z else 0), prototypes.new_zeros(prototypes.shape if for_prototypes else 0)
    grad_z = torch.empty(z.shape if for_z else 0, dtype=z.dtype, device=z.device)
    grad_prototypes = torch.empty(prototypes.shape if for_prototypes else 0, dtype=prototypes.dtype, device=z.device)
    execution, _workspace = _execution(z.device, _cuda.som_backward_workspace(problem))
    _cuda.som_backward(
        execution,
        problem,
        neighborhood,
        reduction_scale(reduction, z.shape[0], prototypes.shape[0]),
        grad_loss.data_ptr(),
        attraction.data_ptr(),
        context.data_ptr(),
        grad_z.data_ptr(),
        grad_prototypes.data_ptr(),
    )
    return grad_z, grad_prototypes


def _execution(device: torch.device, size: int) -> tuple[object, Tensor]:
    """Where the kernels run, and the workspace that must live as long as their launch."""
    workspace = torch.empty(size, dtype=torch.uint8, device=device)
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    return _cuda.Execution(device.index or 0, stream, workspace.data_ptr()), workspace
