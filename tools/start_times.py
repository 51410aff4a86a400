"""How long it takes until something happens: imports, the command line's help, and an installation.

python -m tools.start_times             seconds of fresh processes, the median of five
python -m tools.start_times --install   also of pip in a new environment: torch, then this checkout
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
REPEATS = 5

# What a fresh interpreter runs, by what it is called.
STARTS: dict[str, list[str]] = {
    "import torch": ["-c", "import torch"],
    "import vitsom_fast": ["-c", "import vitsom_fast"],
    "from vitsom_fast import SOM": ["-c", "from vitsom_fast import SOM"],
    "vitsom-fast --help": ["-m", "vitsom_fast", "--help"],
    "vitsom-fast fit --help": ["-m", "vitsom_fast", "fit", "--help"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--install", action="store_true", help="install into a new environment, too")
    options = parser.parse_args()
    times = start_times()
    torch = times["import torch"]
    for name, seconds in times.items():
        beyond = "" if name == "import torch" else f", {seconds - torch:+.2f} s beyond torch"
        print(f"{name:<28}{seconds:6.2f} s{beyond}")
    if options.install:
        for name, seconds in install_times().items():
            print(f"{name:<28}{seconds:6.0f} s")


def start_times(repeats: int = REPEATS) -> dict[str, float]:
    """Medians of whole processes, taken in turns."""
    taken: dict[str, list[float]] = {name: [] for name in STARTS}
    for _ in range(repeats + 1):  # the first reads files from the disk, and is left out
        for name, arguments in STARTS.items():
            taken[name].append(_seconds([sys.executable, *arguments]))
    return {name: statistics.median(each[1:]) for name, each in taken.items()}


def install_times() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        pip = [str(Path(folder) / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        return {
            "pip install torch==2.13.0": _seconds([*pip, "torch==2.13.0"]),
            "pip install .": _seconds([*pip, str(ROOT)]),
        }


def _seconds(command: Sequence[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
