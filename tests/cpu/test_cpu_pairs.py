"""The CPU kernels for distances that do not factorise: losses, gradients and the Manhattan search, pair by pair."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import relative_error
from torch import Tensor

from vitsom_fast import Grid, find_bmu, reference, som_loss
from vitsom_fast.backends import cpu
from vitsom_fast.neighborhoods import neighborhood

pytestmark = pytest.mark.skipif(cpu.unavailable() is not None, reason="no CPU kernels")

PAIRS = ("euclidean", "manhattan")

# B, grid, D: parts of a register tile, of a tile of pairs and of a chain of features, and more than one of each.
SHAPES = [
    (1, Grid(1, 1), 1),
    (3, Grid(2, 3), 17),
    (17, Grid(5, 7), 3),
    (127, Grid(9, 31), 40),
    (200, Grid(4, 3), 129),
    (5, Grid(1, 127), 300),
    (1000, Grid(6, 5), 2),
]

Results = tuple[Tensor, Tensor, Tensor]


def _kernels(
    z: Tensor, prototypes: Tensor, bmu: Tensor, grad: Tensor, grid: Grid, temperature: float, distance: str, kind: str
) -> Results:
    factors = neighborhood(grid, temperature, kind, device=z.device)
    losses = cpu.pair_losses(z, prototypes, bmu, *factors, distance)
    return losses, *cpu.pair_gradients(grad, z, prototypes, bmu, *factors, distance, True, True)


def _truth(
    z: Tensor, prototypes: Tensor, bmu: Tensor, grad: Tensor, grid: Grid, temperature: float, distance: str, kind: str
) -> Results:
    """In fp64, as the formulas stand."""
    x, w = (each.double().requires_grad_() for each in (z, prototypes))
    h = reference.neighborhood_weights(bmu, grid, temperature, torch.float64, kind)
    losses = (h * reference.distances(x, w, distance)).sum(dim=1)
    return losses.detach(), *torch.autograd.grad(losses, (x, w), grad)


def _inputs(batch: int, grid: Grid, dim: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Latents, prototypes, any units as BMUs and gradients of both signs."""
    z, prototypes = torch.randn(batch, dim).to(dtype), torch.randn(grid.num_prototypes, dim).to(dtype)
    bmu = torch.randint(grid.num_prototypes, (batch,))
    return z, prototypes, bmu, torch.randn(batch, dtype=torch.float64)


