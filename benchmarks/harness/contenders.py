"""Who is compared in each operation, and who is right: nobody is timed beside a wrong result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks import peers
from benchmarks.harness import machine
from benchmarks.harness.clock import Run
from benchmarks.harness.correctness import Truth, WrongResult
from benchmarks.harness.workloads import Inputs, Workload
from vitsom_fast import available_backends, find_bmu, reference, som_loss

# Farther from the nearest prototype than this, a peer does not search for the same thing; nearer, it only rounds more.
PEER_TOLERANCE = 1e-4
TIME_LIMIT = 60.0  # seconds of one run; who takes longer is not timed


@dataclass(frozen=True)
class Contender:
    """One way to do an operation.

    Args:
        build: makes the run to be timed on some inputs.
        backend: the backend of this package that it is, or None.
        peer: the library of ``benchmarks.peers`` that it is, or None.
        score_tensors: how many fp32 tensors of B x K are alive at its peak, to tell beforehand what does not fit.
        grid_tensors: the same of K x K.
        shape_bound: what it does the first time for a shape (compiling) is no part of its work.
    """

    name: str
    build: Callable[[Inputs], Run]
    backend: str | None = None
    peer: str | None = None
    score_tensors: int = 0
    grid_tensors: int = 0
    shape_bound: bool = False

    def absent(self, workload: Workload) -> str | None:
        """None, or why it cannot take part here."""
        if self.backend is not None and (reason := available_backends()[self.backend]):
            return reason
        if self.peer is not None and (reason := peers.missing(self.peer)):
            return reason
        units = workload.rows * workload.cols
        needed = 4 * units * (workload.batch * self.score_tensors + units * self.grid_tensors)
        free = machine.available_memory()
        if free is not None and needed > free:
            return f"does not fit: needs about {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"
        return None


@dataclass(frozen=True)
class Operation:
    """What is compared. The first contender is the baseline of all ratios; ``check`` raises WrongResult."""

    name: str
    contenders: tuple[Contender, ...]
    check: Callable[..., None]


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    torch.compiler.reset()  # past eight shapes of one function, torch.compile would quietly run it eagerly
    return torch.compile(function, dynamic=False, fullgraph=True)


def _matmul_search(z: Tensor, prototypes: Tensor) -> Tensor:
    return (normalize(z) @ normalize(prototypes).T).argmax(dim=1)


def _bmu(z: Tensor, prototypes: Tensor, backend: str) -> Tensor:
    return find_bmu(z, prototypes, backend=backend)[0]


def _run_step(loss_function: Callable[..., Any], inputs: Inputs) -> tuple[Tensor, ...]:
    """Forward and backward: loss (), BMU (B,), gradients (B, D) and (K, D)."""
    loss, bmu = loss_function(*inputs)
    return (loss.detach(), bmu, *torch.autograd.grad(loss, (inputs.z, inputs.prototypes)))


def _run_search(search: Callable[..., Any], inputs: Inputs) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return (search(inputs.z, inputs.prototypes),)


def _running(run: Callable[..., tuple[Tensor, ...]], make: Callable[[], Callable[..., Any]]) -> Callable[[Inputs], Run]:
    """A contender's ``build``: its function made anew for every workload, and run on the inputs."""
    return lambda inputs: partial(run, make(), inputs)


# The backends of this package that take part in everything.
_BACKENDS = ("torch", "cpu")

STEP = Operation(
    "step",
    (
        # Measured on `large`: 6.04 tensors of B x K and 1.06; the search, 1.10 and 1.06.
        Contender("eager", _running(_run_step, lambda: reference.som_loss), score_tensors=7),
        Contender("compile", _running(_run_step, lambda: _compiled(reference.som_loss)), score_tensors=2, shape_bound=True),
        *(Contender(name, _running(_run_step, partial(partial, som_loss, backend=name)), backend=name) for name in _BACKENDS),
    ),
    Truth.check_step,
)

SEARCH = Operation(
    "search",
    (
        Contender("matmul", _running(_run_search, lambda: _matmul_search), score_tensors=2),
        Contender("compile", _running(_run_search, lambda: _compiled(_matmul_search)), score_tensors=2, shape_bound=True),
        *(Contender(name, _running(_run_search, partial(partial, _bmu, backend=name)), backend=name) for name in _BACKENDS),
        *(
            Contender(
                name,
                partial(peers.prepare, name),
                peer=name,
                score_tensors=peer.score_tensors,
                grid_tensors=peer.grid_tensors,
            )
            for name, peer in peers.PEERS.items()
        ),
    ),
    Truth.check_search,
)

OPERATIONS = {operation.name: operation for operation in (STEP, SEARCH)}


def checked(
    operation: Operation, contenders: Iterable[Contender], inputs: Inputs, say: Callable[[str], None]
) -> tuple[dict[str, Run], dict[str, str]]:
    """The contenders' runs by name, each of which has run once (and is compiled) and was right; and notes on some.

    A peer that fails or takes longer than ``TIME_LIMIT`` is left out with a note; one that is only nearly right stays with one.

    Raises:
        WrongResult: a result was wrong; nobody is timed then.
    """
    truth, runs, notes = Truth(inputs), {}, {}
    for contender in contenders:
        say(f"checking {contender.name}")
        try:
            run = contender.build(inputs)
            start = time.perf_counter()
            result = run()
            elapsed = time.perf_counter() - start
        except Exception as error:
            if contender.peer is None:
                raise
            notes[contender.name] = f"fails: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            continue
        try:
            operation.check(truth, *result)
        except WrongResult as error:
            if contender.peer is None:
                raise
            truth.check_search(result[0], PEER_TOLERANCE)
            notes[contender.name] = f"only nearly right: {error}"
        if contender.peer is not None and elapsed > TIME_LIMIT:
            notes[contender.name] = f"one run takes {elapsed:.0f} s, more than {TIME_LIMIT:.0f} s"
        else:
            runs[contender.name] = run
    return runs, notes
