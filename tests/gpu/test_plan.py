"""Plans of launches: every call has its own addresses and numbers, and a plan serves no other kind of tensors.

Where Triton interprets there is no compiled kernel to repeat; a stand-in takes the addresses as one would, and hands tensors of
what lies there to the interpreter.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from helpers import BACKENDS, GPU, check, check_bmu, run
from torch import Tensor

from vitsom_fast import Grid, available_backends, backends, find_bmu
from vitsom_fast.neighborhoods import neighborhood

REASON = available_backends()["triton"]
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))
INTERPRETED = BACKENDS["triton"] == "cpu"


def _plan() -> Any:
    """The module; imported late, as Triton may be absent."""
    return importlib.import_module("vitsom_fast.kernels.launch.plan")


class Repeated:
    """How often compiled kernels were launched by their addresses."""

    count = 0


@pytest.fixture
def repeated(monkeypatch: pytest.MonkeyPatch) -> Iterator[Repeated]:
    """No plan is there yet; from its second call on, each repeats its launches."""
    plan, counter = _plan(), Repeated()
    plan.forget()
    first = plan.first_launch

    def counting(kernel: Any, programs: int, arguments: list[Any], options: dict[str, Any]) -> Callable[..., None]:
        runner = first(kernel, programs, arguments, options) or _by_address(kernel, programs, arguments, options)

        def run(*repeated_arguments: Any, stream: int) -> None:
            counter.count += 1
            runner(*repeated_arguments, stream=stream)

        return run

    monkeypatch.setattr(plan, "first_launch", counting)
    if INTERPRETED:
        monkeypatch.setattr(plan, "current_stream", lambda device: 0)
    yield counter
    plan.forget()


def _by_address(kernel: Any, programs: int, arguments: list[Any], options: dict[str, Any]) -> Callable[..., None]:
    """A compiled kernel's stand-in: what it was first launched with says of what kind the tensors at the addresses are."""
    likes = [(x.dtype, x.shape, x.stride()) if isinstance(x, Tensor) else None for x in arguments]

    def run(*repeated_arguments: Any, stream: int) -> None:
        tensors = [_at(x, *like) if like else x for x, like in zip(repeated_arguments, likes, strict=True)]
        kernel[programs,](*tensors, **options)

    return run


def _at(address: int, dtype: torch.dtype, shape: torch.Size, strides: tuple[int, ...]) -> Tensor:
    assert isinstance(address, int)
    if 0 in shape:
        return torch.empty(shape, dtype=dtype)
    length = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    memory = (ctypes.c_char * (length * dtype.itemsize)).from_address(address)
    return torch.frombuffer(memory, dtype=dtype).as_strided(shape, strides)


def step(z: Tensor, prototypes: Tensor, grid: Grid, temperature: float | Tensor) -> None:
    check(run("triton", z, prototypes, grid, temperature), z, prototypes, grid, temperature)


@pytest.mark.parametrize("grid", [Grid(3, 4), Grid(5, 3, "hexagonal")], ids=str)
@pytest.mark.parametrize("batch", [9, 700])  # by weights, and along axes
def test_repeated_launches_see_new_addresses(
    repeated: Repeated, monkeypatch: pytest.MonkeyPatch, grid: Grid, batch: int
) -> None:
    if batch == 700:
        monkeypatch.setattr(importlib.import_module("vitsom_fast.kernels.context"), "_MOST_WEIGHTS", 0)
    kept = []  # so that no call gets the memory of the last
    for call in range(3):
        z, prototypes = torch.randn(batch % 100 + 20, 17), torch.randn(grid.num_prototypes, 17)
        step(z, prototypes, grid, 1.0 + call)
        kept += [z, prototypes]
        assert (repeated.count > 0) == (call > 0)


