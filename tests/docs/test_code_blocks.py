"""Every line of Python and every command of the README and the pages."""

from __future__ import annotations

import argparse
import re
import shlex
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from host_build import ROOT

from vitsom_fast import cli

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
NAMES = [str(path.relative_to(ROOT)) for path in PAGES]

# What blocks may ask for that the tests need not have.
OPTIONAL = {"onnx", "onnxscript", "huggingface_hub"}

# docs/estimator.md is tests/estimator/test_tutorial.py's, which also compares what is printed.
RUN = [name for name in NAMES if "```python" in (ROOT / name).read_text(encoding="utf-8") and name != "docs/estimator.md"]
SLOW = {"README.md"}

# What a page takes for granted.
GIVEN: dict[str, Callable[[], object]] = {
    "docs/many-machines.md": lambda: np.save("part-0.npy", np.random.default_rng(0).normal(size=(3000, 5))),
}


@pytest.fixture
def one_of_one(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What torchrun tells the only process of a group."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0}.items():
        monkeypatch.setenv(name, str(value))
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def test_the_pages_with_code_are_found() -> None:
    assert {"README.md", "docs/models.md", "docs/guide/start.md", "docs/guide/recipes.md"} <= set(RUN)


@pytest.mark.usefixtures("one_of_one")
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in RUN])
def test_python_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page one after the other, as a reader would paste them."""
    monkeypatch.chdir(tmp_path)
    torch._dynamo.reset()
    GIVEN.get(name, lambda: None)()
    text = (ROOT / name).read_text(encoding="utf-8")
    names: dict[str, object] = {"__name__": "__main__"}
    lacking = set()
    for block in re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        line = text[: block.start()].count("\n") + 1
        try:
            exec(compile("\n" * line + block[1], str(ROOT / name), "exec"), names)
        except ImportError as error:
            if error.name not in OPTIONAL:
                raise
            lacking.add(error.name)
    if lacking:
        pytest.skip(f"everything ran but blocks that need {', '.join(sorted(lacking))}")


def commands_in(text: str) -> list[str]:
    """Lines of code, and code within lines, that call vitsom-fast."""
    lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    parts = [part.strip() for line in lines for part in line.split("&&")] + re.findall(r"`([^`\n]+)`", text)
    found = []
    for part in parts:
        called = re.match(r"(?:vitsom-fast|python -m vitsom_fast|torchrun .*-m vitsom_fast\.cli)\s+(.+)", part.split("  #")[0])
        if called and "..." not in part:
            found.append(called[1])
    return found


# Words in the place of arguments, as "train --preset NAME".
PLACEHOLDER = re.compile(r"(?:^|\s)[A-Z]+(?:\s|$)")


@pytest.mark.parametrize("name", NAMES)
def test_commands_are_understood(name: str) -> None:
    """Every command and every option that a page writes is one of the parser's; nothing is run."""
    parser = cli._parser()
    (commands,) = (action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for command in commands_in((ROOT / name).read_text(encoding="utf-8")):
        first, *rest = shlex.split(command)
        if first.startswith("-"):
            assert first in parser._option_string_actions, command
        elif PLACEHOLDER.search(command) or "--help" in rest or not rest:
            options = {word for word in rest if word.startswith("--")}
            assert options <= set(commands[first]._option_string_actions), command
        else:
            assert parser.parse_args([first, *rest]).run, command


def test_commands_are_found() -> None:
    found = {command for name in NAMES for command in commands_in((ROOT / name).read_text(encoding="utf-8"))}
    assert {"train", "info", "fit wine.csv --rows 9 --cols 8 --standardize", "train --preset cifar-10"} <= found


def test_extras_are_those_of_the_package() -> None:
    tomllib = pytest.importorskip("tomllib")
    known = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    found = {extra for name in NAMES for extra in re.findall(r"(?:vitsom_fast|\.)\[(\w+)\]", (ROOT / name).read_text())}
    assert {"test", "data"} <= found <= known
