"""A few seconds of the fuzzer on all that can run here; that it finds what is planted, and how small it makes the case."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
import torch
from soak import fuzz, outputs
from soak.cases import SETTINGS, Case, draw
from soak.checks import Failure, failures
from soak.reduce import reduce
from soak.worker import Worker
from torch import Tensor

from vitsom_fast.backends import cpu

Result = tuple[Tensor, Tensor]

CASES = 80  # about a second


@pytest.mark.parametrize("isa", cpu.instruction_sets())
def test_contract_of_cpu(isa: str) -> None:
    with Worker(isa) as worker:
        assert [failure.what for failure in worker.failures(Case(0, temperature=-1.0))] == ["exception"]  # it does look
        assert not fuzz.soak(isa, (draw(seed, "cpu") for seed in range(CASES)), worker.failures)


def test_contract_of_torch() -> None:
    assert not fuzz.soak("torch", (draw(seed, "torch", threads=(1,)) for seed in range(CASES)), failures)


# Faults: each changes what the right function gives for latents and prototypes, now and then.


def _second_best(z: Tensor, prototypes: Tensor, result: Result) -> Result:
    scores = torch.nn.functional.normalize(z) @ torch.nn.functional.normalize(prototypes).T
    if len(prototypes) > 1:
        result[0][z[:, 0] > 1] = scores.topk(2).indices[z[:, 0] > 1, 1]
    return result


def _index_out_of_range(z: Tensor, prototypes: Tensor, result: Result) -> Result:
    result[0][z[:, 0] > 1] = len(prototypes)
    return result


def _distance_below_zero(z: Tensor, prototypes: Tensor, result: Result) -> Result:
    return result[0], torch.where(z[:, 0] > 1, -1e-7, result[1])


def _the_first_twice(z: Tensor, prototypes: Tensor, result: Result) -> Result:
    two = result[0].clone()
    two[z[:, 0] > 1, 1] = two[z[:, 0] > 1, 0]
    return two, result[1]


def _loss_off(z: Tensor, prototypes: Tensor, result: Result) -> Result:
    return result[0] * (1 + 1e-4 * (z[:, 0] > 1).any()), result[1]


def _gradient_off(z: Tensor, prototypes: Tensor, result: Result) -> Result:
    return result[0] + 1e-4 * (z - z.detach()).sum(), result[1]


_calls = count()


def _other_bits(z: Tensor, prototypes: Tensor, result: Result) -> Result:
    return result[0] * (1 + 1e-6 * (next(_calls) % 2)), result[1]


def _fails(z: Tensor, prototypes: Tensor, result: Result) -> Result:
    if (z[:, 0] > 1).any():
        raise IndexError("planted")
    return result


FAULTS = [
    ("regret", "find_bmu", _second_best),
    ("index", "find_bmu", _index_out_of_range),
    ("range", "find_bmu", _distance_below_zero),
    ("second regret", "find_bmu", _the_first_twice),
    ("loss", "som_loss", _loss_off),
    ("grad z", "som_loss", _gradient_off),
    ("repeated", "som_loss", _other_bits),
    ("exception", "find_bmu", _fails),
]


@pytest.mark.parametrize(("what", "function", "fault"), FAULTS, ids=[what for what, *_ in FAULTS])
def test_a_planted_fault_is_found_and_reduced(
    what: str,
    function: str,
    fault: Callable[[Tensor, Tensor, Result], Result],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    case = Case(seed=5, backend="torch", batch=20, rows=4, cols=6, dim=7, layout="transposed", temperature=2.5, mode="again")
    assert not failures(case)
    right = getattr(outputs, function)

    def planted(z: Tensor, w: Tensor, *rest: Any, **named: Any) -> Result:
        result = right(z, w, *rest, **named)
        is_for_two = what.startswith("second")
        return fault(z, w, result) if is_for_two == (named.get("k") == 2) else result

    monkeypatch.setattr(outputs, function, planted)
    (found, failure), *_ = fuzz.soak("planted", iter([case]), failures)
    assert (found, failure.what) == (case, what)
    assert "seed 5" in capsys.readouterr().out

    smallest = reduce(case, lambda smaller: any(failure.what == what for failure in failures(smaller)))
    batch, rows, cols, dim = smallest.sizes
    assert batch <= 1
    assert rows * cols <= 2
    assert dim <= 2
    needed = {"mode"} if what == "repeated" else set()
    assert {name for name in SETTINGS if getattr(smallest, name) != getattr(Case(5), name)} <= needed
    assert any(failure.what == what for failure in failures(smallest))


def test_the_last_of_ties_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = outputs.find_bmu
    case = Case(seed=0, backend="torch", batch=9, rows=2, cols=4, dim=5, twists=("duplicates",))

    def last(z: Tensor, prototypes: Tensor, **named: Any) -> Result:
        bmu, distance = right(z, prototypes.flip(0), **named)
        return len(prototypes) - 1 - bmu, distance

    assert not failures(case)
    monkeypatch.setattr(outputs, "find_bmu", last)
    assert [failure.what for failure in failures(case)] == ["tie", "first tie", "second tie"]


@pytest.mark.parametrize(
    ("script", "what"), [("import os; input(); os.abort()", "crash"), ("input(); input()", "hang")], ids=["crash", "hang"]
)
def test_a_process_that_does_not_answer_is_a_failure(script: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("soak.worker.TIME_LIMIT", 5.0 if what == "crash" else 0.2)
    with Worker(command=[sys.executable, "-c", script]) as worker:
        for _ in range(2):  # it is started anew
            assert [failure.what for failure in worker.failures(Case(0))] == [what]


def test_a_case_is_what_its_seed_makes_of_it() -> None:
    one, again = ([draw(seed, "cpu") for seed in range(50)] for _ in range(2))
    assert one == again
    assert len(set(one)) == 50
    for case in one:
        for x, y in zip(case.inputs(), case.inputs(), strict=True):
            assert torch.equal(x.nan_to_num(), y.nan_to_num())


def test_the_command_says_what_it_did(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["fuzz.py", "--backend", "torch", "--cases", "2", "--seed", "3"])
    monkeypatch.setattr(fuzz.Worker, "failures", lambda self, case: [Failure("loss", f"planted in {case.seed}")])
    assert fuzz.main() == 1
    assert "planted in 3" in capsys.readouterr().out
    monkeypatch.setattr(fuzz.Worker, "failures", lambda self, case: [])
    assert fuzz.main() == 0
    assert "torch: 2 cases" in capsys.readouterr().out
