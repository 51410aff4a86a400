"""What is measured: the cases in order of importance, and who takes part in each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.gpu.roofline import Gpu, floor, shape_of
from benchmarks.harness.clock import Run
from benchmarks.harness.workloads import TINY, WORKLOADS, Inputs, Workload
from vitsom_fast import Grid, available_backends, backends, find_bmu, reference, settings, som_loss

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

# Searches of the Triton backend that an environment variable selects, beside the default one.
CERTIFIED = {settings.TRITON_SEARCH: "certified"}
AUTOTUNED = {settings.AUTOTUNE: "1"}
AUTOTUNED_WORKLOADS = ("large", "paper-mnist", "huge")  # five configurations to compile for each

# A grid that nobody could train: the scores of the eager form take 4.3 GB a tensor in fp32.
VAST = Workload("vast", 4096, 512, 512, 192, 16.0)
TINY_ODD = Workload("tiny-odd", 9, 3, 5, 17, 1.0)


@dataclass(frozen=True)
class Case:
    workload: Workload
    dtype: str
    operation: str

    @property
    def name(self) -> str:
        return f"{self.workload.name} {self.dtype} {self.operation}"

    @property
    def flops(self) -> float:
        """Of the search, which are nearly all of a step as well."""
        return 2.0 * self.workload.scores * self.workload.dim

    def inputs(self, device: torch.device) -> Inputs:
        """With the temperature on the device, so that no step has to copy it there."""
        inputs = self.workload.inputs(device, DTYPES[self.dtype])
        return inputs._replace(temperature=torch.tensor(inputs.temperature, device=device))

    def floor(self, gpu: Gpu) -> float:
        return floor(self.operation, shape_of(self.workload, self.dtype), gpu)


def plan(dry: bool) -> list[Case]:
    """All cases; what matters most comes first, for the time may not do for the last."""
    if dry:
        workloads = [TINY, TINY_ODD]
    else:
        order = ("large", "paper-mnist", "huge", "large-organised", "huge-organised", "paper-tiny-imagenet")
        workloads = [*(WORKLOADS[name] for name in order), VAST]
    return [Case(workload, dtype, operation) for workload in workloads for dtype in DTYPES for operation in ("step", "search")]


@dataclass(frozen=True)
class Contender:
    """One way to do an operation; ``build`` makes its run for some inputs. ``ours``: it is held to the whole contract."""

    name: str
    build: Callable[[Inputs], Run]
    ours: bool = False
    compiled: bool = False
    graphed: bool = False


def contenders(case: Case, device: torch.device) -> list[Contender]:
    """The baseline first. Half-precision inputs are converted to fp32 by all who would otherwise miss the nearest prototype."""
    step = case.operation == "step"
    plain: Callable[..., Any] = _eager_step if step else _matmul_search
    run: Callable[..., Run] = _run_step if step else _run_search
    entries = [
        Contender("eager" if step else "matmul", lambda inputs: run(plain, _placed(inputs))),
        Contender("compile", lambda inputs: run(_compiled(plain, device), _placed(inputs)), compiled=True),
    ]
    for name in serving(device, DTYPES[case.dtype]):
        function: Callable[..., Any] = partial(som_loss, backend=name) if step else partial(_search_by, name)
        entries.append(Contender(name, partial(run, function), ours=True))
        if name == "triton":
            entries += _triton_variants(case, entries[-1], device)
    if step and case.workload.name == "paper-mnist" and device.type == "cuda":  # where launches are most of the time
        entries += [
            Contender(f"{entry.name} graph", partial(_graphed, entry.build), ours=entry.ours, graphed=True)
            for entry in entries
            if entry.name in ("eager", *serving(device, DTYPES[case.dtype]))
        ]
    if not step and case.dtype == "fp32" and absent("fastersom", device) is None:
        entries.append(Contender("fastersom", _fastersom_search))
    return entries


def _triton_variants(case: Case, plain: Contender, device: torch.device) -> Iterator[Contender]:
    if case.dtype == "fp32":
        yield Contender("triton certified", partial(_under, CERTIFIED, plain.build), ours=True)
    if case.operation == "search" and case.workload.name in AUTOTUNED_WORKLOADS and device.type == "cuda":
        yield Contender("triton autotuned", partial(_under, AUTOTUNED, plain.build), ours=True, compiled=True)


def serving(device: torch.device, dtype: torch.dtype) -> list[str]:
    """The backends of this package that can do it, but for the reference, which is the baseline."""
    return [name for name in available_backends() if name != "reference" and _refusal(name, device, dtype) is None]


def absent(name: str, device: torch.device) -> str | None:
    """None, or why a backend or a peer takes no part in anything."""
    if name == "fastersom":
        if device.type != "cuda":
            return "its fused search needs a GPU"
        return None if find_spec("fastersom") else "not installed"
    return available_backends()[name] or _refusal(name, device, torch.float32)


def _refusal(name: str, device: torch.device, dtype: torch.dtype) -> str | None:
    try:
        backends.resolve(name, backends.Spec(device, dtype))
    except ValueError as error:
        return str(error)
    return None


@dataclass(frozen=True, eq=False)
class PlacedGrid(Grid):
    """A grid whose lattice is on the device already, as an eager module keeps it: none is copied in a step."""

    placed: Tensor | None = None

    @property
    def lattice(self) -> Tensor:
        assert self.placed is not None
        return self.placed


def _placed(inputs: Inputs) -> Inputs:
    grid = inputs.grid
    lattice = grid.lattice.to(inputs.z.device, torch.float32)
    return inputs._replace(grid=PlacedGrid(grid.rows, grid.cols, grid.topology, grid.periodic, lattice))


def _eager_step(z: Tensor, prototypes: Tensor, grid: Grid, temperature: Tensor) -> tuple[Tensor, Tensor]:
    return reference.som_loss(z.float(), prototypes.float(), grid, temperature)


def _matmul_search(z: Tensor, prototypes: Tensor) -> Tensor:
    return (normalize(z.float()) @ normalize(prototypes.float()).T).argmax(dim=1)


def _search_by(backend: str, z: Tensor, prototypes: Tensor) -> Tensor:
    return find_bmu(z, prototypes, backend=backend)[0]


def _compiled(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    torch.compiler.reset()  # past eight shapes of one function, torch.compile would quietly run it eagerly
    backend = "inductor" if device.type == "cuda" else "eager"  # dry: graphs only, C++ would take a minute to compile
    return torch.compile(function, dynamic=False, fullgraph=True, backend=backend)


def _run_step(function: Callable[..., Any], inputs: Inputs) -> Run:
    """Forward and backward: loss (), BMU (B,), gradients (B, D) and (K, D)."""
    z, prototypes, grid, temperature = inputs
    one = torch.ones((), device=z.device)

    def run() -> tuple[Tensor, ...]:
        loss, bmu = function(z, prototypes, grid, temperature)
        return (loss.detach(), bmu, *torch.autograd.grad(loss, (z, prototypes), one))

    return run


def _run_search(function: Callable[..., Tensor], inputs: Inputs) -> Run:
    z, prototypes = inputs.z.detach(), inputs.prototypes.detach()
    return lambda: (function(z, prototypes),)


def _under(variables: dict[str, str], build: Callable[[Inputs], Run], inputs: Inputs) -> Run:
    """The run with environment variables that are read in each call."""
    run = build(inputs)

    def under() -> tuple[Tensor, ...]:
        os.environ.update(variables)
        try:
            return run()
        finally:
            for name in variables:
                del os.environ[name]

    return under


def _graphed(build: Callable[[Inputs], Run], inputs: Inputs) -> Run:
    """The run captured in a CUDA graph and replayed; the outputs are those of the last replay."""
    run = build(inputs)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = run()

    def replay(reads: Run = run) -> tuple[Tensor, ...]:  # the graph reads memory that only the run holds: the temperature
        graph.replay()
        return outputs

    return replay


def _fastersom_search(inputs: Inputs) -> Run:
    """Its fused search without what ``predict`` adds (a check of the data, and the copy to the host): prototypes are prepared
    anew in each run, for in training they change."""
    z, prototypes, grid, _ = inputs
    som = import_module("fastersom").SOM.from_weights(
        prototypes.detach(), grid.rows, grid.cols, metric="cosine", device=z.device
    )
    return lambda: (som._search(som._weights, som._kernel(z.shape[1]))(z.detach()),)
