"""The baseline: a batch SOM on the samples themselves, without an encoder."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from vitsom_fast.choices import Distance
from vitsom_fast.functional import batch_update
from vitsom_fast.grid import Grid
from vitsom_fast.initialization import principal_plane
from vitsom_fast.schedules import exponential_decay


def fit_plain_som(
    x: Tensor,
    grid: Grid,
    *,
    epochs: int = 50,
    t_max: float | None = None,
    t_min: float = 0.5,
    distance: Distance = "sqeuclidean",
) -> Tensor:
    """Prototypes (K, D) of a batch SOM (Kohonen 2001, section 3.6) on x (N, D), N at least 1, in its dtype; no randomness. It
    is ``vitsom_fast.SOM`` as a function of tensors.

    The prototypes start on the plane of the first two principal components, long side of the map along the first.

    Args:
        t_max, t_min: neighborhood radius at the first and the last epoch; ``t_max`` is half the longer side of the map if None.
        distance: "sqeuclidean", or "cosine": of the directions of the samples, whose principal components are taken, too.
    """
    first = max(grid.rows, grid.cols, 2) / 2 if t_max is None else t_max
    if distance == "cosine":
        return _of_directions(F.normalize(x), grid, epochs, first, t_min)
    from vitsom_fast.som import SOM  # with scikit-learn, which nothing else of the models needs

    som = SOM(
        grid.rows,
        grid.cols,
        topology=grid.topology,
        periodic=grid.periodic,
        n_epochs=epochs,
        sigma_initial=first,
        sigma_final=t_min,
    )
    return x.new_tensor(som.fit(x.detach()).prototypes_)


def _of_directions(unit: Tensor, grid: Grid, epochs: int, t_max: float, t_min: float) -> Tensor:
    temperature = exponential_decay(t_max, t_min, epochs)
    centre = unit.mean(0)
    prototypes = principal_plane(unit - centre, grid) + centre
    for epoch in range(epochs):
        prototypes, _ = batch_update(unit, prototypes, grid, temperature(epoch))
    return prototypes
