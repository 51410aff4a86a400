"""A progress bar that a run can lose: its terminal may be gone before the training is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tqdm import tqdm

_MOST_LINES = 10


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
    """A bar of epochs on stderr, where there is one, or up to ten lines where that is no terminal but a log; yields what is to
    be called with the numbers of each epoch."""
    shown = shown and sys.stderr is not None
    stream = _Unbreakable(sys.stderr)
    if shown and not _is_terminal(sys.stderr):
        yield _Lines(stream, total, done)
        return
    with tqdm(total=total, initial=done, unit="epoch", disable=not shown, file=stream) as bar:

        def advance(numbers: dict[str, float]) -> None:
            bar.set_postfix(_rounded(numbers), refresh=False)
            bar.update()

        yield advance


class _Lines:
    """A line for every tenth of the epochs, and for the last."""

    def __init__(self, stream: _Unbreakable, total: int, done: int) -> None:
        self._stream, self._total, self._first, self._done = stream, total, done, done
        self._begin = time.perf_counter()

    def __call__(self, numbers: dict[str, float]) -> None:
        tenth = self._done * _MOST_LINES // self._total
        self._done += 1
        if self._done * _MOST_LINES // self._total == tenth:
            return
        rate = (self._done - self._first) / max(time.perf_counter() - self._begin, 1e-9)
        text = ", ".join(f"{name}={value}" for name, value in _rounded(numbers).items())
        self._stream.write(f"{self._done}/{self._total} epochs, {rate:.3g} epoch/s, {text}\n")
        self._stream.flush()


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (OSError, ValueError, AttributeError):  # it is closed, or hardly a stream
        return False


def _rounded(numbers: dict[str, float]) -> dict[str, str]:
    return {name: f"{value:.4g}" for name, value in numbers.items()}
