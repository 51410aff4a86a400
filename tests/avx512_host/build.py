"""The AVX-512 kernels of csrc/cpu for any host: the same sources, with the header of this folder for the compiler's own.

The module takes the place of ``vitsom_fast._cpu`` in a Python process, and in those that it starts, if PYTHONPATH names the
folder of the module: before anything else, Python imports the sitecustomize.py there.
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

_COMMON = ["-std=c++17", "-g1", "-fPIC", "-fopenmp"]
_KERNELS = ["-O1", "-fno-math-errno", "-ffp-contract=fast", "-Wno-psabi", f"-I{HERE}"]
if "clang" not in Path(COMPILER).name:  # to unroll loops for 32 wide registers, which are not there, takes most of the time
    _KERNELS += ["-fdisable-tree-cunrolli", "-fdisable-tree-cunroll"]
if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):
    _KERNELS += ["-mavx2", "-mfma"]
_VNNI = [f"-D__AVX512{part}__" for part in ("F", "BW", "DQ", "VL", "VNNI")]

# The flags of each instruction set, the widest first.
FLAGS = {"avx512bf16": [*_KERNELS, *_VNNI, "-D__AVX512BF16__"], "avx512vnni": [*_KERNELS, *_VNNI]}
INSTRUCTION_SETS = tuple(FLAGS)


def build(instruction_sets: tuple[str, ...] = INSTRUCTION_SETS, sources: Path = SOURCES, flags: tuple[str, ...] = ()) -> Path:
    """The folder that holds the module ``_cpu``; what an earlier run compiled is kept. RuntimeError where that fails."""
    own = [HERE / "immintrin.h", *sorted(sources.glob("*.h"))]
    kernels = ",".join(f"kernels_{name}()" for name in instruction_sets)

    def compile_source(source: Path, *own_flags: str, headers: list[Path] = own) -> Path:
        return compiled(source, headers, [*_COMMON, *own_flags, *flags], CACHE, [sources])

    with ThreadPoolExecutor(2) as pool:
        objects = [
            pool.submit(compile_source, sources / "isa.cpp", *FLAGS[name], f"-DVITSOM_ISA={name}", "-fvisibility=hidden")
            for name in instruction_sets
        ]
        objects += [
            pool.submit(
                compile_source, sources / "bindings.cpp", *BINDINGS, headers=[sources / "kernels.h", sources / "dispatch.h"]
            ),
            pool.submit(compile_source, sources / "memory.cpp"),
            pool.submit(compile_source, sources / "dispatch.cpp"),
            pool.submit(compile_source, HERE / "supported.cpp", f"-DVITSOM_EMULATED={kernels}"),
        ]
    paths = [each.result() for each in objects]
    out = CACHE / f"module-{digest([path.name for path in paths])}"
    linked(out / f"_cpu{SUFFIX}", "-fopenmp", *flags, *paths)
    shutil.copyfile(HERE / "sitecustomize.py", out / "sitecustomize.py")
    return out
