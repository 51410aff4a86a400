"""A progress bar that a run can lose: its terminal may be gone before the training is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tqdm import tqdm


class _Unbreakable:
    """A stream whose writes may fail unheard: its reader is gone, or it is closed."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        self._unheard(self._stream.write, text)

    def flush(self) -> None:
        self._unheard(self._stream.flush)

    def __getattr__(self, name: str) -> Any:  # tqdm asks for its encoding and width
        return getattr(self._stream, name)

    @staticmethod
    def _unheard(call: Callable[..., Any], *arguments: Any) -> None:
        with suppress(OSError, ValueError):
            call(*arguments)


@contextmanager
def progress_bar(total: int, done: int, *, shown: bool) -> Iterator[Callable[[dict[str, float]], None]]:
    """A bar of epochs on stderr, where there is one; yields what is to be called with the numbers of each epoch."""
    shown = shown and sys.stderr is not None
    with tqdm(total=total, initial=done, unit="epoch", disable=not shown, file=_Unbreakable(sys.stderr)) as bar:

        def advance(numbers: dict[str, float]) -> None:
            bar.set_postfix({name: f"{value:.4g}" for name, value in numbers.items()}, refresh=False)
            bar.update()

        yield advance
