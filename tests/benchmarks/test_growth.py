"""Growth and report of the benchmarks: where a contender ends and why, and what tables and pictures say."""

from __future__ import annotations

import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from benchmarks.harness.contenders import SEARCH
from benchmarks.harness.places import ROOT
from benchmarks.studies import growth, report
from benchmarks.studies.growth import Point
from benchmarks.studies.growth_plot import _GAP, _apart, exponents, plot_exponents, plot_growth
from benchmarks.studies.report import search_table, step_table

pytestmark = pytest.mark.slow


def test_a_contender_that_ends_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(operation: str, contender: growth.Contender, side: int, organised: bool) -> Point:
        ends = contender.name == "eager" and side == 32
        return Point(operation, contender.name, side, side, note="out of memory" if ends else "")

    monkeypatch.setattr(growth, "measure_in_new_process", measured)
    points = [(point.operation, point.contender, point.rows) for point in growth._grow([64, 16, 32], ["eager", "cpu"])]
    assert points == [
        ("step", "eager", 16),
        ("step", "cpu", 16),
        ("search", "cpu", 16),
        ("step", "eager", 32),
        ("step", "cpu", 32),
        ("search", "cpu", 32),
        ("step", "cpu", 64),
        ("search", "cpu", 64),
    ]


def test_growth_on_maps_in_order_is_that_of_the_search_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each map is fitted before the first point of its size, outside of what is measured."""
    calls: list[object] = []
    monkeypatch.setattr(growth, "organised_map", lambda settings: calls.append((settings.rows, settings.cols)))
    monkeypatch.setattr(growth, "measure_in_new_process", lambda *what: (calls.append(what), Point(*what[:2], 0, 0))[1])
    list(growth._grow([3, 2], ["cpu"], organised=True))
    cpu = next(contender for contender in SEARCH.contenders if contender.name == "cpu")
    assert calls == [(2, 2), ("search", cpu, 2, True), (3, 3), ("search", cpu, 3, True)]


@pytest.mark.parametrize("organised", [False, True])
def test_the_map_is_in_order_where_it_should_be(organised: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    prototypes = growth.workload_of(8, organised).inputs().prototypes.detach().view(8, 8, -1)
    similarity = torch.cosine_similarity(prototypes[1:], prototypes[:-1], dim=-1).mean()
    assert similarity > 0.7 if organised else similarity < 0.3


def test_a_point_is_measured_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    matmul = SEARCH.contenders[0]
    point = growth.measure_in_new_process("search", matmul, 3, organised=True)
    assert list(tmp_path.rglob("map-3x3-*.npy"))  # it was told to fit one
    assert (point.operation, point.contender, point.rows, point.cols, point.note) == ("search", "matmul", 3, 3, "")
    assert point.rounds >= 3
    assert point.median_ms
    assert point.memory_mb is not None


_LIMITED = "from benchmarks.harness import machine; from benchmarks.studies import growth; import time, torch; "


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no such signal on this system")
def test_a_run_past_the_limit_ends_the_process() -> None:
    script = _LIMITED + "growth.TIME_LIMIT = 0.1; growth._within_limit(lambda: time.sleep(60))()"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert growth._reason(done.returncode, done.stderr) == "more than 60 s"


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's limit of the address space")
def test_what_the_machine_has_not_got_is_refused() -> None:
    """2 GB are free, 1 GB of them is spared: 0.5 GB are granted and 1.5 GB are not."""
    script = (
        _LIMITED + "machine.available_memory = lambda: 2 * 10**9; growth._fail_rather_than_swap(); torch.ones(125 * 10**6); "
        "print('granted'); torch.ones(375 * 10**6)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "granted\n"
    assert growth._reason(done.returncode, done.stderr) == "out of memory"


@pytest.mark.parametrize(
    ("status", "stderr", "reason"),
    [
        (-signal.SIGKILL, "", "out of memory"),
        (1, "Traceback\nMemoryError", "out of memory"),
        (1, "Traceback\nRuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory", "out of memory"),
        (1, "Traceback\nWrongResult: bmu of 3 rows is wrong\n", "WrongResult: bmu of 3 rows is wrong"),
        (3, "", "exit status 3"),
    ],
)
def test_why_a_contender_ended(status: int, stderr: str, reason: str) -> None:
    assert growth._reason(status, stderr) == reason


def row(
    operation: str, contender: str, median_ms: float | str, memory_mb: float | str = "", workload: str = "large"
) -> dict[str, str]:
    values = {"operation": operation, "contender": contender, "workload": workload}
    return values | {"median_ms": str(median_ms), "memory_mb": str(memory_mb)}


def test_step_table() -> None:
    results = [row("step", "eager", 2418.6, 1622.1), row("step", "compile", 641.6), row("step", "cpu", 134.6, 13.0)]
    line = step_table(results).splitlines()[-1]
    assert line == (
        "| large | 4096, 128 x 128, 192 | 2.42 s | 642 ms | **135 ms** | **18.0 x** | **4.8 x** | 1622 MB | 13 MB |"
    )


def test_search_table_has_the_fastest_first_and_a_dash_for_what_was_not_measured() -> None:
    results = [
        row("search", "matmul", 250),
        row("search", "faiss", 152),
        row("search", "cpu", 100),
        row("search", "keops", ""),
        row("search", "cpu", 7.25, workload="paper-mnist"),
        row("search", "matmul", 12.5, workload="paper-mnist"),
    ]
    assert search_table(results).splitlines()[2:] == [
        "| cpu | **7.2 ms** | **100 ms** |",
        "| faiss | - | 152 ms, 1.5 x |",
        "| matmul | 12 ms, 1.7 x | 250 ms, 2.5 x |",
    ]


def test_growth_is_drawn_with_every_contender_labelled_and_where_it_ended() -> None:
    def point(contender: str, side: int, ms: str, note: str = "") -> dict[str, str]:
        values = {"operation": "step", "contender": contender, "rows": str(side), "cols": str(side), "note": note}
        return values | {"median_ms": ms, "memory_mb": ms, "threads": "2", "cpu": "processor"}

    figure = plot_growth(
        [
            point("eager", 16, "3.5"),
            point("cpu", 16, "0.5"),
            point("eager", 32, "", "does not fit: needs about 30 GB"),
            point("cpu", 32, "2.5"),
            {**point("faiss", 16, "1"), "operation": "search"},
        ],
        "step",
    )
    time, memory = figure.axes
    assert {text.get_text() for text in time.texts} == {"eager: out of memory at 32 x 32", "vitsom_fast cpu"}
    assert [line.get_xydata().tolist() for line in time.lines] == [[[256, 3.5]], [[256, 0.5], [1024, 2.5]]]
    assert memory.lines[1].get_ydata().tolist() == [1.0, 2.5]  # nothing below 1 MB can be told apart
    assert (time.get_xscale(), time.get_yscale(), memory.get_yscale()) == ("log", "log", "log")


def test_exponents_are_those_of_the_larger_maps_and_drawn_beside_a_slope_of_one() -> None:
    def point(contender: str, side: int, ms: float | str, note: str = "") -> dict[str, str]:
        values = {"operation": "search", "contender": contender, "rows": str(side), "cols": str(side), "note": note}
        return values | {"median_ms": str(ms), "memory_mb": "1", "threads": "2", "cpu": "processor"}

    points = [
        point("cpu", 32, 100.0),  # too small to count
        *(point("cpu", side, float(side)) for side in (64, 128, 256)),
        *(point("faiss", side, 1e-3 * side**2) for side in (64, 128)),
        point("faiss", 256, "", "more than 60 s"),
        point("minisom", 64, 1000.0),  # one point grows with nothing
        point("keops", 32, "", "not installed"),
    ]
    assert exponents(points) == pytest.approx({"cpu": 0.5, "faiss": 1.0})
    (axes,) = plot_exponents(points).axes
    assert {text.get_text() for text in axes.texts} == {
        "vitsom_fast cpu $K^{0.50}$",
        "faiss $K^{1.00}$: more than 60 s at 256 x 256",
        "minisom",
    }
    assert axes.lines[-1].get_xydata().tolist() == [[64**2, 64.0], [256**2, 64.0 * 16]]


@pytest.mark.parametrize(
    "heights", [[0.5], [0.2, 0.2, 0.2], [0.0, 0.01, 0.99, 1.0], [0.97, 0.98, 0.99], [0.1, 0.5, 0.9]], ids=str
)
def test_labels_lie_apart_and_in_their_order(heights: list[float]) -> None:
    moved = _apart(heights)
    assert all(b - a >= _GAP - 1e-9 for a, b in pairwise(moved))
    assert moved[0] >= 0
    assert moved[-1] <= 1
    if heights == [0.1, 0.5, 0.9]:
        assert moved == heights


def test_an_unknown_report_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["report", "nobody"])
    with pytest.raises(SystemExit) as ended:
        report.main()
    assert ended.value.code == 2
    assert "must be that of recorded results, got 'nobody'" in capsys.readouterr().err
