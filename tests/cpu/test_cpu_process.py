"""The CPU kernels as part of a process: its threads, its memory, its signals."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vitsom_fast import available_backends

HERE = Path(__file__).parent.parent

pytestmark = pytest.mark.skipif(available_backends()["cpu"] is not None, reason="no CPU kernels")
on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits and /proc are Linux's")


def python(*arguments: str, **environment: str) -> str:
    """What a script prints; an error where it fails."""
    done = subprocess.run(
        [sys.executable, *arguments], env=os.environ | environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("threads", "environment"),
    [
        ("2", {"OMP_THREAD_LIMIT": "1"}),
        ("3", {"OMP_THREAD_LIMIT": "2"}),
        ("3", {"OMP_DYNAMIC": "true"}),
        ("2 nested", {"OMP_MAX_ACTIVE_LEVELS": "1"}),
    ],
    ids=str,
)
def test_a_team_smaller_than_asked_for(threads: str, environment: dict[str, str]) -> None:
    """MALLOC_PERTURB_ fills what glibc hands out with numbers of 1e38: a sum of what nobody wrote is seen."""
    python(str(HERE / "small_team.py"), *threads.split(), MALLOC_PERTURB_="128", OMP_WAIT_POLICY="passive", **environment)


_SHORT_OF_MEMORY = """
import resource
import torch
from vitsom_fast import Grid, find_bmu, som_loss
from vitsom_fast.backends import cpu
from vitsom_fast.neighborhoods import neighborhood

torch.set_num_threads(1)
torch.manual_seed(0)
z, prototypes, grid = torch.randn(6000, 96), torch.randn(4096, 96), Grid(64, 64)
expected = find_bmu(z, prototypes, backend="cpu")[0]
few, factors = z[:50], neighborhood(grid, 3.0, device=z.device)
failed = 0
for megabytes in (0.05, 0.2, 0.5, 1, 2, 3, 4, 6, 8, 12):
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + int(megabytes * 2**20), resource.RLIM_INFINITY))
    try:
        som_loss(z, prototypes, grid, 3.0, backend="cpu")
        find_bmu(z, prototypes, backend="cpu")
        pairs = cpu.pair_losses(few, prototypes, expected[:50], *factors, "euclidean")
        cpu.pair_gradients(pairs, few, prototypes, expected[:50], *factors, "manhattan", True, True)
        cpu.pair_search(few, prototypes, "manhattan", 1)
    except (MemoryError, RuntimeError) as error:  # the second from PyTorch, for a result
        assert isinstance(error, MemoryError) or "memory" in str(error), error
        failed += 1
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert torch.equal(find_bmu(z, prototypes, backend="cpu")[0], expected)
print(failed)
"""


@on_linux
def test_a_failed_allocation_is_a_memory_error_and_no_more() -> None:
    assert int(python("-c", _SHORT_OF_MEMORY)) >= 2


_PEAK_WITH_THREADS = """
import sys
import torch
from vitsom_fast import Grid, find_bmu, som_loss

def status(field):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))

torch.set_num_threads(int(sys.argv[1]))
z, prototypes = torch.randn(8192, 32), torch.randn(4096, 32)
find_bmu(z[:300], prototypes[:300], backend="cpu")
som_loss(z[:300], prototypes[:300], Grid(15, 20), 2.0, backend="cpu")
before = status("VmRSS")
find_bmu(z, prototypes, backend="cpu")
z.requires_grad_(), prototypes.requires_grad_()
som_loss(z, prototypes, Grid(64, 64), 8.0, backend="cpu")[0].backward()
print(status("VmHWM") - before)
"""


@on_linux
def test_memory_does_not_grow_with_the_threads() -> None:
    """Of 8192 samples and 4096 units, a number for each pair would be 134 MB in fp32."""
    assert int(python("-c", _PEAK_WITH_THREADS, "64", OMP_WAIT_POLICY="passive")) < 64e6


_PEAK_OF_MANY_TERMS = """
import torch
from vitsom_fast import Grid
from vitsom_fast.backends import cpu
from vitsom_fast.neighborhoods import neighborhood

def status(field):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))

factors = neighborhood(Grid(512, 512), 16.0, "bubble")
assert len(factors.rows) > 8
x = torch.randn(512 * 512, 2)
cpu.smooth(x[:512], *neighborhood(Grid(1, 512), 2.0))
before = status("VmRSS")
cpu.smooth(x, *factors)
print(status("VmHWM") - before)
"""


@on_linux
def test_memory_of_many_terms_does_not_outgrow_the_map() -> None:
    """Which has 2 MB; what is kept of one term for 16 or 32 features at a time is 17 or 34, and packed factors are 23."""
    assert int(python("-c", _PEAK_OF_MANY_TERMS)) < 110e6


_INTERRUPTED = """
import os, signal, threading
import torch
from vitsom_fast import find_bmu
from vitsom_fast.backends import cpu

torch.set_num_threads(2)
z, prototypes = torch.randn(40000, 64), torch.randn(100000, 64)
expected = find_bmu(z[:100], prototypes, backend="cpu")[0]
bmu, distance = torch.full((40000,), -1), torch.full((40000,), -1.0)
problem, _keep = cpu._problem(z, prototypes)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    cpu._cpu.find_bmu(problem, 1, False, bmu.data_ptr(), distance.data_ptr())
except KeyboardInterrupt:
    print("interrupted", "before the end" if (bmu == -1).any() else "after the end")
assert torch.equal(find_bmu(z[:100], prototypes, backend="cpu")[0], expected)
"""


@pytest.mark.skipif(os.name != "posix", reason="a signal is sent")
def test_a_search_can_be_interrupted() -> None:
    """Ctrl-C comes in the middle of a search of seconds: nothing has been found yet when it is answered."""
    assert python("-c", _INTERRUPTED, VITSOM_CPU_ISA="baseline").strip() == "interrupted before the end"
