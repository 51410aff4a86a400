"""The Triton kernels: cosine distance on GPU tensors in fp32, bf16 and fp16, eight launches a step.

gaussian_weights; prepare, search, smooth columns, group, attraction; spread, project. What the forward keeps for the backward,
its context, is the norms and the order of the samples.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vitsom_fast.backends.torch_ops import reduction_scale

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_OLDEST = (3, 6)

# Programs enough to fill a device that cannot be asked: an interpreter runs one after the other.
_MULTIPROCESSORS_OF_AN_INTERPRETER = 4


@functools.cache
def unavailable() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
        return "no GPU is present (with TRITON_INTERPRET=1 the kernels run on the CPU, slowly, for tests)"
    import triton

    version = triton.__version__
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
        return f"it needs Triton {_OLDEST[0]}.{_OLDEST[1]} or later, got {version}"
    return None


def unsupported(device: torch.device, dtype: torch.dtype) -> str | None:
    served = "cpu" if _interprets() else "cuda"
    if device.type != served:
        return f"it serves {served} tensors, got device {device}"
    if dtype not in _DTYPES:
        return f"it serves the dtypes {_DTYPES}, got {dtype}"
    return None


def context_size(batch: int, rows: int, cols: int) -> int:
    return 2 * batch + rows * cols + cols + 1


class _Context(NamedTuple):
    """Views of the one tensor that the forward keeps."""

    norm_z: Tensor  # [B] fp32
    norm_prototypes: Tensor  # [K] fp32
    order: Tensor  # [B] int32, samples sorted by the column of their BMU
    starts: Tensor  # [C + 1] int32, where each column's samples begin


def _split_context(context: Tensor, batch: int, rows: int, cols: int) -> _Context:
    norm_z, norm_prototypes, order, starts = context.split([batch, rows * cols, batch, cols + 1])
    return _Context(norm_z, norm_prototypes, order.view(torch.int32), starts.view(torch.int32))


def gaussian_weights(squared_offsets: Tensor, temperature: float | Tensor) -> Tensor:
    """``exp(-offset^2 / (2 T^2))`` in one launch, wherever the temperature is; NaN where T is not positive."""
    factors = torch.empty_like(squared_offsets)
    count = squared_offsets.numel()
    config = _kernels().configs.gaussian()
    with _device(factors):
        _kernels().gaussian[_blocks(count, config.blocks["BLOCK"]),](
            squared_offsets, temperature, factors, count, ON_DEVICE=isinstance(temperature, Tensor), **config.options()
        )
    return factors


def find_bmu(z: Tensor, prototypes: Tensor) -> tuple[Tensor, Tensor]:
    """BMU (B,) int64 and cosine distance (B,) fp32 of each row of z (B, D) among the prototypes (K, D)."""
    batch, dim = z.shape
    bmu = torch.empty(batch, dtype=torch.int64, device=z.device)
    distance = torch.empty(batch, dtype=torch.float32, device=z.device)
    if batch == 0:
        return bmu, distance
    norm_z, norm_prototypes = torch.empty(batch + prototypes.shape[0], dtype=torch.float32, device=z.device).split(
        [batch, prototypes.shape[0]]
    )
    config = _kernels().configs.distance(dim)
    with _device(z):
        row_keys, _ = _search(z, prototypes, norm_z, norm_prototypes)
        _kernels().distance[_blocks(batch, config.blocks["ROWS"]),](
            z,
            prototypes,
            norm_z,
            norm_prototypes,
            row_keys,
            bmu,
            distance,
            batch,
            dim,
            *z.stride(),
            *prototypes.stride(),
            **config.options(),
        )
    return bmu, distance


def som_forward(
    z: Tensor, prototypes: Tensor, row_factors: Tensor, col_factors: Tensor, reduction: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss () fp32, BMU (B,) int64, attraction (B, D) fp32, and the context."""
    (batch, dim), (terms, rows, _), cols = z.shape, row_factors.shape, col_factors.shape[1]
    device = z.device
    bmu = torch.empty(batch, dtype=torch.int64, device=device)
    attraction = torch.empty((batch, dim), dtype=torch.float32, device=device)
    context = torch.empty(context_size(batch, rows, cols), dtype=torch.float32, device=device)
    if batch == 0:
        return torch.zeros((), dtype=torch.float32, device=device), bmu, attraction, context
    loss = torch.empty((), dtype=torch.float32, device=device)
    norm_z, norm_prototypes, order, starts = _split_context(context, batch, rows, cols)
    row_factors, col_factors = row_factors.contiguous(), col_factors.contiguous()
    kernels = _kernels()
    precision = kernels.configs.precision(_family(device))
    with _device(z):
        row_keys, ticket = _search(z, prototypes, norm_z, norm_prototypes)

        smoothed = torch.empty((terms, rows * cols, dim), dtype=torch.float32, device=device)
        config = kernels.configs.smooth(cols, dim)
        blocks = config.blocks
        kernels.smooth_columns[terms * rows * _blocks(cols, blocks["BLOCK_OUT"]) * _blocks(dim, blocks["BLOCK_D"]),](
            prototypes,
            norm_prototypes,
            col_factors,
            smoothed,
            rows,
            cols,
            dim,
            *prototypes.stride(),
            PRECISION=precision,
            **config.options(),
        )

        kernels.group[cols,](row_keys, bmu, order, starts, batch, cols, **kernels.configs.group().options())

        config = kernels.configs.attraction(dim)
        programs = _blocks(batch, config.blocks["BLOCK_B"]) * _blocks(dim, config.blocks["BLOCK_D"])
        kernels.attraction[programs,](
            z,
            norm_z,
            norm_prototypes,
            row_factors,
            col_factors,
            smoothed,
            bmu,
            order,
            attraction,
            torch.empty(programs, dtype=torch.float64, device=device),
            ticket,
            loss,
            reduction_scale(reduction, batch, rows * cols),
            batch,
            rows,
            cols,
            dim,
            *z.stride(),
            terms,
            PRECISION=precision,
            **config.options(),
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
    (batch, dim), (terms, rows, _), cols = z.shape, row_factors.shape, col_factors.shape[1]
    device = z.device
    grad_z = torch.empty(z.shape if for_z else 0, dtype=z.dtype, device=device)
    if batch == 0:
        return grad_z, torch.zeros(prototypes.shape if for_prototypes else 0, dtype=prototypes.dtype, device=device)
    grad_prototypes = torch.empty(prototypes.shape if for_prototypes else 0, dtype=prototypes.dtype, device=device)
    norm_z, norm_prototypes, order, starts = _split_context(context.contiguous(), batch, rows, cols)
    row_factors, col_factors = row_factors.contiguous(), col_factors.contiguous()
    scale = -reduction_scale(reduction, batch, rows * cols)
    kernels = _kernels()
    precision = kernels.configs.precision(_family(device))

    projection = kernels.configs.project(dim)
    out_blocks = rows * _blocks(cols, projection.blocks["BLOCK_OUT"])
    dim_blocks = _blocks(dim, projection.blocks["BLOCK_D"])
    dim_splits = min(dim_blocks, max(1, 2 * _multiprocessors(device) // out_blocks))
    blocks_a_split = _blocks(dim_blocks, dim_splits)
    dim_splits = _blocks(dim_blocks, blocks_a_split)
    tickets = torch.empty(out_blocks, dtype=torch.int32, device=device)

    config = kernels.configs.spread(rows, dim)
    blocks = config.blocks
    latent_programs = _blocks(batch, blocks["LATENTS"]) if for_z else 0
    spread = torch.empty((terms if for_prototypes else 0, rows * cols, dim), dtype=torch.float32, device=device)
    spread_programs = spread.shape[0] * cols * _blocks(rows, blocks["BLOCK_R"]) * _blocks(dim, blocks["BLOCK_D"])
    with _device(z):
        kernels.spread[latent_programs + spread_programs,](
            grad_loss,
            z,
            norm_z,
            row_factors,
            bmu.contiguous(),
            order,
            starts,
            attraction.contiguous(),
            grad_z,
            spread,
            tickets,
            scale,
            latent_programs,
            batch,
            rows,
            cols,
            dim,
            out_blocks,
            *z.stride(),
            PRECISION=precision,
            **config.options(),
        )
        if for_prototypes:
            in_place = prototypes.dtype == torch.float32
            pulled = grad_prototypes if in_place else torch.empty(prototypes.shape, dtype=torch.float32, device=device)
            kernels.project[out_blocks * dim_splits,](
                grad_loss,
                prototypes,
                norm_prototypes,
                col_factors,
                spread,
                pulled,
                grad_prototypes,
                torch.empty((dim_splits if dim_splits > 1 else 0, rows * cols), dtype=torch.float32, device=device),
                tickets,
                scale,
                rows,
                cols,
                dim,
                dim_splits,
                blocks_a_split * projection.blocks["BLOCK_D"],
                *prototypes.stride(),
                terms,
                PRECISION=precision,
                **projection.options(),
            )
    return grad_z, grad_prototypes


def _search(z: Tensor, prototypes: Tensor, norm_z: Tensor, norm_prototypes: Tensor) -> tuple[Tensor, Tensor]:
    """Prepares and searches: keys of the BMUs [B] int64, and a ticket () int32 that is zero. Fills in the norms."""
    (batch, dim), count, device = z.shape, prototypes.shape[0], z.device
    kernels = _kernels()
    configs = kernels.configs
    family, multiprocessors = _family(device), _multiprocessors(device)
    split = z.dtype == torch.float32
    resident = configs.is_resident(family, split, dim)
    if resident:
        config = configs.search_resident(split, dim)
    else:
        config = configs.search_streaming(family, split, dim, few_tiles=False)
        if _blocks(batch, config.blocks["BLOCK_B"]) * _blocks(count, config.blocks["BLOCK_K"]) < multiprocessors:
            config = configs.search_streaming(family, split, dim, few_tiles=True)
    batch_tiles, tiles = _blocks(batch, config.blocks["BLOCK_B"]), _blocks(count, config.blocks["BLOCK_K"])

    padded_dim = configs.padded_dim(dim)
    operand = torch.float16 if split else z.dtype
    if operand == torch.bfloat16 and _interprets():
        operand = torch.float32  # the interpreter's tl.dot takes the bits of bf16 for integers
    high_z, high_prototypes = torch.empty((batch + count, padded_dim), dtype=operand, device=device).split([batch, count])
    low_z, low_prototypes = high_z, high_prototypes
    if split:
        low_z, low_prototypes = torch.empty((batch + count, padded_dim), dtype=operand, device=device).split([batch, count])
    prototype_scale = torch.empty(0 if split else count, dtype=torch.float32, device=device)
    row_keys = torch.empty(batch, dtype=torch.int64, device=device)
    tickets = torch.empty(1 + (0 if resident else batch_tiles * tiles), dtype=torch.int32, device=device)

    preparation = configs.prepare(dim)
    rows_a_program = preparation.blocks["ROWS"]
    kernels.prepare[_blocks(batch, rows_a_program) + _blocks(count, rows_a_program),](
        z,
        prototypes,
        norm_z,
        norm_prototypes,
        high_z,
        low_z,
        high_prototypes,
        low_prototypes,
        prototype_scale,
        row_keys,
        tickets,
        batch,
        count,
        dim,
        padded_dim,
        tickets.numel(),
        *z.stride(),
        *prototypes.stride(),
        SPLIT=split,
        **preparation.options(),
    )
    operands = (high_z, low_z, high_prototypes, low_prototypes, prototype_scale, row_keys)
    if resident:
        splits = _even_splits(batch_tiles, tiles, multiprocessors)
        tiles_a_split = _blocks(tiles, splits)
        kernels.search_resident[batch_tiles * _blocks(tiles, tiles_a_split),](
            *operands, batch, count, padded_dim, tiles_a_split, SPLIT=split, **config.options()
        )
        return row_keys, tickets[:1]
    # Parts of scores are stored where features are split: no more of them than there are numbers in the inputs.
    scores = batch_tiles * tiles * config.blocks["BLOCK_B"] * config.blocks["BLOCK_K"]
    wanted = 2 * multiprocessors // (batch_tiles * tiles)
    dim_splits = max(1, min(wanted, (batch + count) * dim // scores, _blocks(padded_dim, kernels.features_a_sum)))
    features_a_split = _blocks(padded_dim, dim_splits * kernels.features_a_sum) * kernels.features_a_sum
    dim_splits = _blocks(padded_dim, features_a_split)
    partial = torch.empty((dim_splits if dim_splits > 1 else 0, scores), dtype=torch.float32, device=device)
    kernels.search_streaming[batch_tiles * tiles * dim_splits,](
        *operands,
        tickets[1:],
        partial,
        batch,
        count,
        padded_dim,
        dim_splits,
        features_a_split,
        SPLIT=split,
        **config.options(),
    )
    return row_keys, tickets[:1]


def _even_splits(batch_tiles: int, tiles: int, multiprocessors: int) -> int:
    """Into how many parts to split the prototypes so that the last round of programs leaves few multiprocessors idle."""
    most = max(1, min(tiles, 2 * multiprocessors // batch_tiles))
    return min(range(1, most + 1), key=lambda splits: (_blocks(batch_tiles * splits, multiprocessors) / splits, splits))


def _blocks(count: int, size: int) -> int:
    return -(-count // size)


class _Kernels(NamedTuple):
    """What is launched here; imported when first needed, as Triton takes a while to import."""

    configs: ModuleType
    gaussian: Any
    prepare: Any
    search_streaming: Any
    search_resident: Any
    distance: Any
    smooth_columns: Any
    group: Any
    attraction: Any
    spread: Any
    project: Any
    features_a_sum: int


@functools.cache
def _kernels() -> _Kernels:
    from vitsom_fast.kernels import attraction, configs, distance, factors, gradients, group, prepare, search, smooth

    return _Kernels(
        configs,
        factors.gaussian_kernel,
        prepare.prepare_kernel,
        search.search_streaming_kernel,
        search.search_resident_kernel,
        distance.distance_kernel,
        smooth.smooth_columns_kernel,
        group.group_kernel,
        attraction.attraction_kernel,
        gradients.spread_kernel,
        gradients.project_kernel,
        search.FEATURES_A_SUM.value,
    )


@functools.cache
def _interprets() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def _family(device: torch.device) -> str:
    if _interprets():
        return os.environ.get("VITSOM_TRITON_FAMILY", "hopper")
    from triton.runtime import driver

    with torch.cuda.device(device):
        target = driver.active.get_current_target()
    return _kernels().configs.family(target.backend, target.arch)


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    if _interprets():
        return _MULTIPROCESSORS_OF_AN_INTERPRETER
    return torch.cuda.get_device_properties(device).multi_processor_count


def _device(x: Tensor) -> Any:
    """Kernels are launched on the current device: the one that holds the tensors."""
    return torch.cuda.device_of(x)
