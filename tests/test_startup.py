"""What is not imported before it is used: a second or more each, on every start of a script or of the command line."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest
from host_build import ROOT

from vitsom_fast import SOM
from vitsom_fast.commands import tables

HEAVY = {"sklearn", "scipy", "matplotlib", "pandas", "triton", "datasets", "dask", "transformers", "torch._dynamo"}

# The module of what comes after is what is looked at: PyTorch itself imports some of these, in some versions.
BEFORE = f"""
import atexit, sys, torch
before = set(sys.modules)
atexit.register(lambda: print("new", sorted({HEAVY!r} & (set(sys.modules) - before))))
"""
HELP = "import vitsom_fast_command; sys.argv[1:] = {}; vitsom_fast_command.main()"


@pytest.mark.parametrize(
    "code",
    [
        "import vitsom_fast",
        "from vitsom_fast import FusedSOMLoss; FusedSOMLoss((2, 2), 3)",
        "import vitsom_fast.metrics, vitsom_fast.data, vitsom_fast.models",
        HELP.format(["--help"]),
        HELP.format(["fit", "--help"]),
    ],
    ids=["package", "loss", "metrics and models", "help", "fit help"],
)
def test_nothing_heavy_is_imported(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", BEFORE + code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "new []"


def test_the_package_is_a_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vitsom_fast", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("vitsom-fast ")


def test_defaults_of_the_command_are_those_of_the_estimator() -> None:
    """Written down twice, so that --help need not import the estimator."""
    defaults = {name: value.default for name, value in inspect.signature(SOM).parameters.items()}
    assert {name: default for name, (default, _) in tables.OPTIONS.items()} == {name: defaults[name] for name in tables.OPTIONS}
    assert (defaults["n_rows"], defaults["n_cols"]) == (tables.SIDE, tables.SIDE)
