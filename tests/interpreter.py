"""Triton's interpreter in half of its time: for each function that a kernel calls it looks through all of Triton's language for
what is to be replaced, and finds the same each time; and it checks sums of integers as no compiled kernel does."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
from typing import Any


def remember_what_is_replaced() -> None:
    """In this process, once the interpreter has been imported. A Triton that goes about it in another way is left as it is."""
    interpreter: Any = sys.modules.get("triton.runtime.interpreter")
    if interpreter is None or getattr(interpreter, "_remembers", False):
        return
    interpreter._remembers = True
    if not all(hasattr(interpreter, name) for name in ("_patch_builtin", "_patch_attr", "tl")):
        return
    is_builtin = interpreter.tl.core.is_builtin

    @functools.cache
    def builtins_of(module: Any) -> list[tuple[str, Any]]:
        """As they were when nothing had been replaced, or all that still have to be."""
        return [(name, member) for name, member in inspect.getmembers(module) if is_builtin(member)]

    def patch_builtin(module: Any, *rest: Any) -> None:
        for name, member in builtins_of(module):
            if getattr(module, name) is member:
                interpreter._patch_attr(module, name, member, *rest)

    interpreter._patch_builtin = patch_builtin
    options = interpreter.interpreter_builder.options
    if getattr(options, "sanitize_overflow", False):  # which compiled kernels do without, and is another quarter
        interpreter.interpreter_builder.options = dataclasses.replace(options, sanitize_overflow=False)
