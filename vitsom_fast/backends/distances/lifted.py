"""The nearest unit in squared Euclidean distance, by a search that knows the cosine alone.

``|z - w|^2`` is least where ``z . w - |w|^2 / 2`` is largest. With ``-|w|^2 / 2`` as one more feature of each prototype, and
another that makes all of them equally long, that is the cosine of the two: the same kernels find it. The features that are
added are sums of three fp32 numbers, so that nothing is lost: all others are as they were, times a power of two, and as seen
from a centre where that costs no digit.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vitsom_fast.backends.centred import pieces
from vitsom_fast.backends.unit_rows import widest

# The features that are added: three for |w|^2 / 2, three for the length.
_ADDED = 6

# Prototypes that the centre is the mean of; and how many times as far from the origin as they are from it, squared, it has to
# be for it to matter: scores then have four bits less.
_SAMPLE, _FAR = 256, 256.0

# What a length is shortened by, for its square to be no more than it should be: one place of fp32.
_DOWN = 1 - 2.0**-23

Search = Callable[..., tuple[Tensor, Tensor]]


def search(own: Search, z: Tensor, prototypes: Tensor, rows: int, cols: int) -> tuple[Tensor, Tensor]:
    """BMU (B,) int64 and squared distance (B,) fp32 of z (B, D) among the prototypes (K, D), neither in fp64; ``own`` is the
    search by cosine of a backend."""
    units, _ = own(*lift(z, prototypes), rows, cols)
    return units, squared_distances(z, prototypes, units).float()


def squared_distances(z: Tensor, prototypes: Tensor, units: Tensor) -> Tensor:
    """(B,) in the widest dtype, of z (B, D) to their units (B,) among the prototypes (K, D)."""
    squared = torch.empty(z.shape[0], dtype=widest(z), device=z.device)
    for part in pieces(z):
        difference = z[part].to(squared.dtype) - prototypes[units[part]].to(squared.dtype)
        squared[part] = difference.square_().sum(dim=1)
    # Of a row that is not finite the distance is NaN; one that is may be too far for a square in fp64.
    return squared.add_(0 * z.sum(dim=1, dtype=squared.dtype))


def lift(z: Tensor, prototypes: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (B, D + 6) and (K, D + 6) in fp32. The cosine of one of each is largest where the two given ones are nearest."""
    z, prototypes = _seen_from_a_centre(z.float(), prototypes.float())
    lifted, scale = _lifted_prototypes(prototypes)
    return _lifted_rows(z, scale), lifted


def _lifted_rows(z: Tensor, scale: Tensor) -> Tensor:
    """(B, D + 6) fp32 of rows z (B, D) fp32, as seen from the centre of the prototypes that ``scale`` is of."""
    dim = z.shape[1]
    lifted = _wider(z, scale)
    lifted[:, dim : dim + 3], lifted[:, dim + 3 :] = 1.0, 0.0
    return lifted


def _lifted_prototypes(prototypes: Tensor) -> tuple[Tensor, Tensor]:
    """(K, D + 6) fp32, of prototypes (K, D) fp32 as seen from a centre, and the power of two that they were multiplied with.
    They are the same for all rows that are searched."""
    dim = prototypes.shape[1]
    squares = _squares(prototypes)  # [K]
    longest = torch.where(squares.isfinite(), squares, 0.0).amax().sqrt()
    # A power of two takes the longest prototype to between 1 and 2. Half of its square is then at most 2, as long as others.
    scale = torch.exp2(-torch.log2(torch.where(longest > 0, longest, 1.0)).floor().clamp_min(-126))  # of subnormals to less
    lifted = _wider(prototypes, scale)
    half_square = squares * (scale * scale * 0.5)
    squared = 2 * half_square + half_square.square()  # [K]: |w|^2 + |w|^4 / 4
    # A little more than the largest: the square of a sum is not the sum of the squares of its parts.
    length = torch.where(squared.isfinite(), squared, 0.0).amax() * (1 + 2.0**-20) - 2 * half_square
    rest = -half_square
    for place in range(dim, dim + 3):
        lifted[:, place] = rest
        rest = rest - lifted[:, place]
        length = length - lifted[:, place].to(length.dtype).square()
    for place in range(dim + 3, dim + _ADDED):
        lifted[:, place] = length.clamp_min(0).sqrt() * _DOWN
        length = length - lifted[:, place].to(length.dtype).square()
    return lifted, scale


def _wider(x: Tensor, scale: Tensor) -> Tensor:
    """x times the scale, with room for the features that are added."""
    wider = torch.empty(x.shape[0], x.shape[1] + _ADDED, dtype=torch.float32, device=x.device)
    torch.mul(x, scale.float(), out=wider[:, : x.shape[1]])
    return wider


def _seen_from_a_centre(z: Tensor, prototypes: Tensor) -> tuple[Tensor, Tensor]:
    """Both less what they have in common, where that is much and no element is rounded for it: what is left of data far from
    the origin differs in more than its last bits."""
    sample = prototypes[:: -(-prototypes.shape[0] // _SAMPLE)].nan_to_num(0.0, 0.0, 0.0)
    centre = sample.mean(dim=0)
    is_far = centre.square().sum() > _FAR * (sample - centre).square().sum(dim=1).mean()
    if z.device.type == "cpu" and not is_far:  # on a GPU nobody waits for the answer
        return z, prototypes
    # In steps of the last bit of the largest: of data that are alike in size, this leaves differences that are exact.
    largest = torch.maximum(z.nan_to_num(0.0, 0.0, 0.0).abs().amax(dim=0), centre.abs())
    step = torch.exp2(torch.log2(largest.clamp_min(2.0**-100)).floor() - 23)
    centre = (centre / step).round() * step
    is_exact = is_far
    for x in (z, prototypes):
        for part in pieces(x):
            wide = x[part].to(widest(x)) - centre.to(widest(x))
            is_exact = is_exact & ((wide.float() == wide) | (wide != wide)).all()
    centre = torch.where(is_exact, centre, 0.0)
    return z - centre, prototypes - centre


def _squares(x: Tensor) -> Tensor:
    """(rows,): squared lengths in the widest dtype."""
    return torch.cat([x[part].to(widest(x)).square_().sum(dim=1) for part in pieces(x)])
