"""The AVX-512 kernels without such a processor: the same sources, with their instructions emulated, meet the contract."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from avx512_host.build import HERE, SOURCES, build, flags_of
from avx512_host.run import environment
from host_build import COMPILER

from vitsom_fast.backends import cpu

TESTS = Path(__file__).parent.parent
CHECK = HERE / "check.cpp"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the instructions are those of x86-64"),
    pytest.mark.skipif(shutil.which(COMPILER) is None, reason="there is no C++ compiler"),
]

# What each is held to. They share all but one pass of the search: one is tested with what rules out tiles, the other with
# products.
TESTED = {
    "avx512vnni": (
        *("cpu/test_pruning.py", "ops/test_adversarial.py", "ops/test_fuzz.py::test_contract_of_cpu[avx512vnni]"),
        "cpu/test_exactness.py::test_both_searches_are_right[trained]",
    ),
    "avx512bf16": (
        *("contract/test_primitives.py", "ops/test_adversarial.py", "cpu/test_add_nearest.py"),
        "ops/test_fuzz.py::test_contract_of_cpu[avx512bf16]",
        "cpu/test_cpu_pairs.py",
    ),
}

# An emulated search takes some ten times as long. What is left out here is tested on smaller maps or with the other set, or is
# no search: a step is what the fuzzer thinks of.
TOO_LARGE = {
    "avx512vnni": (
        "ops/test_adversarial.py::test_search_on_cpu",
        "cpu/test_pruning.py::test_distances_are_those_of_brute_force[shape0-192",
        "cpu/test_pruning.py::test_distances_are_those_of_brute_force[shape2-17",
        "cpu/test_pruning.py::test_a_map_in_order_is_pruned_whatever_its_shape[shape2",
    ),
    "avx512bf16": ("ops/test_adversarial.py::test_search_on_cpu",),
}

# What is the same whatever the instructions, and is tested on those of this processor: signals, memory, PyTorch's machinery.
OF_NO_INSTRUCTIONS = ("interrupted", "never_holds", "opcheck", "compiled")


def run_tests(module: Path, instruction_set: str) -> subprocess.CompletedProcess[str]:
    """In memory that is never zero by luck."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-k",
        f"(cpu or pruning or exactness or pairs) and not ({' or '.join(OF_NO_INSTRUCTIONS)})",
        "-m",
        "not slow",
        "--cases=2",
    ]
    command += [f"--deselect=tests/{name}" for name in TOO_LARGE[instruction_set]]
    command += [str(TESTS / name) for name in TESTED[instruction_set]]
    variables = {**environment(module, instruction_set), "MALLOC_PERTURB_": "1", "OMP_WAIT_POLICY": "passive"}
    return subprocess.run(command, env=variables, cwd=TESTS.parent, capture_output=True, text=True, check=False)


def test_contract() -> None:
    """On the sets that this processor lacks: those that it has are tested as they are."""
    emulated = [name for name in TESTED if name not in cpu.instruction_sets()]
    if not emulated:
        pytest.skip("this processor has all of them")
    module = build()
    with ThreadPoolExecutor(len(emulated)) as pool:
        for done in pool.map(lambda name: run_tests(module, name), emulated):
            assert done.returncode == 0, done.stdout[-4000:]
            assert " passed" in done.stdout


def test_instructions(tmp_path: Path) -> None:
    """Of this header, and of the processor where it has them."""
    ways = {"emulated": flags_of("avx512bf16")}
    if "avx512bf16" in cpu.instruction_sets():
        ways["real"] = [f"-mavx512{part}" for part in ("f", "bw", "dq", "vl", "vnni", "bf16")]
    for way, flags in ways.items():
        program = tmp_path / way
        subprocess.run([COMPILER, "-std=c++17", *flags, str(CHECK), "-o", str(program)], check=True)
        done = subprocess.run([program], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{way}:\n{done.stdout[-4000:]}"


def holds(csrc: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Whether the bounds of these sources do."""
    flags = ["-std=c++17", "-fopenmp", f"-I{csrc}", "-DVITSOM_ISA=avx512bf16", *flags_of("avx512bf16")]
    subprocess.run([COMPILER, *flags, str(HERE / "bounds.cpp"), "-o", str(out)], check=True)
    return subprocess.run([out], capture_output=True, text=True, check=False)


def test_bounds_are_no_less_than_what_they_bound(tmp_path: Path) -> None:
    """Of codes, planes, cones, balls, shells, boxes and thin factors, in fp64."""
    done = holds(SOURCES.parent, tmp_path / "bounds")
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.mark.parametrize(
    ("header", "bound", "tighter"),
    [
        ("pruned/plane.h", "plane.slack = present + (", "plane.slack = present - 0x1.5p-20f + ("),
        ("pruned/plane.h", "* 1.001f + 0x1p-23f", "* 0.9f"),
        ("pruned/panel.h", "residual = 1.001f * __builtin_sqrtf(sum(residuals))", "residual = 0.0f * sum(residuals)"),
        ("pruned/plane.h", "inverse_square > 0 ? squared + along : squared", "1.01f * squared + along"),
        ("pruned/ball.h", "* (1 + 0x1p-20f);", "* 0.999f;"),
        ("pruned/shell.h", "over_ball * (of(shell) / 2", "over_ball * (0.999f * of(shell) / 2"),
        ("pruned/shell.h", "* (reach * radius + half", "* (0.99f * reach * radius + half"),
        ("lanes/box.h", " - box.aside", " - 0.99f * box.aside"),
        ("lanes/box.h", "largest(square_root(rest))", "0.99f * largest(square_root(rest))"),
        ("lanes/grouped_map.h", "(most > 0 ? most : 0) * (1 + BALL_ERROR)", "0.9999f * most"),
    ],
)
def test_a_bound_that_is_too_tight_is_seen(tmp_path: Path, header: str, bound: str, tighter: str) -> None:
    csrc = tmp_path / "csrc"
    shutil.copytree(SOURCES.parent, csrc)
    path = csrc / "cpu" / "search" / header
    text = path.read_text()
    assert bound in text
    path.write_text(text.replace(bound, tighter))
    assert holds(csrc, tmp_path / "bounds").returncode != 0
