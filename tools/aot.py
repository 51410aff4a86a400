"""``python -m tools.aot``: compiles every kernel for real GPUs, without having one: Triton's in every shipped
configuration, and those of CUDA C++ where there is an nvcc.

Prints one row a kernel and target: registers, spilled bytes, shared memory, the matrix instructions in the assembly and, for
CUDA C++, the loads of 16 bytes.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tools import cuda_resources
from tools.compiled import Row, table

TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")  # of Triton's kernels
SHARED_LIMIT = {"sm_75": 64 << 10, "sm_80": 163 << 10, "sm_90": 227 << 10, "sm_100": 227 << 10, "gfx942": 64 << 10}
MATRIX_INSTRUCTION = re.compile(r"^\s*(?:@\S+\s+)?(mma\.sync|wgmma\.mma_async|tcgen05\.mma|v_mfma)", re.MULTILINE)

# One size of each bucket of vitsom_fast.kernels.configs.
DIMS = (32, 64, 128, 192, 256, 1024)
SIDES = (16, 64)
DTYPES = ("fp32", "bf16", "fp16")


@dataclass(frozen=True)
class Case:
    """A kernel of ``vitsom_fast.kernels`` as it is launched: what to compile."""

    kernel: str  # "room.module.function"
    target: str
    dtype: str  # of latents and prototypes
    constants: tuple[tuple[str, Any], ...]
    num_warps: int
    num_stages: int
    max_registers: int

    @property
    def config(self) -> str:
        """Block sizes and options in one line."""
        blocks = " ".join(f"{name}={value}" for name, value in self.constants)
        return f"{self.dtype} {blocks} warps={self.num_warps} stages={self.num_stages}"


def cases(targets: tuple[str, ...] = TARGETS, dims: tuple[int, ...] = DIMS, dtypes: tuple[str, ...] = DTYPES) -> list[Case]:
    """Every kernel in every configuration that a launch on these targets can choose, without repetitions."""
    return list(dict.fromkeys(case for target in targets for dtype in dtypes for case in _cases(target, dims, dtype)))


def _cases(target: str, dims: tuple[int, ...], dtype: str) -> Iterator[Case]:
    from vitsom_fast.kernels.launch import configs

    family = configs.family(*_backend_and_architecture(target))
    precision = {"PRECISION": configs.precision(family)}
    split = dtype == "fp32"

    def case(kernel: str, config: configs.Config, dtype: str = dtype, **constants: Any) -> Case:
        return Case(
            kernel,
            target,
            dtype,
            tuple({**constants, **config.blocks}.items()),
            config.num_warps,
            config.num_stages,
            config.max_registers,
        )

    for on_device in (False, True):
        yield case("factorised.gaussian.gaussian_kernel", configs.gaussian(), "fp32", ON_DEVICE=on_device)
    yield case("factorised.group.group_kernel", configs.group())
    yield case("factorised.sums.sort_columns_kernel", configs.group(), "fp32")
    yield case("factorised.sums.sort_units_kernel", configs.sort_units(), "fp32")
    for dim in dims:
        yield case("search.prepare.prepare_kernel", configs.prepare(dim), SPLIT=split)
        yield case("search.distance.distance_kernel", configs.distance(dim))
        for config in configs.search_candidates(family, split, dim):
            form = "resident" if config.is_resident else "streaming"
            yield case(f"search.search.search_{form}_kernel", config, SPLIT=split, BIASED=False)
        yield from _squared_cases(case, family, dim)
        if split:
            yield case("search.certified.group_maxima_kernel", configs.group_maxima(family, dim), BIASED=False)
            yield case("search.certified.rescore_kernel", configs.rescore(), BIASED=False)
        yield case("dense.weights.weights_kernel", configs.weights())
        yield case("dense.attraction.dense_attraction_kernel", configs.dense_attraction(family, dim))
        yield case("dense.gradients.dense_pull_kernel", configs.dense_pull(family, dim))
        yield case("dense.gradients.dense_project_kernel", configs.dense_project(dim))
        yield case("factorised.gradients.project_kernel", configs.project(family), **precision)
        yield case("factorised.attraction.attraction_kernel", configs.attraction(family, dim))
        for adds in (False, True):
            yield case("factorised.sums.sum_units_kernel", configs.sum_units(dim), ADD=adds)
        yield from _pair_cases(case, family, dim)
        for side in SIDES:
            yield case("factorised.smooth.smooth_columns_kernel", configs.smooth(family, side, dim))
            for together in ("factors_in", "factors_out"):  # of factors as they are, or transposed
                one_apart = {**precision, together: 1}
                yield case("factorised.axes.smooth_axis_kernel", configs.smooth_axis(family, side, dim), "fp32", **one_apart)
            yield case("factorised.gradients.spread_kernel", configs.spread(family, side, dim), **precision)


def _squared_cases(case: Callable[..., Case], family: str, dim: int) -> Iterator[Case]:
    """The search by squared distance, whose operands are split whatever the dtype."""
    from vitsom_fast.kernels.launch import configs

    yield case("search.squared.longest_kernel", configs.longest(dim))
    yield case("search.squared.prepare_squared_kernel", configs.prepare(dim))
    yield case("search.squared.squared_distance_kernel", configs.distance(dim))
    for config in configs.search_candidates(family, True, dim):
        form = "resident" if config.is_resident else "streaming"
        yield case(f"search.search.search_{form}_kernel", config, "fp32", SPLIT=True, BIASED=True)
    yield case("search.certified.group_maxima_kernel", configs.group_maxima(family, dim), "fp32", BIASED=True)
    yield case("search.certified.rescore_kernel", configs.rescore(), "fp32", BIASED=True)


def _pair_cases(case: Callable[..., Case], family: str, dim: int) -> Iterator[Case]:
    from vitsom_fast.kernels.launch import configs

    yield case("pairs.operands.extent_kernel", configs.pair_copy(dim))
    yield case("pairs.operands.copy_kernel", configs.pair_copy(dim), ALONG=True, ACROSS=True)
    yield case("pairs.parts.add_parts_kernel", configs.add_parts())
    for two in (False, True):
        yield case("pairs.search.merge_keys_kernel", configs.merge_keys(), SQUARED=True, TWO=two)
    for manhattan in (False, True):
        for two in (False, True) if manhattan else (True,):  # the nearest alone is found by products
            yield case("pairs.search.pair_search_kernel", configs.pairs(family), "fp32", MANHATTAN=manhattan, TWO=two)
        yield case("pairs.losses.pair_losses_kernel", configs.pairs(family), "fp32", MANHATTAN=manhattan)
        yield case("pairs.gradients.pulls_kernel", configs.pairs(family), "fp32", MANHATTAN=manhattan, ALONG=True, ACROSS=True)
        yield case("pairs.gradients.pulled_kernel", configs.pulled(family, dim), "fp32", MANHATTAN=manhattan, IS_FIRST=False)


def compile_case(case: Case) -> Row:
    """Compiles for a GPU that need not be there."""
    import importlib

    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    module, _, name = case.kernel.rpartition(".")
    kernel = getattr(importlib.import_module(f"vitsom_fast.kernels.{module}"), name)
    constants = dict(case.constants)
    signature = {argument: _type(argument, case, constants) for argument in kernel.arg_names}
    # As a launch finds them: torch aligns its memory, rows are whole blocks of features, and features are next to each other.
    constants |= {argument: 1 for argument in signature if argument in ("z_step", "prototypes_step", "step", "source_step")}
    if constants.get("BIASED") is False:
        constants |= {"bias_factor": None, "bias": None}
    signature |= dict.fromkeys(constants, "constexpr")
    aligned = [
        (kernel.arg_names.index(argument),)
        for argument, kind in signature.items()
        if kind.startswith("*") or argument in _ALIGNED_SIZES
    ]
    source = ASTSource(kernel, signature, constants, {place: [["tt.divisibility", 16]] for place in aligned})
    backend, architecture = _backend_and_architecture(case.target)
    started = time.perf_counter()
    compiled = triton.compile(
        source,
        target=GPUTarget(backend, architecture, 64 if backend == "hip" else 32),
        options={
            "num_warps": case.num_warps,
            "num_stages": case.num_stages,
            **({"maxnreg": case.max_registers} if case.max_registers else {}),
        },
    )
    seconds = time.perf_counter() - started
    assembly = compiled.asm["amdgcn" if backend == "hip" else "ptx"]
    registers, spilled = _amd_resources(assembly) if backend == "hip" else _nvidia_resources(compiled.asm["cubin"])
    matrix = len(MATRIX_INSTRUCTION.findall(assembly))
    shared = compiled.metadata.shared
    return Row(case.kernel, case.target, case.config, registers, spilled, shared, matrix, round(seconds, 2))


def _backend_and_architecture(target: str) -> tuple[str, int | str]:
    return ("cuda", int(target.removeprefix("sm_"))) if target.startswith("sm_") else ("hip", target)


_ALIGNED_SIZES = (
    "padded_dim",
    "weights_pitch",
    "features_a_split",
    "dim",
    "z_stride",
    "prototypes_stride",
    "stride",
    "rows",
    "cols",
    "pitch",
    "along_pitch",
    "across_pitch",
    "parts_pitch",
    "num_others",
    "source_term",
    "source_line",
    "source_unit",
    "factors_term",
    "factors_out",
    "factors_in",
    "smoothed_term",
    "smoothed_line",
    "smoothed_unit",
)

# What a kernel's arguments point to; all others are sizes and strides.
_POINTERS = {
    "fp32": "inverse inverse_z inverse_prototypes rest_z rest_prototypes centre prototype_scale partial smoothed"
    " row_factors col_factors factors squared_offsets"
    " attraction loss grad_loss spread pulled along distance temperature maxima weights"
    " latents source bias bias_factor units units_across zeros across own others pulls parts extents unit",
    "fp64": "factor_sums grad_losses",
    "i64": "row_keys bmu best_keys nearest",
    "i32": "tickets ticket order starts by_column column_starts exponents",
}
_TYPES = {name: f"*{kind}" for kind, names in _POINTERS.items() for name in names.split()}


def _type(argument: str, case: Case, constants: dict[str, Any]) -> str:
    if argument in ("sums", "counts") and "ADD" in constants:
        return "*fp64" if constants["ADD"] else "*fp32"
    if argument in ("z", "prototypes", "grad_z", "grad_prototypes", "sums", "x"):
        return f"*{case.dtype}"
    if argument.endswith(("_high", "_low")):
        return "*fp16"
    if (argument == "partial" and "attraction" in case.kernel) or (argument == "parts" and "losses" in case.kernel):
        return "*fp64"
    if argument == "temperature" and not constants["ON_DEVICE"]:
        return "fp32"
    if argument in ("scale", "temperature_rest"):
        return "fp32"
    return _TYPES.get(argument, "i32")


def _nvidia_resources(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of the stack, where spilled registers go: none of these kernels has another use for it."""
    import triton.backends.nvidia

    tool = Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    registers, stack, local = (int(x) for x in re.search(r"REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)", usage).groups())  # type: ignore[union-attr]
    return registers, stack + local


