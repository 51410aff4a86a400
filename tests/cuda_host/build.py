"""The CUDA module built for the host: the sources of csrc/cuda by the C++ compiler, with the headers of this folder for CUDA's.

The kernels and the threads that run them are a library of their own, so that its thread-local memory is shared memory and no
more, and so that the bindings, which take half of the time, are compiled once.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SOURCES = ROOT / "csrc" / "cuda"

CACHE = ROOT / "build" / "cuda_host"

COMPILER = os.environ.get("CXX", "g++")
_FLAGS = ["-std=c++17", "-g1", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
_INCLUDES = [sysconfig.get_paths()["include"], str(Path(torch.__file__).parent / "include")]  # torch brings pybind11


def build(sources: Path = SOURCES, flags: tuple[str, ...] = ()) -> Path:
    """The folder that holds the module ``_cuda``; what an earlier run compiled is kept. RuntimeError where that fails."""
    headers = sorted((path for folder in (sources, HERE) for path in folder.glob("*.*h")), key=lambda path: (path.name, path))
    for_kernels = ["-O2", f"-I{HERE}", f"-I{sources}", *flags]
    for_bindings = ["-O0", "-fvisibility=hidden", '-DVITSOM_DEVICE_TYPE="cpu"', *(f"-isystem{path}" for path in _INCLUDES)]
    jobs = [(sources / "bindings.cpp", [sources / "kernels.h"], for_bindings)]
    jobs += [(kernel, headers, for_kernels) for kernel in [HERE / "threads.cpp", *sorted(sources.glob("*.cu"))]]
    with ThreadPoolExecutor(2) as pool:
        bindings, *kernels = pool.map(lambda job: _compiled(*job, own_flags=flags), jobs)
    out = CACHE / f"module-{_digest([bindings.name, *(kernel.name for kernel in kernels)])}"
    module = out / f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"
    if not module.exists():
        out.mkdir(exist_ok=True)
        _run("-shared", *flags, *map(str, kernels), "-o", str(out / "libkernels.so"))
        _run("-shared", str(bindings), f"-L{out}", "-lkernels", "-Wl,-rpath,$ORIGIN", "-o", str(module))
    return out


def _compiled(source: Path, headers: list[Path], flags: list[str], own_flags: tuple[str, ...]) -> Path:
    contents = [path.read_bytes() for path in (source, *headers)]
    digest = _digest([COMPILER, *_FLAGS, *own_flags, *_INCLUDES, torch.__version__, sys.version, *contents])
    target = CACHE / f"{source.stem}-{digest}.o"
    if not target.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_suffix(f".{os.getpid()}.o")
        _run(*_FLAGS, *flags, "-x", "c++", "-c", str(source), "-o", str(unfinished))
        unfinished.replace(target)
    return target


def _digest(parts: list[str | bytes]) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _run(*arguments: str) -> None:
    done = subprocess.run([COMPILER, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{COMPILER} {' '.join(arguments)}\n{done.stderr[-4000:]}")
