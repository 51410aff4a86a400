"""The operators ``vitsom::pair_losses`` and ``vitsom::pair_gradients``: losses under distances that do not factorise, for the
backends that have kernels of their own for them; shapes as in ``vitsom_fast.ops``.

``pair_losses`` is ``sum_k h_bk d(z_i, w_k)`` (B,) for the BMUs b, and ``pair_gradients`` are the gradients of its product with
``grad_losses`` (B,). Losses and what they are multiplied with are in the widest dtype of the device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vitsom_fast import backends
from vitsom_fast.backends.unit_rows import widest

_library = torch.library.Library("vitsom", "FRAGMENT")
_library.define(
    "pair_losses(Tensor z, Tensor prototypes, Tensor bmu, Tensor row_factors, Tensor col_factors, str distance, str backend)"
    " -> Tensor losses"
)
_library.define(
    "pair_gradients(Tensor grad_losses, Tensor z, Tensor prototypes, Tensor bmu, Tensor row_factors, Tensor col_factors,"
    " str distance, bool for_z, bool for_prototypes, str backend) -> (Tensor grad_z, Tensor grad_prototypes)"
)


def backend_of_pairs(backend: str, dtype: torch.dtype) -> str | None:
    """The backend itself where it has the two functions for latents of this dtype, else None."""
    has_its_own = hasattr(backends.get(backend), "pair_losses") and dtype != torch.float64
    return backend if has_its_own else None


def _pair_losses(z: Tensor, *args: Any) -> Tensor:
    *inputs, backend = args
    own: Any = backends.get(backend)
    return own.pair_losses(z, *inputs).to(widest(z))


def _pair_gradients(*args: Any) -> tuple[Tensor, Tensor]:
    *inputs, backend = args
    own: Any = backends.get(backend)
    return own.pair_gradients(*inputs)


_library.impl("pair_losses", _pair_losses, "CompositeExplicitAutograd")
_library.impl("pair_gradients", _pair_gradients, "CompositeExplicitAutograd")


@torch.library.register_fake("vitsom::pair_losses", lib=_library)
def _(z: Tensor, *rest: Any) -> Tensor:
    return z.new_empty(z.shape[0], dtype=widest(z))


@torch.library.register_fake("vitsom::pair_gradients", lib=_library)
def _(
    grad_losses: Tensor,
    z: Tensor,
    prototypes: Tensor,
    bmu: Tensor,
    row_factors: Tensor,
    col_factors: Tensor,
    distance: str,
    for_z: bool,
    for_prototypes: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    return (
        z.new_empty(z.shape if for_z else 0),
        prototypes.new_empty(prototypes.shape if for_prototypes else 0),
    )
