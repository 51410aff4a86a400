"""One training step of the SOM: the loss, and its gradients with respect to latents and prototypes."""

from collections.abc import Callable

from benchmarks.harness.contenders import STEP, Operation
from benchmarks.harness.workloads import Workload


def test_step(workload: Workload, compare: Callable[[Operation, Workload], None]) -> None:
    compare(STEP, workload)
