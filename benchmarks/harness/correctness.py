"""Whether a result is right, by the numerical contract of the package, before anyone looks at its time."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.harness.workloads import Inputs
from vitsom_fast import reference

BMU_TOLERANCE = 1e-6
LOSS_TOLERANCE = 1e-5
LOSS_TOLERANCE_OF_WEIGHT = 1e-7  # 1 - cos cancels where a map fits its data
GRADIENT_TOLERANCE = 1e-5

_CHUNK = 1 << 23  # scores at a time: 64 MB in fp64, and the reference holds about eight tensors like that


class WrongResult(AssertionError):
    """A contender's result is outside the contract: its time means nothing."""


class Truth:
    """The reference in fp64 on some inputs, where they are, a few rows at a time, so that no workload is too large for it.

    Gradients in 16 bits may be off by their own rounding, too.
    """

    def __init__(self, inputs: Inputs) -> None:
        self.z = inputs.z.detach().double()
        self.prototypes = inputs.prototypes.detach().double()
        self.grid = inputs.grid
        self.temperature = float(inputs.temperature)
        self._nearest: Tensor | None = None
        # Loss, mean of h and gradients for these BMUs; -1: this row is not in there yet.
        self._bmu = torch.full((len(self.z),), -1, device=self.z.device)
        self._loss, self._mean_weight = torch.zeros(2, dtype=torch.float64, device=self.z.device)
        self._grad_z, self._grad_prototypes = torch.zeros_like(self.z), torch.zeros_like(self.prototypes)
        dtype = inputs.z.dtype
        self._gradient_tolerance = GRADIENT_TOLERANCE + (0.0 if dtype == torch.float32 else torch.finfo(dtype).eps / 2)

    def check_search(self, bmu: Tensor, tolerance: float = BMU_TOLERANCE) -> None:
        """The BMU of every row is the nearest prototype to within ``tolerance`` of the cosine distance.

        Raises:
            WrongResult: it is not, or ``bmu`` is not (B,) int64 within [0, K).
        """
        batch, num_prototypes = len(self.z), len(self.prototypes)
        if bmu.shape != (batch,) or bmu.dtype != torch.int64:
            raise WrongResult(f"bmu must be ({batch},) int64, got {tuple(bmu.shape)} {bmu.dtype}")
        if not ((bmu >= 0) & (bmu < num_prototypes)).all():
            raise WrongResult(f"bmu must be within [0, {num_prototypes}), got {bmu.min()} to {bmu.max()}")
        excess = self.excess(bmu)
        wrong = ~(excess <= tolerance)
        if wrong.any():
            raise WrongResult(
                f"bmu of {int(wrong.sum())} of {batch} rows is farther than the nearest prototype, by up to {excess.max():.3g},"
                f" allowed {tolerance:.0e}"
            )

    def excess(self, bmu: Tensor) -> Tensor:
        """(B,): by how much each BMU is farther from its row than the nearest prototype."""
        unit_z, unit_prototypes = (torch.nn.functional.normalize(x) for x in (self.z, self.prototypes))
        return 1 - (unit_z * unit_prototypes[bmu]).sum(1) - self._nearest_distance()

    def check_step(self, loss: Tensor, bmu: Tensor, grad_z: Tensor, grad_prototypes: Tensor) -> None:
        """The search is right, and loss and gradients are those of the BMUs that it found.

        Raises:
            WrongResult: naming what is not, and by how much.
        """
        self.check_search(bmu)
        # Of two prototypes at nearly the same distance either will do, but the gradients are those of the one taken.
        self._follow(bmu)
        error = (loss.double() - self._loss).abs()
        allowed = LOSS_TOLERANCE * self._loss.abs() + LOSS_TOLERANCE_OF_WEIGHT * self._mean_weight
        if not error <= allowed:
            raise WrongResult(f"loss {loss:.9g} must be {self._loss:.9g} within {allowed:.3g}, it is {error:.3g} off")
        for name, grad, right in (
            ("z", grad_z, self._grad_z),
            ("prototypes", grad_prototypes, self._grad_prototypes),
        ):
            if grad.shape != right.shape:
                raise WrongResult(f"gradient for {name} must be {tuple(right.shape)}, got {tuple(grad.shape)}")
            relative = (grad.double() - right).norm() / right.norm()
            if not relative <= self._gradient_tolerance:
                raise WrongResult(f"gradient for {name} is {relative:.3g} off, allowed {self._gradient_tolerance:.1e}")

    def _rows_at_a_time(self) -> int:
        return max(1, _CHUNK // len(self.prototypes))

    def _nearest_distance(self) -> Tensor:
        """min_k d_ik, (B,)."""
        if self._nearest is None:
            chunks = self.z.split(self._rows_at_a_time())
            self._nearest = torch.cat([reference.find_bmu(rows, self.prototypes)[1] for rows in chunks])
        return self._nearest

    def _follow(self, bmu: Tensor) -> None:
        """Makes loss and gradients those of these BMUs; where contenders disagree on a few rows, only these are redone."""
        moved = (bmu != self._bmu).nonzero().squeeze(1)
        self._add(moved[self._bmu[moved] >= 0], self._bmu, -1)
        self._add(moved, bmu, +1)
        self._bmu = bmu.clone()

    def _add(self, rows: Tensor, bmu: Tensor, sign: int) -> None:
        """Adds (or takes away) what some rows contribute to the reference's mean."""
        for part in rows.split(self._rows_at_a_time()):
            z, prototypes = self.z[part].requires_grad_(), self.prototypes.detach().requires_grad_()
            h = reference.neighborhood_weights(bmu[part], self.grid, self.temperature, torch.float64)  # [part, K]
            share = sign / (len(self.z) * len(self.prototypes))
            loss = share * (h * reference.distances(z, prototypes)).sum()
            grad_z, grad_prototypes = torch.autograd.grad(loss, (z, prototypes))
            self._loss += loss.detach()
            self._mean_weight += share * h.sum()
            self._grad_z[part] += grad_z
            self._grad_prototypes += grad_prototypes


def check_repeats(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> None:
    """The same inputs give the same bits.

    Raises:
        WrongResult: they do not.
    """
    for index, (a, b) in enumerate(zip(first, second, strict=True)):
        if not torch.equal(a, b):
            raise WrongResult(f"result {index} is not the same in a second run, by up to {(a - b).abs().max():.3g}")


def poison(device: torch.device, bytes_wanted: int) -> None:
    """Leaves NaN in memory that is handed out next: an output that is not written shows."""
    torch.full((bytes_wanted // 4,), torch.nan, device=device)
