"""How the radius falls by each schedule, and what the map makes of it."""

from __future__ import annotations

from matplotlib.figure import Figure
from sklearn.datasets import load_digits

from vitsom_fast import SOM
from vitsom_fast.schedules import SCHEDULES

EPOCHS, SIDE = 20, 16


def draw() -> Figure:
    pixels = load_digits().data
    figure = Figure(figsize=(10.5, 3.6), layout="constrained")
    radii, errors = figure.subplots(1, 2)
    for name, schedule in SCHEDULES.items():
        sigma = schedule(SIDE / 2, 0.5, EPOCHS)
        radii.plot([sigma(epoch) for epoch in range(EPOCHS)], label=name)
        som = SOM(SIDE, SIDE, init="random", schedule=name, n_epochs=EPOCHS, random_state=0).fit(pixels)
        label = f"{name}: topographic error {som.topographic_error(pixels):.2f}"
        errors.plot(range(1, EPOCHS), som.history_[1:], label=label)
    radii.set_ylabel("radius")
    errors.set_ylabel("quantization error that the epoch found")
    for axes in (radii, errors):
        axes.set_xlabel("epoch")
        axes.legend(frameon=False)
        axes.grid(alpha=0.3)
    return figure
