"""The CPU kernels of a compiler without OpenMP, where one thread does the work of as many as PyTorch asks for; and, as no other
thread is in the way, under AddressSanitizer and UndefinedBehaviorSanitizer. ``scripts/sanitize.sh`` runs these on every
instruction set, with threads.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import host_build
import pytest
from avx512_host.build import HERE as HOST
from host_build import BINDINGS, COMPILER, ROOT, SUFFIX, compiled, digest, library_of_compiler, linked

SOURCES = ROOT / "csrc" / "cpu"
CACHE = host_build.CACHE / "without_openmp"
FLAGS = ["-std=c++17", "-fPIC", "-fno-openmp", "-Wno-unknown-pragmas"]
KERNELS = ["-O1", "-fno-math-errno", "-Wno-psabi", "-fvisibility=hidden"]
if "clang" not in Path(COMPILER).name:  # half of the time, for kernels that few tests run
    KERNELS += ["-fdisable-tree-cunrolli", "-fdisable-tree-cunroll"]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which(COMPILER) is None, reason="there is no C++ compiler")]


SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-g1"]


def sanitizers() -> list[str]:
    """Their runtimes, for what loads first; none where the compiler has not got them. They look for what throws exceptions
    when they start: Python brings that later."""
    libraries = [library_of_compiler(name) for name in ("libasan.so", "libubsan.so", "libstdc++.so.6")]
    return libraries if all(Path(library).is_absolute() for library in libraries) else []


def build(flags: list[str]) -> Path:
    """The folder of the module, which takes the place of ``vitsom_fast._cpu`` where PYTHONPATH names it."""
    of_baseline = [
        "search/pruned/search_pruned",
        "search/exhaustive/search_fp32",
        "search/lanes/search_grouped",
        "search/lanes/search_small",
        "search/exhaustive/search_fp64",
        "step/attract",
        "step/backward",
        "step/sum_by_bmu",
        "step/add_nearest",
        "step/smooth",
        "pairs/pair_losses",
        "pairs/pair_gradients",
        "pairs/search_manhattan",
        "search/lift",
    ]
    portable = ["module/dispatch", "module/supported", "runtime/allocation", "search/search", "step/step"]
    own = {name: [*KERNELS, "-DVITSOM_ISA=baseline"] for name in of_baseline}
    own |= {name: ["-DVITSOM_ISA=portable"] for name in portable}
    own |= {"module/bindings": [*BINDINGS, "-DVITSOM_ISA=portable"]}
    objects = [
        compiled(SOURCES / f"{name}.cpp", [*FLAGS, *flags, *of_file], CACHE, [SOURCES.parent]) for name, of_file in own.items()
    ]
    folder = CACHE / f"module-{digest([path.name for path in objects])}"
    linked(folder / f"_cpu{SUFFIX}", *flags, *objects)
    shutil.copyfile(HOST / "sitecustomize.py", folder / "sitecustomize.py")
    return folder


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """Of a process in which the module is this one, in memory that is full of numbers of 1e38: a sum of what threads that never
    ran have left is seen."""
    runtimes = sanitizers()
    folder = build(SANITIZERS if runtimes else [])
    symbols = subprocess.run(["nm", "-D", next(folder.glob("_cpu*"))], capture_output=True, text=True, check=False).stdout
    assert "GOMP" not in symbols
    own = {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]), "MALLOC_PERTURB_": "128"}
    own |= {"VITSOM_CPU_ISA": "baseline", "VITSOM_TEST_THREADS": "2", "VITSOM_TEST_BACKENDS": "cpu"}
    own |= {"ASAN_OPTIONS": f"detect_leaks=0:max_malloc_fill_size={1 << 30}:malloc_fill_byte=127"}
    return {**os.environ, **own, "LD_PRELOAD": ":".join(runtimes)}


def run(environment: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, *command)
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)


def test_every_kernel(environment: dict[str, str]) -> None:
    """Of the three threads that are asked for one runs."""
    done = run(environment, str(ROOT / "tests" / "small_team.py"), "3")
    assert done.returncode == 0, done.stdout + done.stderr


def test_contract(environment: dict[str, str]) -> None:
    """Capturing less than pytest would: what a sanitizer reports is written right before the process ends."""
    tests = ["tests/contract/test_layouts.py", "tests/contract/test_primitives.py", "tests/cpu/test_add_nearest.py"]
    options = ["-q", "-x", "-p", "no:cacheprovider", "--capture=sys", "--cases=1", "-m", "not slow", "-k", "cpu"]
    done = run(environment, "-m", "pytest", *options, *tests)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert " passed" in done.stdout


@pytest.mark.skipif(not sanitizers(), reason="the compiler has no sanitizers")
def test_a_write_behind_the_end_is_seen(tmp_path: Path, environment: dict[str, str]) -> None:
    """And a shift by too much: so that none of the above is silent for want of a sanitizer."""
    for number, statement in enumerate(("char* x = new char[n]; x[n] = 1;", "volatile int x = 1 << (n + 32);")):
        source, library = tmp_path / f"{number}.cpp", tmp_path / f"{number}.so"
        source.write_text(f'extern "C" void wrong(int n) {{ {statement} }}')
        subprocess.run([COMPILER, "-fPIC", "-shared", *SANITIZERS, str(source), "-o", str(library)], check=True)
        done = run(environment, "-c", f"import ctypes; ctypes.CDLL({str(library)!r}).wrong(5)")
        assert done.returncode != 0
        assert "ERROR: AddressSanitizer" in done.stderr or "runtime error" in done.stderr, done.stderr
