"""The benchmark suite itself: that it refuses wrong results, times in turns, weighs memory and computes its ratios right."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from threadpoolctl import threadpool_info
from torch import Tensor

from benchmarks import peers
from benchmarks.harness import contenders, machine, memory, workloads
from benchmarks.harness.clock import HostClock, race
from benchmarks.harness.contenders import SEARCH, STEP, Contender, checked
from benchmarks.harness.correctness import Truth, WrongResult
from benchmarks.harness.rows import render, rows_of
from benchmarks.harness.table import write_csv
from benchmarks.harness.workloads import TINY, WORKLOADS, MapSettings, organised_map, photo_patches
from vitsom_fast import Grid, find_bmu, reference
from vitsom_fast.neighborhoods import NEIGHBORHOODS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
Result = dict[str, Tensor]


def step_of(contender: str) -> tuple[Truth, Result]:
    """A contender's result on the tiny workload, by name, and the truth to judge it by."""
    inputs = TINY.inputs()
    chosen = next(entry for entry in STEP.contenders if entry.name == contender)
    result = chosen.build(inputs)()
    return Truth(inputs), dict(zip(("loss", "bmu", "grad_z", "grad_prototypes"), result, strict=True))


@pytest.mark.parametrize("contender", ["eager", "torch"])
def test_a_right_step_passes(contender: str) -> None:
    truth, result = step_of(contender)
    truth.check_step(**result)


def with_first(x: Tensor, value: float) -> Tensor:
    changed = x.clone()
    changed.view(-1)[0] = value
    return changed


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("bmu", lambda bmu: with_first(bmu, (bmu[0] + 1) % 16)),
        ("bmu", lambda bmu: with_first(bmu, 16)),
        ("bmu", lambda bmu: with_first(bmu, -1)),
        ("bmu", lambda bmu: bmu.int()),
        ("bmu", lambda bmu: bmu[:-1]),
        ("loss", lambda loss: loss * (1 + 1e-4)),
        ("loss", lambda loss: loss * torch.nan),
        ("grad_z", lambda grad: grad * (1 + 2e-5)),
        ("grad_z", lambda grad: with_first(grad, torch.nan)),
        ("grad_z", lambda grad: grad[:-1]),
        ("grad_prototypes", lambda grad: with_first(grad, 0.0)),
        ("grad_prototypes", lambda grad: grad.roll(1, 0)),
    ],
)
def test_a_wrong_step_is_refused(part: str, change: Callable[[Tensor], Tensor]) -> None:
    truth, result = step_of("torch")
    result[part] = change(result[part])
    with pytest.raises(WrongResult, match=part.removeprefix("grad_")):
        truth.check_step(**result)


def test_gradients_are_judged_for_the_bmu_that_was_taken() -> None:
    """Where two prototypes are equally near, either BMU is right, each with its own gradients."""
    inputs = TINY.inputs()
    prototypes = inputs.prototypes.detach().clone()
    prototypes[15] = prototypes[0]
    inputs = inputs._replace(z=prototypes[:1].clone().requires_grad_(), prototypes=prototypes.requires_grad_())
    truth = Truth(inputs)
    for bmu in (torch.tensor([0]), torch.tensor([15])):
        h = reference.neighborhood_weights(bmu, inputs.grid, inputs.temperature, torch.float32)
        loss = (h * reference.distances(inputs.z, inputs.prototypes)).mean()
        truth.check_step(loss, bmu, *torch.autograd.grad(loss, (inputs.z, inputs.prototypes)))


