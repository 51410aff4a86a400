"""The AVX-512 builds of csrc/cpu for any host: the same sources, with the header of this folder for the compiler's own.

The module takes the place of ``vitsom_fast._cpu`` in a Python process, and in those that it starts, which has the folder of
the module on PYTHONPATH: Python imports the sitecustomize.py beside it first of all.
"""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from host_build import BINDINGS, COMPILER, ROOT, SUFFIX, compiled, digest, linked

HERE = Path(__file__).parent
SOURCES = ROOT / "csrc" / "cpu"
CACHE = ROOT / "build" / "avx512_host"

INSTRUCTION_SETS = ("avx512bf16", "avx512vnni")  # the widest first

_FLAGS = ["-std=c++17", "-g1", "-fPIC", "-fopenmp"]
_KERNELS = ["-O1", "-fvisibility=hidden", "-fno-math-errno", "-ffp-contract=fast", "-Wno-psabi"]
if "clang" not in Path(COMPILER).name:  # loops unrolled into 32 registers that are not there take seven times as long to compile
    _KERNELS += ["-fdisable-tree-cunrolli", "-fdisable-tree-cunroll"]
_EMULATED = [f"-D__AVX512{part}__" for part in ("F", "BW", "DQ", "VL", "VNNI")]


def build(
    instruction_sets: tuple[str, ...] = INSTRUCTION_SETS, sources: Path = SOURCES, flags: tuple[str, ...] = ()
) -> Path:
    """The folder that holds the module ``_cpu``; what an earlier run compiled is kept. RuntimeError where that fails."""
    headers = sorted((path for folder in (sources, HERE) for path in folder.glob("*.h")), key=lambda path: (path.name, path))
    kernels = ",".join(f"kernels_{name}()" for name in instruction_sets)

    def compile_source(source: Path, *own_flags: str, headers: list[Path] = headers) -> Path:
        return compiled(source, headers, [*_FLAGS, *own_flags, *flags], CACHE, (HERE, sources))

    with ThreadPoolExecutor(2) as pool:
        objects = [pool.submit(compile_source, sources / "isa.cpp", *_flags_of(name)) for name in instruction_sets]
        objects += [
            pool.submit(compile_source, sources / "bindings.cpp", *BINDINGS, headers=[sources / "kernels.h", sources / "dispatch.h"]),
            pool.submit(compile_source, sources / "memory.cpp", "-O1"),
            pool.submit(compile_source, HERE / "dispatch.cpp", f"-DVITSOM_EMULATED={kernels}"),
        ]
    paths = [each.result() for each in objects]
    out = CACHE / f"module-{digest([path.name for path in paths])}"
    linked(out / f"_cpu{SUFFIX}", "-fopenmp", *flags, *paths)
    shutil.copyfile(HERE / "sitecustomize.py", out / "sitecustomize.py")
    return out


def _flags_of(instruction_set: str) -> list[str]:
    """The kernels' flags for one of the sets, in what this host has for AVX-512."""
    has_avx2 = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    own = ["-D__AVX512BF16__"] if instruction_set == "avx512bf16" else []
    return [*_KERNELS, *_EMULATED, *own, f"-DVITSOM_ISA={instruction_set}", *(["-mavx2", "-mfma"] if has_avx2 else [])]
