"""What nvcc makes of the CUDA kernels, without a GPU: registers, spills, shared memory, wide loads and matrix instructions.

``python -m benchmarks.cuda_resources`` prints it as JSON, one entry a kernel and architecture.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

SOURCES = Path(__file__).resolve().parent.parent / "csrc" / "cuda"
ARCHITECTURES = ("75", "80", "90", "100")  # as in csrc/cuda/CMakeLists.txt

_KERNEL = re.compile(
    r"Compiling entry function '(?P<name>\w+)'.*?(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)


@dataclass(frozen=True)
class KernelResources:
    """One kernel on one architecture; the last two are None without a disassembler."""

    kernel: str
    architecture: str
    registers: int
    spilled_bytes: int
    shared_bytes: int
    wide_loads: int | None  # instructions that load 16 bytes a thread from global memory
    matrix_instructions: int | None  # tensor-core products


def kernel_resources(architectures: Sequence[str] = ARCHITECTURES) -> list[KernelResources]:
    """Compile all kernels for each architecture and read what ptxas and the disassembly say.

    Raises:
        RuntimeError: there is no nvcc, or it fails.
    """
    nvcc = find_nvcc()
    if nvcc is None:
        raise RuntimeError("nvcc must be on the PATH, or named by CUDACXX or CUDA_HOME")
    jobs = [(nvcc, source, architecture) for architecture in architectures for source in sorted(SOURCES.glob("*.cu"))]
    with ThreadPoolExecutor(2) as pool:
        return [kernel for kernels in pool.map(lambda job: _compile(*job), jobs) for kernel in kernels]


def find_nvcc() -> str | None:
    """The compiler that CUDACXX names, or that of CUDA_HOME or the PATH, as setup.py finds it."""
    named = os.environ.get("CUDACXX") or os.path.join(os.environ.get("CUDA_HOME", ""), "bin", "nvcc")
    return shutil.which(named) or shutil.which("nvcc")


def find_disassembler(nvcc: str) -> str | None:
    """cuobjdump of the toolkit, or the one that Triton brings along."""
    folders = [Path(nvcc).resolve().parent]
    triton = importlib.util.find_spec("triton")
    if triton is not None and triton.origin:
        folders.append(Path(triton.origin).parent / "backends" / "nvidia" / "bin")
    search_path = os.pathsep.join([os.environ.get("PATH", ""), *map(str, folders)])
    return shutil.which("cuobjdump", path=search_path)


def _compile(nvcc: str, source: Path, architecture: str) -> list[KernelResources]:
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernels.cubin"
        options = ["-std=c++17", "-O3", f"-arch=sm_{architecture}", "-Xptxas=-v"]
        said = _run([nvcc, *options, "-cubin", str(source), "-o", str(cubin)])
        disassembler = find_disassembler(nvcc)
        code = _functions(_run([disassembler, "-sass", str(cubin)])) if disassembler else None
    return [_resources(match, architecture, code) for match in _KERNEL.finditer(said)]


def _resources(match: re.Match[str], architecture: str, code: dict[str, str] | None) -> KernelResources:
    shared = re.search(r"(\d+) bytes smem", match["rest"])
    instructions = None if code is None else code[match["name"]]
    return KernelResources(
        kernel=_demangled(match["name"]),
        architecture=f"sm_{architecture}",
        registers=int(match["registers"]),
        spilled_bytes=int(match["stores"]) + int(match["loads"]),
        shared_bytes=int(shared[1]) if shared else 0,
        wide_loads=None if instructions is None else len(re.findall(r"\bLDG\.E\.128", instructions)),
        matrix_instructions=None if instructions is None else len(re.findall(r"\bHMMA\.", instructions)),
    )


def _functions(disassembly: str) -> dict[str, str]:
    pieces = re.split(r"Function : (\w+)", disassembly)
    return dict(zip(pieces[1::2], pieces[2::2], strict=True))


def _demangled(name: str) -> str:
    """``search_tiles<(int)2>``: the name and the template's arguments, where the system has c++filt."""
    if shutil.which("c++filt") is None:
        return name
    full = _run(["c++filt", name]).strip()
    plain = re.sub(r"vitsom::cuda::|\(anonymous namespace\)::|^void ", "", full)
    return re.sub(r"\((?!int\)).*", "", plain)


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    return done.stdout + done.stderr


if __name__ == "__main__":
    print(json.dumps([asdict(kernel) for kernel in kernel_resources(sys.argv[1:] or ARCHITECTURES)], indent=1))
