"""A map that keeps up with its latents: prototypes as the batch update of moving averages, in place of gradients."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vitsom_fast import backends, neighborhoods
from vitsom_fast.backends.compose import Primitives
from vitsom_fast.backends.spec import Spec
from vitsom_fast.backends.unit_rows import unit_rows
from vitsom_fast.loss import FusedSOMLoss

DECAY = 0.99


class AveragedSOM(FusedSOMLoss):
    """A ``FusedSOMLoss`` whose prototypes are trained by ``absorb`` and not by gradients; latents are still pulled by the loss.

    With sums and counts of the latents of every BMU (of their directions under the cosine distance), averaged over the steps,

        sums <- decay sums + A,  counts <- decay counts + n,  w_k = (G' sums)_k / (G' counts)_k

    which is the batch SOM (Kohonen 2001, section 3.6) on the last ``1 / (1 - decay)`` batches or so, at the radius of now. A
    unit that nothing reaches stays where it is.

    Args:
        decay: at least 0 and below 1; 0 is the batch update of the last batch.

    Raises:
        ValueError: a decay out of its range; the neighborhood "mexican_hat", whose negative weights make no means.
    """

    def __init__(self, grid_size: tuple[int, int], dim: int, *, decay: float = DECAY, **settings: Any) -> None:
        super().__init__(grid_size, dim, **settings)
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be at least 0 and below 1, got {decay}")
        if self.neighborhood == "mexican_hat":
            raise ValueError("neighborhood must have no negative weights for prototypes that are means, got 'mexican_hat'")
        self.decay = decay
        self.prototypes.requires_grad_(False)
        self.register_buffer("sums", torch.zeros_like(self.prototypes, dtype=torch.float32))
        self.register_buffer("counts", self.sums.new_zeros(self.grid.num_prototypes))
        self.sums: Tensor
        self.counts: Tensor
        self._seen: tuple[Tensor, Tensor] | None = None  # sums and counts since the last step
        self._temperature: float | Tensor = 0.0

    def forward(
        self,
        z: Tensor,
        temperature: float | Tensor,
        *,
        return_bmu: bool = False,
        sample_weight: Tensor | None = None,
    ) -> Any:
        loss, bmu = super().forward(z, temperature, return_bmu=True, sample_weight=sample_weight)
        if self.training:
            self._see(z.detach().flatten(1), bmu)
            self._temperature = temperature
        return (loss, bmu) if return_bmu else loss

    @torch.no_grad()
    def _see(self, z: Tensor, bmu: Tensor) -> None:
        """Add up rows (B, D) by their units (B,); one that is not finite would stay in the averages for ever."""
        x = z.to(self.sums.dtype)
        known = x.isfinite().all(dim=1)  # [B]
        x = x.where(known[:, None], 0)
        if self.distance == "cosine":
            x = unit_rows(x).unit.to(x.dtype)
        sums, counts = self._primitives(x).sum_by_bmu(x, bmu, self.grid.num_prototypes)
        counts = counts.index_add(0, bmu, known.to(counts.dtype) - 1)  # whole numbers, in any order
        self._seen = (sums, counts) if self._seen is None else (self._seen[0] + sums, self._seen[1] + counts)

    def _primitives(self, x: Tensor) -> Primitives:
        name = backends.resolve(self.backend, Spec(x.device, x.dtype, self.distance))
        return backends.get("torch" if name == "reference" else name)

    @torch.no_grad()
    def absorb(self) -> None:
        """Take in the latents that ``forward`` has seen in training mode since the last time, as one batch, at its last
        temperature, but for rows that are not finite; nothing where there are none."""
        if self._seen is None:
            return
        (sums, counts), self._seen = self._seen, None
        if dist.is_available() and dist.is_initialized():  # every process has seen a part of the batch
            dist.all_reduce(sums)
            dist.all_reduce(counts)
        self.sums.mul_(self.decay).add_(sums)
        self.counts.mul_(self.decay).add_(counts)
        factors = neighborhoods.neighborhood(
            self.grid, self._temperature, self.neighborhood, device=sums.device, dtype=self.sums.dtype, relative=True
        )
        both = torch.cat([self.sums, self.counts[:, None]], dim=1)  # [K, D + 1]
        total, weight = self._primitives(both).smooth(both, factors.rows.mT, factors.cols.mT).split([self.dim, 1], dim=1)
        least = torch.finfo(both.dtype).tiny
        self.prototypes.copy_(torch.where(weight > least, total / weight.clamp_min(least), self.prototypes))
