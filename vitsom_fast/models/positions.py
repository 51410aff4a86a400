"""Where a patch lies, as features that are fixed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def sincos_positions(rows: int, cols: int, width: int, base: float = 100.0) -> Tensor:
    """(rows * cols, width): sines and cosines of the row in one half of the features, of the column in the other; frequencies
    fall from 1 to just above ``1 / base``. Of the dtype and on the device that weights are made with, from fp32."""
    where: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
    frequency = base ** -torch.linspace(0, 1, width // 4 + 1, **where)[:-1]  # [width / 4]
    row, col = torch.meshgrid(torch.arange(rows, **where), torch.arange(cols, **where), indexing="ij")
    angles = [axis.reshape(-1, 1) * frequency for axis in (row, col)]  # 2 x [rows * cols, width / 4]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1).to(torch.empty(0))
