"""The AVX-512 kernels of csrc/cpu for any host: the same sources, with the header of this folder for the compiler's own.

The module takes the place of ``vitsom_fast._cpu`` in a Python process, and in those that it starts, if PYTHONPATH names the
folder of the module: before anything else, Python imports the sitecustomize.py there.
"""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import host_build
import torch
from host_build import BINDINGS, COMPILER, ROOT, SUFFIX, compiled, digest, linked

HERE = Path(__file__).parent
SOURCES = ROOT / "csrc" / "cpu"
CACHE = host_build.CACHE / "avx512_host"

_COMMON = ["-std=c++17", "-g1", "-fPIC", "-fopenmp"]
_KERNELS = ["-O1", "-fno-math-errno", "-ffp-contract=fast", "-Wno-psabi", "-fvisibility=hidden", f"-I{HERE}"]
if "clang" not in Path(COMPILER).name:  # to unroll loops for 32 wide registers, which are not there, takes most of the time
    _KERNELS += ["-fdisable-tree-cunrolli", "-fdisable-tree-cunroll"]
if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):
    _KERNELS += ["-mavx2", "-mfma"]

# What each set has of its own, and its flags: those of the sets before it, too.
_SEARCH = (
    "search/pruned/search_pruned",
    "search/exhaustive/search_fp32",
    "search/lanes/search_grouped",
    "search/lanes/search_small",
    "search/exhaustive/search_fp64",
)
_STEP = "search/lift", "step/attract", "step/backward", "step/sum_by_bmu", "step/add_nearest", "step/smooth"
_PAIRS = "pairs/pair_losses", "pairs/pair_gradients", "pairs/search_manhattan"
_PARTS = {
    "avx512": (["F", "BW", "DQ", "VL"], [*_SEARCH, *_STEP, *_PAIRS]),
    "avx512vnni": (["VNNI"], ["search/pruned/search_pruned", "search/quantized/search_int8"]),
    "avx512bf16": (["BF16"], ["search/quantized/search_bf16"]),
}

# The widest first.
INSTRUCTION_SETS = tuple(reversed(_PARTS))


def flags_of(instruction_set: str) -> list[str]:
    names = list(_PARTS)[: list(_PARTS).index(instruction_set) + 1]
    return [*_KERNELS, *(f"-D__AVX512{part}__" for name in names for part in _PARTS[name][0])]


def build(sources: Path = SOURCES, flags: tuple[str, ...] = ()) -> Path:
    """The folder that holds the module ``_cpu``; what an earlier run compiled is kept. RuntimeError where that fails."""
    folder = sources.parent
    emulated = ",".join(f"kernels_{name}()" for name in INSTRUCTION_SETS)
    portable = "-DVITSOM_ISA=portable"

    def compile_source(source: Path, *own_flags: str) -> Path:
        return compiled(source, [*_COMMON, *own_flags, *flags], CACHE, [HERE, folder])

    with ThreadPoolExecutor(2) as pool:
        objects = [
            pool.submit(compile_source, sources / f"{part}.cpp", f"-DVITSOM_ISA={name}", *flags_of(name))
            for name in INSTRUCTION_SETS
            for part in _PARTS[name][1]
        ]
        objects += [pool.submit(compile_source, sources / "module" / "bindings.cpp", portable, *BINDINGS)]
        for part in ("module/dispatch", "runtime/allocation", "search/search", "step/step"):
            objects.append(pool.submit(compile_source, sources / f"{part}.cpp", portable))
        objects.append(pool.submit(compile_source, HERE / "supported.cpp", f"-DVITSOM_EMULATED={emulated}"))
    paths = [each.result() for each in objects]
    out = CACHE / f"module-{digest([path.name for path in paths])}"
    linked(out / f"_cpu{SUFFIX}", "-fopenmp", *flags, *paths)
    shutil.copyfile(HERE / "sitecustomize.py", out / "sitecustomize.py")
    return out
