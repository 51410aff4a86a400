"""The house itself: layers that point down, files that one takes in at a glance, headers that stand by themselves."""

from __future__ import annotations

import ast
import importlib.util
import platform
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from avx512_host.build import flags_of
from host_build import COMPILER, ROOT

PACKAGE = ROOT / "vitsom_fast"
KERNELS = ROOT / "csrc"
MOST_LINES = 400

# From the bottom up; a module may import what is on its own floor or below.
FLOORS = [
    (
        "version",
        "messages",
        "choices",
        "arguments",
        "settings",
        "backends.memory",
        "backends.transforms",
        "backends.spec",
        "backends.products",
        "backends.unit_rows",
        "backends.installed",
    ),
    ("schedules", "grid", "initialization", "neighborhoods"),
    ("backends.ties", "backends.smoothing", "backends.centred"),
    ("backends.batch_map",),
    ("backends.distances",),
    ("reference", "backends.differentiable", "backends.compiled", "backends.compose"),
    ("backends.cpu", "backends.cuda", "backends.torch_ops", "backends.triton"),
    ("backends",),
    ("ops", "pair_ops"),
    ("long_axis", "long_axis_pairs"),
    ("functional",),
    ("atomic", "progress", "usage", "loss", "metrics", "optim", "class_names", "plotting", "sample_plots"),
    ("estimator",),
    ("som",),
    ("data",),
    ("models",),
    ("training",),
    ("reproduction",),
    ("commands",),
    ("cli",),
]


def floor_of(module: str) -> int:
    """That of the longest name that it begins with."""
    named = {name: floor for floor, names in enumerate(FLOORS) for name in names}
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        if (name := ".".join(parts[:length])) in named:
            return named[name]
    raise AssertionError(f"no floor for {module}: add it to FLOORS")


def imports_of(path: Path) -> set[str]:
    """Modules of the package, without its name, that a file imports as it is loaded."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "vitsom_fast":
            inside = node.module.split(".")[1:]
            found |= {".".join([*inside, alias.name]) for alias in node.names}
    return {name for name in found if is_module(name) or is_module(name.rpartition(".")[0])}


def is_module(name: str) -> bool:
    path = PACKAGE.joinpath(*name.split("."))
    return bool(name) and (path.with_suffix(".py").exists() or (path / "__init__.py").exists())


def modules() -> dict[str, Path]:
    paths = [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py" and "kernels" not in path.parts]
    return {".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_point_down(module: str) -> None:
    for imported in imports_of(modules()[module]):
        target = imported if is_module(imported) else imported.rpartition(".")[0]
        assert floor_of(target) <= floor_of(module), f"{module} imports {target}"


def test_no_circle_of_imports() -> None:
    paths = modules()
    arrows = {
        name: {each if is_module(each) else each.rpartition(".")[0] for each in imports_of(path)} & set(paths) - {name}
        for name, path in paths.items()
    }
    while arrows:
        free = {name for name, targets in arrows.items() if not targets & set(arrows)}
        assert free, f"a circle among {sorted(arrows)}"
        arrows = {name: targets for name, targets in arrows.items() if name not in free}


@pytest.mark.parametrize("folder", ["vitsom_fast", "kernels", "csrc", "benchmarks", "tools", "tests/soak"])
def test_no_file_is_long(folder: str) -> None:
    suffixes = {".py", ".h", ".cpp", ".cu", ".cuh"}
    lines = {path: len(path.read_text().splitlines()) for path in (ROOT / folder).rglob("*") if path.suffix in suffixes}
    assert lines
    assert not {str(path): count for path, count in lines.items() if count > MOST_LINES}


# What the rooms of the benchmarks may import, beside their own.
BENCHMARK_ROOMS: dict[str, set[str]] = {
    "peers": set(),
    "harness": {"peers"},
    "studies": {"harness"},
    "gpu": {"harness", "peers"},
}


@pytest.mark.parametrize("room", BENCHMARK_ROOMS)
def test_rooms_of_the_benchmarks_import_what_is_below(room: str) -> None:
    paths = list((ROOT / "benchmarks" / room).rglob("*.py"))
    assert paths
    for path in paths:
        found = benchmark_rooms_in(path)
        assert found <= BENCHMARK_ROOMS[room] | {room}, f"{path} imports {found}"


def benchmark_rooms_in(path: Path) -> set[str]:
    """What a file imports of ``benchmarks``, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("benchmarks.")}


