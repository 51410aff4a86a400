"""Parts of a report that may fail without the others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vitsom_fast.messages import one_line


@contextmanager
def noted(failed: dict[str, str], part: str) -> Iterator[None]:
    """What fails within costs no more than itself, and is written down as the reason why ``part`` is missing."""
    try:
        yield
    except Exception as error:  # whatever it is, the rest of the report is worth having
        failed[part] = one_line(error)
