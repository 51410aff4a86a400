"""The benchmark of a GPU, run dry, and the model on paper that its figures are held to."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import cases, measure, roofline
from benchmarks.gpu.__main__ import Run, outcomes
from benchmarks.gpu.cases import Case, contenders, plan, serving
from benchmarks.gpu.measure import UNDER_WAY, Session
from benchmarks.gpu.record import DRY_RUN, Record, Row
from benchmarks.gpu.roofline import H200, Cost, Gpu, Shape, costs, floor
from benchmarks.harness import ways
from benchmarks.harness.clock import HostClock, race
from benchmarks.harness.contenders import Contender
from benchmarks.harness.ways import PlacedGrid
from benchmarks.harness.workloads import TINY, Inputs
from vitsom_fast import Grid

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
STEP, SEARCH = (Case(TINY, "fp32", operation) for operation in ("step", "search"))


# The model on paper


def test_floor_is_the_slowest_unit() -> None:
    gpu = Gpu(bandwidth=10.0, bf16=100.0, fp32=5.0)
    assert Cost("k", bytes=80.0, bf16=100.0).seconds(gpu) == 8
    assert Cost("k", bytes=8.0, bf16=300.0).seconds(gpu) == 3
    assert Cost("k", bytes=8.0, bf16=300.0, fp32=100.0).seconds(gpu) == 20


def test_search_on_paper() -> None:
    """Three products for fp32 inputs, one for bf16 or where it is certified."""
    shape = {"batch": 4096, "rows": 128, "cols": 128, "dim": 192}
    product = 2 * 4096 * 128 * 128 * 192
    assert roofline.search(Shape(**shape)).bf16 == 3 * product
    assert roofline.search(Shape(**shape, certified=True)).bf16 == product
    assert roofline.search(Shape(**shape, input_bytes=2)).bf16 == product
    assert roofline.search(Shape(**shape)).seconds(H200) == pytest.approx(3 * product / 790e12)


def test_step_on_paper() -> None:
    """Eight launches; fewer columns are read than there are samples for."""
    shape = Shape(4096, 128, 64, 192, terms=3)
    by_name = {cost.kernel: cost for cost in costs("step", shape)}
    assert len(by_name) == 8
    columns, rows = 3 * 2 * 128 * 64 * 192 * 64, 3 * 2 * 4096 * 192 * 128
    assert (by_name["smooth"].bf16, by_name["project"].bf16) == (3 * columns, 6 * columns)
    assert (by_name["attraction"].fp32, by_name["spread"].bf16) == (rows, 6 * rows)
    assert floor("step", shape, H200) == pytest.approx(sum(cost.seconds(H200) for cost in by_name.values()))
    one, all_columns = (roofline.attraction(Shape(batch, 128, 64, 192)).bytes for batch in (1, 64))
    assert all_columns == 64 * one


def test_dense_step_on_paper() -> None:
    """Seven launches, as many products as the search takes in each of two."""
    by_name = {cost.kernel: cost for cost in costs("step", Shape(128, 40, 40, 3136))}
    assert len(by_name) == 7
    assert by_name["dense_attraction"].bf16 == by_name["dense_pull"].bf16 == by_name["search"].bf16


def test_model_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    roofline.main(["--workload", "large", "--dtype", "bf16"])
    said = capsys.readouterr().out
    assert "large bf16: B 4096, 128 x 128 x 192, 8 launches" in said
    assert "fp32: B" not in said
    assert [line.split()[0] for line in said.splitlines()[4:-1]] == [
        cost.kernel for cost in costs("step", Shape(4096, 128, 128, 192))
    ]


# The plan


def test_plan_has_every_workload_in_both_dtypes() -> None:
    names = [case.name for case in plan(dry=False)]
    assert len(names) == len(set(names)) == 7 * 2 * 2
    assert max(case.workload.rows for case in plan(dry=False)) == 512
    assert {case.dtype for case in plan(dry=True)} == {"fp32", "bf16"}


def test_every_backend_that_can_takes_part() -> None:
    names = [contender.name for contender in contenders(STEP, CPU)]
    assert names[:2] == ["eager", "compile"]
    assert [name for name in names[2:] if name != "triton certified"] == serving(CPU, torch.float32)
    assert "torch" in names


def test_a_variant_is_selected_for_its_runs_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "serving", lambda *_: ["triton"])
    monkeypatch.setattr(ways, "search_by", lambda *_: torch.tensor(os.environ.get("VITSOM_TRITON_SEARCH") == "certified"))
    runs = {contender.name: contender.build(SEARCH.inputs(CPU)) for contender in contenders(SEARCH, CPU)[2:]}
    assert {name: bool(run()[0]) for name, run in runs.items()} == {"triton": False, "triton certified": True}
    assert not bool(runs["triton"]()[0])


# Dry runs


@pytest.mark.skipif(torch.cuda.is_available(), reason="a dry run is for machines without a GPU")
def test_dry_run(tmp_path: Path) -> None:
    """The command as it is used on a GPU, on one tiny workload: ends well, and no figure of it passes for a GPU's."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.gpu",
        "--out",
        str(tmp_path),
        "--phases",
        "build,options,measure",
        "--workloads",
        "tiny",
    ]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr + (tmp_path / "measure.log").read_text()
    assert DRY_RUN in done.stdout
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["measure.log", "options.log", "results.csv", "results.json", "table.txt"]
    record = Record.load(tmp_path)
    assert record.dry
    assert record.phases == {"build": "left out of a dry run", "options": "done", "measure": "done"}
    assert record.finished == [f"tiny {dtype} {operation}" for dtype in ("fp32", "bf16") for operation in ("step", "search")]
    took_part = {row.contender for row in record.rows if row.case == "tiny fp32 step"}
    assert took_part >= {"eager", "compile", *serving(CPU, torch.float32)}
    assert all(row.median_ms and row.wall_ms and not row.note for row in record.rows)
    assert all(row.tflops is None and row.percent_of_floor is None and row.memory_mb is None for row in record.rows)
    with (tmp_path / "results.csv").open(newline="") as file:
        recorded = list(csv.DictReader(file))
    assert len(recorded) == len(record.rows)
    assert recorded[0]["torch"] == torch.__version__


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(tmp_path, CPU, HostClock())


