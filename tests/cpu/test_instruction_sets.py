"""Every build of the CPU kernels that this processor can run meets the contract, in memory that is never zero by luck."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vitsom_fast.backends import cpu

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parent.parent


INSTRUCTION_SETS = ("avx512bf16", "avx512vnni", "avx512", "avx2", "baseline")


@pytest.mark.parametrize(("name", "pruning"), [("avx512bf16", "always"), *((name, "auto") for name in INSTRUCTION_SETS)])
def test_contract(name: str, pruning: str) -> None:
    if name not in cpu.instruction_sets():
        pytest.skip(f"this processor, or this build, has no {name}")
    tests = ("contract", "ops/test_adversarial.py") if pruning == "auto" else ("contract",)
    # The widest of this processor runs every case as the default; here, in memory and with threads that it has not there.
    few = ["--cases=1" if name == cpu.instruction_sets()[0] else "--cases=2"]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", "cpu", "-m", "not slow", *few]
    # glibc fills what it allocates with 0xfe: about -1.7e38 as a float, far out of range as an index.
    environment = {**os.environ, "VITSOM_CPU_ISA": name, "MALLOC_PERTURB_": "1"}
    # Each with another number of threads, the widest with more than most machines have cores to spare: they must not spin.
    threads = (5, 2, 1)[cpu.instruction_sets().index(name) % 3]
    environment |= {"VITSOM_TEST_THREADS": str(threads), "OMP_WAIT_POLICY": "passive", "VITSOM_CPU_PRUNING": pruning}
    done = subprocess.run(
        [*command, *(str(TESTS / name) for name in tests)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout


def test_an_unknown_instruction_set_is_refused_by_name() -> None:
    if cpu.unavailable():
        pytest.skip(str(cpu.unavailable()))
    script = "from vitsom_fast import available_backends; print(available_backends()['cpu'])"
    environment = {**os.environ, "VITSOM_CPU_ISA": "mmx"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert "VITSOM_CPU_ISA" in done.stdout
    assert "'mmx'" in done.stdout
