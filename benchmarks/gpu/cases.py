"""What is measured: the cases in order of importance, and who takes part in each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from benchmarks import peers
from benchmarks.gpu.roofline import Gpu, floor, shape_of
from benchmarks.harness.clock import Run
from benchmarks.harness.contenders import Contender, entrants, peer
from benchmarks.harness.workloads import TINY, WORKLOADS, Inputs, Workload
from vitsom_fast import available_backends, backends, settings

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


def contenders(case: Case, device: torch.device) -> list[Contender]:
    """The baseline first."""
    names = serving(device, DTYPES[case.dtype])
    compiler = "inductor" if device.type == "cuda" else "eager"  # dry: graphs only, C++ would take a minute to compile
    entries = []
    for entry in entrants(case.operation, names, compiler=compiler, on_device=True):
        entries.append(entry)
        if entry.name == "triton":
            entries += _triton_variants(case, entry, device)
    # Captured in a graph where launches are most of the time.
    if case.operation == "step" and case.workload.name == "paper-mnist" and device.type == "cuda":
        entries += [
            replace(entry, name=f"{entry.name} graph", build=partial(_graphed, entry.build), graphed=True)
            for entry in entries
            if entry.name in ("eager", *names)
        ]
    if case.operation == "search" and case.dtype == "fp32" and absent("fastersom", device) is None:
        entries.append(peer("fastersom"))
    return entries


def _triton_variants(case: Case, plain: Contender, device: torch.device) -> Iterator[Contender]:
    if case.dtype == "fp32":
        yield replace(plain, name="triton certified", build=partial(_under, CERTIFIED, plain.build))
    if case.operation == "search" and case.workload.name in AUTOTUNED_WORKLOADS and device.type == "cuda":
        yield replace(plain, name="triton autotuned", build=partial(_under, AUTOTUNED, plain.build), compiled=True)


def serving(device: torch.device, dtype: torch.dtype) -> list[str]:
    """The backends of this package that can do it, but for the reference, which is the baseline."""
    return [name for name in available_backends() if name != "reference" and _refusal(name, device, dtype) is None]


def absent(name: str, device: torch.device) -> str | None:
    """None, or why a backend or a peer takes no part in anything."""
    if name == "fastersom":
        if device.type != "cuda":
            return "its fused search needs a GPU"
        return peers.missing(name)
    return available_backends()[name] or _refusal(name, device, torch.float32)


def _refusal(name: str, device: torch.device, dtype: torch.dtype) -> str | None:
    try:
        backends.resolve(name, backends.Spec(device, dtype))
    except ValueError as error:
        return str(error)
    return None


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
