"""Fixtures of the whole suite: the backend under test, and the same random numbers and threads for every test."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator

import pytest
import torch
from forked import Forks
from helpers import BACKENDS
from interpreter import remember_what_is_replaced

from vitsom_fast import available_backends, backends
from vitsom_fast.backends.compose import Composed

os.environ.pop("PYTEST_ADDOPTS", None)  # meant for this run, not for those that tests start

# A compiler keeps graphs on disk, by the operators in them: one of an earlier version expects what operators returned then.
os.environ.setdefault("TORCHINDUCTOR_FX_GRAPH_CACHE", "0")
os.environ.setdefault("TORCHINDUCTOR_AUTOGRAD_CACHE", "0")
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # more are processes, each of which imports PyTorch

INTERPRETED = BACKENDS["triton"] == "cpu"
if INTERPRETED:
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before Triton is imported

# Of the cases of one test, what an interpreted backend runs unless --all-cases asks for more: 10 ms a program add up.
CASES_INTERPRETED = 1


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all-cases", action="store_true", help="run interpreted backends on every case of every test")
    parser.addoption("--composed", action="store_true", help="run no fused form, but what is composed of the primitives")
    parser.addoption("--cases", type=int, help="run so many cases of each test on each backend, evenly spread")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--composed"):
        backends._modules.update({name: Composed(own) for name, own in backends._modules.items()})


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Thin out the cases of interpreted backends, or of all, evenly, so that every test still runs on each."""
    most = config.getoption("--cases")
    interpreted = CASES_INTERPRETED if INTERPRETED and not config.getoption("--all-cases") else None
    cases: dict[tuple[str, str], list[pytest.Item]] = {}
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item, "callspec"):
            cases.setdefault((f"{item.path.name}::{item.originalname}", _backend_of(item.callspec.params)), []).append(item)
    dropped: set[pytest.Item] = set()
    for (test, name), every in cases.items():
        few = interpreted if name == "triton" and interpreted else most
        if few:
            first = zlib.crc32(test.encode())  # of each test another, so that all kinds of cases are among them
            kept = {every[(first + place * len(every) // few) % len(every)] for place in range(min(few, len(every)))}
            dropped |= set(every) - kept
    items[:] = [item for item in items if item not in dropped]
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)  # so that no worker is left with them in the end
    config.hook.pytest_deselected(items=list(dropped))


def _backend_of(params: dict[str, object]) -> str:
    """The backend that a case is of, or ""."""
    return next((value for value in params.values() if isinstance(value, str) and value in BACKENDS), "")


def _available(name: str) -> str:
    reason = available_backends()[name]
    if reason is not None:
        pytest.skip(f"backend {name!r}: {reason}")
    return name


# Of all backends those that are run: what a process of a test need not even collect takes its second.
TESTED = [name for name in BACKENDS if name in os.environ.get("VITSOM_TEST_BACKENDS", name).split(",")]


@pytest.fixture(scope="session", params=TESTED)
def any_backend(request: pytest.FixtureRequest) -> str:
    """The name of each backend in turn, "reference" among them; one that cannot run here is skipped with its reason."""
    return _available(request.param)


@pytest.fixture(scope="session", params=[name for name in TESTED if name != "reference"])
def backend(request: pytest.FixtureRequest) -> str:
    """As ``any_backend`` without the reference, for what eager PyTorch does not promise: memory, ties, cancellation."""
    return _available(request.param)


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Started where the first test asks for it."""
    started = Forks()
    yield started
    started.close()


@pytest.fixture
def default_device(any_backend: str) -> Iterator[None]:
    """New tensors and modules lie where the backend serves them."""
    with torch.device(BACKENDS[any_backend]):
        yield


@pytest.fixture(autouse=True)
def _reproducible() -> Iterator[None]:
    """One seed, and one thread unless VITSOM_TEST_THREADS or a test asks for more: where cores are shared, a step this small
    waits 100 times as long for its threads as it computes (200 ms against 1.5 ms; OMP_WAIT_POLICY=passive avoids that)."""
    remember_what_is_replaced()
    torch.manual_seed(0)
    before = torch.get_num_threads()
    torch.set_num_threads(int(os.environ.get("VITSOM_TEST_THREADS", 1)))
    yield
    torch.set_num_threads(before)