def _among(monkeypatch: pytest.MonkeyPatch, build: Callable[[Inputs], measure.Run], ours: bool = True) -> None:
    """Adds a contender of the search to the baseline."""
    baseline = contenders(SEARCH, CPU)[0]
    monkeypatch.setattr(
        measure, "contenders", lambda *_: [baseline, Contender("new", build, backend="torch" if ours else None)]
    )


def _bmu(inputs: Inputs) -> torch.Tensor:
    z, prototypes = (torch.nn.functional.normalize(x.detach()) for x in (inputs.z, inputs.prototypes))
    return (z @ prototypes.T).argmax(1)


@pytest.mark.parametrize("ours", [True, False])
def test_a_wrong_result_is_not_timed(session: Session, monkeypatch: pytest.MonkeyPatch, ours: bool) -> None:
    """And the run ends badly if it is this package's."""
    _among(monkeypatch, lambda inputs: lambda: ((_bmu(inputs) + 1) % 16,), ours)
    session.compare(SEARCH, may_compile=True)
    baseline, wrong = Record.load(session.directory).rows
    assert baseline.median_ms
    assert wrong.median_ms is None
    assert wrong.note.startswith("wrong: bmu of")
    assert session.record.failures == (["tiny fp32 search, new"] if ours else [])


def test_outputs_left_from_an_earlier_run_are_noticed(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def written_once(inputs: Inputs) -> measure.Run:
        bmu = _bmu(inputs)
        return lambda: (bmu,)

    _among(monkeypatch, written_once)
    session.compare(SEARCH, may_compile=True)
    assert session.record.rows[1].note == "wrong: bmu must be within [0, 16), got -1 to -1"


def test_a_result_that_does_not_repeat_is_wrong(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def flickering(inputs: Inputs) -> measure.Run:
        calls = iter(range(100))
        return lambda: (_bmu(inputs) if next(calls) else 0 * _bmu(inputs),)

    _among(monkeypatch, flickering)
    session.compare(SEARCH, may_compile=True)
    assert "not the same in a second run" in session.record.rows[1].note


def test_a_contender_that_fails_leaves_the_others(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(inputs: Inputs) -> measure.Run:
        raise ValueError("no such kernel\nwith details")

    _among(monkeypatch, broken)
    session.compare(SEARCH, may_compile=True)
    baseline, failed = session.record.rows
    assert baseline.median_ms
    assert failed.note == "failed: ValueError: no such kernel"


def test_a_new_process_goes_on_without_the_one_that_took_the_last_down(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was under way when a process ended is not tried again; who was right before it is timed now."""
    monkeypatch.setattr(measure, "plan", lambda dry: [STEP, SEARCH])
    monkeypatch.setattr(measure, "TO_COMPILE", 1000.0)
    session.record.rows = [
        Row("tiny", "fp32", "search", "matmul"),
        Row("tiny", "fp32", "search", "torch", note=UNDER_WAY),
    ]
    session.record.finished = ["tiny fp32 step"]
    session.save()
    measure.main(["--out", str(session.directory), "--until", str(time.time() + 100), "--workloads", "tiny"])
    record = Record.load(session.directory)
    assert "tiny fp32 search, torch" in record.failures
    rows = {row.contender: row for row in record.rows if row.case == "tiny fp32 search"}
    assert rows["matmul"].median_ms
    assert rows["torch"].median_ms is None
    assert rows["torch"].note == UNDER_WAY
    assert record.row("tiny fp32 step", "eager") is None


def test_what_there_is_no_time_for_is_said(tmp_path: Path) -> None:
    measure.main(["--out", str(tmp_path), "--until", str(time.time())])
    record = Record.load(tmp_path)
    assert not record.rows
    names = {case.name for case in plan(dry=not torch.cuda.is_available())}
    assert names <= record.left_out.keys()
    assert f"{min(names)}: no time was left" in (tmp_path / "table.txt").read_text()


def test_figures_of_a_gpu(session: Session) -> None:
    session.gpu = Gpu(bandwidth=1e30, bf16=1e9, fp32=1e30)
    session.compare(STEP, may_compile=False)
    flops = 2 * 8 * 16 * 8
    for row in session.record.rows:
        if row.contender != "compile":
            assert row.median_ms
            assert row.tflops == pytest.approx(flops / row.median_ms / 1e9)
            assert row.percent_of_matmul == pytest.approx(100 * flops / (row.median_ms * 1e6))
            assert row.floor_ms == pytest.approx(1e3 * floor("step", Shape(8, 4, 4, 8), session.gpu))
            assert row.percent_of_floor == pytest.approx(100 * row.floor_ms / row.median_ms)


def test_compiling_is_left_out_where_time_is_short(session: Session) -> None:
    session.compare(SEARCH, may_compile=False)
    row = session.record.row(SEARCH.name, "compile")
    assert row is not None
    assert row.note.startswith("left out")
    assert row.median_ms is None


def test_a_process_is_stopped_at_its_deadline(tmp_path: Path) -> None:
    run = Run(tmp_path, deadline=time.time() + 100)
    start = time.time()
    assert run._python("sleep", ["-c", "import time; print('began', flush=True); time.sleep(60)"], seconds=3.0) is None
    assert time.time() - start < 50
    assert json.loads((tmp_path / "results.json").read_text())["rows"] == []


@pytest.mark.parametrize(("rows_after", "outcome"), [([1, 2, 2], "done"), ([1, 1], "FAILED, see measure.log")])
def test_measuring_is_started_anew_while_it_gets_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_after: list[int], outcome: str
) -> None:
    """A process that ends badly has left a row for the contender that was under way; one that has not got nowhere."""
    run = Run(tmp_path, deadline=time.time() + 100)
    left = list(rows_after)

    def process(*_: object) -> int:
        record = Record.load(tmp_path)
        record.rows = [Row("tiny", "fp32", "step", str(index)) for index in range(left.pop(0))]
        record.save(tmp_path)
        return 0 if not left and outcome == "done" else 1

    monkeypatch.setattr(run, "_python", process)
    run.measure(None)
    assert not left
    assert Record.load(tmp_path).phases == {"measure": outcome}


def test_rounds_are_taken_in_turns_and_both_ways() -> None:
    calls: list[str] = []

    class Counting(HostClock):
        def seconds(self, run: Callable[[], object], queueing: float) -> float:
            run()
            return 0.25

    runs = {name: lambda name=name: (calls.append(name),)[1:] for name in "ab"}
    seconds = race(runs, Counting(), budget=2.0, fewest=3)
    assert seconds == {"a": [0.25] * 4, "b": [0.25] * 4}
    assert "".join(calls) == "ab" + "baabba"


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_what_launching_costs_is_told_for_every_pass() -> None:
    command = [sys.executable, "-m", "benchmarks.launching", "--rounds", "1", "--calls", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    passes = [line.split("|")[1:3] for line in done.stdout.splitlines()[2:]]
    launches = {name.strip(): int(count) for name, count in passes}
    assert list(launches) == ["forward", "backward", "search", "step"]
    assert launches["step"] >= launches["forward"] + launches["backward"] > launches["search"] > 0


def test_outcomes_are_counted_with_and_without_workers() -> None:
    log = """
tests/gpu/test_gpu.py::test_launches[(1, 2)-triton] PASSED [ 10%]
tests/gpu/test_gpu.py::test_second_device[triton] SKIPPED (one GPU only) [ 20%]
[gw3] [  5%] PASSED tests/contract/test_dtypes.py::test_fp64[triton]
[gw0] [100%] FAILED tests/contract/test_dtypes.py::test_fp64[cuda]
FAILED tests/contract/test_dtypes.py::test_fp64[cuda] - assert PASSED
"""
    assert outcomes(log) == {"PASSED": 2, "FAILED": 1, "ERROR": 0, "SKIPPED": 1}


def test_grid_with_its_lattice_on_the_device_is_the_same_grid() -> None:
    grid = Grid(3, 4, "hexagonal", periodic=False)
    placed = PlacedGrid(3, 4, "hexagonal", False, grid.lattice.float())
    assert torch.equal(placed.lattice, grid.lattice.float())
    assert placed.lattice.dtype == torch.float32
    assert torch.equal(placed.positions, grid.positions)
    assert placed.extent == grid.extent
