"""What a larger map is worth: errors on digits that it was fitted to and on others, and units that win nothing."""

from __future__ import annotations

from matplotlib.figure import Figure
from sklearn.datasets import load_digits

from vitsom_fast import SOM

SIDES = (3, 4, 6, 8, 12, 16, 24, 32)
TRAIN = 1200


def draw() -> Figure:
    pixels = load_digits().data
    train, held_out = pixels[:TRAIN], pixels[TRAIN:]
    maps = [SOM(side, side).fit(train) for side in SIDES]
    rows_a_unit = [TRAIN / side**2 for side in SIDES]
    figure = Figure(figsize=(10.5, 3.6), layout="constrained")
    errors, shares = figure.subplots(1, 2)
    errors.plot(rows_a_unit, [som.quantization_error(train) for som in maps], "o-", label="rows of the fit")
    errors.plot(rows_a_unit, [som.quantization_error(held_out) for som in maps], "s--", label="rows held out")
    errors.set_ylabel("quantization error")
    shares.plot(rows_a_unit, [(som.hit_map(train) == 0).mean() for som in maps], "o-", label="units that win nothing")
    shares.plot(rows_a_unit, [som.topographic_error(held_out) for som in maps], "s--", label="topographic error, held out")
    shares.set_ylabel("share")
    for axes in (errors, shares):
        axes.set_xscale("log")
        axes.invert_xaxis()
        axes.set_xlabel("rows a unit (to the right: larger maps)")
        axes.set_xticks(rows_a_unit, [f"{each:.0f}" for each in rows_a_unit], minor=False)
        axes.minorticks_off()
        axes.legend(frameon=False)
        axes.grid(alpha=0.3)
    return figure
