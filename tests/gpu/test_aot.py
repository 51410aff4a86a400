"""The Triton kernels compiled for GPUs that need not be there: what the compiler made of them."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tools.aot import SHARED_LIMIT, TARGETS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
]

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """All kernels for fp32 rows of 192 features, and the searches of bf16 ones, on every target."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    found = []
    for arguments in (["--dtype", "fp32"], ["--dtype", "bf16", "--kernel", "search"]):
        file = tmp_path_factory.mktemp("aot") / "rows.json"
        command = [
            sys.executable,
            "-m",
            "tools.aot",
            "--backend",
            "triton",
            "--dim",
            "192",
            *arguments,
            "--json",
            str(file),
        ]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert file.exists(), done.stderr[-4000:]
        found += json.loads(file.read_text())
    return found


def test_every_kernel_is_compiled_for_every_target(rows: list[dict[str, Any]]) -> None:
    for target in TARGETS:
        compiled = {row["kernel"].rpartition(".")[2] for row in rows if row["target"] == target}
        missing = {
            f"{name}_kernel"
            for name in (
                "gaussian",
                "prepare",
                "search_streaming",
                "distance",
                "smooth_columns",
                "group",
                "attraction",
                "spread",
                "project",
                "sort_columns",
                "sort_units",
                "sum_units",
                "smooth_axis",
                "group_maxima",
                "rescore",
                "longest",
                "prepare_squared",
                "squared_distance",
                "pair_losses",
                "pulls",
                "pulled",
            )
        } - compiled
        assert not missing, target


def test_no_kernel_spills(rows: list[dict[str, Any]]) -> None:
    assert not [row for row in rows if row["spilled_bytes"]]


def test_shared_memory_suffices(rows: list[dict[str, Any]]) -> None:
    assert not [row for row in rows if row["shared_bytes"] > SHARED_LIMIT[row["target"]]]


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("target", TARGETS)
def test_search_uses_the_tensor_cores(rows: list[dict[str, Any]], target: str, dtype: str) -> None:
    of_target = [row for row in rows if row["target"] == target and dtype in row["config"]]
    names = [(row["kernel"].rpartition(".")[2], row) for row in of_target]
    searches = [row for name, row in names if name.startswith("search_")]  # not that of pairs, which are no products
    assert searches
    assert all(row["matrix_instructions"] for row in searches)
