"""The Triton kernels: cosine distance on GPU tensors in fp32, bf16 and fp16, eight launches a step.

gaussian_weights; prepare, search, group, smooth columns, attraction; spread, project. Where batch and map are small, in seven:
gaussian_weights; prepare, search, weights, attraction; pull, project. What the forward keeps for the backward, its context, is
the lengths and the order of the samples, or else the weights.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vitsom_fast import settings
from vitsom_fast.backends.compiled import checked
from vitsom_fast.backends.memory import in_memory
from vitsom_fast.backends.spec import Spec, reduction_scale
from vitsom_fast.backends.torch_ops import smooth, sum_by_bmu

# The primitives that no kernel of its own serves.
__all__ = ["search", "smooth", "som_backward", "som_forward", "sum_by_bmu", "unavailable", "unsupported"]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_OLDEST = (3, 6)


@functools.cache
def unavailable() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if not torch.cuda.is_available() and not settings.interprets_triton():
        return "no GPU is present (with TRITON_INTERPRET=1 the kernels run on the CPU, slowly, for tests)"
    import triton

    version = triton.__version__
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
        return f"it needs Triton {_OLDEST[0]}.{_OLDEST[1]} or later, got {version}"
    return None


def unsupported(spec: Spec) -> str | None:
    served = "cpu" if settings.interprets_triton() else "cuda"
    if spec.device.type != served:
        return f"it serves {served} tensors, got device {spec.device}"
    if spec.dtype not in _DTYPES:
        return f"it serves the dtypes {_DTYPES}, got {spec.dtype}"
    return None


CONTEXT_DTYPE = torch.float32


def context_size(batch: int, rows: int, cols: int) -> int:
    count = rows * cols
    return batch + count + (batch * _pitch(count) if keeps_weights(batch, count) else batch + cols + 1)


def attraction_rows(batch: int, num_prototypes: int) -> int:
    return batch


class _Context(NamedTuple):
    """Views of the one tensor that the forward keeps."""

    inverse_z: Tensor  # [B] fp32, of the lengths, as kernels/unit.py keeps them
    inverse_prototypes: Tensor  # [K] fp32
    weights: Tensor | None  # [B, pitch of K] fp32, or else the next two
    order: Tensor  # [B] int32, samples sorted by the column of their BMU
    starts: Tensor  # [C + 1] int32, where each column's samples begin


# 4 MB of weights at most: with 40 x 40 units and 128 samples a step takes half the time of smoothing along both axes.
_MOST_WEIGHTS = 1 << 20


def keeps_weights(batch: int, count: int) -> bool:
    """Whether a step applies the neighborhood by the weights of all pairs, not along one axis of the grid after the other."""
    return batch * _pitch(count) <= _MOST_WEIGHTS  # with few units most of it is padding


def _pitch(count: int) -> int:
    """Numbers from one row of the weights to the next: where that is known to be a multiple of 16, loads take 16 bytes each."""
    return -(-count // 16) * 16


def _split_context(context: Tensor, batch: int, rows: int, cols: int) -> _Context:
    count = rows * cols
    rest, inverse_z, inverse_prototypes = context.split([context.shape[0] - batch - count, batch, count])
    if keeps_weights(batch, count):
        nothing = rest[:0].view(torch.int32)
        return _Context(inverse_z, inverse_prototypes, rest.view(batch, _pitch(count)), nothing, nothing)
    order, starts = rest.view(torch.int32).split([batch, cols + 1])
    return _Context(inverse_z, inverse_prototypes, None, order, starts)


def gaussian_weights(squared_offsets: Tensor, temperature: float | Tensor) -> Tensor:
    """``exp(-offset^2 / (2 T^2))`` in one launch, wherever the temperature is; NaN where T is not positive."""
    squared_offsets = in_memory("squared_offsets", squared_offsets).contiguous()
    if isinstance(temperature, Tensor):
        temperature = in_memory("temperature", temperature)
    with _launching_on(squared_offsets):
        return _kernels().gaussian.gaussian_weights(squared_offsets, temperature)


def search(z: Tensor, prototypes: Tensor, rows: int = 0, cols: int = 0) -> tuple[Tensor, Tensor]:
    """BMU (B,) int64 and cosine distance (B,) fp32 of each row of z (B, D) among the prototypes (K, D)."""
    z, prototypes = in_memory("z", z), in_memory("prototypes", prototypes)
    batch, count = z.shape[0], prototypes.shape[0]
    if batch == 0:
        return torch.empty(0, dtype=torch.int64, device=z.device), torch.empty(0, dtype=torch.float32, device=z.device)
    inverses = torch.empty(batch + count, dtype=torch.float32, device=z.device).split([batch, count])
    with _launching_on(z):
        row_keys, _, _ = _search(z, prototypes, *inverses)
        return _kernels().distance.distance(z, prototypes, *inverses, row_keys)


def som_forward(
    z: Tensor, prototypes: Tensor, row_factors: Tensor, col_factors: Tensor, reduction: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss () fp32, BMU (B,) int64, attraction (B, D) fp32, and the context."""
    z, prototypes = in_memory("z", z), in_memory("prototypes", prototypes)
    batch, rows, cols = z.shape[0], row_factors.shape[1], col_factors.shape[1]
    bmu = torch.empty(batch, dtype=torch.int64, device=z.device)
    context = torch.empty(context_size(batch, rows, cols), dtype=torch.float32, device=z.device)
    if batch == 0:
        return context.new_zeros(()), bmu, context.new_empty(z.shape), context
    inverse_z, inverse_prototypes, weights, order, starts = _split_context(context, batch, rows, cols)
    factors = row_factors, col_factors = _factors(row_factors, col_factors)
    terms = row_factors.shape[0]
    factor_sums = torch.empty(terms * (rows + cols), dtype=torch.float64, device=z.device)
    centre = torch.empty(z.shape[1], dtype=torch.float32, device=z.device)
    scale = reduction_scale(reduction, batch, rows * cols)
    kernels = _kernels()
    with _launching_on(z):
        row_keys, operands, ticket = _search(z, prototypes, inverse_z, inverse_prototypes)
        latents = z, inverse_z, operands.rest_z
        map_ = prototypes, inverse_prototypes, operands.rest_prototypes
        if weights is not None:
            kernels.weights.weigh_units(row_keys, prototypes, inverse_prototypes, *factors, bmu, weights, factor_sums, centre)
            attraction, loss = kernels.dense_attraction.attraction_and_loss(
                *latents, *map_, factor_sums, centre, bmu, weights, ticket, scale, (terms, rows, cols)
            )
        else:
            kernels.group.group(row_keys, prototypes, inverse_prototypes, *factors, bmu, order, starts, factor_sums, centre)
            smoothed = kernels.smooth.smooth_columns(*map_, centre, col_factors)
            attraction, loss = kernels.attraction.attraction_and_loss(
                *latents, inverse_prototypes, row_factors, factor_sums, centre, smoothed, bmu, order, ticket, scale
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
    """Gradients (B, D) and (K, D) in the dtype of their input; an empty tensor for one that is not asked for.

    Raises:
        ValueError: BMU, attraction or context are not as ``som_forward`` makes them for these inputs.
    """
    batch, rows, cols = z.shape[0], row_factors.shape[1], col_factors.shape[1]
    bmu = checked("bmu", bmu, (batch,), torch.int64)
    attraction = checked("attraction", attraction, tuple(z.shape), torch.float32)
    context = checked("context", context, (context_size(batch, rows, cols),), torch.float32)
    if batch == 0:
        return z.new_empty(z.shape if for_z else 0), prototypes.new_zeros(prototypes.shape if for_prototypes else 0)
    z, prototypes = in_memory("z", z), in_memory("prototypes", prototypes)
    inverse_z, inverse_prototypes, weights, order, starts = _split_context(context, batch, rows, cols)
    scale = reduction_scale(reduction, batch, rows * cols)
    inputs = (in_memory("grad_loss", grad_loss), z, prototypes, inverse_z, inverse_prototypes)
    kernels = _kernels()
    with _launching_on(z):
        if weights is not None:
            return kernels.dense_gradients.gradients(*inputs, weights, attraction, scale, for_z, for_prototypes)
        factors = _factors(row_factors, col_factors)
        return kernels.gradients.gradients(*inputs, *factors, bmu, order, starts, attraction, scale, for_z, for_prototypes)


def _factors(row_factors: Tensor, col_factors: Tensor) -> tuple[Tensor, Tensor]:
    return in_memory("row_factors", row_factors).contiguous(), in_memory("col_factors", col_factors).contiguous()


def _search(z: Tensor, prototypes: Tensor, inverse_z: Tensor, inverse_prototypes: Tensor) -> tuple[Tensor, Any, Tensor]:
    """Keys of the BMUs (B,) int64, the operands, and a ticket (1,) int32 that is zero. Fills in the inverses of the lengths."""
    kernels = _kernels()
    configs = kernels.configs
    (batch, dim), count, device, split = z.shape, prototypes.shape[0], z.device, z.dtype == torch.float32
    family, multiprocessors = kernels.device.family(device), kernels.device.multiprocessors(device)
    config = configs.search(family, split, batch, count, dim, multiprocessors)

    def launch(config: Any) -> tuple[Tensor, Any, Tensor]:
        plan = kernels.search.plan_search(config, batch, count, dim, device)
        row_keys = torch.empty(batch, dtype=torch.int64, device=device)
        tickets = torch.empty(1 + plan.num_tickets, dtype=torch.int32, device=device)
        operands = kernels.prepare.prepare(z, prototypes, inverse_z, inverse_prototypes, row_keys, tickets)
        if split and kernels.certified.is_chosen(batch, count, dim):
            kernels.certified.search_certified(operands, row_keys)
        else:
            kernels.search.search(plan, operands, row_keys, tickets[1:])
        return row_keys, operands, tickets[:1]

    if kernels.autotune.is_on():
        key = kernels.autotune.key(device, z.dtype, batch, count, dim)
        config = kernels.autotune.fastest(key, config, configs.search_candidates(family, split, dim), launch)
    return launch(config)


class _Kernels(NamedTuple):
    """The modules of vitsom_fast.kernels, imported when first needed: Triton takes a while to import."""

    autotune: ModuleType
    configs: ModuleType
    device: ModuleType
    gaussian: ModuleType
    prepare: ModuleType
    search: ModuleType
    certified: ModuleType
    distance: ModuleType
    smooth: ModuleType
    group: ModuleType
    attraction: ModuleType
    gradients: ModuleType
    weights: ModuleType
    dense_attraction: ModuleType
    dense_gradients: ModuleType


@functools.cache
def _kernels() -> _Kernels:
    rooms = (
        "launch.autotune",
        "launch.configs",
        "launch.device",
        "factorised.gaussian",
        "search.prepare",
        "search.search",
        "search.certified",
        "search.distance",
        "factorised.smooth",
        "factorised.group",
        "factorised.attraction",
        "factorised.gradients",
        "dense.weights",
        "dense.attraction",
        "dense.gradients",
    )
    return _Kernels(*(importlib.import_module(f"vitsom_fast.kernels.{name}") for name in rooms))


def _launching_on(x: Tensor) -> Any:
    """Kernels are launched on the current device: make it the one that holds the tensors."""
    return torch.cuda.device_of(x)
