"""A Python program on emulated AVX-512 kernels: ``python tests/avx512_host/run.py --isa avx512vnni -- SCRIPT.py arguments``.

What follows ``--`` is what follows ``python`` otherwise: a script, or ``-m pytest tests/cpu/test_pruning.py``.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from avx512_host.build import INSTRUCTION_SETS, SOURCES, build


def environment(module: Path, instruction_set: str) -> dict[str, str]:
    """Of a process that runs these kernels."""
    path = os.pathsep.join([str(module), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "VITSOM_CPU_ISA": instruction_set}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--isa", choices=INSTRUCTION_SETS, default=INSTRUCTION_SETS[0], help="the instruction set")
    parser.add_argument("--sources", type=Path, default=SOURCES, help="the folder of the kernels (csrc/cpu)")
    parser.add_argument("--flags", default="", help="more flags for the compiler, e.g. --flags='-O1 -fsanitize=address'")
    parser.add_argument("command", nargs="+", help="a script and its arguments, or -m and a module")
    given = parser.parse_args()
    module = build(given.sources.resolve(), tuple(given.flags.split()))
    os.execve(sys.executable, [sys.executable, *given.command], environment(module, given.isa))


if __name__ == "__main__":
    main()