def test_primitives_see_new_addresses(repeated: Repeated) -> None:
    own, factors = backends.get("triton"), neighborhood(Grid(3, 4), 1.3, device=GPU)
    rows, cols = factors.rows.mT, factors.cols.mT
    kept = []  # so that no call gets the memory of the last
    for call in range(3):
        x, bmu = torch.randn(29, 5, device=GPU), torch.randint(0, 12, (29,), device=GPU)
        sums = torch.ones(12, 6, dtype=torch.float64, device=GPU)
        own.add_by_bmu(sums, x, bmu)  # type: ignore[attr-defined]
        added, counts = own.sum_by_bmu(x, bmu, 12)
        smoothed = own.smooth(added, rows, cols)
        units = torch.randn(12, 5, device=GPU)
        nearest, distance = own.squared_search(x, units)  # type: ignore[attr-defined]
        kept += [x, bmu, sums, added, counts, smoothed, units, nearest, distance]
        squared = (x[:, None] - units).double().square().sum(dim=2)  # [29, 12]
        torch.testing.assert_close(distance.double(), squared.amin(dim=1), rtol=1e-5, atol=1e-6)
        assert torch.equal(nearest, squared.argmin(dim=1))
        expected = torch.zeros(12, 5, dtype=torch.float64, device=GPU).index_add_(0, bmu, x.double())
        torch.testing.assert_close(sums[:, :5] - 1, expected)
        torch.testing.assert_close(sums[:, 5] - 1, counts.double())
        torch.testing.assert_close(added.double(), expected, rtol=1e-6, atol=1e-6)
        weights = torch.kron(rows[0].double().contiguous(), cols[0].double().contiguous())
        torch.testing.assert_close(smoothed.double(), weights @ added.double(), rtol=1e-5, atol=1e-5)
        assert (repeated.count > 0) == (call > 0)


@pytest.mark.parametrize("temperature", [1e-3, 0.7, 1e4, torch.tensor(0.7), torch.tensor(2.0, dtype=torch.float64)])
def test_the_temperature_is_that_of_the_call(repeated: Repeated, temperature: float | Tensor) -> None:
    z, prototypes, grid = torch.randn(8, 5), torch.randn(12, 5), Grid(3, 4)
    other = torch.full_like(temperature, 1.3) if isinstance(temperature, Tensor) else 1.3
    for each in (other, temperature, other):
        step(z, prototypes, grid, each)
    assert repeated.count


def test_no_plan_serves_another_kind(repeated: Repeated) -> None:
    """Other dtypes, sizes, strides, alignment and grids of as many units each get a plan of their own."""
    plans = _plan()._plans
    grid = Grid(3, 4)
    z, prototypes = torch.randn(8, 16), torch.randn(12, 16)
    aligned = torch.randn(8 * 16 + 1)
    kinds: dict[str, Callable[[], None]] = {
        "plain": lambda: step(z, prototypes, grid, 1.0),
        "dtype": lambda: step(z.bfloat16(), prototypes.bfloat16(), grid, 1.0),
        "batch": lambda: step(z[:7], prototypes, grid, 1.0),
        "features": lambda: step(z[:, :9], prototypes[:, :9], grid, 1.0),
        "strides": lambda: step(z.T.contiguous().T, prototypes, grid, 1.0),
        "alignment": lambda: step(aligned[1:].view(8, 16), prototypes, grid, 1.0),
        "grid": lambda: step(z, prototypes, Grid(4, 3), 1.0),
        "hexagonal": lambda: step(z, prototypes, Grid(4, 3, "hexagonal"), 1.0),
        "sum": lambda: check(
            run("triton", z, prototypes, grid, 1.0, reduction="sum"), z, prototypes, grid, 1.0, reduction="sum"
        ),
    }
    for kind, call in kinds.items():
        before = len(plans)
        call()
        assert len(plans) > before or (kind == "alignment" and not INTERPRETED), kind
    before, count = len(plans), repeated.count
    for call in kinds.values():
        call()
    assert len(plans) == before
    assert repeated.count > count


def test_other_rows_and_columns_of_as_many_units_are_another_kind(repeated: Repeated) -> None:
    z, prototypes = torch.randn(8, 16), torch.randn(12, 16)
    for _ in range(2):
        for grid in (Grid(3, 4), Grid(4, 3), Grid(2, 6), Grid(12, 1)):
            step(z, prototypes, grid, 1.0)


def test_kept_results_are_not_written_again(repeated: Repeated) -> None:
    """Of a call that comes after: results are the caller's."""
    prototypes = torch.randn(12, 16, device=GPU)
    first, second = torch.randn(8, 16, device=GPU), torch.randn(8, 16, device=GPU)
    find_bmu(first, prototypes, backend="triton")
    bmu, distance = find_bmu(first, prototypes, backend="triton")
    kept = bmu.clone(), distance.clone()
    find_bmu(second, prototypes, backend="triton")
    assert torch.equal(bmu, kept[0])
    assert torch.equal(distance, kept[1])
    check_bmu(bmu.cpu(), first.cpu(), prototypes.cpu())


