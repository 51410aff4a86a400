"""Peak memory of one operation beyond its inputs and gradients, measured in a process of its own.

python -m benchmarks.harness.memory --workload huge --contender cpu
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import resource
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from benchmarks.harness.clock import Run, bytes_of_gradients
from benchmarks.harness.contenders import OPERATIONS, Contender
from benchmarks.harness.places import ROOT
from benchmarks.harness.workloads import TINY, WORKLOADS, Inputs


def peak_in_new_process(workload: str, operation: str, contender: str) -> float:
    """MB (10^6 bytes) as ``peak_beyond_inputs``, in a fresh process: a high-water mark forgets nothing.

    Raises:
        RuntimeError: the process failed; the message has its last line.
    """
    arguments = ("--workload", workload, "--operation", operation, "--contender", contender)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.harness.memory", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        last_line = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise RuntimeError(f"memory of {contender} on {workload}: exit status {done.returncode}: {last_line}")
    return float(done.stdout.split()[0])


def peak_beyond_inputs(contender: Contender, inputs: Inputs) -> tuple[float, Run]:
    """MB at the peak of the first run over what was there before it, less the bytes of the gradients that it returns; the run.

    To be called in a process that has run nothing else. What a peer prepares and keeps, such as an index, counts.
    """
    # Libraries are loaded and threads started, but no scratch memory of the size to be measured is there yet; a compiled
    # contender has to see the real shapes, though.
    compiled = contender.build(inputs) if contender.compiled else None
    warm_up = compiled or contender.build(TINY.inputs())
    warm_up()
    _give_back()
    before = _restart_peak()
    run = compiled or contender.build(inputs)
    result = run()
    peak = _peak()
    return max(0, peak - before - bytes_of_gradients(result)) / 1e6, run


def _give_back() -> None:
    """Freed memory that the allocator keeps would hide as much of the run's own."""
    gc.collect()
    with suppress(OSError, AttributeError, TypeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def _restart_peak() -> int:
    """Starts a new high-water mark and returns where it is, in bytes."""
    with suppress(OSError):  # the mark then is that of the process's whole life, and what the run adds a lower bound
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=WORKLOADS, required=True)
    parser.add_argument("--operation", choices=OPERATIONS, default="step")
    parser.add_argument(
        "--contender", required=True, help="such as eager, compile, torch, cpu; for the search also matmul, faiss, ..."
    )
    arguments = parser.parse_args()
    contenders = {contender.name: contender for contender in OPERATIONS[arguments.operation].contenders}
    if arguments.contender not in contenders:
        parser.error(f"argument --contender: must be one of {list(contenders)}, got {arguments.contender!r}")
    peak, _ = peak_beyond_inputs(contenders[arguments.contender], WORKLOADS[arguments.workload].inputs())
    print(f"{peak:.1f} MB at the peak beyond inputs and gradients")


if __name__ == "__main__":
    main()
