"""The command ``vitsom-fast``, outside of its package: Ctrl-C must find a listener while that is still being imported."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


def main() -> int:
    """As ``vitsom_fast.cli.main``."""
    os.environ["MPLBACKEND"] = "agg"  # pictures go to files: a backend for windows, right or wrong, has no part in that
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # not where Ctrl-C is for somebody else
        signal.signal(signal.SIGINT, _stop)
    from vitsom_fast.cli import main as run

    signal.signal(signal.SIGINT, before)
    return run()


def _stop(_number: int, _frame: FrameType | None) -> None:
    # At once: an extension module that is being imported would take an exception for one of its own.
    print("vitsom-fast: stopped", file=sys.stderr, flush=True)
    os._exit(130)
