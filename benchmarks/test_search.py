"""The search for the best-matching unit of every latent."""

from collections.abc import Callable

from benchmarks.harness.contenders import SEARCH, Operation
from benchmarks.harness.workloads import Workload


def test_search(workload: Workload, compare: Callable[[Operation, Workload], None]) -> None:
    compare(SEARCH, workload)
