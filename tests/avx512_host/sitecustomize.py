"""Python imports this before anything else where it is on PYTHONPATH; vitsom_fast._cpu is then the module beside it."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path


class EmulatedModule:
    """Finds vitsom_fast._cpu in this folder."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != "vitsom_fast._cpu":
            return None
        return spec_from_file_location(name, next(Path(__file__).parent.glob("_cpu*.so")))


sys.meta_path.insert(0, EmulatedModule)
