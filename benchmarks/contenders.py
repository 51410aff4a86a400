"""Who is compared in each operation, and the comparison itself: everyone is checked, then timed in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks import machine
from benchmarks.correctness import Truth
from benchmarks.workloads import Inputs, Workload
from vitsom_fast import available_backends, find_bmu, reference, som_loss

Run = Callable[[], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Contender:
    """One way to do an operation.

    Args:
        build: makes the function to be timed, anew for every workload.
        backend: the backend of this package that it is, or None.
        score_tensors: how many fp32 tensors of B x K are alive at its peak, to tell beforehand what does not fit.
        shape_bound: what it does the first time for a shape (compiling) is no part of its work.
    """

    name: str
    build: Callable[[], Callable[..., Any]]
    backend: str | None = None
    score_tensors: int = 0
    shape_bound: bool = False

    def absent(self, workload: Workload) -> str | None:
        """None, or why it cannot take part here."""
        if self.backend is not None and (reason := available_backends()[self.backend]):
            return reason
        needed, free = 4 * workload.scores * self.score_tensors, machine.available_memory()
        if free is not None and needed > free:
            return f"does not fit: needs about {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"
        return None


@dataclass(frozen=True)
class Operation:
    """What is compared. The first contender is the baseline of all ratios; ``check`` raises WrongResult."""

    name: str
    contenders: tuple[Contender, ...]
    run: Callable[[Callable[..., Any], Inputs], tuple[Tensor, ...]]
    check: Callable[..., None]

    def prepare(self, contender: Contender, inputs: Inputs) -> Run:
        return partial(self.run, contender.build(), inputs)


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    torch.compiler.reset()  # past eight shapes of one function, torch.compile would quietly run it eagerly
    return torch.compile(function, dynamic=False, fullgraph=True)


def _matmul_search(z: Tensor, prototypes: Tensor) -> Tensor:
    return (normalize(z) @ normalize(prototypes).T).argmax(dim=1)


def _search_by(backend: str) -> Callable[..., Tensor]:
    return lambda z, prototypes: find_bmu(z, prototypes, backend=backend)[0]


def _run_step(loss_function: Callable[..., Any], inputs: Inputs) -> tuple[Tensor, ...]:
    """Forward and backward: loss (), BMU (B,), gradients (B, D) and (K, D)."""
    loss, bmu = loss_function(*inputs)
    return (loss.detach(), bmu, *torch.autograd.grad(loss, (inputs.z, inputs.prototypes)))


def _run_search(search: Callable[..., Any], inputs: Inputs) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return (search(inputs.z, inputs.prototypes),)


# The backends of this package that take part in everything.
_BACKENDS = ("torch", "cpu")

STEP = Operation(
    "step",
    (
        # Measured on `large`: 6.04 tensors of B x K and 1.06; the search, 1.10 and 1.06.
        Contender("eager", lambda: reference.som_loss, score_tensors=7),
        Contender("compile", lambda: _compiled(reference.som_loss), score_tensors=2, shape_bound=True),
        *(Contender(name, partial(partial, som_loss, backend=name), backend=name) for name in _BACKENDS),
    ),
    _run_step,
    Truth.check_step,
)

SEARCH = Operation(
    "search",
    (
        Contender("matmul", lambda: _matmul_search, score_tensors=2),
        Contender("compile", lambda: _compiled(_matmul_search), score_tensors=2, shape_bound=True),
        *(Contender(name, partial(_search_by, name), backend=name) for name in _BACKENDS),
    ),
    _run_search,
    Truth.check_search,
)

OPERATIONS = {operation.name: operation for operation in (STEP, SEARCH)}


def checked(
    operation: Operation, contenders: Iterable[Contender], inputs: Inputs, say: Callable[[str], None]
) -> dict[str, Run]:
    """The contenders' runs by name, each of which has run once (and is compiled) and was right.

    Raises:
        WrongResult: one was not; nobody is timed then.
    """
    truth, runs = Truth(inputs), {}
    for contender in contenders:
        say(f"checking {contender.name}")
        runs[contender.name] = operation.prepare(contender, inputs)
        operation.check(truth, *runs[contender.name]())
    return runs


def race(runs: Mapping[str, Callable[[], object]], budget: float = 10.0) -> dict[str, list[float]]:
    """Seconds of every round of every run (warm, as ``checked`` leaves them), taken in turns within one process.

    A machine changes its mind (other users, clock, temperature) within a run: only times taken side by side can be compared.
    Everyone has an equal share of the budget (in seconds), at least 5 rounds or, if these alone would exceed the budget, 3;
    those with fewer rounds are spread evenly over the turns, and the order is turned round from turn to turn.
    """
    seconds = {name: [_seconds(run)] for name, run in runs.items()}
    more = {}  # rounds after this first one
    for name, (first,) in seconds.items():
        fewest = 5 if 5 * first <= budget else 3
        more[name] = max(fewest, min(200, int(budget / len(runs) / first))) - 1
    turns = max(more.values())
    for turn in range(turns):
        for name in reversed(seconds) if turn % 2 == 0 else seconds:
            if (turn + 1) * more[name] // turns > turn * more[name] // turns:
                seconds[name].append(_seconds(runs[name]))
    return seconds


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    result = run()
    elapsed = time.perf_counter() - start
    del result  # freed after the clock has stopped
    return elapsed
