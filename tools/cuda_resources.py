"""What nvcc makes of the CUDA kernels, without a GPU: registers, spills, shared memory, wide loads and matrix instructions."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tools.compiled import Row

SOURCES = Path(__file__).resolve().parent.parent / "csrc" / "cuda"
TARGETS = ("sm_75", "sm_80", "sm_90", "sm_100")  # as in csrc/cuda/CMakeLists.txt

_KERNEL = re.compile(
    r"Compiling entry function '(?P<name>\w+)'.*?(?P<stack>\d+) bytes stack frame, (?P<spilled>\d+) bytes spill stores.*?"
    r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)
# What the argument of a kernel's template says of the inputs that it is for; none is for all of them.
_DTYPES = {"float": "fp32", "__nv_bfloat16": "bf16", "__half": "fp16", "2": "fp32", "1": "bf16 fp16"}


def cuda_rows(nvcc: str, targets: Sequence[str] = TARGETS, jobs: int = 2) -> list[Row]:
    """All kernels on those targets that this nvcc knows; the seconds are those of the file that a kernel is in.

    Raises:
        RuntimeError: nvcc fails.
    """
    known = _run([nvcc, "--list-gpu-code"]).split()
    served = [target for target in TARGETS if target in targets and target in known]
    wanted = [(nvcc, source, target) for target in served for source in sorted(SOURCES.glob("*.cu"))]
    with ThreadPoolExecutor(jobs) as pool:
        return [row for rows in pool.map(lambda job: _compile(*job), wanted) for row in rows]


def find_nvcc() -> str | None:
    """The compiler that CUDACXX names, or that of CUDA_HOME or the PATH, as setup.py finds it."""
    home = os.environ.get("CUDA_HOME")
    named = os.environ.get("CUDACXX") or (os.path.join(home, "bin", "nvcc") if home else "nvcc")
    return shutil.which(named) or shutil.which("nvcc")


def find_disassembler(nvcc: str) -> str | None:
    """cuobjdump of the toolkit, or the one that Triton brings along."""
    folders = [Path(nvcc).resolve().parent]
    triton = importlib.util.find_spec("triton")
    if triton is not None and triton.origin:
        folders.append(Path(triton.origin).parent / "backends" / "nvidia" / "bin")
    search_path = os.pathsep.join([os.environ.get("PATH", ""), *map(str, folders)])
    return shutil.which("cuobjdump", path=search_path)


def _compile(nvcc: str, source: Path, target: str) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernels.cubin"
        options = ["-std=c++17", "-O3", f"-arch={target}", "-Xptxas=-v", f"-I{SOURCES}", f"-I{SOURCES.parent}"]
        started = time.perf_counter()
        said = _run([nvcc, *options, "-cubin", str(source), "-o", str(cubin)])
        seconds = round(time.perf_counter() - started, 2)
        disassembler = find_disassembler(nvcc)
        code = _functions(_run([disassembler, "-sass", str(cubin)])) if disassembler else {}
    return [_row(match, source.stem, target, code.get(match["name"]), seconds) for match in _KERNEL.finditer(said)]


def _row(match: re.Match[str], module: str, target: str, code: str | None, seconds: float) -> Row:
    def count(instruction: str) -> int | None:
        return None if code is None else len(re.findall(rf"\b{instruction}\b", code))

    name, _, argument = _demangled(match["name"]).rstrip(">").partition("<")
    shared = re.search(r"(\d+) bytes smem", match["rest"])
    return Row(
        kernel=f"{module}.{name}",
        target=target,
        config=_DTYPES.get(argument.partition(",")[0], "fp32 bf16 fp16"),
        registers=int(match["registers"]),
        spilled_bytes=max(int(match["stack"]), int(match["spilled"])),  # none of these kernels has another use for a stack
        shared_bytes=int(shared[1]) if shared else 0,
        matrix_instructions=count("HMMA"),
        compile_seconds=seconds,
        global_loads_16=count(r"LDG(?:STS)?(?:\.\w+)*\.128"),
        shared_loads_16=count(r"LDS(?:\.\w+)*\.128"),
    )


def _functions(disassembly: str) -> dict[str, str]:
    pieces = re.split(r"Function : (\w+)", disassembly)
    return dict(zip(pieces[1::2], pieces[2::2], strict=True))


def _demangled(name: str) -> str:
    """``search_tiles<2>``: the name and the template's arguments, where the system has c++filt."""
    if shutil.which("c++filt") is None:
        return name
    full = _run(["c++filt", name]).strip()
    plain = re.sub(r"vitsom::cuda::|\(anonymous namespace\)::|^void |\(int\)", "", full)
    return re.sub(r"\(.*", "", plain)


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    return done.stdout + done.stderr
