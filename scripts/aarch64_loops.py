"""What the inner loops of the searches hold on aarch64: fp32 products four at a time, `fmla` on `.4s`, and none by itself.

Dot products of bytes (`sdot`, `udot`) are counted and not asked for: no search on aarch64 is of codes.

python scripts/aarch64_loops.py FOLDER    # of objects that scripts/cross-compile-aarch64.sh FOLDER has left there
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

# The searches, each in an object file of its own.
SEARCHES = ("search_fp32", "search_small", "search_grouped", "search_pruned")
INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\s+(\S+)\s*(.*)$")
JUMP = re.compile(r"^(b|b\..+|cbn?z|tbn?z)$")
LEAST_PRODUCTS = 8  # of a loop that is one of products: an accumulator each, for their latency


def inner_loops(code: str) -> list[list[tuple[str, str]]]:
    """The instructions, (name, operands), of each loop that has no other within it, of a disassembly's every function."""
    loops: list[list[tuple[str, str]]] = []
    for function in re.split(r"^[0-9a-f]+ <.*>:$", code, flags=re.MULTILINE):
        lines = [(int(at, 16), name, rest) for at, name, rest in map(_parts, filter(INSTRUCTION.match, function.splitlines()))]
        spans = []
        for at, name, rest in lines:
            target = re.search(r"\b([0-9a-f]+) <", rest)
            if JUMP.match(name) and target and lines[0][0] <= int(target[1], 16) <= at:
                spans.append((int(target[1], 16), at))
        innermost = [one for one in spans if not any(one != other and _lies_in(other, one) for other in spans)]
        loops += [[(name, rest) for at, name, rest in lines if first <= at <= last] for first, last in innermost]
    return loops


def _lies_in(inner: tuple[int, int], outer: tuple[int, int]) -> bool:
    return outer[0] <= inner[0] and inner[1] <= outer[1]


def _parts(line: str) -> tuple[str, str, str]:
    found = INSTRUCTION.match(line)
    assert found
    return found[1], found[2], found[3]


def check(search: str, code: str) -> str | None:
    """Print what the loops of products hold; the reason why they are not as they have to be, or None."""
    most, loops, scalar = 0.0, 0, 0
    for loop in inner_loops(code):
        vector = sum(name in ("fmla", "fmls") and ".4s" in rest for name, rest in loop)
        if vector < LEAST_PRODUCTS:
            continue
        loops += 1
        most = max(most, vector / len(loop))
        scalar += sum(name in ("fmadd", "fmsub", "fnmadd", "fnmsub") and rest.startswith("s") for name, rest in loop)
    dots = len(re.findall(r"\s[su]dot\s", code))
    print(f"{search}: {loops} inner loops of products, up to {most:.0%} fmla .4s; {scalar} scalar ones, {dots} sdot or udot")
    if not loops:
        return f"{search} has no inner loop with {LEAST_PRODUCTS} fmla on .4s"
    return f"{search} has {scalar} scalar products in its inner loops" if scalar else None


def main(folder: Path) -> None:
    """Exit with the first reason, if there is one."""
    reasons = []
    for search in SEARCHES:
        (file,) = folder.rglob(f"{search}.cpp.o")
        command = ["aarch64-linux-gnu-objdump", "--disassemble", "--no-show-raw-insn", str(file)]
        reasons.append(check(search, subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    if any(reasons):
        sys.exit("\n".join(filter(None, reasons)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
