"""The operators ``vitsom::*``: schema, fake kernels, autograd and autocast, for all backends at once.

A backend is chosen by name, above the dispatcher; each operator here only forwards to that backend's function. Shapes:
z (B, D), prototypes (K, D) of the same floating dtype; row_factors (terms, R, R) and col_factors (terms, C, C) in the
accumulation dtype, K = R C. The accumulation dtype is fp64 for fp64 inputs and fp32 for all others. The context is what a
backend's forward keeps for its own backward, one flat tensor that nobody else reads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vitsom_fast import backends
from vitsom_fast.backends import transforms
from vitsom_fast.backends.differentiable import loss_at
from vitsom_fast.backends.distances import lifted, missing
from vitsom_fast.backends.distances.nearest import search as search_nearest
from vitsom_fast.backends.memory import is_plain
from vitsom_fast.backends.spec import accumulation_dtype

_library = torch.library.Library("vitsom", "DEF")
_library.define(
    'find_bmu(Tensor z, Tensor prototypes, str backend, int rows=0, int cols=0, str distance="cosine", int k=1,'
    " bool ignore_missing=False)"
    " -> (Tensor bmu, Tensor distance)"
)
_library.define("gaussian_weights(Tensor squared_offsets, Tensor? temperature, float radius, str backend) -> Tensor weights")
_library.define(
    "som_forward(Tensor z, Tensor prototypes, Tensor row_factors, Tensor col_factors, str reduction, str backend)"
    " -> (Tensor loss, Tensor bmu, Tensor attraction, Tensor context)"
)
_library.define(
    "som_backward(Tensor grad_loss, Tensor z, Tensor prototypes, Tensor row_factors, Tensor col_factors, Tensor bmu,"
    " Tensor attraction, Tensor context, str reduction, bool for_z, bool for_prototypes, str backend)"
    " -> (Tensor grad_z, Tensor grad_prototypes)"
)


def _find_bmu(
    z: Tensor,
    prototypes: Tensor,
    backend: str,
    rows: int = 0,
    cols: int = 0,
    distance: str = "cosine",
    k: int = 1,
    ignore_missing: bool = False,
) -> tuple[Tensor, Tensor]:
    if ignore_missing:
        bmu, nearest = search_nearest(z, prototypes, distance, k, missing.rows)
        return (bmu, nearest) if k > 1 else (bmu[:, 0].clone(), nearest[:, 0].clone())
    own: Any = backends.get(backend)
    search = getattr(own, "search" if k == 1 else "search_two", None)
    if search is not None and distance == "cosine":
        return search(z, prototypes, rows, cols)
    is_served = z.dtype != torch.float64
    if is_served and hasattr(own, "searches_pairs") and own.searches_pairs(distance, k, z.shape[0] * prototypes.shape[0]):
        bmu, nearest = own.pair_search(z, prototypes, distance, k)
    elif is_served and hasattr(own, "euclidean_search") and distance in ("sqeuclidean", "euclidean"):
        return own.euclidean_search(z, prototypes, rows, cols, distance, k)
    elif is_served and hasattr(own, "squared_search") and distance == "sqeuclidean" and k == 1:
        return own.squared_search(z, prototypes)
    elif is_served and k == 1 and search is not None and backend != "torch" and len(z) > 0 and distance == "sqeuclidean":
        return lifted.search(search, z, prototypes, rows, cols)
    else:
        bmu, nearest = search_nearest(z, prototypes, distance, k)
    return (bmu, nearest) if k > 1 else (bmu[:, 0].clone(), nearest[:, 0].clone())


def _gaussian_weights(squared_offsets: Tensor, temperature: Tensor | None, radius: float, backend: str) -> Tensor:
    own = backends.get(backend)
    return own.gaussian_weights(squared_offsets, radius if temperature is None else temperature)  # type: ignore[attr-defined]


def _som_forward(
    z: Tensor, prototypes: Tensor, row_factors: Tensor, col_factors: Tensor, reduction: str, backend: str
) -> tuple[Tensor, ...]:
    return backends.get(backend).som_forward(z, prototypes, row_factors, col_factors, reduction)


def _som_backward(*args: Any) -> tuple[Tensor, Tensor]:
    *inputs, backend = args
    return backends.get(backend).som_backward(*inputs)


def _full_precision(function: Any) -> Any:
    """Autocast never lowers the accumulation: PyTorch operations inside a backend run as they are written."""

    def without_autocast(*args: Any) -> Any:
        device_type = args[0].device.type
        if not torch.is_autocast_enabled(device_type):
            return function(*args)
        with torch.autocast(device_type, enabled=False):
            return function(*args)

    return without_autocast


for _name, _function in (("find_bmu", _find_bmu), ("som_forward", _som_forward), ("som_backward", _som_backward)):
    _library.impl(_name, _full_precision(_function), "CompositeExplicitAutograd")


@torch.library.register_fake("vitsom::find_bmu", lib=_library)
def _(
    z: Tensor,
    prototypes: Tensor,
    backend: str,
    rows: int = 0,
    cols: int = 0,
    distance: str = "cosine",
    k: int = 1,
    ignore_missing: bool = False,
) -> tuple[Tensor, Tensor]:
    shape = (z.shape[0], k) if k > 1 else (z.shape[0],)
    return z.new_empty(shape, dtype=torch.int64), z.new_empty(shape, dtype=accumulation_dtype(z.dtype))


@torch.library.register_fake("vitsom::gaussian_weights", lib=_library)
def _(squared_offsets: Tensor, temperature: Tensor | None, radius: float, backend: str) -> Tensor:
    return torch.empty_like(squared_offsets)


@torch.library.register_fake("vitsom::som_forward", lib=_library)
def _(
    z: Tensor, prototypes: Tensor, row_factors: Tensor, col_factors: Tensor, reduction: str, backend: str
) -> tuple[Tensor, ...]:
    dtype = accumulation_dtype(z.dtype)
    kept = backends.get(backend)
    rows = kept.attraction_rows(z.shape[0], prototypes.shape[0])
    size = kept.context_size(z.shape[0], row_factors.shape[1], col_factors.shape[1])
    return (
        z.new_empty((), dtype=dtype),
        z.new_empty(z.shape[0], dtype=torch.int64),
        z.new_empty(rows, z.shape[1], dtype=dtype),
        z.new_empty(size, dtype=kept.CONTEXT_DTYPE),
    )


@torch.library.register_fake("vitsom::som_backward", lib=_library)
def _(
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
    backend: str,
) -> tuple[Tensor, Tensor]:
    return (
        z.new_empty(z.shape if for_z else 0),
        prototypes.new_empty(prototypes.shape if for_prototypes else 0),
    )


class _SOMForward(torch.autograd.Function):
    """What ``torch.library.register_autograd`` would make, less its bookkeeping: 10 % of a step on a 4 x 4 map."""

    @staticmethod
    def forward(
        ctx: Any,
        run: Callable[..., tuple[Tensor, ...]],
        z: Tensor,
        prototypes: Tensor,
        row_factors: Tensor,
        col_factors: Tensor,
        reduction: str,
        backend: str,
    ) -> tuple[Tensor, ...]:
        loss, bmu, attraction, context = run(z, prototypes, row_factors, col_factors, reduction, backend)
        ctx.mark_non_differentiable(bmu, attraction, context)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(z, prototypes, row_factors, col_factors, bmu, attraction, context)
        ctx.reduction, ctx.backend = reduction, backend
        return loss, bmu, attraction, context

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        for_z, for_prototypes = ctx.needs_input_grad[1:3]
        if grad_loss is None:
            return (None,) * 7
        saved = (*ctx.saved_tensors, ctx.reduction, for_z, for_prototypes)
        if torch.is_grad_enabled():  # someone differentiates the gradient: write it in operations that can be
            grad_z, grad_prototypes = _differentiable_gradients(grad_loss, *saved)
        else:
            is_unobserved = _is_unobserved(grad_loss, *saved[:2])
            run = _functions["som_backward"] if is_unobserved else _below_autograd(_operators["som_backward"])
            grad_z, grad_prototypes = run(grad_loss, *saved, ctx.backend)
        return None, grad_z if for_z else None, grad_prototypes if for_prototypes else None, None, None, None, None


# Function.apply asks of each argument whether it is a wrapper of a transform that has ended, for a twentieth of a step on a
# 4 x 4 map; what nobody observes is none.
_apply_unobserved: Any = super(torch.autograd.Function, _SOMForward).apply


@_full_precision
def _differentiable_gradients(
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
) -> tuple[Tensor | None, Tensor | None]:
    # Views of their own: should one input depend on the other, the path between them is not ours to follow.
    z, prototypes = z.view_as(z), prototypes.view_as(prototypes)
    wanted = [x for x, needed in ((z, for_z), (prototypes, for_prototypes)) if needed]
    loss, _ = loss_at(bmu, z, prototypes, row_factors, col_factors, reduction)
    grads = iter(torch.autograd.grad(loss, wanted, grad_loss, create_graph=True))
    return next(grads) if for_z else None, next(grads) if for_prototypes else None


def _below_autograd(op: Any) -> Any:
    """The operator, recording nothing: what a backend runs in PyTorch operations is not to be differentiated bit by bit."""

    def unrecorded(*args: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return op(*args)

    return unrecorded


gaussian_weights = torch.ops.vitsom.gaussian_weights.default
_operators = {name: getattr(torch.ops.vitsom, name).default for name in ("find_bmu", "som_forward", "som_backward")}
_functions = {
    "find_bmu": _full_precision(_find_bmu),
    "som_forward": _full_precision(_som_forward),
    "som_backward": _full_precision(_som_backward),
}


def find_bmu(z: Tensor, prototypes: Tensor, *how: Any) -> tuple[Tensor, Tensor]:
    """The operator of this name, not differentiable; without the dispatcher, a third of a search of a 4 x 4 map, where nobody
    could tell."""
    if _is_unobserved(z, prototypes) and not (z.requires_grad or prototypes.requires_grad):
        return _functions["find_bmu"](z, prototypes, *how)
    return _operators["find_bmu"](z, prototypes, *how)


def som_forward(*args: Any) -> tuple[Tensor, ...]:
    """The operator of this name, differentiable: loss, BMU, attraction and context.

    Where nobody could tell, its function is called without the dispatcher, which boxes all arguments twice: a sixth of a step
    on a 4 x 4 map.
    """
    if _is_unobserved(*args[:2]):
        return _differentiable_som_forward(*args, run=_functions["som_forward"])
    return _operators["som_forward"](*args)


def _is_unobserved(*tensors: Tensor) -> bool:
    """Whether no compiler, tracer, transform, mode or subclass sees the operators that these go through, nor has anything to
    change in them first."""
    return (
        not torch.compiler.is_compiling()
        and not torch._C._is_tracing()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
        and all(map(is_plain, tensors))
    )


def _differentiable_som_forward(*args: Any, run: Any = None) -> tuple[Tensor, ...]:
    z, prototypes, row_factors, col_factors, reduction, backend = args
    if transforms.is_at_work():
        # Forward derivatives and torch.func: in operations that know of them.
        bmu, _ = find_bmu(z, prototypes, backend, row_factors.shape[1], col_factors.shape[1])
        loss, attraction = _full_precision(_plain_loss)(z, bmu, prototypes, row_factors, col_factors, reduction)
        return loss, bmu, attraction.detach(), z.new_empty(0, dtype=torch.float32)
    apply = _SOMForward.apply if run is None else _apply_unobserved
    run = run or _below_autograd(_operators["som_forward"])
    if torch.is_grad_enabled() and (z.requires_grad or prototypes.requires_grad):
        return apply(run, *args)
    return run(*args)


def _plain_loss(z: Tensor, bmu: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return loss_at(bmu, z, *rest)


def gaussian_weights_of(backend: str) -> Callable[[Tensor, float | Tensor], Tensor] | None:
    """A backend's own form of that in ``neighborhoods.gaussian``; None where it has none or a compiler will fuse PyTorch's
    operations."""
    if not hasattr(backends.get(backend), "gaussian_weights") or torch.compiler.is_compiling():
        return None

    def weigh(squared_offsets: Tensor, temperature: float | Tensor) -> Tensor:
        if not isinstance(temperature, Tensor):
            run = _gaussian_weights if _is_unobserved(squared_offsets) else gaussian_weights
            return run(squared_offsets, None, temperature, backend)
        temperature = temperature.detach()
        run = _gaussian_weights if _is_unobserved(squared_offsets, temperature) else gaussian_weights
        return run(squared_offsets, temperature, 0.0, backend)

    return weigh


_library.impl("gaussian_weights", _gaussian_weights, "CompositeExplicitAutograd")
_library.impl("find_bmu", _below_autograd(_operators["find_bmu"]), "Autograd")
_library.impl("som_forward", _differentiable_som_forward, "Autograd")
_library.impl("som_backward", _below_autograd(_operators["som_backward"]), "Autograd")