def _amd_resources(assembly: str) -> tuple[int, int]:
    def field(name: str) -> int:
        return int(re.search(rf"\.{name}:\s+(\d+)", assembly).group(1))  # type: ignore[union-attr]

    return field("vgpr_count"), field("private_segment_fixed_size") + 4 * field("vgpr_spill_count")


def triton_rows(targets: tuple[str, ...], dims: tuple[int, ...], dtypes: tuple[str, ...], name: str, jobs: int) -> list[Row]:
    """Of the kernels whose name contains ``name``."""
    wanted = [case for case in cases(targets, dims, dtypes) if name in case.kernel]
    with ProcessPoolExecutor(jobs) as pool:
        return list(tqdm(pool.map(compile_case, wanted), total=len(wanted), desc="compiling", unit="kernel", disable=None))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.aot", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--backend", choices=("triton", "cuda"), help="only the kernels of this backend")
    parser.add_argument("--target", choices=tuple(SHARED_LIMIT), action="append", help="only this target; may be repeated")
    parser.add_argument("--dim", type=int, action="append", help="only Triton's configurations for this number of features")
    parser.add_argument("--dtype", choices=DTYPES, action="append", help="only inputs of this dtype")
    parser.add_argument("--kernel", default="", help="only kernels whose name contains this")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="compilations at a time")
    arguments = parser.parse_args()
    targets, dtypes = tuple(arguments.target or SHARED_LIMIT), tuple(arguments.dtype or DTYPES)

    rows: list[Row] = []
    if arguments.backend != "cuda":
        if importlib.util.find_spec("triton") is None:
            print("Triton is not installed: its kernels are left out")
        elif os.environ.get("TRITON_INTERPRET") == "1":
            parser.error("TRITON_INTERPRET=1 makes Triton interpret its kernels: unset it to compile them")
        else:
            served = tuple(target for target in TARGETS if target in targets)
            rows += triton_rows(served, tuple(arguments.dim or DIMS), dtypes, arguments.kernel, arguments.jobs)
    if arguments.backend != "triton":
        nvcc = cuda_resources.find_nvcc()
        if nvcc is None:
            print("there is no nvcc: the kernels of CUDA C++ are left out")
        else:
            if cuda_resources.find_disassembler(nvcc) is None:
                print("there is no cuobjdump: what the kernels of CUDA C++ load and multiply is not counted")
            every = cuda_resources.cuda_rows(nvcc, targets, arguments.jobs)
            rows += [row for row in every if arguments.kernel in row.kernel and set(dtypes) & set(row.config.split())]

    print(table(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    bad = [row for row in rows if row.spilled_bytes or row.shared_bytes > SHARED_LIMIT[row.target]]
    print(f"{len(rows)} kernels compiled; {len(bad)} spill or do not fit into shared memory")
    return 1 if bad or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