@pytest.mark.parametrize("batch", [5, 700])  # by weights, and along axes
def test_every_number_of_the_results_is_written(repeated: Repeated, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    """What a graph's outputs are compared by. Deterministic algorithms fill new memory with NaN."""
    if batch == 700:
        monkeypatch.setattr(importlib.import_module("vitsom_fast.kernels.context"), "_MOST_WEIGHTS", 0)
    z, prototypes = torch.randn(batch % 100 + 5, 7, device=GPU), torch.randn(15, 7, device=GPU)
    factors = neighborhood(Grid(3, 5), 1.0, device=GPU)
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(2):
            results = torch.ops.vitsom.som_forward(z, prototypes, *factors, "mean", "triton")
            one = torch.ones((), device=GPU)
            grads = torch.ops.vitsom.som_backward(one, z, prototypes, *factors, *results[1:], "mean", True, True, "triton")
            assert not any(x.is_floating_point() and x.isnan().any() for x in (*results, *grads))
    finally:
        torch.use_deterministic_algorithms(False)
    assert repeated.count


def test_plans_are_bounded(monkeypatch: pytest.MonkeyPatch, repeated: Repeated) -> None:
    plan = _plan()
    monkeypatch.setattr(plan, "_MOST_PLANS", 3)
    for batch in range(1, 8):
        z, prototypes = torch.randn(batch, 4, device=GPU), torch.randn(5, 4, device=GPU)
        bmu, _ = find_bmu(z, prototypes, backend="triton")
        check_bmu(bmu.cpu(), z.cpu(), prototypes.cpu())
        assert len(plan._plans) <= 3


def test_arguments_are_in_the_kernels_order() -> None:
    """Whatever is given by name goes to its place, and a name that is none to the compiler."""
    plan = _plan()

    class Kernel:
        arg_names = ("x", "out", "count", "WIDE", "BLOCK")

    recording = plan.Recording(torch.device("cpu"))
    x = recording.given((torch.float32, (4,), (1,), 0))
    number = recording.given(None)
    out = recording.result((4,), torch.float32)
    _, scratch = recording.temporary((3,), torch.float32), recording.temporary((2, 2), torch.int32)
    recording.launch(Kernel, 7, x, scratch.part(1, (2,), torch.int32), number, BLOCK=64, num_warps=8, WIDE=True)
    (launch,) = recording.launches
    assert launch.programs == 7
    assert launch.arguments[3:] == (True, 64)
    assert launch.options == {"num_warps": 8}
    assert launch.places == ((0, 0, 0), (1, -1, 256 + 4), (2, 1, 0))
    assert out.owner == 2
    assert recording.bytes == 512


def test_hooks_of_profilers_are_called_where_there_are_any() -> None:
    from triton import knobs

    module = importlib.import_module("vitsom_fast.kernels.launch.repeated")
    seen: list[tuple[Any, ...]] = []

    class Compiled:
        """What of Triton's class is asked for; its own launch calls the hooks."""

        function, packed_metadata = 11, (4, 1)

        @staticmethod
        def run(*arguments: Any) -> None:
            seen.append(arguments)

        def __getitem__(self, grid: tuple[int, int, int]) -> Callable[..., None]:
            return lambda *arguments, stream: seen.append(("watched", grid, arguments, stream))

    launch = module.repeated(Compiled(), 6)
    launch(1, 2, stream=3)
    hooks = knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook
    for hook in hooks:
        hook.add(print)
        try:
            launch(1, 2, stream=3)
        finally:
            hook.remove(print)
    launch(1, stream=5)
    plain = (6, 1, 1, 3, 11, (4, 1), None, None, None, 1, 2)
    watched = ("watched", (6, 1, 1), (1, 2), 3)
    assert seen == [plain, watched, watched, (6, 1, 1, 5, 11, (4, 1), None, None, None, 1)]


@pytest.mark.skipif(INTERPRETED, reason="no GPU")
def test_a_hook_sees_every_launch_of_a_plan() -> None:
    from triton import knobs

    z, prototypes = torch.randn(8, 5, device=GPU), torch.randn(12, 5, device=GPU)
    names: list[str] = []

    def note(metadata: Any) -> None:
        names.append(metadata.get()["name"])

    find_bmu(z, prototypes, backend="triton")
    knobs.runtime.launch_enter_hook.add(note)
    try:
        find_bmu(z, prototypes, backend="triton")
    finally:
        knobs.runtime.launch_enter_hook.remove(note)
    seen = len(names)
    find_bmu(z, prototypes, backend="triton")
    assert len(names) == seen >= 3