@pytest.mark.parametrize(("dtype", "right"), [(torch.bfloat16, True), (torch.float32, False)])
def test_gradients_in_half_precision_may_be_off_by_their_own_rounding(dtype: torch.dtype, right: bool) -> None:
    """As a backend would return them; an fp32 gradient that is off by as much is refused."""
    rounded = TINY.inputs(dtype=torch.bfloat16)
    inputs = rounded._replace(z=rounded.z.to(dtype), prototypes=rounded.prototypes.to(dtype))
    z, prototypes = (x.detach().float().requires_grad_() for x in inputs[:2])
    loss, bmu = reference.som_loss(z, prototypes, inputs.grid, inputs.temperature)
    result = (loss, bmu, *(grad.bfloat16() for grad in torch.autograd.grad(loss, (z, prototypes))))
    with nullcontext() if right else pytest.raises(WrongResult, match="gradient for z"):
        Truth(inputs).check_step(*result)


def test_nobody_is_timed_beside_a_wrong_contender() -> None:
    wrong = Contender("wrong", lambda inputs: lambda: (torch.full((8,), 15),))
    for contender in (wrong, replace(wrong, peer="faiss")):
        with pytest.raises(WrongResult, match="farther than the nearest prototype"):
            checked(SEARCH, [SEARCH.contenders[0], contender], TINY.inputs(), lambda _: None)


def second_nearest(gap: float) -> tuple[workloads.Inputs, Contender]:
    """Two prototypes whose distances differ by ``gap``, and a peer that takes the farther one."""
    angle = torch.tensor([0.0, (2 * gap) ** 0.5])
    prototypes = torch.stack([angle.cos(), angle.sin()], dim=1)
    inputs = workloads.Inputs(torch.tensor([[1.0, 0.0]]), prototypes, Grid(1, 2), 1.0)
    return inputs, Contender("peer", lambda inputs: lambda: (torch.tensor([1]),), peer="faiss")


def test_a_peer_that_only_rounds_is_marked_and_stays() -> None:
    inputs, peer = second_nearest(gap=1e-5)
    runs, notes = checked(SEARCH, [peer], inputs, lambda _: None)
    assert "peer" in runs
    assert re.search(r"only nearly right: .* by up to 1e-05", notes["peer"])
    with pytest.raises(WrongResult):
        checked(SEARCH, [replace(peer, peer=None)], inputs, lambda _: None)


def test_a_peer_that_fails_or_is_too_slow_is_left_out_with_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(inputs: workloads.Inputs) -> contenders.Run:
        raise ImportError("no module named 'hdbscan'")

    broken = Contender("broken", fails, peer="torchsom")
    assert checked(SEARCH, [broken], TINY.inputs(), lambda _: None) == (
        {},
        {"broken": "fails: ImportError: no module named 'hdbscan'"},
    )
    with pytest.raises(ImportError):
        checked(SEARCH, [replace(broken, peer=None)], TINY.inputs(), lambda _: None)

    monkeypatch.setattr(contenders, "TIME_LIMIT", -1.0)
    inputs, slow = second_nearest(gap=0.0)
    runs, notes = checked(SEARCH, [slow], inputs, lambda _: None)
    assert not runs
    assert "one run takes 0 s" in notes["peer"]


@pytest.mark.parametrize("name", peers.PEERS)
def test_a_peer_searches_for_the_same(name: str) -> None:
    """On latents and prototypes of all lengths, with its own threads as many as torch's, leaving the inputs as they were."""
    if reason := peers.missing(name):
        pytest.skip(reason)
    z, prototypes = torch.randn(50, 6) * torch.rand(50, 1).exp(), torch.randn(12, 6) * torch.rand(12, 1).exp()
    inputs = workloads.Inputs(z.clone(), prototypes.clone(), Grid(3, 4), 1.0)
    try:
        bmu = peers.prepare(name, *inputs[:3])()
    except ImportError as error:
        pytest.skip(str(error))
    Truth(inputs).check_search(bmu)
    assert torch.equal(inputs.z, z)
    assert torch.equal(inputs.prototypes, prototypes)
    assert {pool["num_threads"] for pool in threadpool_info()} == {torch.get_num_threads()}


def test_chunks_do_not_change_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """3 rows at a time do not divide the batch of 8, and give the same as all at once."""
    _, result = step_of("eager")
    monkeypatch.setattr("benchmarks.harness.correctness._CHUNK", 3 * 16)
    Truth(TINY.inputs()).check_step(**result)


