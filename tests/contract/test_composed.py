"""The whole contract once more, with forward and backward composed of the primitives in place of a backend's fused forms."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from forked import Forks
from helpers import skip_unless_supported

CONTRACT = Path(__file__).parent

pytestmark = pytest.mark.slow


EVERYTHING = ("",)
# "torch" has a forward pass of its own, and no more.
PASSES = ("test_sizes.py", "test_gradients.py")


@pytest.mark.parametrize(
    ("name", "files"), [("cpu", EVERYTHING), ("torch", PASSES), ("triton", PASSES)], ids=["cpu", "torch", "triton"]
)
def test_contract(forks: Forks, name: str, files: tuple[str, ...]) -> None:
    """The CUDA kernels have theirs where they are compiled for the host (tests/gpu/test_cuda_host.py)."""
    skip_unless_supported(name, torch.float32)
    here = [f"--ignore={CONTRACT / 'test_composed.py'}", *(str(CONTRACT / file) for file in files)]
    forks.check("-k", name, "--composed", "--cases=2", *here, VITSOM_TEST_BACKENDS=name)
