"""Every environment variable that the Python half reads, at the moment it is asked.

VITSOM_CPU_ISA and VITSOM_CPU_PRUNING are the C++ module's own (csrc/cpu/module/dispatch.cpp): it asks for the latter in every
search, which from here would take a tenth of a small one.
"""

from __future__ import annotations

import os
from pathlib import Path

BACKEND = "VITSOM_BACKEND"
AUTOTUNE = "VITSOM_AUTOTUNE"
TRITON_SEARCH = "VITSOM_TRITON_SEARCH"


def backend() -> str:
    """The backend that "auto" stands for: a name, or "auto" where nothing is said."""
    return os.environ.get(BACKEND) or "auto"


def cuda_module() -> str:
    """The module of the CUDA kernels; the tests name a build of the same sources for the host."""
    return os.environ.get("VITSOM_CUDA_MODULE", "vitsom_fast._cuda")


def interprets_triton() -> bool:
    """Whether Triton interprets its kernels, on CPU tensors; it is Triton's own variable."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def interpreted_family() -> str:
    """The family of architectures whose configurations an interpreter takes."""
    return os.environ.get("VITSOM_TRITON_FAMILY", "hopper")


def autotunes() -> bool:
    return os.environ.get(AUTOTUNE) == "1"


def searches_certified() -> bool:
    return os.environ.get(TRITON_SEARCH) == "certified"


def cache_folder() -> Path:
    """What is kept between processes lies there."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitsom_fast"
