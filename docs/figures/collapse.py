"""Digits on the map of an encoder that nothing but the map pulls at, and of one that has to keep the digits, too."""

from __future__ import annotations

import torch
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from vitsom_fast import FusedSOMLoss, exponential_decay, param_groups
from vitsom_fast.data import load_dataset

STEPS, SIDE = 600, 12


def units_of(images: Tensor, *, keeps_the_images: bool) -> Tensor:
    """The unit of each image (N,) at the end of a training."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 16))
    decoder = nn.Linear(16, 64)
    som = FusedSOMLoss((SIDE, SIDE), dim=16)
    if keeps_the_images:
        optimizer = torch.optim.AdamW(param_groups(nn.ModuleList([encoder, decoder]), som, lr=2e-3))
    else:
        optimizer = torch.optim.AdamW([*encoder.parameters(), *som.parameters()], lr=2e-3)
    temperature = exponential_decay(SIDE / 2, 0.3, STEPS)
    for step in range(STEPS):
        batch = images[torch.randint(len(images), (128,))]
        z = encoder(batch)
        loss = som(z, temperature(step))
        if keeps_the_images:
            loss = loss + F.mse_loss(decoder(z), batch.flatten(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return som.find_bmu(encoder(images))[0]


def draw() -> Figure:
    images = load_dataset("digits").images
    figure = Figure(figsize=(10.0, 4.6), layout="constrained")
    cases = {"the map's loss alone": False, "with a decoder": True}
    for axes, (title, keeps) in zip(figure.subplots(1, 2), cases.items(), strict=True):
        unit = units_of(images, keeps_the_images=keeps)
        hits = torch.bincount(unit, minlength=SIDE * SIDE).reshape(SIDE, SIDE)
        shown = axes.imshow(hits.double().where(hits > 0, torch.nan).numpy(), norm=LogNorm(1, 1000), cmap="viridis")
        axes.set_title(f"{title}: {(hits > 0).sum()} of {SIDE * SIDE} units win a digit", fontsize=11)
        axes.set(xticks=[], yticks=[])
    figure.colorbar(shown, ax=figure.axes, label="digits that the unit wins")
    return figure
