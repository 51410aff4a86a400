"""The operators in PyTorch's machinery: registration, compilation, autocast, fake tensors, and gradients of gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from helpers import (
    BACKENDS,
    is_emulated,
    relative_error,
    skip_unless_supported,
)
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode

from vitsom_fast import FusedSOMLoss, Grid, find_bmu, reference, som_loss
from vitsom_fast.neighborhoods import neighborhood

MAPS = [Grid(3, 4), Grid(3, 4, "hexagonal"), Grid(3, 5, periodic=True), Grid(4, 3, "hexagonal", periodic=True)]
CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


def _inputs(backend: str, grid: Grid, dtype: torch.dtype = torch.float32, requires_grad: bool = False) -> list[Tensor]:
    """z (9, 8) and prototypes (K, 8)."""
    shapes = ((9, 8), (grid.num_prototypes, 8))
    device = BACKENDS[backend]
    return [torch.randn(shape, device=device).to(dtype).requires_grad_(requires_grad) for shape in shapes]


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    yield
    torch._dynamo.reset()


# opcheck


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("operator", ["find_bmu", "som_forward", "som_backward"])
def test_opcheck(backend: str, operator: str, requires_grad: bool, dtype: torch.dtype) -> None:
    skip_unless_supported(backend, dtype)
    grid = Grid(3, 4, "hexagonal")
    z, prototypes = _inputs(backend, grid, dtype, requires_grad)
    factors = neighborhood(grid, 1.3, device=z.device)
    calls: list[tuple[Any, ...]]
    if operator == "find_bmu":
        calls = [(z, prototypes, backend)]
    elif operator == "som_forward":
        calls = [(z, prototypes, *factors, reduction, backend) for reduction in ("mean", "sum")]
    else:
        _, *kept = torch.ops.vitsom.som_forward(z.detach(), prototypes.detach(), *factors, "mean", backend)
        saved = (torch.tensor(2.0, device=z.device), z, prototypes, *factors, *kept, "mean")
        calls = [(*saved, *wanted, backend) for wanted in ((True, True), (True, False), (False, True))]
    for arguments in calls:
        torch.library.opcheck(getattr(torch.ops.vitsom, operator).default, arguments, test_utils=CHECKS)


def test_factors_of_an_irregular_grid(backend: str) -> None:
    """Smooth factors that no regular grid has: they differ from their reflection, and from one axis to the other."""
    rows, cols, dim = 34, 27, 20 if is_emulated(backend) else 307

    def gaussian(size: int) -> Tensor:
        position = torch.arange(size, dtype=torch.float64) ** 1.1
        return torch.exp(-((position[:, None] - position) ** 2) / 200)[None]

    factors = [gaussian(size) for size in (rows, cols)]
    results = []
    for dtype, name in ((torch.float32, backend), (torch.float64, "torch")):
        torch.manual_seed(0)
        inputs = [torch.randn(shape).to(BACKENDS[name], dtype).requires_grad_() for shape in ((40, dim), (rows * cols, dim))]
        own_factors = [factor.to(BACKENDS[name], dtype) for factor in factors]
        loss, bmu, *_ = torch.ops.vitsom.som_forward(*inputs, *own_factors, "sum", name)
        results.append([x.cpu() for x in (bmu, loss.detach(), *torch.autograd.grad(loss, inputs))])
    (bmu, *ours), (true_bmu, *truth) = results
    assert torch.equal(bmu, true_bmu)
    for x, true in zip(ours, truth, strict=True):
        assert relative_error(x, true) < 2e-6


class _Operators(TorchDispatchMode):
    """The operators of this package that a mode sees."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "vitsom":
            self.seen.append(func.name())
        return func(*args, **(kwargs or {}))


