"""What only a GPU can show: graphs, streams, launches, memory, host synchronisation and tensors past 2^31 elements.

Everything here is skipped without one; the numerical contract on the device is test_contract.py's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from helpers import Result, check
from torch import Tensor

from vitsom_fast import FusedSOMLoss, Grid, available_backends, find_bmu, reference, som_loss

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

DEVICE = torch.device("cuda")
KERNELS = ("triton", "cuda")  # backends that promise a number of launches, and memory in proportion to their inputs
LAUNCHES = {"triton": (8, 0), "cuda": (12, 4)}  # of forward and backward together, and for each term of the neighborhood
MEMORY = 200e6  # bytes of a step on 256 x 256 x 192, beyond inputs and gradients


def _available(name: str) -> str:
    if reason := available_backends()[name]:
        pytest.skip(f"backend {name!r}: {reason}")
    return name


@pytest.fixture(params=("torch", *KERNELS))
def backend(request: pytest.FixtureRequest) -> str:
    return _available(request.param)


@pytest.fixture(params=KERNELS)
def kernels(request: pytest.FixtureRequest) -> str:
    return _available(request.param)


@pytest.fixture
def no_synchronization() -> Iterator[Callable[[str], None]]:
    """Sets what a host that waits for the device gets: "error" or "default"."""
    yield torch.cuda.set_sync_debug_mode
    torch.cuda.set_sync_debug_mode("default")


def _inputs(
    batch: int, grid: Grid, dim: int, dtype: torch.dtype = torch.float32, device: torch.device = DEVICE
) -> list[Tensor]:
    rows = (batch, grid.num_prototypes)
    return [torch.randn(count, dim, device=device).to(dtype).requires_grad_() for count in rows]


def _step(backend: str, z: Tensor, prototypes: Tensor, grid: Grid, temperature: float | Tensor) -> tuple[Tensor, ...]:
    """Loss, BMU and both gradients; the gradient of the loss itself is given, for making it is a launch that is not ours."""
    one = torch.ones((), device=z.device)
    return _step_with(one, backend, z, prototypes, grid, temperature)


def _step_with(
    one: Tensor, backend: str, z: Tensor, prototypes: Tensor, grid: Grid, temperature: float | Tensor
) -> tuple[Tensor, ...]:
    loss, bmu = som_loss(z, prototypes, grid, temperature, backend=backend)
    return loss.detach(), bmu, *torch.autograd.grad(loss, (z, prototypes), one)


def _check(result: tuple[Tensor, ...], z: Tensor, prototypes: Tensor, grid: Grid, temperature: float) -> None:
    check(Result(*(x.cpu() for x in result)), z.cpu(), prototypes.cpu(), grid, temperature)


@pytest.mark.parametrize("topology", ["rectangular", "hexagonal"])
def test_graph_replays_with_other_inputs_and_temperatures(backend: str, topology: str) -> None:
    """Captured once; then new latents, new prototypes and a new temperature in the same memory."""
    grid = Grid(9, 14, topology)
    z, prototypes = _inputs(130, grid, 72)
    temperature = torch.tensor(2.0, device=DEVICE)
    one = torch.ones((), device=DEVICE)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            _step_with(one, backend, z, prototypes, grid, temperature)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = _step_with(one, backend, z, prototypes, grid, temperature)
    for value in (0.7, 5.0, 40.0):
        with torch.no_grad():
            for x in (z, prototypes):
                x.normal_()
            temperature.fill_(value)
            for x in result:
                x.fill_(-1)
        graph.replay()
        _check(result, z, prototypes, grid, value)


def test_captured_search(backend: str) -> None:
    z, prototypes = (x.detach() for x in _inputs(70, Grid(11, 13), 96))
    find_bmu(z, prototypes, backend=backend)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        bmu, distance = find_bmu(z, prototypes, backend=backend)
    for _ in range(2):
        z.normal_()
        graph.replay()
        expected, nearest = reference.find_bmu(z.double(), prototypes.double())
        assert torch.equal(bmu, expected)
        assert torch.allclose(distance.double(), nearest, atol=1e-6)


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiled_step(backend: str, mode: str) -> None:
    """Without a graph break, and (reduce-overhead) through CUDA graphs that the compiler makes."""
    grid = Grid(9, 11, "hexagonal")
    module = FusedSOMLoss((9, 11), 24, topology="hexagonal", backend=backend, device=DEVICE)
    encoder = torch.nn.Linear(6, 24, device=DEVICE)
    temperature = torch.tensor(1.3, device=DEVICE)

    def objective(x: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
        return module(encoder(x), temperature, return_bmu=True)

    compiled = torch.compile(objective, fullgraph=True, mode=mode)
    for value in (1.3, 0.6, 3.0):
        x = torch.randn(33, 6, device=DEVICE)
        temperature.fill_(value)
        loss, bmu = compiled(x, temperature)
        grads = [g.clone() for g in torch.autograd.grad(loss, (encoder.weight, module.prototypes))]
        expected, expected_bmu = som_loss(encoder(x), module.prototypes, grid, value, backend="reference")
        expected_grads = torch.autograd.grad(expected, (encoder.weight, module.prototypes))
        assert torch.equal(bmu, expected_bmu)
        assert torch.allclose(loss, expected, rtol=1e-5)
        for ours, theirs in zip(grads, expected_grads, strict=True):
            assert (ours - theirs).norm() <= 1e-4 * theirs.norm()


def test_two_streams(backend: str) -> None:
    """Two steps under way at once share no scratch memory: the bits are those of each alone."""
    problems = [(Grid(40, 40), 512, 256), (Grid(64, 32), 300, 192)]
    inputs = [_inputs(batch, grid, dim) for grid, batch, dim in problems]
    alone = [_step(backend, *x, grid, 3.0) for x, (grid, _, _) in zip(inputs, problems, strict=True)]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in problems]
    for _ in range(10):
        together = []
        for stream, x, (grid, _, _) in zip(streams, inputs, problems, strict=True):
            with torch.cuda.stream(stream):
                together.append(_step(backend, *x, grid, 3.0))
        torch.cuda.synchronize()
        for ours, theirs in zip(together, alone, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU only")
def test_second_device(backend: str) -> None:
    """Launched where the tensors are, which is not the current device."""
    grid = Grid(9, 11)
    z, prototypes = _inputs(33, grid, 24, device=torch.device("cuda", 1))
    with torch.cuda.device(0):
        result = _step(backend, z, prototypes, grid, 1.3)
    assert {x.device.index for x in result} == {1}
    _check(result, z, prototypes, grid, 1.3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("topology", ["rectangular", "hexagonal"])
def test_the_host_never_waits(
    backend: str, topology: str, dtype: torch.dtype, no_synchronization: Callable[[str], None]
) -> None:
    grid = Grid(16, 16, topology)
    z, prototypes = _inputs(64, grid, 48, dtype)
    temperature, one = torch.tensor(2.0, device=DEVICE), torch.ones((), device=DEVICE)
    _step_with(one, backend, z, prototypes, grid, temperature)  # compiles, and fills what is kept
    no_synchronization("error")
    _step_with(one, backend, z, prototypes, grid, temperature)
    _step_with(one, backend, z, prototypes, grid, 3.0)
    find_bmu(z, prototypes, backend=backend)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("topology", ["rectangular", "hexagonal"])
@pytest.mark.parametrize("shape", [(128, 40, 40, 3136), (4096, 128, 128, 192), (33, 3, 5, 17)], ids=str)
def test_launches(kernels: str, shape: tuple[int, int, int, int], topology: str, dtype: torch.dtype) -> None:
    """Copies and fills of memory count, too."""
    batch, rows, cols, dim = shape
    grid = Grid(rows, cols, topology)
    z, prototypes = _inputs(batch, grid, dim, dtype)
    temperature, one = torch.tensor(2.0, device=DEVICE), torch.ones((), device=DEVICE)
    for _ in range(2):
        _step_with(one, kernels, z, prototypes, grid, temperature)
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        _step_with(one, kernels, z, prototypes, grid, temperature)
        torch.cuda.synchronize()
    launched = [event.name for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    if not launched:
        pytest.skip("the profiler sees no kernels on this machine")
    once, for_each_term = LAUNCHES[kernels]
    assert len(launched) <= once + for_each_term * (3 if topology == "hexagonal" else 1), launched


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_of_a_large_map(kernels: str, dtype: torch.dtype) -> None:
    """The scores alone would be 1074 MB."""
    grid = Grid(256, 256)
    z, prototypes = _inputs(4096, grid, 192, dtype)
    one = torch.ones((), device=DEVICE)
    _step_with(one, kernels, *_inputs(8, Grid(4, 4), 192, dtype), Grid(4, 4), 16.0)  # libraries load
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = _step_with(one, kernels, z, prototypes, grid, 16.0)
    torch.cuda.synchronize()
    gradients = sum(x.numel() * x.element_size() for x in result[2:])
    extra = torch.cuda.max_memory_allocated() - before - gradients
    assert extra <= MEMORY, f"{extra / 1e6:.1f} MB"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_steps_repeat(backend: str, dtype: torch.dtype) -> None:
    """A grid that fills the GPU many times over, where programs finish in another order every time."""
    grid = Grid(128, 128)
    z, prototypes = _inputs(4096, grid, 192, dtype)
    first = _step(backend, z, prototypes, grid, 16.0)
    for _ in range(5):
        again = _step(backend, z, prototypes, grid, 16.0)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_more_than_2_to_31_elements(kernels: str) -> None:
    """The last prototypes lie past the reach of a 32-bit offset; at this temperature only the BMU has a weight."""
    grid, dim, batch = Grid(1024, 1024), 2112, 8
    if torch.cuda.mem_get_info()[0] < 50e9:
        pytest.skip("needs 50 GB of free GPU memory")
    prototypes = torch.empty(grid.num_prototypes, dim, dtype=torch.bfloat16, device=DEVICE).normal_().requires_grad_()
    assert prototypes.numel() > 2**31
    nearest = torch.arange(grid.num_prototypes - batch, grid.num_prototypes, device=DEVICE)
    z = (2 * prototypes.detach()[nearest] + torch.randn(batch, dim, device=DEVICE)).bfloat16().requires_grad_()
    loss, bmu, grad_z, grad_prototypes = _step(kernels, z, prototypes, grid, 0.05)
    assert torch.equal(bmu, nearest)
    # All that has a weight is B latents and B prototypes: each pulls on its own BMU alone.
    latents, units = (x.detach().double().requires_grad_() for x in (z, prototypes[nearest]))
    distance = 1 - torch.nn.functional.cosine_similarity(latents, units, eps=1e-12)
    expected = distance.sum() / (batch * grid.num_prototypes)
    expected_z, expected_units = torch.autograd.grad(expected, (latents, units))
    assert math.isclose(loss.item(), expected.item(), rel_tol=1e-4)
    rounding = torch.finfo(torch.bfloat16).eps / 2
    assert (grad_z.double() - expected_z).norm() <= rounding * expected_z.norm()
    assert (grad_prototypes[nearest].double() - expected_units).norm() <= rounding * expected_units.norm()
    assert grad_prototypes[:-batch].count_nonzero() == 0
