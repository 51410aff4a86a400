"""Rows divided by their lengths, right for finite rows of any length: squared in fp64, which holds the square of any narrower
number, or else scaled by a power of two first."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

EPS = 1e-12  # of torch.nn.functional.normalize


class _Format(NamedTuple):
    """How the exponent of a number is read from its bits, and the least that counts: the scale of a row must be finite."""

    integer: torch.dtype
    fraction_bits: int
    bias: int
    least: int


_FORMATS = {torch.float32: _Format(torch.int32, 23, 126, -100), torch.float64: _Format(torch.int64, 52, 1022, -900)}

# What rows are scaled to is of this magnitude: far from where squares overflow, and no scale is subnormal.
_EXPONENT = 20


class UnitRows(NamedTuple):
    """``unit`` (rows, D) is x / max(|x|, eps) and ``norm`` (rows, 1) is |x|, in the widest dtype of the device."""

    unit: Tensor
    norm: Tensor


def widest(x: Tensor) -> torch.dtype:
    """fp64, but for devices that have none."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def unit_rows(x: Tensor) -> UnitRows:
    """Of x (rows, D); differentiable any number of times."""
    # Contiguous, so that equal rows are added up in the same order wherever they are.
    wide = x.to(widest(x)).contiguous()
    if wide.dtype != x.dtype:
        norm = torch.linalg.vector_norm(wide, dim=1, keepdim=True)
        return UnitRows(wide * norm.clamp_min(EPS).reciprocal(), norm)
    scale = _power_of_two(wide.detach().abs().amax(dim=1, keepdim=True))
    scaled = wide * scale
    norm = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    return UnitRows(scaled / torch.maximum(norm, EPS * scale), norm / scale)


def centre_of(unit: Tensor) -> Tensor:
    """(D,) of rows (rows, D), in their dtype, of numbers that fp32 holds; rows that are not finite count as 0. What rows
    have in common is taken off before they are summed up in fp32: any centre is right, this one leaves least."""
    return unit.nan_to_num(0.0, 0.0, 0.0).mean(dim=0).float().to(unit.dtype)


def through_unit_rows(grad: Tensor, rows: UnitRows) -> Tensor:
    """The gradient for x, from that for its unit rows; below eps these are linear in x, and nothing is projected away."""
    along = (rows.unit * grad).sum(dim=1, keepdim=True) * (rows.norm >= EPS)  # [rows, 1]
    return (grad - rows.unit * along) / rows.norm.clamp_min(EPS)


def without_length(x: Tensor, norm: Tensor) -> Tensor:
    """x (rows, D) times a power of two for each row: the same bits where normalised rows are the same. Those with a norm
    (rows, 1) below eps stay as they are: of them the length matters."""
    return x * torch.where(norm >= EPS, _power_of_two(norm), 1.0).to(x.dtype)


def _power_of_two(size: Tensor) -> Tensor:
    """What brings each size, at least 0, to between 2^19 and 2^20."""
    integer, fraction_bits, bias, least = _FORMATS[size.dtype]
    exponent = (size.view(integer) >> fraction_bits) - bias  # the largest possible where it is not finite
    return torch.exp2((_EXPONENT - exponent.clamp_min(least)).to(size.dtype))
