"""The README's tables and pictures, from recorded results.

python -m benchmarks.studies.report NAME        prints the tables of benchmarks/results/NAME.csv in Markdown, and draws
                                        docs/growth-step.png and docs/growth-search.png from NAME-growth.csv and
                                        docs/growth-search-organised.png from NAME-growth-organised.csv, with exponents,
                                        and docs/organising.png from NAME-organising.csv
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

from benchmarks.harness.places import RESULTS, ROOT
from benchmarks.harness.table import read_csv
from benchmarks.harness.workloads import WORKLOADS
from benchmarks.studies.growth_plot import exponents, plot_exponents, plot_growth
from benchmarks.studies.organising_plot import plot_organising

Result = Mapping[str, str]  # a row of the CSV

_TITLES = {
    "paper-mnist": "the paper's MNIST",
    "paper-tiny-imagenet": "the paper's Tiny ImageNet",
    "large": "large",
    "large-organised": "large, trained map",
    "huge": "huge",
    "huge-organised": "huge, trained map",
}


def step_table(results: Sequence[Result]) -> str:
    """A training step in Markdown: a workload a line, eager PyTorch and torch.compile against this package."""
    lines = [
        "| one training step: loss and gradients | batch, map, features | eager PyTorch | torch.compile of it |"
        " vitsom_fast `cpu` | faster than eager | than compile | memory eager | memory `cpu` |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for workload, title in _TITLES.items():
        by_name = _contenders(results, "step", workload)
        if "cpu" not in by_name:
            continue
        eager, compiled, ours = (_milliseconds(by_name.get(name)) for name in ("eager", "compile", "cpu"))
        cells = [
            title,
            _shape(workload),
            _time(eager),
            _time(compiled),
            f"**{_time(ours)}**",
            *(f"**{_ratio(theirs, ours)}**" for theirs in (eager, compiled)),
            *(_memory(by_name.get(name)) for name in ("eager", "cpu")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def search_table(results: Sequence[Result]) -> str:
    """The search in Markdown: a contender a line, the fastest first; its time, and how many times that of ``cpu`` it is."""
    columns = {workload: _contenders(results, "search", workload) for workload in _TITLES}
    columns = {workload: by_name for workload, by_name in columns.items() if "cpu" in by_name}
    cells: dict[str, list[str]] = {}
    best: dict[str, float] = {}  # the smallest ratio of each contender
    for by_name in columns.values():
        ours = _milliseconds(by_name["cpu"])
        for name in {result["contender"] for result in results if result["operation"] == "search"}:
            theirs = _milliseconds(by_name.get(name))
            if theirs and ours:
                best[name] = min(best.get(name, theirs / ours), theirs / ours)
            text = f"**{_time(ours)}**" if name == "cpu" else f"{_time(theirs)}, {_ratio(theirs, ours)}" if theirs else "-"
            cells.setdefault(name, []).append(text)
    lines = [
        f"| the search alone | {' | '.join(f'{_TITLES[workload]}: {_shape(workload)}' for workload in columns)} |",
        f"|---|{'---|' * len(columns)}",
        *(f"| {name} | {' | '.join(cells[name])} |" for name in sorted(best, key=lambda name: best[name])),
    ]
    return "\n".join(lines)


def _contenders(results: Sequence[Result], operation: str, workload: str) -> dict[str, Result]:
    return {row["contender"]: row for row in results if (row["operation"], row["workload"]) == (operation, workload)}


def _milliseconds(result: Result | None) -> float | None:
    return float(result["median_ms"]) if result and result["median_ms"] else None


def _shape(workload: str) -> str:
    shape = WORKLOADS[workload]
    return f"{shape.batch}, {shape.rows} x {shape.cols}, {shape.dim}"


def _time(ms: float | None) -> str:
    return "-" if ms is None else f"{ms / 1000:.2f} s" if ms >= 1000 else f"{ms:.0f} ms" if ms >= 10 else f"{ms:.1f} ms"


def _ratio(theirs: float | None, ours: float | None) -> str:
    return f"{theirs / ours:.1f} x" if theirs and ours else "-"


def _memory(result: Result | None) -> str:
    return f"{float(result['memory_mb']):.0f} MB" if result and result["memory_mb"] else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the results, as given to --record")
    name = parser.parse_args().name
    recorded = [RESULTS / f"{name}{kind}.csv" for kind in ("", "-growth", "-growth-organised", "-organising")]
    if not any(path.exists() for path in recorded):
        parser.error(
            f"argument name: must be that of recorded results, got {name!r}; none of {[str(path) for path in recorded]} exists"
        )
    suite, growth, organised, organising = recorded
    if suite.exists():
        results = read_csv(suite)
        print(step_table(results), search_table(results), sep="\n\n")
    if growth.exists():
        points = read_csv(growth)
        for operation in dict.fromkeys(point["operation"] for point in points):
            path = ROOT / "docs" / f"growth-{operation}.png"
            plot_growth(points, operation).savefig(path)
            print(f"drawn: {path}")
    if organised.exists():
        points = read_csv(organised)
        for contender, power in sorted(exponents(points).items(), key=lambda item: item[1]):
            print(f"{contender}: time grows with K^{power:.2f} on maps in order")
        path = ROOT / "docs" / "growth-search-organised.png"
        plot_exponents(points).savefig(path)
        print(f"drawn: {path}")
    if organising.exists():
        path = ROOT / "docs" / "organising.png"
        plot_organising(read_csv(organising)).savefig(path)
        print(f"drawn: {path}")


if __name__ == "__main__":
    main()
