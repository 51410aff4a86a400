"""vitsom_fast: Self-Organizing Maps as a fused loss, for grids that nobody could train."""

from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from vitsom_fast.models import ViTSOM
    from vitsom_fast.som import SOM

__all__ = [
    "SOM",
    "FusedSOMLoss",
    "Grid",
    "ViTSOM",
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


def __getattr__(name: str) -> Any:
    """``SOM`` and ``ViTSOM`` when they are asked for: with scikit-learn the one takes longer to import than all the rest."""
    if name == "SOM":
        from vitsom_fast.som import SOM

        return SOM
    if name == "ViTSOM":
        from vitsom_fast.models import ViTSOM

        return ViTSOM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
