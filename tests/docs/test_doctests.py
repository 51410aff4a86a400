"""The examples of the docstrings."""

from __future__ import annotations

import doctest
import importlib

import pytest

MODULES = ("functional", "grid", "loss", "metrics", "optim", "schedules", "som")


@pytest.mark.parametrize("name", MODULES)
def test_examples_print_what_they_say(name: str) -> None:
    module = importlib.import_module(f"vitsom_fast.{name}")
    found = [test for test in doctest.DocTestFinder(exclude_empty=True).find(module) if test.examples]
    assert found
    for test in found:
        assert doctest.DocTestRunner().run(test).failed == 0, test.name