def test_rounds_are_taken_in_turns() -> None:
    """The slow contender gets few rounds, spread over those of the fast one."""
    cost = {"slow": 4.0, "fast": 0.5}
    calls: list[str] = []
    runs = {name: lambda name=name: calls.append(name) for name in cost}

    class Priced(HostClock):
        def seconds(self, run: Callable[[], object], queueing: float) -> float:
            run()
            return cost[calls[-1]]

    seconds = race(runs, Priced(), budget=10.0)  # type: ignore[arg-type]
    assert seconds == {"slow": [4.0] * 3, "fast": [0.5] * 10}
    gaps = "".join(name[0] for name in calls).split("s")
    assert all(len(gap) <= 6 for gap in gaps), calls


@pytest.mark.parametrize(
    ("cost", "rounds"),
    [(0.5, 6), (0.01, 7), (3.0, 3), (20.0, 1)],
    ids=["a share of the budget", "at most 7", "too slow for 5", "too slow for 3"],
)
def test_how_many_rounds_there_are(cost: float, rounds: int) -> None:
    class Priced(HostClock):
        def seconds(self, run: Callable[[], object], queueing: float) -> float:
            return cost

    seconds = race({"one": tuple, "other": tuple}, Priced(), budget=6.0, most=7)
    assert {name: len(times) for name, times in seconds.items()} == {"one": rounds, "other": rounds}
    without_end = race({"one": tuple}, Priced(), budget=math.inf, fewest=4, most=4)
    assert without_end == {"one": [cost] * 4}


def test_ratios_and_rates(tmp_path: Path) -> None:
    workload = WORKLOADS["large"]
    seconds = {"eager": [4.0, 4.0, 400.0], "compile": [2.0], "torch": [0.5]}
    rows = rows_of(STEP, workload, seconds, {"torch": 144.0}, {"cpu": "no compiler"}, peak=1e11)
    by_name = {row.contender: row for row in rows}
    assert list(by_name) == ["eager", "compile", "torch", "cpu"]
    assert by_name["torch"].x_baseline == 8
    assert by_name["torch"].x_ours == 1
    assert by_name["eager"].median_ms == 4000
    assert by_name["eager"].x_ours == 8
    gflops = 2 * 4096 * 128 * 128 * 192 / 0.5 / 1e9
    assert by_name["torch"].gflops == pytest.approx(gflops)
    assert by_name["torch"].percent_of_peak == pytest.approx(gflops)  # of 100 GFLOP/s

    text = render(rows, {"cpu": "a processor"})
    assert re.search(r"large +step +torch +500\.000 +8\.00 +1\.00 +51\.5 +51\.5 +144\.0 +1$", text, re.MULTILINE)
    assert "cpu (large step): no compiler" in text

    write_csv(tmp_path / "run.csv", rows, {"cpu": "a processor, really"})
    with (tmp_path / "run.csv").open(newline="") as file:
        recorded = {row["contender"]: row for row in csv.DictReader(file)}
    assert recorded["torch"]["x_baseline"] == "8"
    assert recorded["torch"]["cpu"] == "a processor, really"
    assert recorded["cpu"]["median_ms"] == ""
    assert recorded["cpu"]["note"] == "no compiler"


def test_floor_of_a_step_is_that_of_the_search_and_two_smoothings() -> None:
    workload = WORKLOADS["paper-mnist"]
    search, step = workload.floor("search"), workload.floor("step")
    assert search.flops == 2 * 128 * 1600 * 3136
    assert step.flops - search.flops == 2 * (2 * 1600 * 3136 * 40 + 2 * 1600 * 3136 * 40)
    assert step.bytes - search.bytes == 4 * (128 + 1600) * 3136  # the gradients


