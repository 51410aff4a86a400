"""Kill training at random moments, resume it, and compare with a run that nobody disturbed.

``python tests/soak/kill_and_resume.py --kills 20`` prints a line per kill and a verdict; its exit status is 1 on a
failure. Most of the time of these runs goes into writing checkpoints, so that many kills hit a write.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from tqdm import tqdm

from vitsom_fast.training import TrainConfig, fit
from vitsom_fast.training.checkpoint import load_checkpoint
from vitsom_fast.training.files import CHECKPOINT, METRICS


@dataclass
class Expected:
    """What the undisturbed run ended with, and the seconds it took."""

    tensors: dict[str, torch.Tensor]
    metrics: dict[str, Any]
    seconds: float


def kill_and_resume(
    config: TrainConfig, folder: Path, *, kills: int, seed: int, report: Callable[[str], None] = print
) -> list[str]:
    """Kill runs of ``config`` in new folders below ``folder`` that often, resuming each until it ends.

    A kill comes at a uniformly random moment of an undisturbed run's time. A run that ends before its kill is compared with the
    undisturbed one, and the next kill hits a new run.

    Returns:
        What went wrong, empty if nothing did.
    """
    moment = random.Random(seed)
    expected = _undisturbed(config, folder / "undisturbed")
    report(f"the undisturbed run takes {expected.seconds:.1f} s")
    failures: list[str] = []
    run, done = 1, 0
    while done < kills:
        out = folder / f"run-{run}"
        process = _start(config, out)
        delay = moment.uniform(0, expected.seconds)
        if _killed_after(process, delay):
            done += 1
            line, failure = _state_after_kill(out)
            report(f"kill {done:2} of {kills}, run {run}, after {delay:5.2f} s: {line}")
            failures += [f"kill {done}: {failure}"] if failure else []
        else:
            failures += _compared(process, out, run, expected, report)
            run += 1
    last = _start(config, folder / f"run-{run}")
    last.join()
    return failures + _compared(last, folder / f"run-{run}", run, expected, report)


def _undisturbed(config: TrainConfig, out: Path) -> Expected:
    server = _server().Process(target=int)  # which has its imports before any time counts
    server.start()
    server.join()
    began = time.perf_counter()
    process = _start(config, out)
    process.join()
    if process.exitcode:
        raise RuntimeError(f"the undisturbed run ended with status {process.exitcode}")
    seconds = time.perf_counter() - began
    return Expected(load_checkpoint(out / CHECKPOINT).tensors, _lasting_metrics(out), seconds)


def _start(config: TrainConfig, out: Path) -> BaseProcess:
    """Start or resume a run in a new process."""
    process = _server().Process(target=_run, args=(config, out))
    process.start()
    return process


def _server() -> ForkServerContext:
    """It imports torch once and forks before anything runs: a kill hits a run, not the seconds of its imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vitsom_fast.training", "vitsom_fast.plotting", "matplotlib.pyplot", "torch._dynamo"])
    return context


def _run(config: TrainConfig, out: Path) -> None:
    tqdm.set_lock(threading.RLock())  # its own is a named semaphore, which a kill would leave behind
    fit(config, out, resume=(out / CHECKPOINT).exists(), progress=False)


def _killed_after(process: BaseProcess, seconds: float) -> bool:
    """Kill a process after some seconds; False if it ended by itself before."""
    process.join(seconds)
    if process.exitcode is not None:
        return False
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


def _state_after_kill(out: Path) -> tuple[str, str | None]:
    """What a kill left behind, in words, and what is wrong with it."""
    leftovers = [path.name for path in out.glob(".*.tmp")]
    during = f", in the middle of writing {leftovers[0].strip('.').removesuffix('.tmp')}" if leftovers else ""
    if not (out / CHECKPOINT).exists():
        return f"no checkpoint yet{during}", None
    try:
        epochs = len(load_checkpoint(out / CHECKPOINT).history)
        if (out / METRICS).exists():
            json.loads((out / METRICS).read_text())
    except ValueError as error:
        return str(error), str(error)
    return f"checkpoint whole after {epochs} epochs{during}", None


def _compared(process: BaseProcess, out: Path, run: int, expected: Expected, report: Callable[[str], None]) -> list[str]:
    """What differs between a run that ended and the undisturbed one."""
    if process.exitcode:
        return [f"run {run} ended with status {process.exitcode}"]
    tensors = load_checkpoint(out / CHECKPOINT).tensors
    failures = [
        f"run {run}: {name} differs"
        for name in expected.tensors | tensors
        if name not in tensors or name not in expected.tensors or not torch.equal(tensors[name], expected.tensors[name])
    ]
    if _lasting_metrics(out) != expected.metrics:
        failures.append(f"run {run}: metrics differ")
    report(f"run {run} ended: {'differs from' if failures else 'same bits as'} the undisturbed run")
    return failures


def _lasting_metrics(out: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((out / METRICS).read_text())
    del metrics["seconds_per_epoch"]
    return metrics


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = load_digits().images[:64] / 16
        np.savez(folder / "digits-64.npz", images=images, labels=load_digits().target[:64])
        # One step an epoch, 576 prototypes of 4096 features: a checkpoint of 28 MB a step, and pictures that are soon drawn.
        config = TrainConfig(
            dataset=str(folder / "digits-64.npz"), grid=(24, 24), width=256, epochs=60, batch_size=64, depth=1, threads=1
        )
        failures = kill_and_resume(config, folder, kills=arguments.kills, seed=arguments.seed)
    print("\n".join(failures) or f"{arguments.kills} kills: nothing lost, every checkpoint whole")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
