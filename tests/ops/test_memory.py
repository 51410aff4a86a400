"""Tensors whose elements are not where their address says: each is taken for what it stands for, or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import BACKENDS, relative_error
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from vitsom_fast import Grid, backends, find_bmu, som_loss
from vitsom_fast.backends import cpu
from vitsom_fast.backends.memory import in_memory, is_plain
from vitsom_fast.neighborhoods import neighborhood

GRID = Grid(3, 4)


class Wrapper(Tensor):
    """Holds another tensor and has no memory of its own, as DTensor does; unwraps whatever an operator gets."""

    held: Tensor
    seen: list[str]

    @staticmethod
    def __new__(cls, held: Tensor) -> Wrapper:
        made = Tensor._make_wrapper_subclass(cls, held.shape, dtype=held.dtype, device=held.device)
        made.held, made.seen = held, []
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        wrappers = [x for x in args if isinstance(x, cls)]
        for wrapper in wrappers:
            wrapper.seen.append(func.name())
        plain = [x.held if isinstance(x, cls) else x for x in args]
        return func(*plain, **(kwargs or {}))


class Named(Tensor):
    """A subclass that is memory like any other."""


class Shadow(Wrapper):
    """As that one, and has memory of its own, which nobody but its dispatcher is to read: it is full of NaN."""

    @staticmethod
    def __new__(cls, held: Tensor) -> Shadow:
        made = Tensor._make_subclass(cls, torch.full_like(held, torch.nan))
        made.held, made.seen = held, []
        return made


def _freed(x: Tensor) -> Tensor:
    x = x.clone()
    x.untyped_storage().resize_(0)
    return x


def _leaked(x: Tensor) -> Tensor:
    """The wrapper of a transform, after it."""
    found: list[Tensor] = []

    def keep(row: Tensor) -> Tensor:
        found.append(row)
        return row

    torch.func.vmap(keep)(x[None])
    return found[0]


# What a tensor may be, and the plain tensor that it stands for.
VIEWS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "negative": (torch._neg_view, torch.neg),
    "negative of a transposed one": (lambda x: torch._neg_view(x.T.contiguous()).T, torch.neg),
    "imaginary part of a conjugate": (lambda x: torch.complex(x, x).conj().imag, torch.neg),
    "zeros without memory": (lambda x: torch._efficientzerotensor(x.shape), torch.zeros_like),
    "subclass": (lambda x: x.as_subclass(Named), torch.clone),
}
WITHOUT_MEMORY: dict[str, Callable[[Tensor], Tensor]] = {
    "meta": lambda x: x.to("meta"),
    "fake": FakeTensorMode().from_tensor,
    "functional": torch._to_functional_tensor,
    "given back": _freed,
    "leaked from a transform": _leaked,
    "wrapper": Wrapper,
    "wrapper with memory": Shadow,
}


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    return {"z": torch.randn(5, 8), "prototypes": torch.randn(12, 8)}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("which", ["z", "prototypes"])
def test_views_are_taken_for_what_they_show(backend: str, which: str, view: str, inputs: dict[str, Tensor]) -> None:
    if BACKENDS[backend] != "cpu":
        pytest.skip("these are made on the CPU")
    make, meant = VIEWS[view]
    shown = inputs | {which: make(inputs[which])}
    plain = inputs | {which: meant(inputs[which])}
    results = []
    for arguments in (shown, plain):
        leaf = arguments["prototypes" if which == "z" else "z"].requires_grad_()
        loss, bmu = som_loss(**arguments, grid=GRID, temperature=1.3, backend=backend)
        found = find_bmu(**arguments, backend=backend)
        results.append([loss.detach(), bmu, *found, *torch.autograd.grad(loss, leaf)])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual.as_subclass(Tensor), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", ["z", "prototypes"])
def test_functions_of_cpu_read_views_right(name: str, view: str, inputs: dict[str, Tensor]) -> None:
    """Called without the operators, as ``search_counts`` is."""
    if reason := cpu.unavailable():
        pytest.skip(f"backend 'cpu': {reason}")
    make, meant = VIEWS[view]
    actual = cpu.search(**(inputs | {name: make(inputs[name])}))
    expected = cpu.search(**(inputs | {name: meant(inputs[name])}))
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_whatever_a_backend_reads_may_be_a_view(backend: str, inputs: dict[str, Tensor]) -> None:
    """Called without the operators, which would resolve it; one at a time, as two negative factors make up for each other."""
    if backend == "torch":
        pytest.skip("it reads no addresses")
    own: Any = backends.get(backend)
    device = BACKENDS[backend]
    factors = dict(zip(("row_factors", "col_factors"), neighborhood(GRID, 1.3, device=device), strict=True))
    given = {name: x.to(device) for name, x in inputs.items()} | factors
    names = ("loss", "bmu", "attraction", "context")
    found = dict(zip(names, own.som_forward(**given, reduction="mean"), strict=True))
    for name in given:
        loss, *_ = own.som_forward(**(given | {name: _shown_as_negative(given[name])}), reduction="mean")
        torch.testing.assert_close(loss, found["loss"], msg=name)
    kept = given | {name: found[name] for name in names[1:]} | {"grad_loss": torch.tensor(2.0, device=device)}
    options: dict[str, Any] = {"reduction": "mean", "for_z": True, "for_prototypes": True}
    expected = own.som_backward(**kept, **options)
    for name in kept:
        actual = own.som_backward(**(kept | {name: _shown_as_negative(kept[name])}), **options)
        torch.testing.assert_close(actual, expected, msg=name)
    rows = {name: given[name] for name in inputs}
    for name in rows:
        actual = own.search(**(rows | {name: _shown_as_negative(rows[name])}))
        torch.testing.assert_close(actual, own.search(**rows), msg=name)
    if hasattr(own, "gaussian_weights"):
        offsets, radius = torch.arange(5.0, device=device), torch.tensor(1.3, device=device)
        weights = own.gaussian_weights(offsets, radius)
        assert torch.equal(own.gaussian_weights(offsets, _shown_as_negative(radius)), weights)
        assert torch.equal(own.gaussian_weights(_shown_as_negative(offsets), radius), weights)


def _shown_as_negative(x: Tensor) -> Tensor:
    """x, whose memory holds -x."""
    return torch._neg_view(-x)


@pytest.mark.parametrize("kind", WITHOUT_MEMORY)
@pytest.mark.parametrize("name", ["z", "prototypes"])
def test_functions_of_cpu_refuse_what_has_no_memory(name: str, kind: str, inputs: dict[str, Tensor]) -> None:
    if reason := cpu.unavailable():
        pytest.skip(f"backend 'cpu': {reason}")
    changed = inputs | {name: WITHOUT_MEMORY[kind](inputs[name])}
    with pytest.raises((TypeError, ValueError), match=name):
        cpu.search(**changed)


@pytest.mark.parametrize("kind", WITHOUT_MEMORY)
def test_what_has_no_memory_is_not_plain(kind: str) -> None:
    x = WITHOUT_MEMORY[kind](torch.randn(5, 8))
    assert not is_plain(x)
    with pytest.raises(TypeError, match="name"):
        in_memory("name", x)


def test_plain_memory_is_not_copied() -> None:
    x = torch.randn(5, 8)
    for plain in (x, x.T, x[1:, ::2], x[:1].expand(3, 8), torch.nn.Parameter(x)):
        assert in_memory("x", plain) is plain


@pytest.mark.parametrize("kind", [Wrapper, Shadow])
@pytest.mark.parametrize("which", ["z", "prototypes"])
def test_a_wrapper_sees_the_operators(backend: str, which: str, kind: type[Wrapper], inputs: dict[str, Tensor]) -> None:
    """A subclass with a dispatcher of its own takes no short way past it, be it the latents or the prototypes."""
    inputs = {name: x.to(BACKENDS[backend]) for name, x in inputs.items()}
    expected = som_loss(**inputs, grid=GRID, temperature=1.3, backend=backend)
    wrapped = kind(inputs[which])
    actual = som_loss(**(inputs | {which: wrapped}), grid=GRID, temperature=1.3, backend=backend)
    assert "vitsom::som_forward" in wrapped.seen
    assert torch.equal(actual[0], expected[0])
    assert torch.equal(actual[1], expected[1])


@pytest.mark.parametrize("name", ["bmu", "attraction", "context"])
def test_backward_of_cpu_refuses_other_dtypes(name: str, inputs: dict[str, Tensor]) -> None:
    if reason := cpu.unavailable():
        pytest.skip(f"backend 'cpu': {reason}")
    factors = neighborhood(GRID, 1.3)
    _, *kept = torch.ops.vitsom.som_forward(*inputs.values(), *factors, "mean", "cpu")
    arguments = dict(zip(("bmu", "attraction", "context"), kept, strict=True))
    arguments[name] = arguments[name].to(torch.int8)
    with pytest.raises(ValueError, match=rf"{name} must be .*torch.int8"):
        torch.ops.vitsom.som_backward(
            torch.tensor(1.0), *inputs.values(), *factors, *arguments.values(), "mean", True, True, "cpu"
        )


@pytest.mark.parametrize("how", ["dtype", "device"])
def test_search_counts_under_other_defaults(how: str) -> None:
    """What the kernels write to does not depend on what PyTorch makes tensors of by default."""
    if reason := cpu.unavailable():
        pytest.skip(f"backend 'cpu': {reason}")
    z, prototypes = torch.randn(3000, 8), torch.randn(16, 8)
    expected = cpu.search_counts(z, prototypes)
    if how == "device":
        with torch.device("meta"):
            assert cpu.search_counts(z, prototypes) == expected
        return
    torch.set_default_dtype(torch.float16)
    try:
        assert cpu.search_counts(z, prototypes) == expected
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("how", ["dtype", "device"])
@pytest.mark.parametrize("grid", [GRID, Grid(1, 300)], ids=["short", "long"])  # of a long axis no matrix is made
def test_a_step_under_other_defaults(any_backend: str, grid: Grid, how: str) -> None:
    shapes = (7, 8), (grid.num_prototypes, 8)
    z, prototypes = (torch.randn(shape).to(BACKENDS[any_backend]).requires_grad_() for shape in shapes)

    def step() -> tuple[Tensor, ...]:
        loss, bmu = som_loss(z, prototypes, grid, 1.3, backend=any_backend)
        return loss, bmu, *torch.autograd.grad(loss, (z, prototypes)), *find_bmu(z, prototypes, backend=any_backend)

    expected = step()
    if how == "device":
        with torch.device("meta"):
            actual = step()
    else:
        torch.set_default_dtype(torch.float16)
        try:
            actual = step()
        finally:
            torch.set_default_dtype(torch.float32)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(actual, expected, strict=True))


@pytest.mark.parametrize("vectorised", ["grad", "jacobian"])
def test_batched_gradients(any_backend: str, vectorised: str, inputs: dict[str, Tensor]) -> None:
    """Several losses differentiated at once, as multi-task methods do."""
    device = BACKENDS[any_backend]
    z, prototypes = (x.to(device).requires_grad_() for x in inputs.values())

    def losses(z: Tensor, prototypes: Tensor) -> Tensor:
        loss, _ = som_loss(z, prototypes, GRID, 1.3, backend=any_backend)
        return torch.stack([loss, z.square().mean(), 3 * loss + prototypes.sin().sum()])

    values = losses(z, prototypes)
    one_by_one = [torch.autograd.grad(value, (z, prototypes), retain_graph=True, allow_unused=True) for value in values]
    if vectorised == "grad":
        directions = torch.eye(3, device=device)
        batched = torch.autograd.grad(values, (z, prototypes), directions, is_grads_batched=True, retain_graph=True)
    else:
        batched = torch.autograd.functional.jacobian(losses, (z, prototypes), vectorize=True)
    for which, x in enumerate((z, prototypes)):
        expected = torch.stack([torch.zeros_like(x) if grads[which] is None else grads[which] for grads in one_by_one])
        assert relative_error(batched[which], expected) < 1e-6


def test_batched_gradients_of_gradients(any_backend: str, inputs: dict[str, Tensor]) -> None:
    device = BACKENDS[any_backend]
    z, prototypes = (x.to(device).requires_grad_() for x in inputs.values())
    loss, _ = som_loss(z, prototypes, GRID, 1.3, backend=any_backend)
    (grad,) = torch.autograd.grad(loss, z, create_graph=True)
    directions = torch.randn(3, *z.shape, device=device)
    (batched,) = torch.autograd.grad(grad, z, directions, is_grads_batched=True, retain_graph=True)
    expected = torch.stack([torch.autograd.grad(grad, z, one, retain_graph=True)[0] for one in directions])
    assert relative_error(batched, expected) < 1e-5
