"""A compiled kernel launched by addresses.

``compiled[grid](...)`` makes a record of every launch for the hooks of profilers, and calls both hooks, which is half of what a
launch costs the host; where nobody listens, ``run`` is called as it would call it. Triton 3.6 to 3.9 have it alike.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

Runner = Callable[..., Any]


def repeated(compiled: Any, programs: int) -> Runner:
    """What launches so many programs of a compiled kernel, given its arguments, tensors as addresses, and ``stream=``."""
    watched = compiled[programs, 1, 1]
    run, function, metadata = compiled.run, compiled.function, compiled.packed_metadata
    knobs = _runtime_knobs()

    def launch(*arguments: Any, stream: int) -> None:
        if _listens(knobs.launch_enter_hook) or _listens(knobs.launch_exit_hook):
            watched(*arguments, stream=stream)
        else:
            run(programs, 1, 1, stream, function, metadata, None, None, None, *arguments)

    return launch


def _listens(hook: Any) -> bool:
    """Whether a hook, or a chain of them, does anything."""
    return bool(getattr(hook, "calls", hook))


@functools.cache
def _runtime_knobs() -> Any:
    from triton import knobs  # late, as Triton may be absent

    return knobs.runtime
