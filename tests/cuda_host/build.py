"""The CUDA module built for the host: the sources of csrc/cuda by the C++ compiler, with the headers of this folder for CUDA's.

The kernels and the threads that run them are a library of their own, so that its thread-local memory is shared memory and no
more, and so that the bindings, which take half of the time, are compiled once.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import host_build
from host_build import BINDINGS, ROOT, SUFFIX, compiled, digest, linked

HERE = Path(__file__).parent
COMMON = ROOT / "csrc"  # of the headers that both modules share
SOURCES = COMMON / "cuda"
CACHE = host_build.CACHE / "cuda_host"

_FLAGS = ["-std=c++17", "-g1", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]


def build(sources: Path = SOURCES, flags: tuple[str, ...] = ()) -> Path:
    """The folder that holds the module ``_cuda``; what an earlier run compiled is kept. RuntimeError where that fails."""
    for_kernels = [*_FLAGS, "-O2", *flags]
    for_bindings = [*_FLAGS, *BINDINGS, '-DVITSOM_DEVICE_TYPE="cpu"']

    def compile_kernel(source: Path) -> Path:
        return compiled(source, for_kernels, CACHE, (HERE, sources, COMMON))

    with ThreadPoolExecutor(2) as pool:
        bindings = pool.submit(compiled, sources / "bindings.cpp", for_bindings, CACHE, (COMMON,))
        kernels = list(pool.map(compile_kernel, [HERE / "threads.cpp", *sorted(sources.glob("*.cu"))]))
    out = CACHE / f"module-{digest([path.name for path in (bindings.result(), *kernels)])}"
    linked(out / "libkernels.so", *flags, *kernels)
    linked(out / f"_cuda{SUFFIX}", bindings.result(), f"-L{out}", "-lkernels", "-Wl,-rpath,$ORIGIN")
    return out
