"""Builds the compiled modules with CMake; everything else about the package is in pyproject.toml."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


class CMakeBuild(build_ext):
    """Builds vitsom_fast._cpu. Where that fails the package still installs and runs in PyTorch operations.

    VITSOM_BUILD_CPU=0 leaves the module out, =1 makes a failure to build it an error.
    """

    def build_extension(self, ext: Extension) -> None:
        # A module of an earlier build must not pass for one of this source.
        Path(self.get_ext_fullpath(ext.name)).unlink(missing_ok=True)
        if self.editable_mode:
            (ROOT / "vitsom_fast" / Path(self.get_ext_filename(ext.name)).name).unlink(missing_ok=True)
        wish = os.environ.get("VITSOM_BUILD_CPU", "")
        if wish == "0":
            return
        try:
            self._build(ext)
        except (subprocess.CalledProcessError, OSError, ImportError) as error:
            if wish == "1":
                raise
            print(
                f"vitsom_fast: {ext.name} was not built ({error}); the package works without it, on backend 'torch'."
                " VITSOM_BUILD_CPU=1 makes this an error.",
                file=sys.stderr,
            )

    def _build(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        # A folder of its own: the cache of an earlier build names a ninja that pip has removed with its environment.
        with tempfile.TemporaryDirectory() as name:
            self._build_in(Path(name), target)

    def _build_in(self, build: Path, target: Path) -> None:
        import pybind11

        subprocess.run(
            [
                "cmake",
                "-G",
                "Ninja",
                "-S",
                str(ROOT / "csrc"),
                "-B",
                str(build),
                "-DCMAKE_BUILD_TYPE=Release",
                f"-DPython_EXECUTABLE={sys.executable}",
                f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            ],
            check=True,
        )
        subprocess.run(["cmake", "--build", str(build)], check=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(build / target.name, target)

    def get_outputs(self) -> list[str]:
        return [path for path in super().get_outputs() if Path(path).exists()]

    def copy_extensions_to_source(self) -> None:
        self.extensions = [ext for ext in self.extensions if Path(self.build_lib, self.get_ext_filename(ext.name)).exists()]
        super().copy_extensions_to_source()


setup(
    packages=[*find_packages(include=["vitsom_fast", "vitsom_fast.*"]), "vitsom_fast.kernels"],
    package_dir={"vitsom_fast": "vitsom_fast", "vitsom_fast.kernels": "kernels"},
    package_data={"vitsom_fast": ["py.typed"]},
    ext_modules=[Extension("vitsom_fast._cpu", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