def test_commands_of_the_documents_are_there() -> None:
    """``python -m MODULE`` and ``python FILE``, wherever a document or a module of ours names them."""
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "benchmarks" / "results" / "README.md"]
    sources = [path for room in ("benchmarks", "tools", "tests/soak") for path in (ROOT / room).rglob("*.py")]
    texts = {path: path.read_text() for path in [*documents, *sources]}
    modules = {name for text in texts.values() for name in re.findall(r"python -m ((?:benchmarks|tools)[\w.]*\w)", text)}
    assert modules >= {"benchmarks.gpu", "benchmarks.launching", "benchmarks.studies.growth", "tools.aot"}
    assert not {name for name in modules if importlib.util.find_spec(name) is None}
    files = {name for text in texts.values() for name in re.findall(r"python ((?:tests|scripts)/[\w/]+\.py)", text)}
    assert "tests/soak/exactness.py" in files
    assert not {name for name in files - {"tests/soak/NAME.py"} if not (ROOT / name).exists()}


def test_intrinsics_are_in_one_room() -> None:
    for path in (KERNELS / "cpu").rglob("*.*"):
        if path.parent.name != "simd":
            assert "_mm" not in path.read_text(), path


@pytest.mark.skipif(shutil.which(COMPILER) is None, reason="there is no C++ compiler")
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the flags are those of x86-64")
def test_every_header_stands_by_itself(tmp_path: Path) -> None:
    """With the short header of intrinsics of the tests: the compiler's own takes ten times as long to read."""
    flags = ["-std=c++17", "-fsyntax-only", f"-I{KERNELS}", "-DVITSOM_ISA=avx512bf16", *flags_of("avx512bf16")]
    headers = [path for room in ("common", "cpu") for path in sorted((KERNELS / room).rglob("*.h"))]

    def errors(header: Path) -> str:
        source = tmp_path / f"{header.stem}.cpp"
        source.write_text(f'#include "{header.relative_to(KERNELS)}"\n')
        return subprocess.run([COMPILER, *flags, str(source)], capture_output=True, text=True, check=False).stderr

    with ThreadPoolExecutor(2) as pool:
        for header, said in zip(headers, pool.map(errors, headers), strict=True):
            assert "error" not in said, f"{header}:\n{said}"


BINDINGS = {"cpu": KERNELS / "cpu" / "module" / "bindings.cpp", "cuda": KERNELS / "cuda" / "bindings.cpp"}


@pytest.mark.parametrize("module", BINDINGS)
def test_stubs_are_of_what_is_bound(module: str) -> None:
    """Names and, where the constructor or the function is written in the same file, the number of arguments."""
    source = BINDINGS[module].read_text()
    bound = set(re.findall(r'm\.(?:def|attr)\(\s*"(\w+)"', source)) | set(
        re.findall(r'py::class_<[^;]*?\(m,\s*"(\w+)"', source)
    )
    stub = {}
    for node in ast.parse((PACKAGE / f"_{module}.pyi").read_text()).body:
        if isinstance(node, ast.AnnAssign):
            assert isinstance(node.target, ast.Name)
            stub[node.target.id] = None
        elif isinstance(node, ast.FunctionDef):
            stub[node.name] = len(node.args.posonlyargs)
        elif isinstance(node, ast.ClassDef):
            (made,) = [each for each in node.body if isinstance(each, ast.FunctionDef)] or [None]
            stub[node.name] = made and len(made.args.posonlyargs) - 1
    assert set(stub) == bound
    functions = dict(re.findall(r'm\.def\(\s*"(\w+)",\s*&(\w+)[,)]', source))
    functions |= dict(re.findall(r'"(\w+)",\s*py::module_local\(\)\)\s*\.def\(py::init\(&(\w+)\)', source))
    assert len(functions) > 3
    for name, function in functions.items():
        written = re.search(rf"\b{function}\(([^)]*)\) \{{", source)
        assert written, function
        assert stub[name] == len([each for each in written[1].split(",") if each.strip()]), name


def test_types_of_one_module_are_its_own() -> None:
    """Both modules bind a ``Neighborhood``: of two for all, whichever is loaded last could not be."""
    for path in BINDINGS.values():
        bound = re.findall(r"py::class_<[^;]*?\(m,[^;]*?\)", path.read_text())
        assert bound
        assert all("py::module_local()" in each for each in bound), path
