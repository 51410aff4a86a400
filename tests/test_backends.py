"""The registry: which backend serves a tensor, and what is said where none does."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from helpers import BACKENDS

from vitsom_fast import Grid, available_backends, backends, find_bmu, som_loss

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _no_wish_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(backends.ENVIRONMENT_VARIABLE, raising=False)


def _stub(unavailable: str | None = None, unsupported: str | None = None) -> SimpleNamespace:
    return SimpleNamespace(unavailable=lambda: unavailable, unsupported=lambda device, dtype: unsupported)


def test_every_name_has_a_reason_or_none() -> None:
    reasons = available_backends()
    assert tuple(reasons) == backends.NAMES == ("reference", "torch", "cpu", "triton", "cuda")
    assert reasons["reference"] is None
    assert reasons["torch"] is None
    assert all(reason is None or (isinstance(reason, str) and reason) for reason in reasons.values())


def test_backends_under_test_are_in_the_registry() -> None:
    assert set(BACKENDS) <= set(backends.NAMES)


@pytest.mark.parametrize("name", [name for name in BACKENDS if name != "reference"])
def test_a_backend_has_the_five_functions(name: str) -> None:
    module = backends.get(name)
    for function in ("unavailable", "unsupported", "find_bmu", "som_forward", "som_backward"):
        assert callable(getattr(module, function))


def test_an_available_backend_can_be_named(any_backend: str) -> None:
    assert backends.resolve(any_backend, torch.device(BACKENDS[any_backend]), torch.float32) == any_backend


@pytest.mark.parametrize("name", backends.NAMES)
def test_an_unavailable_backend_is_refused_with_its_reason(name: str) -> None:
    reason = available_backends()[name]
    if reason is None:
        pytest.skip(f"{name} can run here")
    with pytest.raises(ValueError, match="cannot be used") as caught:
        find_bmu(torch.randn(3, 4), torch.randn(5, 4), backend=name)
    assert repr(name) in str(caught.value)
    assert reason in str(caught.value)


def test_auto_prefers_kernels_of_our_own_that_can_run() -> None:
    expected = "cpu" if available_backends()["cpu"] is None else "torch"
    assert backends.resolve("auto", CPU, torch.float32) == expected


def test_auto_takes_the_first_that_can(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = {"broken": _stub(unavailable="no"), "picky": _stub(unsupported="no"), "good": _stub(), "late": _stub()}
    monkeypatch.setattr(backends, "_modules", chain)
    assert backends.resolve("auto", CPU, torch.float32) == "good"


def test_auto_serves_every_device_and_dtype() -> None:
    for device in (CPU, torch.device("meta")):
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
            assert backends.resolve("auto", device, dtype) in backends.NAMES


@pytest.mark.parametrize("reason", ["unavailable", "unsupported"])
def test_a_named_backend_does_not_fall_back(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    monkeypatch.setitem(backends._modules, "cpu", _stub(**{reason: "it is only a test"}))
    with pytest.raises(ValueError, match=r"'cpu' cannot be used: it is only a test"):
        backends.resolve("cpu", CPU, torch.float32)
    assert backends.resolve("auto", CPU, torch.float32) == "torch"


def test_the_environment_overrides_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    z, prototypes, grid = torch.randn(3, 4), torch.randn(6, 4), Grid(2, 3)
    backends.resolve("auto", CPU, torch.float32)  # decided once already
    served: list[str] = []

    def get(name: str) -> backends.Backend:
        served.append(name)
        return backends._modules[name]

    monkeypatch.setattr(backends, "get", get)
    monkeypatch.setenv(backends.ENVIRONMENT_VARIABLE, "torch")
    som_loss(z, prototypes, grid, 1.0)
    find_bmu(z, prototypes)
    assert set(served) == {"torch"}
    served.clear()
    monkeypatch.setenv(backends.ENVIRONMENT_VARIABLE, "reference")
    som_loss(z, prototypes, grid, 1.0)
    assert not served  # the reference is no operator
    assert backends.resolve("auto", CPU, torch.float32) == "reference"


def test_the_environment_does_not_override_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backends.ENVIRONMENT_VARIABLE, "reference")
    assert backends.resolve("torch", CPU, torch.float32) == "torch"


@pytest.mark.parametrize("value", ["", "auto"])
def test_an_environment_that_says_nothing(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    expected = backends.resolve("auto", CPU, torch.float32)
    monkeypatch.setenv(backends.ENVIRONMENT_VARIABLE, value)
    assert backends.resolve("auto", CPU, torch.float32) == expected


def test_an_unknown_name_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backends.ENVIRONMENT_VARIABLE, "numba")
    with pytest.raises(ValueError, match=r"VITSOM_BACKEND must be .* got 'numba'"):
        find_bmu(torch.randn(3, 4), torch.randn(5, 4))


_WITHOUT_KERNELS = """
import sys
import warnings
sys.modules["vitsom_fast._cpu"] = None  # as where no compiler was at hand
import torch
from vitsom_fast import Grid, find_bmu, som_loss
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(3):
        som_loss(torch.randn(5, 3), torch.randn(6, 3), Grid(2, 3), 1.0)
        find_bmu(torch.randn(5, 3), torch.randn(6, 3))
print([str(w.message) for w in caught if "vitsom_fast" in str(w.message)])
"""


@pytest.mark.parametrize("named", ["", "torch"])
def test_missing_kernels_are_told_once(named: str) -> None:
    """And not at all to who has chosen another backend."""
    environment = os.environ | {"VITSOM_BACKEND": named}
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_KERNELS], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.count("several times slower than its own kernels") == (0 if named else 1)
