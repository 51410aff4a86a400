"""The registry: which backend serves a tensor, and what is said where none does."""

from __future__ import annotations

import importlib.machinery
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import BACKENDS

import vitsom_fast
from vitsom_fast import Grid, available_backends, backends, find_bmu, som_loss
from vitsom_fast.backends import cpu, installed

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _no_wish_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(backends.ENVIRONMENT_VARIABLE, raising=False)


def _stub(unavailable: str | None = None, unsupported: str | None = None) -> SimpleNamespace:
    return SimpleNamespace(unavailable=lambda: unavailable, unsupported=lambda spec: unsupported)


def test_every_name_has_a_reason_or_none() -> None:
    reasons = available_backends()
    assert tuple(reasons) == backends.NAMES == ("reference", "torch", "cpu", "triton", "cuda")
    assert reasons["reference"] is None
    assert reasons["torch"] is None
    assert all(reason is None or (isinstance(reason, str) and reason) for reason in reasons.values())


def test_backends_under_test_are_in_the_registry() -> None:
    assert set(BACKENDS) <= set(backends.NAMES)


@pytest.mark.parametrize("name", [name for name in BACKENDS if name != "reference"])
def test_a_backend_has_every_function(name: str) -> None:
    module = backends.get(name)
    for function in ("unavailable", "unsupported", "search", "sum_by_bmu", "smooth", "som_forward", "som_backward"):
        assert callable(getattr(module, function))


def test_an_available_backend_can_be_named(any_backend: str) -> None:
    assert backends.resolve(any_backend, backends.Spec(torch.device(BACKENDS[any_backend]), torch.float32)) == any_backend


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
    assert backends.resolve("auto", backends.Spec(CPU, torch.float32)) == expected


def test_auto_takes_the_first_that_can(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = {"broken": _stub(unavailable="no"), "picky": _stub(unsupported="no"), "good": _stub(), "late": _stub()}
    monkeypatch.setattr(backends, "_modules", chain)
    assert backends.resolve("auto", backends.Spec(CPU, torch.float32)) == "good"


def test_auto_serves_every_device_and_dtype() -> None:
    for device in (CPU, torch.device("meta")):
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
            assert backends.resolve("auto", backends.Spec(device, dtype)) in backends.NAMES


@pytest.mark.parametrize("reason", ["unavailable", "unsupported"])
def test_a_named_backend_does_not_fall_back(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    monkeypatch.setitem(backends._modules, "cpu", _stub(**{reason: "it is only a test"}))
    with pytest.raises(ValueError, match=r"'cpu' cannot be used: it is only a test"):
        backends.resolve("cpu", backends.Spec(CPU, torch.float32))
    assert backends.resolve("auto", backends.Spec(CPU, torch.float32)) == "torch"


def test_the_environment_overrides_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    z, prototypes, grid = torch.randn(3, 4), torch.randn(6, 4), Grid(2, 3)
    backends.resolve("auto", backends.Spec(CPU, torch.float32))  # decided once already
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
    assert backends.resolve("auto", backends.Spec(CPU, torch.float32)) == "reference"


def test_the_environment_does_not_override_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backends.ENVIRONMENT_VARIABLE, "reference")
    assert backends.resolve("torch", backends.Spec(CPU, torch.float32)) == "torch"


@pytest.mark.parametrize("value", ["", "auto"])
def test_an_environment_that_says_nothing(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    expected = backends.resolve("auto", backends.Spec(CPU, torch.float32))
    monkeypatch.setenv(backends.ENVIRONMENT_VARIABLE, value)
    assert backends.resolve("auto", backends.Spec(CPU, torch.float32)) == expected


def test_an_unknown_name_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backends.ENVIRONMENT_VARIABLE, "numba")
    with pytest.raises(ValueError, match=r"^VITSOM_BACKEND must be .*'numba'"):
        find_bmu(torch.randn(3, 4), torch.randn(5, 4))


def test_the_environment_names_a_backend_that_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backends._modules, "cpu", _stub(unavailable="it is only a test"))
    monkeypatch.setenv(backends.ENVIRONMENT_VARIABLE, "cpu")
    with pytest.raises(ValueError, match=r"^VITSOM_BACKEND 'cpu' cannot be used: it is only a test"):
        backends.resolve("auto", backends.Spec(CPU, torch.float32))


# A CPU without the kernels for it


@pytest.fixture
def _without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_reason", "it is only a test")
    monkeypatch.setattr(backends, "_has_warned", False)


@pytest.mark.usefixtures("_without_kernels")
def test_a_cpu_without_kernels_is_told_once() -> None:
    z, prototypes = torch.randn(3, 4), torch.randn(5, 4)
    with pytest.warns(UserWarning, match=r"slower.*it is only a test.*C\+\+17 compiler"):
        find_bmu(z, prototypes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        find_bmu(z, prototypes)


@pytest.mark.usefixtures("_without_kernels")
def test_nobody_is_told_what_they_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    z, prototypes = torch.randn(3, 4), torch.randn(5, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        find_bmu(z, prototypes, backend="torch")
        find_bmu(z.double(), prototypes.double())  # no kernel of ours serves them
        find_bmu(z.to("meta"), prototypes.to("meta"))
        torch.compile(find_bmu, backend="eager")(z, prototypes)
        monkeypatch.setenv(backends.ENVIRONMENT_VARIABLE, "torch")
        find_bmu(z, prototypes)


@pytest.mark.usefixtures("_without_kernels")
def test_the_source_folder_may_hide_the_kernels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a clone, after a plain install."""
    other = tmp_path / "vitsom_fast"
    other.mkdir()
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    assert installed.other_copy() is None
    (other / f"_cpu{importlib.machinery.EXTENSION_SUFFIXES[0]}").touch()
    with pytest.warns(UserWarning, match=r"work in another folder") as caught:
        find_bmu(torch.randn(3, 4), torch.randn(5, 4))
    assert str(other) in str(caught[0].message)
    assert str(Path(vitsom_fast.__file__).parent) in str(caught[0].message)
