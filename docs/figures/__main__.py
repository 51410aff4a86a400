"""The figures of docs/guide/choosing.md.

python docs/figures          draws all of them, each a PNG beside its script
python docs/figures radius   draws one
"""

from __future__ import annotations

import importlib
import io
import sys
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
NAMES = sorted(path.stem for path in HERE.glob("*.py") if not path.stem.startswith("_"))


def main(names: list[str]) -> None:
    for name in names or NAMES:
        if name not in NAMES:
            raise SystemExit(f"a figure must be one of {NAMES}, got {name!r}")
        figure = importlib.import_module(name).draw()
        drawn = io.BytesIO()
        figure.savefig(drawn, dpi=80)
        # Sixty-four colours are a third of the bytes.
        Image.open(drawn).convert("RGB").quantize(64).save(HERE / f"{name}.png", optimize=True)
        print(HERE / f"{name}.png")


if __name__ == "__main__":
    main(sys.argv[1:])
