"""The whole contract once more, with forward and backward composed of the primitives in place of a backend's fused forms."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import skip_unless_supported

CONTRACT = Path(__file__).parent

pytestmark = pytest.mark.slow


EVERYTHING = ("",)
# "torch" has a forward pass of its own, and no more.
PASSES = ("test_sizes.py", "test_gradients.py")


@pytest.mark.parametrize(
    ("name", "files"), [("cpu", EVERYTHING), ("torch", PASSES), ("triton", PASSES)], ids=["cpu", "torch", "triton"]
)
def test_contract(name: str, files: tuple[str, ...]) -> None:
    """The CUDA kernels have theirs where they are compiled for the host (tests/gpu/test_cuda_host.py)."""
    skip_unless_supported(name, torch.float32)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", name, "--composed", "--cases=2"]
    here = [f"--ignore={CONTRACT / 'test_composed.py'}", *(str(CONTRACT / file) for file in files)]
    environment = {**os.environ, "MALLOC_PERTURB_": "1"}
    done = subprocess.run([*command, *here], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout
