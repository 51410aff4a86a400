"""The colours of a photograph on a map: a palette whose neighbours are alike, and the photograph in it.

python examples/colours.py [--out FOLDER] [--side UNITS]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

from vitsom_fast import SOM


def main(out: Path, side: int = 8, name: str = "flower.jpg") -> float:
    """Writes palette.png and photograph.png; the mean distance of a pixel to its colour, of 255 a channel."""
    image = load_sample_image(name)[::2, ::2]  # [rows, columns, 3] uint8
    pixels = image.reshape(-1, 3)
    som = SOM(side, side, n_epochs=5).fit(pixels)
    colours = som.prototypes_.round().clip(0, 255).astype(np.uint8)  # [side * side, 3]
    out.mkdir(parents=True, exist_ok=True)
    palette = Image.fromarray(colours.reshape(side, side, 3))
    palette.resize((32 * side, 32 * side), Image.Resampling.NEAREST).save(out / "palette.png")
    Image.fromarray(colours[som.labels_].reshape(image.shape)).save(out / "photograph.png")
    return som.quantization_error(pixels)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/colours"))
    parser.add_argument("--side", type=int, default=8, help="units a side of the palette")
    options = parser.parse_args()
    print(
        f"{options.side**2} colours, a pixel is off by {main(options.out, options.side):.1f} of 255 on average: {options.out}"
    )
