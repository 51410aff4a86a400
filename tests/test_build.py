"""What setup.py does with an earlier build: its module must not pass for one of this source."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

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
