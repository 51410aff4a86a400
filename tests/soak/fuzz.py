"""Holds the package against its contract on random cases, for as long as one likes.

    python tests/soak/fuzz.py --rows 1000000                # on each instruction set of this machine
    python tests/soak/fuzz.py --seconds 3600 --backend torch
    python tests/soak/fuzz.py --seed 1234 --cases 1         # once more what failed

Each case is all that its seed and its backend make of it; a failure prints both, and the smallest case that still fails.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path

import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from soak.cases import Case, draw
from soak.checks import Failure
from soak.reduce import reduce
from soak.worker import Worker, serve
from vitsom_fast import available_backends
from vitsom_fast.backends import cpu

Check = Callable[[Case], list[Failure]]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    how_long = parser.add_mutually_exclusive_group()
    how_long.add_argument(
        "--rows", type=int, default=100_000, help="latents for each backend and instruction set (%(default)s)"
    )
    how_long.add_argument("--seconds", type=float, help="time for each backend and instruction set")
    how_long.add_argument("--cases", type=int, help="cases for each backend and instruction set")
    parser.add_argument("--seed", type=int, default=0, help="of the first case; the next is one more (%(default)s)")
    parser.add_argument("--backend", nargs="+", default=["cpu", "torch"], help="cpu, torch, triton, cuda (cpu torch)")
    parser.add_argument("--isa", nargs="+", help="instruction sets of the backend cpu (all that this machine has)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 1, 2, 3, 5], help="to choose from (%(default)s)")
    parser.add_argument("--keep-going", action="store_true", help="count failures by kind, in place of reducing the first")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    asked = arguments()
    if asked.worker:
        serve()
        return 0
    status = 0
    for backend in asked.backend:
        if reason := available_backends()[backend]:
            print(f"{backend}: {reason}")
            continue
        for isa in (asked.isa or cpu.instruction_sets()) if backend == "cpu" else [""]:
            name = " ".join(filter(None, (backend, isa)))
            cases = (draw(seed, backend, asked.threads) for seed in count(asked.seed))
            with Worker(isa) as worker:
                found = soak(name, within(cases, asked), worker.failures, asked.keep_going)
            if found:
                status = 1
    return status


def within(cases: Iterator[Case], asked: argparse.Namespace) -> Iterator[Case]:
    """As many cases as were asked for, under a bar that says how far they are."""
    if asked.cases is not None:
        yield from tqdm(islice(cases, asked.cases), total=asked.cases, unit="case")
        return
    end, rows = time.monotonic() + (asked.seconds or float("inf")), asked.rows if asked.seconds is None else None
    with tqdm(total=rows, unit="row", unit_scale=True) as bar:
        while time.monotonic() < end and (rows is None or bar.n < rows):
            case = next(cases)
            yield case
            bar.update(max(case.batch, 1))


def soak(name: str, cases: Iterator[Case], check: Check, keep_going: bool = False) -> list[tuple[Case, Failure]]:
    """The first case that fails, reduced, or all of them; says so."""
    found: list[tuple[Case, Failure]] = []
    kinds: Counter[str] = Counter()
    number = rows = 0
    for case in cases:
        number, rows = number + 1, rows + case.batch
        failed = check(case)
        found += [(case, failure) for failure in failed]
        if failed and not keep_going:
            tqdm.write(report(name, case, failed, check))
            break
        for failure in failed:
            kinds[failure.what] += 1
            tqdm.write(f"{name}, seed {case.seed}: {failure.what}: {failure.message}\n    {case}")
    summary = ", ".join(f"{number} {what}" for what, number in kinds.most_common())
    tqdm.write(f"{name}: {number} cases, {rows} rows, {len(found)} failures {summary}".rstrip())
    return found


def report(name: str, case: Case, failed: list[Failure], check: Check) -> str:
    """What fails, where, and in the smallest case that still does."""
    what = failed[0].what

    def fails(smaller: Case) -> bool:
        return any(failure.what == what for failure in check(smaller))

    smallest = reduce(case, fails)
    lines = [f"{name}, seed {case.seed}: {case}", *(f"    {failure.what}: {failure.message}" for failure in failed)]
    lines.append(f"reduced to: {smallest}")
    lines += [f"    {failure.what}: {failure.message}" for failure in check(smallest) if failure.what == what]
    lines += [f"    {label} = {_listed(x)}" for label, x in zip(("z", "prototypes"), smallest.inputs(), strict=True)]
    return "\n".join(lines)


def _listed(x: torch.Tensor) -> str:
    """So that it can be pasted, if it is small."""
    return f"torch.tensor({x.tolist()}, dtype={x.dtype})" if x.numel() <= 64 else f"{tuple(x.shape)} {x}"


if __name__ == "__main__":
    sys.exit(main())
