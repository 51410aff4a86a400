"""Kernels of other hardware compiled for this host: every object is kept under a digest of what it was made of."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
CACHE = Path(os.environ.get("VITSOM_TEST_CACHE") or ROOT / "build")  # of what was compiled
COMPILER = os.environ.get("CXX", "g++")

SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")  # of a module
BINDINGS = ["-O0", "-fvisibility=hidden", f"-isystem{sysconfig.get_paths()['include']}"]
BINDINGS += [f"-isystem{Path(torch.__file__).parent / 'include'}"]  # torch brings pybind11


def compiled(source: Path, flags: list[str], cache: Path, folders: Sequence[Path]) -> Path:
    """The object file of ``source``, whose headers lie in ``folders``; RuntimeError where there is an error in them."""
    contents = [path.read_bytes() for path in (source, *included(source, folders))]
    target = cache / f"{source.stem}-{digest([COMPILER, *flags, torch.__version__, sys.version, *contents])}.o"
    if not target.exists():
        _run(target, *flags, *(f"-I{folder}" for folder in folders), "-x", "c++", "-c", str(source))
    return target


def included(source: Path, folders: Iterable[Path]) -> list[Path]:
    """The headers in ``folders``, or beside those that name them, that a source is made of; whatever the conditions there."""
    found: dict[Path, None] = {}
    waiting = [source]
    while waiting:
        file = waiting.pop()
        names = re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', file.read_text(encoding="utf-8"), re.MULTILINE)
        headers = [(folder / name).resolve() for name in names for folder in (file.parent, *folders)]
        new = [header for header in dict.fromkeys(headers) if header.is_file() and header not in found]
        found.update(dict.fromkeys(new))
        waiting += new
    return list(found)  # in an order that a copy of the sources elsewhere has, too


def linked(target: Path, *arguments: str | Path) -> Path:
    """A shared library, unless an earlier call has made it."""
    if not target.exists():
        _run(target, "-shared", *map(str, arguments))
    return target


def library_of_compiler(name: str) -> str:
    """The path of one of the compiler's own libraries, or only its name where it has none."""
    done = subprocess.run([COMPILER, f"-print-file-name={name}"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def digest(parts: list[str | bytes]) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _run(target: Path, *arguments: str) -> None:
    """The compiler, whose result appears as a whole: other processes may be waiting for it, or make it, too."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{os.getpid()}-{target.name}")
    done = subprocess.run([COMPILER, *arguments, "-o", str(unfinished)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{COMPILER} {' '.join(arguments)}\n{done.stderr[-4000:]}")
    unfinished.replace(target)
