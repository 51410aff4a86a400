"""The plain SOM under the cosine distance: held against the batch SOM on directions, written down."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from vitsom_fast import Grid, reference
from vitsom_fast.initialization import principal_plane
from vitsom_fast.models import fit_plain_som
from vitsom_fast.schedules import exponential_decay


def test_epochs_are_those_of_a_batch_som_on_directions() -> None:
    x, grid = torch.rand(40, 5) * torch.rand(40, 1) * 9, Grid(3, 4)
    unit = F.normalize(x.double())
    centre = unit.mean(0)
    prototypes = principal_plane(unit - centre, grid) + centre
    temperature = exponential_decay(2.0, 0.5, 4)
    for epoch in range(4):
        bmu = reference.distances(unit, prototypes).argmin(1)
        h = reference.neighborhood_weights(bmu, grid, temperature(epoch), torch.float64)  # [N, K]
        prototypes = (h.T @ unit) / h.sum(0)[:, None]
    found = fit_plain_som(x, grid, epochs=4, distance="cosine")
    torch.testing.assert_close(found.double(), prototypes, rtol=1e-3, atol=1e-4)


def test_the_length_of_a_sample_does_not_matter() -> None:
    x = torch.rand(30, 4)
    scaled = x * torch.logspace(-3, 3, 30)[:, None]
    maps = [fit_plain_som(each, Grid(3, 3), epochs=5, distance="cosine") for each in (x, scaled)]
    torch.testing.assert_close(*maps, rtol=1e-3, atol=1e-4)