def test_what_does_not_fit_is_said_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: 5 * 10**9)
    eager, torch_backend = STEP.contenders[0], next(entry for entry in STEP.contenders if entry.name == "torch")
    assert re.search(r"does not fit: needs about 7\.5 GB, 5\.0 GB", eager.absent(WORKLOADS["huge"]) or "")
    assert eager.absent(WORKLOADS["large"]) is None
    torchsom = Contender("torchsom", lambda _: lambda: (), grid_tensors=5)  # K x K: 5.4 GB
    assert re.search(r"needs about 5\.4 GB", torchsom.absent(WORKLOADS["large"]) or "")
    assert torch_backend.absent(WORKLOADS["huge"]) is None


def test_an_unavailable_backend_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contenders, "available_backends", lambda: {"cpu": "no compiler", "torch": None})
    assert {entry.name: entry.absent(TINY) for entry in STEP.contenders if entry.backend} == {
        "torch": None,
        "cpu": "no compiler",
    }


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux can restart its high-water mark")
def test_memory_is_that_of_the_peak_without_the_gradients() -> None:
    """96 MB at once, of which 32 MB are a gradient, after a warm-up that needs nothing."""

    def greedy(inputs: workloads.Inputs) -> tuple[Tensor, ...]:
        if len(inputs.z) == TINY.batch:
            return ()
        scratch = torch.ones(16 * 10**6)
        return torch.zeros(()), torch.zeros(1), scratch[: 8 * 10**6] + 1

    contender = Contender("greedy", lambda inputs: partial(greedy, inputs))
    peak, _ = memory.peak_beyond_inputs(contender, replace(TINY, batch=9).inputs())
    assert peak == pytest.approx(64, abs=3)


def test_organised_map_is_a_map_of_photo_patches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Smooth, a good fit to patches it has not seen, and fitted once only."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    settings = MapSettings(12, 10, epochs=6, least_samples=1500, last_temperature=1.0)
    prototypes = organised_map(settings)
    unseen = photo_patches(1000, torch.Generator().manual_seed(7))
    mean = unseen.mean(0, keepdim=True)
    assert find_bmu(unseen, prototypes)[1].mean() < 0.9 * find_bmu(unseen, mean)[1].mean()

    on_grid = torch.nn.functional.normalize(prototypes - prototypes.mean(0)).view(12, 10, -1)
    neighbours = (on_grid[:, 1:] * on_grid[:, :-1]).sum(-1).mean()
    far_apart = (on_grid * on_grid.flip(0, 1)).sum(-1).mean()
    assert neighbours > 0.5 > 0 > far_apart

    monkeypatch.setattr(workloads, "fit_map", lambda _: pytest.fail("fitted again"))
    assert torch.equal(organised_map(settings), prototypes)


def test_a_run_ends_with_the_table(tmp_path: Path) -> None:
    """The whole suite on the tiny workload, not skipped by --benchmark-only."""
    json_path = tmp_path / "run.json"
    arguments = ["-k", "tiny and step", "--contenders", "eager,torch", f"--benchmark-json={json_path}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "benchmarks/", "--benchmark-only", "-p", "no:cacheprovider", *arguments],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^tiny +step +torch +\d", done.stdout, re.MULTILINE)
    assert "tiny step: checking eager" in done.stdout  # where it is, while it runs
    (recorded,) = json.loads(json_path.read_text())["benchmarks"]
    assert set(recorded["extra_info"]["contenders"]) == {"eager", "torch"}
    assert recorded["extra_info"]["contenders"]["eager"]["x_baseline"] == 1


def test_costs_of_neighborhoods(capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.studies import neighborhoods

    assert neighborhoods.main(["--tiny", "--budget", "0.01"]) == 0
    rows = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [row for row in rows if row in NEIGHBORHOODS] == 2 * list(NEIGHBORHOODS)


def test_costs_of_distances(capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.studies import distances

    assert distances.main(["--tiny", "--budget", "0.01"]) == 0
    rows = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [row for row in rows if row in ("tiny", "euclidean", "manhattan")] == ["tiny", "euclidean", "manhattan"]
