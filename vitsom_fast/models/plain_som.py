"""The baseline: a batch SOM on the samples themselves, with Euclidean distances and no encoder."""

from __future__ import annotations

from torch import Tensor

from vitsom_fast.grid import Grid


def fit_plain_som(x: Tensor, grid: Grid, *, epochs: int = 50, t_max: float | None = None, t_min: float = 0.5) -> Tensor:
    """Prototypes (K, D) of a batch SOM (Kohonen 2001, section 3.6) on x (N, D), N at least 1, in its dtype; no randomness. It
    is ``vitsom_fast.SOM`` as a function of tensors.

    The prototypes start on the plane of the first two principal components, long side of the map along the first.

    Args:
        t_max, t_min: neighborhood radius at the first and the last epoch; ``t_max`` is half the longer side of the map if None.
    """
    from vitsom_fast.som import SOM  # with scikit-learn, which nothing else of the models needs

    first = max(grid.rows, grid.cols, 2) / 2 if t_max is None else t_max
    som = SOM(
        grid.rows,
        grid.cols,
        topology=grid.topology,
        periodic=grid.periodic,
        n_epochs=epochs,
        sigma_initial=first,
        sigma_final=t_min,
    )
    return x.new_tensor(som.fit(x).prototypes_)
