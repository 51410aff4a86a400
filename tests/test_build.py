"""What setup.py does with an earlier build, whose module must not pass for one of this source, and which nvcc it takes."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tools import cuda_resources

ROOT = Path(__file__).resolve().parent.parent


LEFT_OUT = {"VITSOM_BUILD_CPU": "0", "VITSOM_BUILD_CUDA": "0"}
NO_COMPILER = {"CXX": "/nowhere/c++", "CUDACXX": "/nowhere/nvcc", "PATH": os.path.dirname(sys.executable)}


@pytest.mark.parametrize("environment", [LEFT_OUT, NO_COMPILER], ids=["left out", "no compiler"])
@pytest.mark.parametrize("name", ["_cpu", "_cuda"])
def test_a_module_of_an_earlier_build_is_not_packaged(tmp_path: Path, name: str, environment: dict[str, str]) -> None:
    pytest.importorskip("setuptools")
    module = tmp_path / "lib" / "vitsom_fast" / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
    module.parent.mkdir(parents=True)
    module.write_bytes(b"of an earlier build")
    command = [sys.executable, "setup.py", "build_ext", "--build-lib", str(tmp_path / "lib"), "--build-temp", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not module.exists()


def test_kernels_are_packaged_as_they_are_imported(tmp_path: Path) -> None:
    """From ``kernels/``, and not what leads there in a checkout."""
    pytest.importorskip("setuptools")
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    packaged = {path.relative_to(tmp_path / "vitsom_fast" / "kernels") for path in tmp_path.rglob("kernels/**/*.py")}
    assert packaged == {path.relative_to(ROOT / "kernels") for path in (ROOT / "kernels").rglob("*.py")}
    assert (tmp_path / "vitsom_fast" / "kernels" / "__init__.py").read_bytes() == (ROOT / "kernels/__init__.py").read_bytes()
    assert (tmp_path / "vitsom_fast_command.py").exists()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, None), ({"CUDA_HOME": ""}, None), ({"CUDA_HOME": "toolkit"}, "toolkit"), ({"CUDACXX": "bin/nvcc"}, ".")],
    ids=str,
)
def test_nvcc_of_the_current_folder_is_taken_only_where_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: str | None
) -> None:
    setuptools = pytest.importorskip("setuptools")
    monkeypatch.setattr(setuptools, "setup", lambda **_options: None)
    find_nvcc = runpy.run_path(str(ROOT / "setup.py"))["find_nvcc"]
    for folder in (tmp_path, tmp_path / "toolkit"):
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "nvcc").touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    for name in ("CUDA_HOME", "CUDACXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for find in (find_nvcc, cuda_resources.find_nvcc):
        found = find()
        assert (found and Path(found).resolve()) == (expected and tmp_path / expected / "bin" / "nvcc")
