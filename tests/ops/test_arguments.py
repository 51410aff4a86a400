"""Every wrong argument of every public function: the type of the error, and a message that names argument and value."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from vitsom_fast import FusedSOMLoss, Grid, exponential_decay, find_bmu, linear_ramp, param_groups, som_loss
from vitsom_fast.neighborhoods import neighborhood

Z = torch.randn(5, 4)
W = torch.randn(12, 4)
GRID = Grid(3, 4)
META = torch.device("meta")


def assert_refused(call: Callable[[], Any], error: type[Exception], name: str, value: str) -> None:
    """Exactly this kind of error, and the argument before its value in the message."""
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    message = str(caught.value)
    assert name in message
    assert value in message, f"{message!r} does not say {value!r}"


INPUTS = [  # argument, what it is, error, what the message must say
    ("z", None, TypeError, "NoneType"),
    ("z", [[1.0] * 4], TypeError, "list"),
    ("z", Z.long(), TypeError, "torch.int64"),
    ("z", Z.bool(), TypeError, "torch.bool"),
    ("z", Z.to(torch.complex64), TypeError, "torch.complex64"),
    ("z", Z.to(torch.float8_e4m3fn), TypeError, "torch.float8_e4m3fn"),
    ("z", Z[0], ValueError, "(4,)"),
    ("z", Z[0, 0], ValueError, "()"),
    ("z", Z[:, :3], ValueError, "(5, 3)"),
    ("z", Z[:, :0], ValueError, "(5, 0)"),
    ("z", torch.randn(5, 4, 2), ValueError, "(5, 8)"),
    ("z", Z.to_sparse(), TypeError, "sparse_coo"),
    ("z", torch.nested.nested_tensor([Z[0], Z[1, :2]]), TypeError, "nested"),
    ("prototypes", None, TypeError, "NoneType"),
    ("prototypes", W.int(), TypeError, "torch.int32"),
    ("prototypes", W[0], ValueError, "(4,)"),
    ("prototypes", W[None], ValueError, "(1, 12, 4)"),
    ("prototypes", W[:0], ValueError, "(0, 4)"),
    ("prototypes", W[:, :3], ValueError, "(12, 3)"),
    ("prototypes", W.to(META), ValueError, "meta"),
    ("prototypes", W.to_sparse(), TypeError, "sparse_coo"),
    ("distance", "euclidian", ValueError, "'euclidian'"),
    ("distance", None, ValueError, "None"),
    ("backend", "numba", ValueError, "'numba'"),
    ("backend", None, ValueError, "None"),
    ("backend", ["cpu"], ValueError, "['cpu']"),
]


@pytest.mark.parametrize("function", [som_loss, find_bmu])
@pytest.mark.parametrize(("name", "value", "error", "says"), INPUTS)
def test_inputs(function: Callable[..., Any], name: str, value: Any, error: type[Exception], says: str) -> None:
    arguments: dict[str, Any] = {"z": Z, "prototypes": W}
    if function is som_loss:
        arguments |= {"grid": GRID, "temperature": 1.0}
    assert_refused(lambda: function(**(arguments | {name: value})), error, name, says)


@pytest.mark.parametrize(
    ("name", "value", "error", "says"),
    [
        ("grid", (3, 4), TypeError, "tuple"),
        ("grid", None, TypeError, "NoneType"),
        ("grid", Grid(3, 5), ValueError, "3 x 5 = 15"),
        ("grid", Grid(3, 5), ValueError, "(12, 4)"),
        ("temperature", 0.0, ValueError, "0.0"),
        ("temperature", 0, ValueError, "0"),
        ("temperature", -1.5, ValueError, "-1.5"),
        ("temperature", math.nan, ValueError, "nan"),
        ("temperature", math.inf, ValueError, "inf"),
        ("temperature", "1", TypeError, "'1'"),
        ("temperature", None, TypeError, "None"),
        ("temperature", True, TypeError, "True"),
        ("temperature", np.True_, TypeError, "True"),
        ("temperature", np.float32(math.nan), ValueError, "nan"),
        ("temperature", np.float32(-1.5), ValueError, "-1.5"),
        ("temperature", torch.ones(1), ValueError, "(1,)"),
        ("temperature", torch.ones(5), ValueError, "(5,)"),
        ("temperature", torch.tensor(1), ValueError, "torch.int64"),
        ("temperature", torch.tensor(1.0, device=META), ValueError, "meta"),
        ("neighborhood", "square", ValueError, "'square'"),
        ("neighborhood", None, ValueError, "None"),
        ("reduction", "median", ValueError, "'median'"),
        ("reduction", None, ValueError, "None"),
        ("reduction", 1, ValueError, "1"),
    ],
)
def test_som_loss(name: str, value: Any, error: type[Exception], says: str) -> None:
    arguments: dict[str, Any] = {"z": Z, "prototypes": W, "grid": GRID, "temperature": 1.0}
    assert_refused(lambda: som_loss(**(arguments | {name: value})), error, name, says)


@pytest.mark.parametrize(
    ("name", "value", "error", "says"),
    [
        ("rows", 0, ValueError, "0"),
        ("rows", -3, ValueError, "-3"),
        ("rows", 3.0, TypeError, "3.0"),
        ("rows", "3", TypeError, "'3'"),
        ("rows", True, TypeError, "True"),
        ("rows", np.True_, TypeError, "True"),
        ("rows", np.float32(3), TypeError, "3.0"),
        ("rows", np.int64(0), ValueError, "0"),
        ("rows", torch.tensor(True), TypeError, "True"),
        ("cols", 0, ValueError, "0"),
        ("cols", 2.5, TypeError, "2.5"),
        ("cols", None, TypeError, "None"),
        ("topology", "square", ValueError, "'square'"),
        ("topology", None, ValueError, "None"),
        ("periodic", 1, TypeError, "1"),
        ("periodic", "yes", TypeError, "'yes'"),
    ],
)
def test_grid(name: str, value: Any, error: type[Exception], says: str) -> None:
    arguments: dict[str, Any] = {"rows": 3, "cols": 4}
    assert_refused(lambda: Grid(**(arguments | {name: value})), error, name, says)


def test_neighborhood_of_a_grid() -> None:
    assert_refused(lambda: neighborhood(GRID, 1.0, "square"), ValueError, "neighborhood", "'square'")


@pytest.mark.parametrize(
    ("name", "value", "error", "says"),
    [
        ("grid_size", 12, ValueError, "12"),
        ("grid_size", (3,), ValueError, "(3,)"),
        ("grid_size", (3, 4, 5), ValueError, "(3, 4, 5)"),
        ("grid_size", "34", ValueError, "'34'"),
        ("dim", 0, ValueError, "0"),
        ("dim", -4, ValueError, "-4"),
        ("dim", 4.0, ValueError, "4.0"),
        ("dim", None, ValueError, "None"),
        ("dim", True, ValueError, "True"),
        ("dim", np.float64(4), ValueError, "4.0"),
        ("dim", 2**62, ValueError, str(2**62)),
        ("device", "nope", ValueError, "'nope'"),
        ("device", 2.5, ValueError, "2.5"),
        ("topology", "square", ValueError, "'square'"),
        ("periodic", 1, TypeError, "1"),
        ("distance", "euclidian", ValueError, "'euclidian'"),
        ("neighborhood", "square", ValueError, "'square'"),
        ("reduction", "median", ValueError, "'median'"),
        ("backend", "numba", ValueError, "'numba'"),
        ("dtype", torch.int32, TypeError, "torch.int32"),
        ("dtype", torch.complex64, TypeError, "torch.complex64"),
        ("dtype", torch.float8_e4m3fn, TypeError, "torch.float8_e4m3fn"),
        ("dtype", "float32", TypeError, "'float32'"),
    ],
)
def test_fused_som_loss(name: str, value: Any, error: type[Exception], says: str) -> None:
    arguments: dict[str, Any] = {"grid_size": (3, 4), "dim": 4}
    assert_refused(lambda: FusedSOMLoss(**(arguments | {name: value})), error, name, says)


@pytest.mark.parametrize(
    ("grid_size", "name", "says"), [((0, 4), "rows", "0"), ((3, -1), "cols", "-1"), ((2**40, 2**40), "rows * cols", str(2**40))]
)
def test_size_of_the_map(grid_size: tuple[int, int], name: str, says: str) -> None:
    assert_refused(lambda: FusedSOMLoss(grid_size, 4), ValueError, name, says)


def test_options_are_keywords() -> None:
    with pytest.raises(TypeError):
        FusedSOMLoss((3, 4), 4, "hexagonal")  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        som_loss(Z, W, GRID, 1.0, "cosine")  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        find_bmu(Z, W, "cosine")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("z", "temperature", "name", "says"),
    [(torch.randn(5, 3), 1.0, "z", "(5, 3)"), (Z[0], 1.0, "z", "(4,)"), (Z, 0.0, "temperature", "0.0")],
)
def test_forward(z: torch.Tensor, temperature: float, name: str, says: str) -> None:
    assert_refused(lambda: FusedSOMLoss((3, 4), 4)(z, temperature), ValueError, name, says)


@pytest.mark.parametrize(
    ("name", "value", "error", "says"),
    [
        ("start", 0.0, ValueError, "0.0"),
        ("start", -1, ValueError, "-1"),
        ("start", math.nan, ValueError, "nan"),
        ("start", math.inf, ValueError, "inf"),
        ("start", "8", TypeError, "'8'"),
        ("start", None, TypeError, "None"),
        ("stop", 0, ValueError, "0"),
        ("stop", -0.5, ValueError, "-0.5"),
        ("stop", math.inf, ValueError, "inf"),
        ("stop", "1", TypeError, "'1'"),
        ("total_steps", 0, ValueError, "0"),
        ("total_steps", -5, ValueError, "-5"),
        ("total_steps", 2.5, TypeError, "2.5"),
        ("total_steps", "10", TypeError, "'10'"),
        ("total_steps", True, TypeError, "True"),
        ("total_steps", np.float64(10), TypeError, "10.0"),
        ("start", True, TypeError, "True"),
        ("start", np.True_, TypeError, "True"),
        ("start", np.float32(-1), ValueError, "-1.0"),
    ],
)
def test_exponential_decay(name: str, value: Any, error: type[Exception], says: str) -> None:
    arguments: dict[str, Any] = {"start": 8.0, "stop": 0.5, "total_steps": 10}
    assert_refused(lambda: exponential_decay(**(arguments | {name: value})), error, name, says)


@pytest.mark.parametrize(
    ("name", "value", "error", "says"),
    [
        ("stop", math.nan, ValueError, "nan"),
        ("stop", math.inf, ValueError, "inf"),
        ("stop", "1", TypeError, "'1'"),
        ("stop", None, TypeError, "None"),
        ("ramp_steps", 0, ValueError, "0"),
        ("ramp_steps", -5, ValueError, "-5"),
        ("ramp_steps", 2.5, TypeError, "2.5"),
        ("ramp_steps", "10", TypeError, "'10'"),
        ("ramp_steps", True, TypeError, "True"),
    ],
)
def test_linear_ramp(name: str, value: Any, error: type[Exception], says: str) -> None:
    arguments: dict[str, Any] = {"stop": 1.0, "ramp_steps": 10}
    assert_refused(lambda: linear_ramp(**(arguments | {name: value})), error, name, says)


# Numbers that are not Python's


@pytest.mark.parametrize("integer", [np.int64, np.int32, np.uint8, torch.tensor])
def test_sizes_and_steps_of_other_kinds(integer: Callable[[int], Any]) -> None:
    grid = Grid(integer(3), integer(4))
    assert grid == GRID
    assert hash(grid) == hash(GRID)
    assert type(grid.rows) is int
    module = FusedSOMLoss((integer(3), integer(4)), integer(5))
    assert module.prototypes.shape == (12, 5)
    assert module.grid == GRID
    assert exponential_decay(8.0, 0.5, integer(11))(integer(10)) == pytest.approx(0.5)
    assert linear_ramp(0.4, integer(8))(integer(4)) == pytest.approx(0.2)


@pytest.mark.parametrize("number", [np.float32, np.float16, np.float64, np.int64])
def test_radii_of_other_kinds(number: Callable[[float], Any]) -> None:
    expected = som_loss(Z, W, GRID, 2.0)[0]
    assert torch.equal(som_loss(Z, W, GRID, number(2))[0], expected)
    assert torch.equal(som_loss(Z, W, GRID, number(2), backend="torch")[0], som_loss(Z, W, GRID, 2.0, backend="torch")[0])
    # In half precision the square of a radius overflows.
    assert torch.equal(som_loss(Z, W, GRID, number(300))[0], som_loss(Z, W, GRID, 300.0)[0])
    for schedule in (exponential_decay(number(8), number(2), 11), linear_ramp(number(2), 10)):
        assert schedule(10) == pytest.approx(2.0)
        assert type(schedule(10)) is float


@pytest.mark.parametrize("groups", [{"lr": -1.0}, {"lr": math.nan}, {"lr": 1e-3, "weight_decay": -0.1}])
def test_param_groups(groups: dict[str, float]) -> None:
    module = FusedSOMLoss((3, 4), 4)
    name, value = list(groups.items())[-1]
    assert_refused(lambda: param_groups(module, module, **groups), ValueError, name, str(value))
