"""The CPU kernels of a compiler without OpenMP: one thread does the work of as many as PyTorch asks for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import host_build
import pytest
from avx512_host.build import HERE as HOST
from host_build import BINDINGS, COMPILER, ROOT, SUFFIX, compiled, digest, linked

SOURCES = ROOT / "csrc" / "cpu"
CACHE = host_build.CACHE / "without_openmp"
FLAGS = ["-std=c++17", "-fPIC", "-fno-openmp", "-Wno-unknown-pragmas"]
KERNELS = ["-O1", "-fno-math-errno", "-Wno-psabi", "-fvisibility=hidden"]
if "clang" not in Path(COMPILER).name:  # half of the time, for kernels that few tests run
    KERNELS += ["-fdisable-tree-cunrolli", "-fdisable-tree-cunroll"]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which(COMPILER) is None, reason="there is no C++ compiler")]


def build() -> Path:
    """The folder of the module, which takes the place of ``vitsom_fast._cpu`` where PYTHONPATH names it."""
    headers = [*sorted((SOURCES.parent / "common").glob("*.h")), *sorted(SOURCES.rglob("*.h"))]
    of_baseline = [
        "search/exhaustive/search_fp32",
        "search/exhaustive/search_fp64",
        "step/attract",
        "step/backward",
        "step/sum_by_bmu",
        "step/smooth",
    ]
    portable = ["module/dispatch", "module/supported", "runtime/allocation", "search/search", "step/step"]
    own = {name: [*KERNELS, "-DVITSOM_ISA=baseline"] for name in of_baseline}
    own |= {name: ["-DVITSOM_ISA=portable"] for name in portable}
    own |= {"module/bindings": [*BINDINGS, "-DVITSOM_ISA=portable"]}
    objects = [
        compiled(SOURCES / f"{name}.cpp", headers, [*FLAGS, *flags], CACHE, [SOURCES.parent]) for name, flags in own.items()
    ]
    folder = CACHE / f"module-{digest([path.name for path in objects])}"
    linked(folder / f"_cpu{SUFFIX}", *objects)
    shutil.copyfile(HOST / "sitecustomize.py", folder / "sitecustomize.py")
    return folder


@pytest.mark.parametrize("threads", ["1", "3"])
def test_a_build_without_openmp(threads: str) -> None:
    """In memory that is full of numbers of 1e38: a sum of what threads that never ran have left is seen."""
    folder = build()
    symbols = subprocess.run(["nm", "-D", next(folder.glob("_cpu*"))], capture_output=True, text=True, check=False).stdout
    assert "GOMP" not in symbols
    environment = {**os.environ, "PYTHONPATH": str(folder), "VITSOM_CPU_ISA": "baseline", "MALLOC_PERTURB_": "128"}
    command = [sys.executable, str(ROOT / "tests" / "small_team.py"), threads]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
