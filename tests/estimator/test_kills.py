"""A process that is killed leaves files that are whole, or none: here the system kills it at a given byte of a file."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_fit import blobs

from vitsom_fast import SOM
from vitsom_fast.cli import main

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="of a signal that Linux sends")
resource = pytest.importorskip("resource")  # Windows has none


def killed(call: Callable[[], object], after: int) -> bool:
    """Whether a process that calls this died when it had written so many bytes to one file.

    A file that grows beyond the limit ends its process, as kill -9 would, where Python does not ask to be told instead.

    Raises:
        RuntimeError: it ended by itself, but not well.
    """
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)  # others are not there after a fork
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (after, after))
            call()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    if status != 0:
        raise RuntimeError(f"the process ended with status {status}")
    return False


@pytest.mark.parametrize("after", [0, 1000, 1_000_000])
def test_a_save_that_is_killed(tmp_path: Path, after: int) -> None:
    """Of 1.6 MB that take the place of another map."""
    path = tmp_path / "map.safetensors"
    SOM.from_prototypes(np.full((100, 100, 20), -1.0)).save(path)
    other = SOM.from_prototypes(np.ones((100, 100, 20)))
    assert killed(lambda: other.save(path), after)
    assert (SOM.load(path).prototypes_ == -1).all()
    assert not killed(lambda: other.save(path), 10_000_000)
    assert (SOM.load(path).prototypes_ == 1).all()
    assert [each.name for each in tmp_path.iterdir()] == ["map.safetensors"]


@pytest.mark.parametrize("after", [500, 2500])
def test_a_fit_that_is_killed(tmp_path: Path, after: int) -> None:
    """In its first file, and in the first that is larger than all before."""
    np.save(tmp_path / "x.npy", blobs(50))
    out = tmp_path / "out"
    arguments = [str(tmp_path / "x.npy"), "--rows", "3", "--cols", "3", "--epochs", "2", "--out", str(out)]
    assert killed(lambda: main(["fit", *arguments]), after)
    for path in out.glob("[!.]*"):
        assert {
            ".safetensors": lambda path: SOM.load(path).prototypes_.shape == (9, 4),
            ".json": lambda path: json.loads(path.read_text()) is None,
            ".csv": lambda path: np.loadtxt(path, delimiter=",", skiprows=1).shape == (50, 3),
            ".png": lambda path: Image.open(path).convert("RGB").size[0] > 0,
        }[path.suffix](path)
    assert main(["fit", *arguments]) == 0
    assert not list(out.glob(".*"))
