"""The Triton kernels: cosine distance on GPU tensors in fp32, bf16 and fp16.

Each pass is a recipe of launches (kernels/passes.py), planned once for tensors of its kinds and then repeated.
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
from vitsom_fast.backends import torch_ops, transforms
from vitsom_fast.backends.compiled import checked, in_place
from vitsom_fast.backends.memory import in_memory
from vitsom_fast.backends.spec import Spec, reduction_scale
from vitsom_fast.kernels.context import size as context_size

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


def attraction_rows(batch: int, num_prototypes: int) -> int:
    return batch


def gaussian_weights(squared_offsets: Tensor, temperature: float | Tensor) -> Tensor:
    """``exp(-offset^2 / (2 T^2))`` in one launch, wherever the temperature is; NaN where T is not positive."""
    squared_offsets = in_memory("squared_offsets", squared_offsets).contiguous()
    recipe = _modules().gaussian.gaussian_weights
    if isinstance(temperature, Tensor):
        (weights,) = _run(recipe, (squared_offsets, in_memory("temperature", temperature)))
    else:
        (weights,) = _run(recipe, (squared_offsets, *_modules().gaussian.as_two_numbers(temperature)))
    return weights


def search(z: Tensor, prototypes: Tensor, rows: int = 0, cols: int = 0) -> tuple[Tensor, Tensor]:
    """BMU (B,) int64 and cosine distance (B,) fp32 of each row of z (B, D) among the prototypes (K, D)."""
    z, prototypes = in_memory("z", z), in_memory("prototypes", prototypes)
    if z.shape[0] == 0:
        return torch.empty(0, dtype=torch.int64, device=z.device), torch.empty(0, dtype=torch.float32, device=z.device)
    return _run(_modules().passes.find_bmu, (z, prototypes), _choice(z, prototypes))


def sum_by_bmu(x: Tensor, bmu: Tensor, num_prototypes: int) -> tuple[Tensor, Tensor]:
    """Sums (K, D) and counts (K,) fp32 of the rows x (B, D) of every BMU (B,), in three launches."""
    if transforms.asks_for_operations(x):
        return torch_ops.sum_by_bmu(x, bmu, num_prototypes)
    if x.shape[0] == 0:
        sums = torch.zeros(num_prototypes, x.shape[1], dtype=torch.float32, device=x.device)
        return sums, sums.new_zeros(num_prototypes)
    inputs = in_memory("x", x), checked("bmu", bmu, (x.shape[0],), torch.int64)
    return _run(_modules().sums.sum_by_bmu, inputs, num_prototypes)


def add_by_bmu(sums: Tensor, x: Tensor, bmu: Tensor) -> None:
    """Adds the rows x (B, D) of every BMU (B,), and their number, to ``sums`` (K, D + 1) fp64, in place, in three launches."""
    if transforms.asks_for_operations(sums, x):
        torch_ops.add_sums(sums, x, bmu)
        return
    if x.shape[0] > 0:
        in_place("sums", sums, (sums.shape[0], x.shape[1] + 1), torch.float64)
        inputs = sums, in_memory("x", x), checked("bmu", bmu, (x.shape[0],), torch.int64)
        _run(_modules().sums.add_by_bmu, inputs)


def smooth(x: Tensor, row_factors: Tensor, col_factors: Tensor) -> Tensor:
    """G x (K, D) for x (K, D), fp32, in two launches; x and the factors in any strides."""
    if transforms.asks_for_operations(x, row_factors, col_factors):
        return torch_ops.smooth(x, row_factors, col_factors)
    inputs = in_memory("x", x), in_memory("row_factors", row_factors), in_memory("col_factors", col_factors)
    (smoothed,) = _run(_modules().axes.smooth, inputs)
    return smoothed


def som_forward(
    z: Tensor, prototypes: Tensor, row_factors: Tensor, col_factors: Tensor, reduction: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss () fp32, BMU (B,) int64, attraction (B, D) fp32, and the context."""
    z, prototypes = in_memory("z", z), in_memory("prototypes", prototypes)
    batch, rows, cols = z.shape[0], row_factors.shape[1], col_factors.shape[1]
    if batch == 0:
        kept = torch.empty(context_size(batch, rows, cols), dtype=torch.float32, device=z.device)
        return kept.new_zeros(()), torch.empty(0, dtype=torch.int64, device=z.device), kept.new_empty(z.shape), kept
    scale = reduction_scale(reduction, batch, rows * cols)
    inputs = z, prototypes, *_factors(row_factors, col_factors)
    return _run(_modules().passes.forward, inputs, scale, _choice(z, prototypes))


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
    scale = reduction_scale(reduction, batch, rows * cols)
    factors = _factors(row_factors, col_factors)
    inputs = in_memory("grad_loss", grad_loss), z, prototypes, *factors, bmu, attraction, context
    return _run(_modules().passes.backward, inputs, scale, for_z, for_prototypes)


def squared_search(z: Tensor, prototypes: Tensor) -> tuple[Tensor, Tensor]:
    """BMU (B,) int64 and squared Euclidean distance (B,) fp32 of each row of z (B, D) among the prototypes (K, D), in four
    launches."""
    z, prototypes = in_memory("z", z), in_memory("prototypes", prototypes)
    if z.shape[0] == 0:
        return torch.empty(0, dtype=torch.int64, device=z.device), torch.empty(0, dtype=torch.float32, device=z.device)
    return _run(_modules().passes.find_nearest, (z, prototypes), _modules().passes.Choice(_certifies(z, prototypes)))


