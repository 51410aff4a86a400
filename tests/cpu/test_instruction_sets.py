"""Every build of the CPU kernels that this processor can run meets the contract, in memory that is never zero by luck."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from forked import Forks

from vitsom_fast.backends import cpu

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parent.parent


INSTRUCTION_SETS = ("avx512bf16", "avx512vnni", "avx512", "avx2", "baseline")


@pytest.mark.parametrize(("name", "pruning"), [("avx512bf16", "always"), *((name, "auto") for name in INSTRUCTION_SETS)])
def test_contract(forks: Forks, name: str, pruning: str) -> None:
    if name not in cpu.instruction_sets():
        pytest.skip(f"this processor, or this build, has no {name}")
    tests = ("contract", "ops/test_adversarial.py") if pruning == "auto" else ("contract",)
    # The widest of this processor runs every case as the default; here, in memory and with threads that it has not there.
    few = "--cases=1" if name == cpu.instruction_sets()[0] else "--cases=2"
    # Each with another number of threads, the widest with more than most machines have cores to spare.
    threads = (5, 2, 1)[cpu.instruction_sets().index(name) % 3]
    environment = {"VITSOM_CPU_ISA": name, "VITSOM_CPU_PRUNING": pruning}
    environment |= {"VITSOM_TEST_THREADS": str(threads), "VITSOM_TEST_BACKENDS": "cpu"}
    forks.check("-k", "cpu", "-m", "not slow", few, *(str(TESTS / name) for name in tests), **environment)


def test_an_unknown_instruction_set_is_refused_by_name() -> None:
    if cpu.unavailable():
        pytest.skip(str(cpu.unavailable()))
    script = "from vitsom_fast import available_backends; print(available_backends()['cpu'])"
    environment = {**os.environ, "VITSOM_CPU_ISA": "mmx"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert "VITSOM_CPU_ISA" in done.stdout
    assert "'mmx'" in done.stdout
