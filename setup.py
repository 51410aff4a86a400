"""Builds the compiled modules with CMake; everything else about the package is in pyproject.toml."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


class CMakeBuild(build_ext):
    """Builds vitsom_fast._cpu, and vitsom_fast._cuda where there is nvcc. Without them the package runs in PyTorch operations.

    VITSOM_BUILD_CPU=0 and VITSOM_BUILD_CUDA=0 leave a module out, =1 makes a failure to build it an error. VITSOM_CUDA_ARCHS
    narrows the architectures of the CUDA module, written as CMake's CUDA_ARCHITECTURES ("90" or "80-real;90").
    """

    def build_extension(self, ext: Extension) -> None:
        # A module of an earlier build must not pass for one of this source.
        Path(self.get_ext_fullpath(ext.name)).unlink(missing_ok=True)
        if self.editable_mode:
            (ROOT / "vitsom_fast" / Path(self.get_ext_filename(ext.name)).name).unlink(missing_ok=True)
        module = ext.name.rpartition("_")[2]
        variable = f"VITSOM_BUILD_{module.upper()}"
        wish = os.environ.get(variable, "")
        if wish == "0" or (module == "cuda" and wish != "1" and find_nvcc() is None):
            return
        try:
            self._build(ext, module)
        except (subprocess.CalledProcessError, OSError, ImportError) as error:
            if wish == "1":
                raise
            print(
                f"vitsom_fast: {ext.name} was not built ({error}); the package works without it, on another backend."
                f" {variable}=1 makes this an error.",
                file=sys.stderr,
            )

    def _build(self, ext: Extension, module: str) -> None:
        import pybind11

        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        # Objects are kept: of an unchanged file none is compiled again. What is known of the tools is not, as those of an
        # earlier build may have gone with the environment that pip had made for it.
        build = ROOT / "build" / f"{module}-{sys.implementation.cache_tag}-{platform.machine()}"
        (build / "CMakeCache.txt").unlink(missing_ok=True)
        build.mkdir(parents=True, exist_ok=True)

        settings = {
            "CMAKE_BUILD_TYPE": "Release",
            "Python_EXECUTABLE": sys.executable,
            "pybind11_DIR": pybind11.get_cmake_dir(),
            "VITSOM_MODULE": module,
        }
        if module == "cuda":
            settings["CMAKE_CUDA_COMPILER"] = find_nvcc() or "nvcc"
            if os.environ.get("VITSOM_CUDA_ARCHS"):
                settings["VITSOM_CUDA_ARCHS"] = os.environ["VITSOM_CUDA_ARCHS"]
        definitions = [f"-D{name}={value}" for name, value in settings.items()]
        subprocess.run(["cmake", "-G", "Ninja", "-S", str(ROOT / "csrc"), "-B", str(build), *definitions], check=True)
        subprocess.run(["cmake", "--build", str(build)], check=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(build / target.name, target)

    def get_outputs(self) -> list[str]:
        return [path for path in super().get_outputs() if Path(path).exists()]

    def copy_extensions_to_source(self) -> None:
        self.extensions = [ext for ext in self.extensions if Path(self.build_lib, self.get_ext_filename(ext.name)).exists()]
        super().copy_extensions_to_source()


def find_nvcc() -> str | None:
    """The CUDA compiler that CUDACXX names, or that of CUDA_HOME or the PATH."""
    home = os.environ.get("CUDA_HOME")  # without it, "bin/nvcc" would be whatever lies in the current folder
    named = os.environ.get("CUDACXX") or (os.path.join(home, "bin", "nvcc") if home else "nvcc")
    return shutil.which(named) or shutil.which("nvcc")


def places() -> dict[str, Any]:
    """Which packages there are, and where. An editable installation is the root of the checkout on Python's path, which type
    checkers follow, too, as they do no hook; ``vitsom_fast/kernels/__init__.py`` then leads to ``kernels/``."""
    own = find_packages(include=["vitsom_fast", "vitsom_fast.*"])
    if "editable_wheel" in sys.argv:
        return {"packages": own, "package_dir": {"": "."}}
    kernels = ["vitsom_fast.kernels", *(f"vitsom_fast.kernels.{room}" for room in find_packages(str(ROOT / "kernels")))]
    package_dir = {"vitsom_fast": "vitsom_fast", "vitsom_fast.kernels": "kernels"}
    return {"packages": sorted({*own, *kernels}), "package_dir": package_dir}


setup(
    **places(),
    py_modules=["vitsom_fast_command"],
    package_data={"vitsom_fast": ["py.typed", "*.pyi"]},
    exclude_package_data={"vitsom_fast": ["kernels/*"]},  # what leads to kernels/ in a checkout
    ext_modules=[Extension("vitsom_fast._cpu", sources=[]), Extension("vitsom_fast._cuda", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
