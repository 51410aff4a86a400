"""Who is compared in each operation, and who is right: nobody is timed beside a wrong result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks import peers
from benchmarks.harness import machine, ways
from benchmarks.harness.clock import Run
from benchmarks.harness.correctness import Truth, WrongResult
from benchmarks.harness.workloads import Inputs, Workload
from vitsom_fast import available_backends, som_loss

# Farther from the nearest prototype than this, a peer does not search for the same thing; nearer, it only rounds more.
PEER_TOLERANCE = 1e-4
TIME_LIMIT = 60.0  # seconds of one run; who takes longer is not timed


@dataclass(frozen=True)
class Contender:
    """One way to do an operation.

    Args:
        build: makes the run to be timed on some inputs.
        backend: the backend of this package that it is, on whatever terms, or None.
        peer: the library of ``benchmarks.peers`` that it is, or None.
        score_tensors: how many fp32 tensors of B x K are alive at its peak, to tell beforehand what does not fit.
        grid_tensors: the same of K x K.
        compiled: what it does the first time for a shape is no part of its work.
        graphed: it replays a CUDA graph, which has its memory already.
    """

    name: str
    build: Callable[[Inputs], Run]
    backend: str | None = None
    peer: str | None = None
    score_tensors: int = 0
    grid_tensors: int = 0
    compiled: bool = False
    graphed: bool = False

    @property
    def ours(self) -> bool:
        """It is held to the whole contract."""
        return self.backend is not None

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


def entrants(
    operation: str, backends: Iterable[str], *, compiler: str = "inductor", on_device: bool = False
) -> Iterator[Contender]:
    """Who takes part anywhere: the baseline in eager PyTorch, the same compiled, and backends of this package.

    Args:
        operation: "step" or "search".
        backends: their names.
        compiler: the backend of torch.compile.
        on_device: what the eager form knows of the grid is where the latents are before a step begins.
    """
    plain: Callable[..., Any] = ways.eager_step if operation == "step" else ways.matmul_search
    run: Callable[..., Run] = ways.run_step if operation == "step" else ways.run_search
    place: Callable[[Inputs], Inputs] = ways.placed if on_device else lambda inputs: inputs
    # Measured on `large`: 6.04 tensors of B x K and, compiled, 1.06; the search, 1.10 and 1.06.
    name, score_tensors = ("eager", 7) if operation == "step" else ("matmul", 2)
    yield Contender(name, lambda inputs: run(plain, place(inputs)), score_tensors=score_tensors)
    yield Contender(
        "compile", lambda inputs: run(ways.compiled(plain, compiler), place(inputs)), score_tensors=2, compiled=True
    )
    for name in backends:
        function: Callable[..., Any] = partial(som_loss, backend=name) if operation == "step" else partial(ways.search_by, name)
        yield Contender(name, partial(run, function), backend=name)


def peer(name: str) -> Contender:
    """The search of a library of ``benchmarks.peers``."""

    def build(inputs: Inputs) -> Run:
        search = peers.prepare(name, inputs.z.detach(), inputs.prototypes.detach(), inputs.grid)
        return lambda: (search(),)

    library = peers.PEERS[name]
    return Contender(name, build, peer=name, score_tensors=library.score_tensors, grid_tensors=library.grid_tensors)


# The backends of this package that take part in everything on a CPU.
_BACKENDS = ("torch", "cpu")

STEP = Operation("step", tuple(entrants("step", _BACKENDS)), Truth.check_step)
SEARCH = Operation("search", (*entrants("search", _BACKENDS), *(peer(name) for name in peers.PEERS)), Truth.check_search)

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
