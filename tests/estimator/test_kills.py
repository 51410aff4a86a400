"""A process that is killed leaves files that are whole, or none."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_fit import blobs

from vitsom_fast import SOM

SAVES = """
import sys
import numpy as np
from vitsom_fast import SOM
som = SOM.from_prototypes(np.zeros((100, 100, 200)))
print("ready", flush=True)
for number in range(1000000):
    som.prototypes_ = np.full((10000, 200), float(number))
    som.save(sys.argv[1])
"""

FITS = """
import sys
from vitsom_fast.cli import main
print("ready", flush=True)
while True:
    main(["fit", sys.argv[1], "--rows", "3", "--cols", "3", "--epochs", "2", "--out", sys.argv[2]])
"""


def killed(code: str, *arguments: Path, after: float) -> None:
    """A process is killed so many seconds after it is ready."""
    with subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        while "ready" not in process.stdout.readline():
            pass
        time.sleep(after)
        process.kill()


@pytest.mark.parametrize("after", [0.0, 0.13, 0.29])
def test_a_save_that_is_killed(tmp_path: Path, after: float) -> None:
    """16 MB that are written over and over: what is there is one of them as a whole."""
    path = tmp_path / "map.safetensors"
    SOM.from_prototypes(np.full((100, 100, 200), -1.0)).save(path)
    killed(SAVES, path, after=after)
    prototypes = SOM.load(path).prototypes_
    assert prototypes.shape == (10000, 200)
    assert len(np.unique(prototypes)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("after", [0.0, 1.7, 3.1])
def test_a_fit_that_is_killed(tmp_path: Path, after: float) -> None:
    """Each file of the folder is whole or not there, and what is left does not hinder the next fit."""
    from PIL import Image

    from vitsom_fast.cli import main

    np.save(tmp_path / "x.npy", blobs(50))
    out = tmp_path / "out"
    killed(FITS, tmp_path / "x.npy", out, after=after)
    for path in out.glob("[!.]*") if out.exists() else ():
        if path.suffix == ".safetensors":
            assert SOM.load(path).prototypes_.shape == (9, 4)
        elif path.suffix == ".png":
            Image.open(path).load()
        elif path.suffix == ".csv":
            assert np.loadtxt(path, delimiter=",", skiprows=1).shape == (50, 3)
    assert main(["fit", str(tmp_path / "x.npy"), "--rows", "3", "--cols", "3", "--epochs", "2", "--out", str(out)]) == 0
    assert not list(out.glob(".*"))
