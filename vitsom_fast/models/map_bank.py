"""Several maps on the latents of one encoder: what sizes of a map would show costs one training in place of many."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from vitsom_fast.loss import FusedSOMLoss


class MapBank(nn.Module):
    """Maps side by side; the loss is the sum of theirs.

    Args:
        maps: of one ``dim``; the first is the one that ``temperature`` is for, and each other has a radius in proportion to its
            longer side.

    Raises:
        ValueError: there are none, or they differ in ``dim``.
    """

    def __init__(self, maps: Sequence[FusedSOMLoss]) -> None:
        super().__init__()
        if len({each.dim for each in maps}) != 1:
            raise ValueError(f"maps must be at least one, all of one dim, got {[each.dim for each in maps]}")
        self.maps = nn.ModuleList(maps)
        self.dim = maps[0].dim
        sides = [max(each.grid.rows, each.grid.cols) for each in maps]
        self._shares = [side / sides[0] for side in sides]

    def forward(self, z: Tensor, temperature: float | Tensor, *, return_bmu: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """The sum of the losses of latents z (B, dim); with ``return_bmu`` also the BMUs (B,) on the first map."""
        found = [som(z, share * temperature, return_bmu=True) for som, share in zip(self.maps, self._shares, strict=True)]
        total = sum((loss for loss, _ in found[1:]), start=found[0][0])
        return (total, found[0][1]) if return_bmu else total
