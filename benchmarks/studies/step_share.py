"""``OMP_NUM_THREADS=1 python -m benchmarks.studies.step_share``: a whole training step, and the map's share of it.

A step of the published MNIST preset (128 images of 28 x 28) as ``vitsom-fast train`` makes it, its loss by the eager reference
and by this package's kernels, at 40 x 40 units as published and at 128 x 128; and what the step spends on the map's loss and
gradients, on the optimizer (AdamW in one pass, and parameter by parameter in several), and on the ViT. Processor time, medians
of rounds in turns within one process.

    --profile         what PyTorch's profiler says of one step
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.profiler import profile

from benchmarks.harness.clock import ProcessorClock, race
from vitsom_fast.data import Dataset
from vitsom_fast.models import MapModel
from vitsom_fast.schedules import exponential_decay
from vitsom_fast.training import TrainConfig
from vitsom_fast.training.build import build_model, build_optimizer
from vitsom_fast.training.loop import train_epoch
from vitsom_fast.training.recipes import recipe

SIDES = (40, 128)
EPOCH = 46  # of 500: T is 8 then
COLUMNS = (
    "units",
    "step, eager",
    "step, ours",
    "eager / ours",
    "map's share, eager",
    "map's share, ours",
    "AdamW by parameter",
    "AdamW, fused",
    "ViT's share, ours",
)
WAYS = {"eager": "reference", "ours": "auto"}


class Case:
    """A model in training; an epoch is one batch."""

    def __init__(self, config: TrainConfig, dataset: Dataset) -> None:
        torch.manual_seed(0)
        self.config, self.dataset = config, dataset
        model = build_model(config, dataset)
        assert isinstance(model, MapModel)
        self.model = model
        self.optimizer = build_optimizer(model, config)
        # What PyTorch takes on a CPU where nothing is said.
        self.plain = torch.optim.AdamW([{**group, "fused": False} for group in self.optimizer.param_groups], foreach=False)
        self.latents = model.encode(dataset.images).detach().requires_grad_()  # [B, D]
        self.temperature = exponential_decay(config.first_temperature, config.t_min, config.epochs)(EPOCH)

    def step(self) -> object:
        return train_epoch(self.model, self.optimizer, self.dataset, self.config, EPOCH)

    def map_alone(self) -> tuple[Tensor, ...]:
        """Its loss, and the gradients of latents and prototypes."""
        loss = self.model.som(self.latents, self.temperature)
        return torch.autograd.grad(loss, (self.latents, self.model.som.prototypes))


def row(side: int, config: TrainConfig, dataset: Dataset, budget: float) -> str:
    """A row of the table."""
    cases = {way: Case(replace(config, grid=(side, side), backend=name), dataset) for way, name in WAYS.items()}
    runs: dict[str, Callable[[], object]] = {}
    for way, case in cases.items():
        runs |= {f"{way} step": case.step, f"{way} map": case.map_alone}
    runs |= {"AdamW": cases["ours"].optimizer.step, "AdamW, plain": cases["ours"].plain.step}
    for run in runs.values():
        run()  # warm, and gradients for the optimizers
    seconds = {name: statistics.median(each) for name, each in race(runs, ProcessorClock(), budget).items()}
    eager, ours = seconds["eager step"], seconds["ours step"]
    cells = [f"{1e3 * eager:.0f} ms", f"{1e3 * ours:.0f} ms", f"{eager / ours:.2f} x"]
    cells += [f"{100 * seconds[f'{way} map'] / seconds[f'{way} step']:.0f} %" for way in WAYS]
    cells += [f"{1e3 * seconds[name]:.0f} ms" for name in ("AdamW, plain", "AdamW")]
    cells.append(f"{100 * (1 - (seconds['ours map'] + seconds['AdamW']) / ours):.0f} %")
    return f"| {side} x {side} | {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.step_share", description=__doc__)
    parser.add_argument("--budget", type=float, default=60.0, help="seconds for each size of the map (default: %(default)s)")
    parser.add_argument("--compile", action="store_true", help="encoder and decoder compiled, as vitsom-fast train --compile")
    parser.add_argument("--profile", action="store_true", help="print what one step of 40 x 40 units spends its time on")
    parser.add_argument("--tiny", action="store_true", help="small images and maps: whether it runs")
    options = parser.parse_args(arguments)
    config = recipe("mnist", compile=options.compile)
    images, side = (4, 8) if options.tiny else (config.batch_size, 28)
    pixels = torch.randint(256, (images, 1, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    dataset = Dataset("random", pixels)
    if options.profile:
        case = Case(replace(config, grid=(4, 4) if options.tiny else (SIDES[0],) * 2), dataset)
        case.step()
        with profile() as found:
            case.step()
        print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=20, max_name_column_width=50))
        return 0
    print(f"threads: {torch.get_num_threads()}; processor time\n\n| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
    for units in (4, 5) if options.tiny else SIDES:
        print(row(units, config, dataset, options.budget), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
