"""Where things are: the repository, whose folder its commands are run in, and the recorded results."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
