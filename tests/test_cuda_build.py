"""The CUDA module where there is an nvcc, and what is said of the backend where it cannot run; no GPU is needed."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from benchmarks.cuda_resources import find_nvcc, kernel_resources
from vitsom_fast.backends import cuda


def _module(**versions: int) -> SimpleNamespace:
    functions = {"driver_version": 13000, "runtime_version": 13000, "lowest_architecture": 75, **versions}
    return SimpleNamespace(DEVICE_TYPE="cuda", **{name: lambda value=value: value for name, value in functions.items()})


@pytest.mark.parametrize(
    ("versions", "torch_cuda", "devices", "reason"),
    [
        ({"driver_version": 0}, None, 0, "no CUDA device is present"),
        ({}, "13.0", 0, "no CUDA device is present"),
        ({}, None, 0, "this build of PyTorch has no CUDA"),
        ({"driver_version": 12080}, "12.8", 1, "its kernels need a driver for CUDA 13, this one serves CUDA 12"),
        ({"driver_version": 13010}, "12.8", 1, None),
    ],
)
def test_why_it_cannot_run(
    monkeypatch: pytest.MonkeyPatch, versions: dict[str, int], torch_cuda: str | None, devices: int, reason: str | None
) -> None:
    monkeypatch.setattr(cuda, "_cuda", _module(**versions))
    monkeypatch.setattr(cuda, "_reason", None)
    monkeypatch.setattr(torch.version, "cuda", torch_cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    cuda._no_device.cache_clear()
    assert cuda.unavailable() == reason
    cuda._no_device.cache_clear()


@pytest.mark.parametrize(
    ("device", "dtype", "said"),
    [
        ("cpu", torch.float32, "CUDA tensors, got device cpu"),
        ("cuda:0", torch.float64, "got torch.float64"),
        ("cuda:0", torch.float32, "compute capability 7.5 or later, got 7.0"),
    ],
)
def test_what_it_does_not_serve(monkeypatch: pytest.MonkeyPatch, device: str, dtype: torch.dtype, said: str) -> None:
    monkeypatch.setattr(cuda, "_cuda", _module())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    assert said in str(cuda.unsupported(torch.device(device), dtype))


def test_a_module_that_cannot_be_loaded_breaks_nothing() -> None:
    script = "import vitsom_fast; print(vitsom_fast.available_backends()['cuda'])"
    command = ["env", "VITSOM_CUDA_MODULE=no_such_module", sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "without its compiled module no_such_module" in done.stdout


@pytest.mark.skipif(find_nvcc() is None, reason="there is no nvcc")
def test_what_nvcc_makes_of_the_kernels() -> None:
    """Nothing is spilled, and static shared memory stays within what every architecture gives a block."""
    kernels = kernel_resources(["80"])
    assert {"search_tiles", "pack_rows", "combine_at_bmus", "project_row"} <= {k.kernel.partition("<")[0] for k in kernels}
    for kernel in kernels:
        assert kernel.spilled_bytes == 0, kernel
        assert kernel.shared_bytes <= 48 << 10, kernel
        if kernel.matrix_instructions is not None:
            assert (kernel.matrix_instructions > 0) == kernel.kernel.startswith("search_tiles"), kernel
        if kernel.wide_loads is not None and kernel.kernel.startswith(("search_tiles", "combine", "spread", "smooth_tr")):
            assert kernel.wide_loads > 0, kernel