# Pairs of a search under the squared Euclidean distance up to which one that goes through all of them, in four launches, is
# taken: it is exact to fp32 however far from each other the rows are.
_FEW_PAIRS = 1 << 24


def searches_pairs(distance: str, k: int, pairs: int) -> bool:
    """Whether ``pair_search`` is the one to take for the k nearest units by this distance, of so many pairs. Under the
    Euclidean distance it always is: of near pairs a search by products is off by more than the contract allows."""
    return distance in ("euclidean", "manhattan") or (distance == "sqeuclidean" and (k == 2 or pairs <= _FEW_PAIRS))


def pair_search(z: Tensor, prototypes: Tensor, distance: str, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest units (B, k) int64, k 1 or 2, and their distances (B, k) fp32, of z (B, D) among the prototypes (K, D);
    "sqeuclidean", "euclidean" or "manhattan". NaN for what is not finite, and where there is no second unit."""
    if z.shape[0] == 0:
        nothing = torch.empty(0, k, dtype=torch.float32, device=z.device)
        return nothing.long(), nothing
    return _run(_modules().pair_search.search, (in_memory("z", z), in_memory("prototypes", prototypes)), distance, k)


def pair_losses(z: Tensor, prototypes: Tensor, bmu: Tensor, row_factors: Tensor, col_factors: Tensor, distance: str) -> Tensor:
    """Losses (B,) fp64, ``sum_k h_bk d(z_i, w_k)`` for the BMUs b (B,), "euclidean" or "manhattan"."""
    if z.shape[0] == 0:
        return torch.empty(0, dtype=torch.float64, device=z.device)
    inputs = in_memory("z", z), in_memory("prototypes", prototypes), _contiguous("bmu", bmu)
    (losses,) = _run(_modules().pair_losses.losses, (*inputs, *_factors(row_factors, col_factors)), distance)
    return losses


def pair_gradients(
    grad_losses: Tensor,
    z: Tensor,
    prototypes: Tensor,
    bmu: Tensor,
    row_factors: Tensor,
    col_factors: Tensor,
    distance: str,
    for_z: bool,
    for_prototypes: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients (B, D) and (K, D) in the dtype of their input, for those of the losses (B,); an empty tensor for one that is
    not asked for."""
    if z.shape[0] == 0:
        return z.new_empty(z.shape if for_z else 0), prototypes.new_zeros(prototypes.shape if for_prototypes else 0)
    inputs = in_memory("grad_losses", grad_losses), in_memory("z", z), in_memory("prototypes", prototypes)
    factors = _factors(row_factors, col_factors)
    recipe = _modules().pair_gradients.gradients
    return _run(recipe, (*inputs, _contiguous("bmu", bmu), *factors), distance, for_z, for_prototypes)


def _contiguous(name: str, x: Tensor) -> Tensor:
    return in_memory(name, x).contiguous()


def _factors(row_factors: Tensor, col_factors: Tensor) -> tuple[Tensor, Tensor]:
    return _contiguous("row_factors", row_factors), _contiguous("col_factors", col_factors)


def _run(recipe: Any, inputs: tuple[Tensor | float, ...], *options: Any) -> Any:
    """The results of a pass over these inputs."""
    return _modules().plan.planned(recipe, inputs, *options)(*inputs)


def _certifies(z: Tensor, prototypes: Tensor) -> bool:
    """Whether the environment asks for the certified search, and it takes no more memory than the inputs."""
    return settings.searches_certified() and _modules().certified.is_affordable(z.shape[0], *prototypes.shape)


def _choice(z: Tensor, prototypes: Tensor) -> Any:
    """The search that the environment asks for."""
    modules = _modules()
    (batch, dim), count = z.shape, prototypes.shape[0]
    certified = _certifies(z, prototypes)
    if not modules.autotune.is_on():
        return modules.passes.Choice(certified)
    device, split = z.device, z.dtype == torch.float32
    family, multiprocessors = modules.device.family(device), modules.device.multiprocessors(device)

    def launch(config: Any) -> Any:
        return _run(modules.passes.find_bmu, (z, prototypes), modules.passes.Choice(config=config))

    key = modules.autotune.key(device, z.dtype, batch, count, dim)
    fixed = modules.configs.search(family, split, batch, count, dim, multiprocessors)
    candidates = modules.configs.search_candidates(family, split, dim)
    return modules.passes.Choice(certified, modules.autotune.fastest(key, fixed, candidates, launch))


class _Modules(NamedTuple):
    """Modules of vitsom_fast.kernels, imported when first needed: Triton takes a while to import."""

    passes: ModuleType
    plan: ModuleType
    configs: ModuleType
    device: ModuleType
    autotune: ModuleType
    gaussian: ModuleType
    certified: ModuleType
    pair_losses: ModuleType
    pair_gradients: ModuleType
    pair_search: ModuleType
    sums: ModuleType
    axes: ModuleType


@functools.cache
def _modules() -> _Modules:
    names = (
        "passes",
        "launch.plan",
        "launch.configs",
        "launch.device",
        "launch.autotune",
        "factorised.gaussian",
        "search.certified",
        "pairs.losses",
        "pairs.gradients",
        "pairs.search",
        "factorised.sums",
        "factorised.axes",
    )
    return _Modules(*(importlib.import_module(f"vitsom_fast.kernels.{name}") for name in names))
