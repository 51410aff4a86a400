"""vitsom_fast: Self-Organizing Maps as a fused loss, for grids that nobody could train."""

from vitsom_fast.backends import available_backends
from vitsom_fast.functional import batch_update, find_bmu, som_loss
from vitsom_fast.grid import Grid
from vitsom_fast.loss import FusedSOMLoss
from vitsom_fast.optim import param_groups
from vitsom_fast.schedules import (
    asymptotic_decay,
    constant,
    exponential_decay,
    inverse_decay,
    linear_decay,
    linear_ramp,
)
from vitsom_fast.version import __version__

__all__ = [
    "FusedSOMLoss",
    "Grid",
    "__version__",
    "asymptotic_decay",
    "available_backends",
    "batch_update",
    "constant",
    "exponential_decay",
    "find_bmu",
    "inverse_decay",
    "linear_decay",
    "linear_ramp",
    "param_groups",
    "som_loss",
]
