"""What a backend is asked to serve, and the conventions that all of them keep."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Spec(NamedTuple):
    """One kind of problem. A backend can refuse any part of it, with the reason; "auto" then asks the next."""

    device: torch.device
    dtype: torch.dtype
    distance: str = "cosine"


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """fp32 for everything but fp64: sums never run in half precision."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def reduction_scale(reduction: str, batch: int, num_prototypes: int) -> float:
    """What the sum over samples and prototypes is multiplied with; an empty batch has loss 0, not 0/0."""
    if reduction == "mean":
        return 1.0 / (max(batch, 1) * num_prototypes)
    return {"batchmean": 1.0 / max(batch, 1), "sum": 1.0}[reduction]