def test_a_mode_sees_the_operators() -> None:
    """They are left out only where nobody looks."""
    grid = Grid(3, 4)
    z, prototypes = _inputs("torch", grid, requires_grad=True)
    with _Operators() as operators:
        loss, _ = som_loss(z, prototypes, grid, 1.3, backend="torch")
        loss.backward()
    assert operators.seen == ["vitsom::som_forward", "vitsom::som_backward"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_fake_kernels_tell_shapes_and_dtypes(backend: str, dtype: torch.dtype) -> None:
    """Of the real outputs, on tensors without data."""
    skip_unless_supported(backend, dtype)
    grid = Grid(3, 4, "hexagonal")
    z, prototypes = _inputs(backend, grid, dtype)
    factors = neighborhood(grid, 1.3, device=z.device, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    operators = torch.ops.vitsom
    _, *kept = operators.som_forward(z, prototypes, *factors, "mean", backend)
    grad = torch.tensor(1.0, device=z.device)
    calls: list[tuple[Any, tuple[Any, ...]]] = [
        (operators.find_bmu, (z, prototypes, backend)),
        (operators.som_forward, (z, prototypes, *factors, "mean", backend)),
    ]
    for wanted in ((True, True), (True, False), (False, True)):
        saved = (grad, z, prototypes, *factors, *kept, "mean", *wanted, backend)
        calls.append((operators.som_backward, saved))
    for operator, arguments in calls:
        without_data = [x.to("meta") if isinstance(x, Tensor) else x for x in arguments]
        for fake, real in zip(operator(*without_data), operator(*arguments), strict=True):
            assert fake.device.type == "meta"
            assert fake.shape == real.shape
            assert fake.dtype == real.dtype
            assert fake.stride() == real.stride()


def test_public_functions_on_meta_tensors() -> None:
    z, prototypes = torch.randn(9, 8, device="meta", requires_grad=True), torch.randn(12, 8, device="meta")
    for temperature in (1.3, torch.tensor(1.3, device="meta")):
        loss, bmu = som_loss(z, prototypes, Grid(3, 4), temperature)
        assert (loss.shape, loss.dtype, bmu.shape, bmu.dtype) == ((), torch.float32, (9,), torch.int64)
        (grad,) = torch.autograd.grad(loss, z)
        assert (grad.shape, grad.device.type) == ((9, 8), "meta")
    assert [x.shape for x in find_bmu(z, prototypes)] == [(9,), (9,)]


# Compilation


def _eager_and_compiled(function: Callable[..., Tensor], *inputs: Tensor, **options: Any) -> None:
    compiled = torch.compile(function, fullgraph=True, **options)
    leaves = [x for x in inputs if x.requires_grad]
    expected, actual = function(*inputs), compiled(*inputs)
    assert torch.allclose(actual, expected, rtol=1e-5)
    for ours, theirs in zip(torch.autograd.grad(actual, leaves), torch.autograd.grad(expected, leaves), strict=True):
        assert relative_error(ours, theirs) < 1e-5


def test_compiled_loss_equals_eager(backend: str) -> None:
    grid = Grid(4, 3, "hexagonal", periodic=True)
    z, prototypes = _inputs(backend, grid, requires_grad=True)
    temperature = torch.tensor(1.3, device=z.device)

    def objective(z: Tensor, prototypes: Tensor, temperature: Tensor) -> Tensor:
        by_tensor, bmu = som_loss(z, prototypes, grid, temperature, backend=backend)
        by_float, _ = som_loss(z.sin(), prototypes, grid, 0.8, reduction="sum", backend=backend)
        return by_tensor + by_float + 0.01 * bmu.sum()

    _eager_and_compiled(objective, z, prototypes, temperature)


def test_compiled_module_equals_eager(backend: str) -> None:
    module = FusedSOMLoss((3, 4), 8, backend=backend, device=BACKENDS[backend])
    z = torch.randn(9, 2, 4, device=BACKENDS[backend], requires_grad=True)
    expected = module(z, 1.3, return_bmu=True)
    expected_grads = torch.autograd.grad(expected[0], (z, module.prototypes))
    actual = torch.compile(module, fullgraph=True)(z, 1.3, return_bmu=True)
    grads = torch.autograd.grad(actual[0], (z, module.prototypes))
    assert torch.allclose(actual[0], expected[0], rtol=1e-5)
    assert torch.equal(actual[1], expected[1])
    for ours, theirs in zip(grads, expected_grads, strict=True):
        assert relative_error(ours, theirs) < 1e-5


def test_a_temperature_tensor_changes_without_recompiling(backend: str) -> None:
    counter = CompileCounter()
    grid = Grid(3, 4)
    z, prototypes = _inputs(backend, grid)

    @torch.compile(backend=counter, fullgraph=True)
    def objective(z: Tensor, temperature: Tensor) -> Tensor:
        return som_loss(z, prototypes, grid, temperature, backend=backend)[0]

    for value in (0.5, 1.3, 40.0):
        temperature = torch.tensor(value, device=z.device)
        expected = som_loss(z, prototypes, grid, value, backend=backend)[0]
        assert torch.allclose(objective(z, temperature), expected, rtol=1e-5)
    assert counter.frame_count == 1


def test_the_batch_size_changes_without_recompiling(backend: str) -> None:
    counter = CompileCounter()
    grid = Grid(3, 4, "hexagonal")
    prototypes = torch.randn(12, 8, device=BACKENDS[backend])

    @torch.compile(backend=counter, fullgraph=True, dynamic=True)
    def objective(z: Tensor) -> Tensor:
        return som_loss(z, prototypes, grid, 1.3, backend=backend)[0]

    for batch in (9, 33, 2):
        z = torch.randn(batch, 8, device=BACKENDS[backend], requires_grad=True)
        loss, expected = objective(z), som_loss(z, prototypes, grid, 1.3, backend=backend)[0]
        assert torch.allclose(loss, expected, rtol=1e-5)
        assert relative_error(torch.autograd.grad(loss, z)[0], torch.autograd.grad(expected, z)[0]) < 1e-5
    assert counter.frame_count == 1


def test_dynamic_batch_with_gradients_through_the_whole_compiler(backend: str) -> None:
    grid = Grid(3, 4)
    prototypes = torch.randn(12, 8, device=BACKENDS[backend], requires_grad=True)
    compiled = torch.compile(
        lambda z: som_loss(z, prototypes, grid, 1.3, backend=backend)[0], backend="aot_eager", dynamic=True
    )
    for batch in (9, 33):
        z = torch.randn(batch, 8, device=BACKENDS[backend], requires_grad=True)
        expected = som_loss(z, prototypes, grid, 1.3, backend=backend)[0]
        for ours, theirs in zip(
            torch.autograd.grad(compiled(z), (z, prototypes)), torch.autograd.grad(expected, (z, prototypes)), strict=True
        ):
            assert relative_error(ours, theirs) < 1e-5


# Autocast


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("z_dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(any_backend: str, z_dtype: torch.dtype, low: torch.dtype) -> None:
    """Neither loss nor gradients, be backward called inside the region or outside of it."""
    grid = Grid(9, 11, "hexagonal")
    device = BACKENDS[any_backend]
    z = torch.randn(33, 24, device=device).to(z_dtype).requires_grad_()
    prototypes = torch.randn(99, 24, device=device, requires_grad=True)
    loss, bmu = som_loss(z, prototypes, grid, 1.3, backend=any_backend)
    found = find_bmu(z, prototypes, backend=any_backend)
    grads = torch.autograd.grad(loss, (z, prototypes))
    assert loss.dtype == torch.float32
    with torch.autocast(torch.device(device).type, low):
        inside, inside_bmu = som_loss(z, prototypes, grid, 1.3, backend=any_backend)
        inside_found = find_bmu(z, prototypes, backend=any_backend)
        inside_grads = torch.autograd.grad(inside, (z, prototypes), retain_graph=True)
    outside_grads = torch.autograd.grad(inside, (z, prototypes))
    assert inside.dtype == torch.float32
    assert torch.equal(inside, loss)
    assert torch.equal(inside_bmu, bmu)
    for ours, theirs in zip((*inside_found, *outside_grads), (*found, *grads), strict=True):
        assert torch.equal(ours, theirs)
    if any_backend != "reference":  # PyTorch's own backward formulas run under the autocast that backward is called in
        for ours, theirs in zip(inside_grads, grads, strict=True):
            assert torch.equal(ours, theirs)


def test_autocast_encoder(any_backend: str) -> None:
    """The usual step: the encoder gives bf16 latents, the prototypes are fp32, backward runs inside the region."""
    device = BACKENDS[any_backend]
    encoder = nn.Linear(6, 24, device=device)
    module = FusedSOMLoss((9, 11), 24, backend=any_backend, device=device)
    x = torch.randn(33, 6, device=device)
    with torch.autocast(torch.device(device).type, torch.bfloat16):
        z = encoder(x)
        assert z.dtype == torch.bfloat16
        z.retain_grad()
        loss = module(z, 1.3)
        loss.backward()
    leaf = z.detach().requires_grad_()
    expected = module(leaf, 1.3)
    grad_z, grad_prototypes = torch.autograd.grad(expected, (leaf, module.prototypes))
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)
    assert z.grad is not None
    assert z.grad.dtype == torch.bfloat16
    assert module.prototypes.grad is not None
    assert module.prototypes.grad.dtype == torch.float32
    if any_backend != "reference":
        assert torch.equal(z.grad, grad_z)
        assert torch.equal(module.prototypes.grad, grad_prototypes)
    assert encoder.weight.grad is not None
    assert encoder.weight.grad.isfinite().all()


# Gradient modes


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
@pytest.mark.parametrize("topology", ["rectangular", "hexagonal"])
def test_training_after_evaluation(any_backend: str, topology: str, mode: Callable[[], Any]) -> None:
    """What the first call keeps for later ones must not be an inference tensor; a map of this size is used nowhere else."""
    grid = Grid(10, 23 if mode is torch.no_grad else 29, topology, periodic=True)
    z, prototypes = (torch.randn(n, 8, device=BACKENDS[any_backend]) for n in (9, grid.num_prototypes))
    temperature = torch.tensor(1.3, device=z.device)
    with mode():
        first, _ = som_loss(z, prototypes, grid, temperature, backend=any_backend)
        find_bmu(z, prototypes, backend=any_backend)
    leaf = z.clone().requires_grad_()
    loss, _ = som_loss(leaf, prototypes, grid, temperature, backend=any_backend)
    assert torch.equal(loss, first)
    (grad,) = torch.autograd.grad(loss, leaf)
    assert grad.abs().sum() > 0


def test_weights_and_bmu_carry_no_gradient(any_backend: str) -> None:
    grid = Grid(3, 4)
    z, prototypes = _inputs(any_backend, grid, requires_grad=True)
    temperature = torch.tensor(1.3, device=z.device, requires_grad=True)
    loss, bmu = som_loss(z, prototypes, grid, temperature, backend=any_backend)
    assert not bmu.requires_grad
    loss.backward()
    assert temperature.grad is None


def test_backward_twice_through_one_graph(any_backend: str) -> None:
    grid = Grid(3, 4)
    z, prototypes = _inputs(any_backend, grid, requires_grad=True)
    loss, _ = som_loss(z, prototypes, grid, 1.3, backend=any_backend)
    loss.backward(retain_graph=True)
    assert z.grad is not None
    once = z.grad.clone()
    loss.backward()
    assert torch.equal(z.grad, 2 * once)


# Gradients against finite differences, and gradients of gradients


@pytest.mark.parametrize(("grid", "reduction"), zip(MAPS, ["mean", "sum", "sum", "mean"], strict=True), ids=str)
def test_gradcheck(grid: Grid, reduction: str) -> None:
    """In so few features that every second derivative can be taken by differences."""
    z, prototypes = (x[:, :3].double().requires_grad_() for x in _inputs("torch", grid))

    def loss(z: Tensor, prototypes: Tensor) -> Tensor:
        return som_loss(z, prototypes, grid, 1.3, reduction=reduction, backend="torch")[0]

    assert torch.autograd.gradcheck(loss, (z, prototypes))
    assert torch.autograd.gradgradcheck(loss, (z[:4].detach().requires_grad_(), prototypes), atol=1e-4)


@pytest.mark.parametrize("wanted", [(0,), (1,), (0, 1)], ids=["z", "prototypes", "both"])
@pytest.mark.parametrize("grid", MAPS, ids=str)
def test_double_backward_against_the_reference(any_backend: str, grid: Grid, wanted: tuple[int, ...]) -> None:
    """A gradient penalty, in fp32 against the reference in fp64."""
    inputs = _inputs(any_backend, grid)

    def penalty(inputs: list[Tensor], loss: Callable[..., tuple[Tensor, Tensor]]) -> tuple[Tensor, ...]:
        leaves = [inputs[i] for i in wanted]
        value, _ = loss(*inputs, grid, 1.3)
        grads = torch.autograd.grad(value * 3, leaves, create_graph=True)
        return torch.autograd.grad(sum((g.square().sum() for g in grads), start=value), leaves)

    ours = penalty([x.clone().requires_grad_() for x in inputs], lambda *a: som_loss(*a, backend=any_backend))
    theirs = penalty([x.double().requires_grad_() for x in inputs], reference.som_loss)
    for actual, expected in zip(ours, theirs, strict=True):
        assert actual.dtype == torch.float32
        assert relative_error(actual, expected) < 1e-5


@pytest.mark.parametrize("relation", ["the same tensor", "prototypes from latents", "latents from prototypes"])
def test_inputs_that_depend_on_one_another(any_backend: str, relation: str) -> None:
    """Each path is counted once, in gradients and in their gradients."""
    grid = Grid(3, 3)
    x = torch.randn(9, 8, dtype=torch.float64, device=BACKENDS[any_backend])

    def derivatives(loss: Callable[..., tuple[Tensor, Tensor]], x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.clone().requires_grad_()
        other = x if relation == "the same tensor" else x + x.sin()
        z, prototypes = (other, x) if relation == "latents from prototypes" else (x, other)
        value, _ = loss(z, prototypes, grid, 1.3)
        (first,) = torch.autograd.grad(value, x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x)
        return first, second

    dtype = torch.float64 if any_backend in ("reference", "torch") else torch.float32  # kernels have no fp64
    ours = derivatives(lambda *a: som_loss(*a, backend=any_backend), x.to(dtype))
    for actual, expected in zip(ours, derivatives(reference.som_loss, x), strict=True):
        assert relative_error(actual, expected) < 1e-5


@pytest.mark.parametrize("transform", ["jvp", "jacfwd", "dual numbers", "grad", "hessian"])
def test_function_transforms(any_backend: str, transform: str) -> None:
    """Forward derivatives and torch.func agree with the reference in fp64; a tangent is never dropped in silence."""
    grid = Grid(3, 4)
    z, prototypes, tangent = (torch.randn(count, 5, device=BACKENDS[any_backend]) for count in (8, 12, 8))

    def derivative(loss: Callable[..., tuple[Tensor, Tensor]], dtype: torch.dtype) -> Tensor:
        def of_z(z: Tensor) -> Tensor:
            return loss(z, prototypes.to(dtype), grid, 2.0)[0]

        x, direction = z.to(dtype), tangent.to(dtype)
        if transform == "jvp":
            return torch.func.jvp(of_z, (x,), (direction,))[1]
        if transform == "dual numbers":
            with torch.autograd.forward_ad.dual_level():
                value = of_z(torch.autograd.forward_ad.make_dual(x, direction))
                return torch.autograd.forward_ad.unpack_dual(value).tangent
        return getattr(torch.func, transform)(of_z)(x)

    ours = derivative(lambda *a: som_loss(*a, backend=any_backend), torch.float32)
    assert relative_error(ours, derivative(reference.som_loss, torch.float64)) < 1e-5