@pytest.mark.parametrize("shift", [0.0, 1e4])
@pytest.mark.parametrize("kind", ["gaussian", "bubble", "mexican_hat"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("distance", PAIRS)
def test_losses_and_gradients(distance: str, shape: tuple[int, Grid, int], kind: str, shift: float) -> None:
    grid = shape[1]
    z, prototypes, bmu, grad = _inputs(*shape)
    for temperature in (0.6, 3.0):  # most weights are nothing, or hardly any
        how = z + shift, prototypes + shift, bmu, grad, grid, temperature, distance, kind
        truth = _truth(*how)
        losses, *grads = _kernels(*how)
        size = reference.distances(how[0].double(), how[1].double(), distance).amax()
        assert (losses - truth[0]).norm() <= 3e-6 * (truth[0].norm() + (size if kind == "mexican_hat" else 0))
        for ours, true in zip(grads, truth[1:], strict=True):
            assert (ours - true).norm() <= 5e-6 * true.norm() + 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("distance", PAIRS)
def test_half_precision(distance: str, dtype: torch.dtype) -> None:
    grid = Grid(5, 6)
    how = *_inputs(33, grid, 20, dtype), grid, 1.2, distance, "gaussian"
    (losses, *grads), truth = _kernels(*how), _truth(*how)
    assert relative_error(losses, truth[0]) <= 1e-6
    for ours, true in zip(grads, truth[1:], strict=True):
        assert ours.dtype == dtype
        assert relative_error(ours, true) <= torch.finfo(dtype).eps


@pytest.mark.parametrize("distance", PAIRS)
def test_one_gradient_alone(distance: str) -> None:
    grid = Grid(9, 11)
    z, prototypes, bmu, grad = _inputs(70, grid, 25)
    factors = neighborhood(grid, 1.5, device=z.device)
    both = cpu.pair_gradients(grad, z, prototypes, bmu, *factors, distance, True, True)
    for wanted in ((True, False), (False, True)):
        found = cpu.pair_gradients(grad, z, prototypes, bmu, *factors, distance, *wanted)
        for one, other, is_wanted in zip(found, both, wanted, strict=True):
            assert torch.equal(one, other) if is_wanted else one.numel() == 0


@pytest.mark.parametrize("scale", [1e-42, 1e-38, 1e-20, 1e19, 1e37])
@pytest.mark.parametrize("distance", PAIRS)
def test_whatever_the_unit(distance: str, scale: float) -> None:
    """Squares of these are no fp32 numbers, nor are sums of the largest."""
    grid = Grid(4, 5)
    z, prototypes, bmu, grad = _inputs(30, grid, 12)
    how = z * scale, prototypes * scale, bmu, grad, grid, 1.2, distance, "gaussian"
    for ours, true in zip(_kernels(*how), _truth(*how), strict=True):
        assert relative_error(ours, true) <= 1e-5


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_whatever_the_gradient_of_the_loss(size: float) -> None:
    grid = Grid(4, 5)
    z, prototypes, bmu, grad = _inputs(30, grid, 12)
    factors = neighborhood(grid, 1.2, device=z.device)
    plain = cpu.pair_gradients(grad, z, prototypes, bmu, *factors, "euclidean", True, True)
    scaled = cpu.pair_gradients(grad * size, z, prototypes, bmu, *factors, "euclidean", True, True)
    for one, other in zip(scaled, plain, strict=True):
        assert relative_error(one, other.double() * size) <= 5e-6


@pytest.mark.parametrize("distance", PAIRS)
def test_no_distance_pulls_nowhere(distance: str) -> None:
    grid = Grid(3, 4)
    z, prototypes, bmu, grad = _inputs(12, grid, 9)
    prototypes = prototypes[:1].repeat(12, 1)
    factors = neighborhood(grid, 1.0, device=z.device)
    for each in (cpu.pair_losses(prototypes, prototypes, bmu, *factors, distance),
                 *cpu.pair_gradients(grad, prototypes, prototypes, bmu, *factors, distance, True, True)):  # fmt: skip
        assert not each.any()


@pytest.mark.parametrize("distance", PAIRS)
def test_a_row_that_is_not_finite_leaves_others_as_they_are(distance: str) -> None:
    """Of the latents; and no number of theirs is an index."""
    grid = Grid(5, 9)
    z, prototypes, bmu, grad = _inputs(20, grid, 11)
    factors = neighborhood(grid, 1.5, device=z.device)
    losses = cpu.pair_losses(z, prototypes, bmu, *factors, distance)
    grad_z, _ = cpu.pair_gradients(grad, z, prototypes, bmu, *factors, distance, True, False)
    others = torch.arange(20) != 7
    for bad in (torch.nan, torch.inf, -torch.inf):
        spoiled = z.clone()
        spoiled[7, 3] = bad
        assert torch.equal(cpu.pair_losses(spoiled, prototypes, bmu, *factors, distance)[others], losses[others])
        found, _ = cpu.pair_gradients(grad, spoiled, prototypes, bmu, *factors, distance, True, False)
        assert torch.equal(found[others], grad_z[others])


@pytest.mark.parametrize("distance", PAIRS)
def test_many_samples_of_few_units(distance: str) -> None:
    """Sums of one sign, one after another in fp32, would be off by 1e-4."""
    grid = Grid(2, 2)
    z, prototypes, bmu, _ = _inputs(20000, grid, 3)
    how = z.abs() + 3, prototypes.abs(), bmu, torch.ones(20000, dtype=torch.float64), grid, 1.0, distance, "gaussian"
    assert relative_error(_kernels(*how)[2], _truth(*how)[2]) <= 1e-6


@pytest.mark.parametrize("distance", PAIRS)
def test_repeats_bit_for_bit(distance: str) -> None:
    grid = Grid(17, 31)
    how = *_inputs(517, grid, 70), grid, 2.0, distance, "gaussian"
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        first = _kernels(*how)
        for _ in range(2):
            assert all(torch.equal(one, other) for one, other in zip(_kernels(*how), first, strict=True))


@pytest.mark.parametrize("distance", PAIRS)
def test_views(distance: str) -> None:
    grid = Grid(4, 5)
    z, prototypes, bmu, grad = _inputs(30, grid, 12)
    expected = _kernels(z, prototypes, bmu, grad, grid, 1.2, distance, "gaussian")
    wider = torch.full((60, 17), torch.nan)
    wider[::2, 2:14] = z
    for shown in (wider[::2, 2:14], z.T.contiguous().T, torch._neg_view(-z)):
        found = _kernels(shown, torch._neg_view(-prototypes), bmu, grad, grid, 1.2, distance, "gaussian")
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    row = z[:1].expand(30, 12)
    truth = _truth(row, prototypes, bmu, grad, grid, 1.2, distance, "gaussian")
    for ours, true in zip(_kernels(row, prototypes, bmu, grad, grid, 1.2, distance, "gaussian"), truth, strict=True):
        assert relative_error(ours, true) <= 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck(dtype: torch.dtype) -> None:
    grid = Grid(3, 4)
    z, prototypes, bmu, grad = _inputs(9, grid, 8, dtype)
    factors = neighborhood(grid, 1.3, device=z.device)
    operators = torch.ops.vitsom
    checks = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    arguments = z, prototypes, bmu, *factors, "euclidean"
    torch.library.opcheck(operators.pair_losses.default, (*arguments, "cpu"), test_utils=checks)
    for wanted in ((True, True), (False, True)):
        torch.library.opcheck(operators.pair_gradients.default, (grad, *arguments, *wanted, "cpu"), test_utils=checks)


def test_a_compiled_loss_is_the_same() -> None:
    """And is made by the operators, not in PyTorch operations."""
    grid, z, prototypes = Grid(3, 4), torch.randn(7, 5), torch.randn(12, 5)
    graphs: list[str] = []

    def keep(graph: torch.fx.GraphModule, _: object) -> object:
        graphs.extend(each.code for each in graph.modules() if isinstance(each, torch.fx.GraphModule))
        return graph.forward

    def step(z: Tensor, prototypes: Tensor) -> Tensor:
        return som_loss(z, prototypes, grid, 1.0, distance="euclidean", backend="cpu")[0]

    torch._dynamo.reset()
    results = []
    for function in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        inputs = [x.clone().requires_grad_() for x in (z, prototypes)]
        loss = function(*inputs)
        results.append((loss.detach(), *torch.autograd.grad(loss, inputs)))
    for one, other in zip(*results, strict=True):
        assert relative_error(one, other) <= 1e-6
    torch._dynamo.reset()
    torch.compile(step, fullgraph=True, backend=keep)(z, prototypes.requires_grad_())
    assert "pair_losses" in "".join(graphs)


@pytest.mark.parametrize("threads", [1, 3])
def test_manhattan_search_among_many_that_are_nearly_alike(threads: int) -> None:
    """More than fp32 can tell apart, and more than are kept for fp64 at a time: the same numbers in another order."""
    torch.set_num_threads(threads)
    base = torch.randn(40)
    prototypes = torch.stack([base[torch.randperm(40)] for _ in range(200)] + [base] * 3)[torch.randperm(203)]
    z = torch.zeros(5, 40) + torch.randn(5, 1) * 1e-7
    bmu, nearest = find_bmu(z, prototypes, distance="manhattan", backend="cpu")
    d = (z.double()[:, None] - prototypes.double()).abs().sum(dim=2)
    true = d.gather(1, bmu[:, None])[:, 0]
    assert (true - d.amin(dim=1)).abs().max() <= 1e-12 * d.amax()
    assert torch.allclose(nearest.double(), true, rtol=1e-6)
    same = (prototypes[bmu][:, None] == prototypes).all(dim=2)
    assert torch.equal(bmu, same.int().argmax(dim=1))


_PEAK_OF_A_STEP = """
import torch
from vitsom_fast import Grid, som_loss

def status(field):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))

def step(z, prototypes, grid):
    for distance in ("euclidean", "manhattan"):
        som_loss(z, prototypes, grid, 2.0, distance=distance, backend="cpu")[0].backward()

torch.set_num_threads(16)
step(torch.randn(8, 8, requires_grad=True), torch.randn(16, 8, requires_grad=True), Grid(4, 4))
z, prototypes = torch.randn(4096, 8, requires_grad=True), torch.randn(4096, 8, requires_grad=True)
before = status("VmRSS")
step(z, prototypes, Grid(64, 64))
print(status("VmHWM") - before)
"""


def _python(script: str) -> str:
    """What it prints."""
    environment = os.environ | {"OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_no_gradient_may_be_asked_for() -> None:
    z, prototypes, factors = torch.randn(5, 3), torch.randn(6, 3), neighborhood(Grid(2, 3), 1.0)
    grad, bmu = torch.ones(5, dtype=torch.float64), torch.zeros(5, dtype=torch.int64)
    grads = torch.ops.vitsom.pair_gradients(grad, z, prototypes, bmu, *factors, "euclidean", False, False, "cpu")
    assert [len(x) for x in grads] == [0, 0]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_a_step_never_holds_one_number_per_pair() -> None:
    """A tensor of all pairs in fp32 is 67 MB."""
    assert int(_python(_PEAK_OF_A_STEP)) < 50e6


_INTERRUPTED = """
import os, signal, threading
import torch
from vitsom_fast import Grid
from vitsom_fast.backends import cpu
from vitsom_fast.neighborhoods import neighborhood

torch.set_num_threads(2)
z, prototypes, grid = torch.randn(20000, 256), torch.randn(40000, 256), Grid(200, 200)
bmu, grad = torch.arange(20000), torch.ones(20000, dtype=torch.float64)
factors = neighborhood(grid, 100.0, device=z.device)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
for run in (
    lambda: cpu.pair_losses(z, prototypes, bmu, *factors, "euclidean"),
    lambda: cpu.pair_gradients(grad, z, prototypes, bmu, *factors, "manhattan", True, True),
    lambda: cpu.pair_search(z, prototypes, "manhattan", 1),
):
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        run()
        print("never")
    except KeyboardInterrupt:
        print("interrupted")
assert cpu.pair_losses(z[:10], prototypes, bmu[:10], *factors, "euclidean").isfinite().all()
"""


@pytest.mark.skipif(os.name != "posix", reason="a signal is sent")
def test_they_can_be_interrupted() -> None:
    """Ctrl-C comes in the middle of 200 billion features: losses, gradients and the search."""
    assert _python(_INTERRUPTED).split() == ["interrupted"] * 3
