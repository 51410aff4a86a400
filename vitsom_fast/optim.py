"""What an optimizer should know of a map: its prototypes learn faster than a network, forget sooner, and do not decay."""

from __future__ import annotations

from typing import Any

from torch import nn

from vitsom_fast.arguments import finite_number
from vitsom_fast.loss import FusedSOMLoss

BETAS = (0.9, 0.999)
# The pull on a prototype falls by orders of magnitude as T does: with 0.999 the early gradients would be remembered over a
# whole run, and steps would be too small for the late ones.
PROTOTYPE_BETAS = (0.9, 0.95)
# A unit wins few of the samples, a weight of the encoder sees them all: at 1 the map lags behind its latents.
PROTOTYPE_LR_SCALE = 10.0


def param_groups(
    model: nn.Module,
    som: FusedSOMLoss,
    lr: float,
    *,
    weight_decay: float = 0.05,
    prototype_lr_scale: float = PROTOTYPE_LR_SCALE,
) -> list[dict[str, Any]]:
    """Three groups for ``torch.optim.AdamW``: weight matrices, which decay; biases and norms, which do not; the prototypes.

    With one rate for all, most units of a large map win nothing at the end. The cosine distance does not see a prototype's
    length: decay would only make its direction turn faster and faster, most of all in units that win nothing.

    Args:
        model: whatever is trained along with the map; ``som`` may be a part of it.
        lr: of the model; that of the prototypes is ``prototype_lr_scale`` times as high. PyTorch's schedulers keep the ratio.
        weight_decay: of the weight matrices.

    Raises:
        TypeError, ValueError: a number that is none, is negative or not finite.

    Example:
        >>> som = FusedSOMLoss((3, 4), dim=8)
        >>> [group["lr"] for group in param_groups(nn.Linear(5, 8), som, lr=0.5)]
        [0.5, 0.5, 5.0]
    """
    lr, weight_decay = finite_number("lr", lr), finite_number("weight_decay", weight_decay)
    prototype_lr_scale = finite_number("prototype_lr_scale", prototype_lr_scale)
    for name, value in (("lr", lr), ("weight_decay", weight_decay), ("prototype_lr_scale", prototype_lr_scale)):
        if value < 0:
            raise ValueError(f"{name} must be at least 0, got {value}")
    of_the_map = {id(parameter) for parameter in som.parameters()}
    parameters = [parameter for parameter in model.parameters() if id(parameter) not in of_the_map]
    return [
        {"params": [p for p in parameters if p.dim() > 1], "lr": lr, "weight_decay": weight_decay, "betas": BETAS},
        {"params": [p for p in parameters if p.dim() <= 1], "lr": lr, "weight_decay": 0.0, "betas": BETAS},
        {
            "params": list(som.parameters()),
            "lr": lr * prototype_lr_scale,
            "weight_decay": 0.0,
            "betas": PROTOTYPE_BETAS,
        },
    ]
