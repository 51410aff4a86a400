"""The CUDA module where there is an nvcc, and what is said of the backend where it cannot run; no GPU is needed."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from host_build import CACHE, digest

from tools import aot, compiled, cuda_resources
from tools.compiled import Row
from tools.cuda_resources import SOURCES, cuda_rows, find_disassembler, find_nvcc
from vitsom_fast.backends import Spec, cuda

pytestmark = pytest.mark.slow


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
    assert said in str(cuda.unsupported(Spec(torch.device(device), dtype)))


def test_a_module_that_cannot_be_loaded_breaks_nothing() -> None:
    script = "import vitsom_fast; print(vitsom_fast.available_backends()['cuda'])"
    command = ["env", "VITSOM_CUDA_MODULE=no_such_module", sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "without its compiled module no_such_module" in done.stdout


needs_nvcc = pytest.mark.skipif(find_nvcc() is None, reason="there is no nvcc")


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """All kernels for one architecture; kept under a digest of what they are made of, and of what reads them."""
    nvcc = find_nvcc()
    assert nvcc is not None
    version = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    sources = [*sorted(SOURCES.glob("*.*")), *sorted((SOURCES.parent / "common").glob("*.h"))]
    contents = [path.read_bytes() for path in (*sources, Path(cuda_resources.__file__), Path(compiled.__file__))]
    kept = CACHE / "cuda_rows" / f"{digest([version, str(find_disassembler(nvcc)), *contents])}.json"
    if not kept.exists():
        rows = cuda_rows(nvcc, ["sm_80"])
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps([asdict(row) for row in rows]))
    return [Row(**row) for row in json.loads(kept.read_text())]


@needs_nvcc
def test_what_nvcc_makes_of_the_kernels(rows: list[Row]) -> None:
    """Nothing is spilled, and static shared memory stays within what every architecture gives a block."""
    assert {"search.search_tiles", "prepare.pack_rows", "smooth.combine_at_bmus", "gradient.project_row"} <= {
        r.kernel for r in rows
    }
    for row in rows:
        assert row.spilled_bytes == 0, row
        assert row.shared_bytes <= 48 << 10, row
        if row.matrix_instructions is not None:
            assert (row.matrix_instructions > 0) == (row.kernel == "search.search_tiles"), row
        if row.global_loads_16 is not None and (row.kernel.startswith(_WIDE) or row.config == "fp32"):
            assert row.global_loads_16 > 0, row
        if row.shared_loads_16 is not None and row.kernel.startswith("smooth."):
            assert row.shared_loads_16 > 0, row


_WIDE = ("search.search_tiles", "smooth.combine", "smooth.spread", "smooth.smooth_lines")  # whatever the dtype of the inputs


def _table_of_the_compiled(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *options: str
) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["aot", *options])
    return aot.main(), capsys.readouterr().out


@needs_nvcc
def test_the_table_of_the_compiled_has_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, rows: list[Row]
) -> None:
    """And still has without Triton, in the rows that Triton's kernels have, too."""
    asked = []

    def compiled_already(nvcc: str, targets: tuple[str, ...], _jobs: int) -> list[Row]:
        asked.append((nvcc, targets))
        return rows

    monkeypatch.setattr(aot.cuda_resources, "cuda_rows", compiled_already)
    monkeypatch.setattr(aot.importlib.util, "find_spec", lambda name: None)
    file = tmp_path / "rows.json"
    options = ("--target", "sm_80", "--dtype", "bf16", "--kernel", "search.", "--json", str(file))
    status, said = _table_of_the_compiled(monkeypatch, capsys, *options)
    assert status == 0, said
    assert asked == [(find_nvcc(), ("sm_80",))]
    assert "Triton is not installed" in said
    assert "search_tiles       sm_80" in said
    written = json.loads(file.read_text())
    assert {(row["kernel"], row["config"]) for row in written} == {
        ("search.search_tiles", "bf16 fp16"),
        ("search.decode_best", "fp32 bf16 fp16"),
    }
    promised = {"kernel", "target", "config", "registers", "spilled_bytes", "shared_bytes", "matrix_instructions"}
    assert all(promised | {"compile_seconds"} <= row.keys() for row in written)


def test_the_table_of_the_compiled_without_nvcc(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Says so, and has what Triton makes of its kernels."""
    triton = Row("search.search_streaming_kernel", "sm_90", "fp32", 128, 0, 1024, 8, 0.5)
    monkeypatch.setattr(aot.cuda_resources, "find_nvcc", lambda: None)
    monkeypatch.setattr(aot.importlib.util, "find_spec", lambda name: SimpleNamespace())
    monkeypatch.setattr(aot, "triton_rows", lambda *arguments: [triton])
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    status, said = _table_of_the_compiled(monkeypatch, capsys)
    assert status == 0
    assert "there is no nvcc" in said
    assert "search_streaming   sm_90" in said
