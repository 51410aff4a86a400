"""The CUDA kernels without a GPU: the same sources, compiled for the host, meet the contract, and their errors are seen."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cuda_host.build import SOURCES, build
from host_build import COMPILER, library_of_compiler

TESTS = Path(__file__).parent.parent
CHECK = str(TESTS / "cuda_host" / "check.py")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="its fibers are written for x86-64"),
    pytest.mark.skipif(shutil.which(COMPILER) is None, reason="there is no C++ compiler"),
]

# Fibers run a block some 10^4 times as long as a GPU. What is left out here holds for small sizes, too, and is tested at them:
# ties among 1000 prototypes, 4096 samples of one unit, repeated steps in both orders of the threads (cuda_host/check.py).
TOO_LARGE = [
    "tests/contract/test_repeatability.py::test_a_step_never_holds_one_number_per_sample_and_prototype",
    "tests/contract/test_repeatability.py::test_repeats_bit_for_bit",
    "tests/contract/test_sizes.py::test_several_threads",  # of the CPU
    "tests/contract/test_ties.py::test_all_prototypes_equal[cuda-(1000, 2159, 17)",
    "tests/contract/test_gradients.py::test_many_samples_of_one_unit[cuda-20000",
    "tests/contract/test_sizes.py::test_many_features[cuda-(3, 2, 2, 49152)",
    "tests/contract/test_repeatability.py::test_no_uninitialised_memory_is_read[cuda-rectangular-(1, 40, 40, 3)",
    "tests/contract/test_repeatability.py::test_no_uninitialised_memory_is_read[cuda-hexagonal-(1, 40, 40, 3)",
    "tests/contract/test_ties.py::test_equal_prototypes_give_the_lowest_index[cuda-2159",
    "tests/contract/test_search.py::test_find_bmu[cuda-(127, 2159, 17)",
    "tests/contract/test_sizes.py::test_odd_sizes[cuda-(17, 1, 1000, 3)",
    "tests/contract/test_sizes.py::test_odd_sizes[cuda-(1000, 3, 127, 127)-hexagonal",
]


def run_with(module: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A Python process in which the backend "cuda" is this build of the module, in memory that is never zero by luck."""
    path = os.pathsep.join([str(module), *filter(None, [os.environ.get("PYTHONPATH")])])
    own = {"VITSOM_CUDA_MODULE": "_cuda", "PYTHONPATH": path, "MALLOC_PERTURB_": "1", "VITSOM_TEST_BACKENDS": "cuda"}
    command = (sys.executable, *command)
    environment = {**os.environ, **own, **environment}
    return subprocess.run(command, env=environment, cwd=TESTS.parent, capture_output=True, text=True, check=False)


def command_of_the_tests(*options: str) -> list[str]:
    files = [str(TESTS / name) for name in ("contract", "ops/test_neighborhoods.py", "ops/test_ops.py::test_opcheck")]
    return ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", "cuda", "-m", "not slow", "--cases=2", *options, *files]


def test_contract() -> None:
    deselected = [f"--deselect={name}" for name in TOO_LARGE]
    done = run_with(build(), *command_of_the_tests(*deselected))
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout


def test_contract_of_what_is_composed_of_primitives() -> None:
    files = [str(TESTS / "contract" / name) for name in ("test_sizes.py", "test_gradients.py")]
    options = ["-q", "-x", "-p", "no:cacheprovider", "-k", "cuda", "-m", "not slow", "--composed", "--cases=2"]
    deselected = [f"--deselect={name}" for name in TOO_LARGE]
    done = run_with(build(), "-m", "pytest", *options, *deselected, *files)
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout


def test_the_order_of_the_threads_does_not_matter() -> None:
    done = run_with(build(), CHECK)
    assert done.returncode == 0, done.stderr[-4000:]


def test_contract_under_the_address_sanitizer() -> None:
    """Which also puts guards around every array in shared memory."""
    # The sanitizer looks for what throws exceptions when it starts: before Python loads what brings it.
    libraries = [library_of_compiler(name) for name in ("libasan.so", "libstdc++.so.6")]
    if not Path(libraries[0]).is_absolute():
        pytest.skip("there is no address sanitizer")
    environment = {"LD_PRELOAD": ":".join(libraries), "ASAN_OPTIONS": "detect_leaks=0", "VITSOM_BACKEND": "torch"}
    done = run_with(build(flags=("-fsanitize=address",)), CHECK, **environment)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.parametrize(
    ("file", "after"),
    [
        ("search.cu", "__pipeline_wait_prior(STAGES - 2);"),
        ("group.cu", "if (lane == WARP - 1) partial[warp] = sum;"),
        ("sums.cu", "partial[warp][lane][j] = sum[j];"),
    ],
)
def test_a_missing_barrier_is_seen(tmp_path: Path, file: str, after: str) -> None:
    """In a copy of a kernel that reads what other threads write, without waiting for them."""
    sources = tmp_path / "cuda"
    shutil.copytree(SOURCES, sources)
    kernel = sources / file
    racing, count = re.subn(re.escape(after) + r"\s+__syncthreads\(\);", after, kernel.read_text())
    assert count == 1
    kernel.write_text(racing)
    assert run_with(build(sources), CHECK).returncode != 0
