"""Errors in one line, for the reader of a terminal or of metrics.json."""

from __future__ import annotations


def one_line(error: BaseException) -> str:
    """The first line that an error's message has, after the name of its type; the name alone where there is none."""
    name, text = type(error).__name__, str(error).strip()
    return f"{name}: {text.splitlines()[0]}" if text else name
