"""The Triton kernels of a checkout, which are in ``kernels/`` at its root; an installed package has them here."""

from pathlib import Path

__path__ = [str(Path(__file__).parents[2] / "kernels")]
