"""A map of rows by cosine, learned by gradients, by how far the rows are from the origin."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from sklearn.datasets import make_blobs
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor

from vitsom_fast import FusedSOMLoss, exponential_decay

OFFSETS = (0.0, 1.0, 3.0, 10.0, 30.0, 100.0, 1000.0)
STEPS = 400


def units_of(rows: Tensor) -> Tensor:
    """The unit of each row (N,) after a training on batches of them."""
    torch.manual_seed(0)
    som = FusedSOMLoss((8, 8), dim=rows.shape[1])
    optimizer = torch.optim.AdamW(som.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0)
    temperature = exponential_decay(4.0, 0.3, STEPS)
    for step in range(STEPS):
        loss = som(rows[torch.randint(len(rows), (128,))], temperature(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return som.find_bmu(rows)[0]


def draw() -> Figure:
    rows, cluster = make_blobs(2000, n_features=10, centers=8, cluster_std=1.5, center_box=(-3, 3), random_state=0)
    centred = torch.from_numpy(rows - rows.mean(axis=0)).float()
    units = [units_of(centred + offset) for offset in OFFSETS]
    figure = Figure(figsize=(6.5, 3.4), layout="constrained")
    axes = figure.subplots()
    agreement = [normalized_mutual_info_score(cluster, each) for each in units]
    axes.plot(range(len(OFFSETS)), agreement, "o-", label="NMI of units and clusters")
    axes.plot(range(len(OFFSETS)), [len(each.unique()) / 64 for each in units], "s--", label="share of units in use")
    axes.set_xticks(range(len(OFFSETS)), [f"{offset:g}" for offset in OFFSETS])
    axes.set(xlabel="what was added to each feature (deviations are 2 to 3)", ylim=(0, 1.02))
    axes.legend(frameon=False, loc="lower left")
    axes.grid(alpha=0.3)
    return figure
