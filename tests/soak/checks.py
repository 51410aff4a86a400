"""The contract: what a search and a step of a case give, held against the truth."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from soak import truth
from soak.cases import Case
from soak.outputs import Output, output_of, tangents

REGRET = {"cpu": 1e-12}  # of d[i, bmu] - min d
REGRET_ELSEWHERE = 1e-6
DISTANCE = 1e-6
RELATIVE = 1e-5  # of the loss, and norm-wise of a gradient
LOSS_FLOOR = 1e-7  # of the mean weight h, where 1 - cos cancels
LOSS_FLOOR_OF_FEW = 3e-7  # the same on a GPU of rows of up to 3 features, whose roundings do not even out
GRADIENT_FLOOR = 3e-7  # of the pull, where what a gradient adds up cancels
OF_FP64 = 1e-6  # what fp64 inputs are allowed of it, but for the BMU; the truth, a sum of up to 3136, is in fp64, too


class Failure(NamedTuple):
    """What is broken, in one word or two, and by how much."""

    what: str
    message: str


def failures(case: Case) -> list[Failure]:
    """All that a case shows to be broken."""
    device = "cuda" if case.backend in ("triton", "cuda") and torch.cuda.is_available() else "cpu"
    z, prototypes = case.inputs(device)
    try:
        output = output_of(case, z, prototypes)
        repeated = output_of(case, z, prototypes) if case.mode == "again" else None
    except Exception as error:
        return [Failure("exception", f"{type(error).__name__}: {error}")]
    return list(_broken(case, z, prototypes, output, repeated))


def _broken(case: Case, z: Tensor, prototypes: Tensor, output: Output, repeated: Output | None) -> Iterator[Failure]:
    if repeated is not None:
        for name, one, other in zip(Output._fields, output, repeated, strict=True):
            if one is not None and other is not None and not _same(one, other):
                yield Failure("repeated", f"{name} has other bits the second time")
    output = output.cpu()
    z_rows, w_rows = truth.rows_of(z.flatten(1)), truth.rows_of(prototypes)
    for where, bmu in (("search", output.bmu), ("step", output.bmu_of_step)):
        if bmu.dtype != torch.int64 or bmu.shape != z.shape[:1] or ((bmu < 0) | (bmu >= len(prototypes))).any():
            yield Failure("index", f"BMUs of the {where} are {bmu.dtype} {tuple(bmu.shape)}, from {bmu.min()} to {bmu.max()}")
            return
    cosine = z_rows.unit @ w_rows.unit.T  # [B, K]
    first = truth.ties(prototypes, w_rows)
    yield from _broken_search(case, output, cosine, first, z_rows, w_rows)
    yield from _broken_two(case, output, cosine, first, z_rows, w_rows)
    yield from _broken_step(case, output, z, prototypes, z_rows, w_rows)


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.isnan(), other.isnan()) and torch.equal(one.nan_to_num(), other.nan_to_num())


def _broken_search(
    case: Case, output: Output, cosine: Tensor, first: Tensor, z: truth.Rows, prototypes: truth.Rows
) -> Iterator[Failure]:
    distance = output.distance.double()
    if not distance[~z.finite].isnan().all():
        yield Failure("not finite", f"the distance of a row that is not finite is {distance[~z.finite]}")
    all_finite = bool(prototypes.finite.all())
    if not all_finite and case.backend != "cpu":
        return  # whether a NaN wins is open
    cosine = cosine.masked_fill(~prototypes.finite, -math.inf)[z.finite]
    best = cosine.max(dim=1).values
    for where, bmu in (("search", output.bmu[z.finite]), ("step", output.bmu_of_step[z.finite])):
        own = cosine.gather(1, bmu[:, None])[:, 0]
        found = best.isfinite()  # of prototypes that are all NaN none is the nearest
        yield from _above("regret", REGRET.get(case.backend, REGRET_ELSEWHERE), (best - own)[found], f"of a BMU of the {where}")
        lowest = torch.where(z.length[z.finite] == 0, 0, first[bmu])  # to a row of zeros all are the same
        late = (bmu != lowest) & found & all_finite
        if late.any():
            i = int(late.nonzero()[0])
            yield Failure(
                "tie", f"{int(late.sum())} BMUs of the {where} are not the lowest of their ties: {bmu[i]}, not {lowest[i]}"
            )
    distance, bmu = distance[z.finite][found], output.bmu[z.finite][found]
    if ((distance < 0) | (distance > 2)).any():
        yield Failure("range", f"distances from {distance.min():.9g} to {distance.max():.9g}")
    own = cosine[found].gather(1, bmu[:, None])[:, 0]
    yield from _above("distance", DISTANCE, (distance - (1 - own)).abs(), "of a distance")


def _broken_two(
    case: Case, output: Output, cosine: Tensor, first: Tensor, z: truth.Rows, prototypes: truth.Rows
) -> Iterator[Failure]:
    """The nearest two, each among those that are left."""
    two, distance, count = output.two, output.two_distances.double(), len(prototypes.length)
    if two.dtype != torch.int64 or two.shape != (len(z.length), 2) or ((two < 0) | (two >= count)).any():
        yield Failure("index", f"two units are {two.dtype} {tuple(two.shape)}, from {two.min()} to {two.max()}")
        return
    if not distance[~z.finite].isnan().all():
        yield Failure("not finite", f"distances of a row that is not finite are {distance[~z.finite]}")
    all_finite = bool(prototypes.finite.all())
    if not all_finite and case.backend != "cpu":
        return
    two, distance, cosine = two[z.finite], distance[z.finite], cosine[z.finite].masked_fill(~prototypes.finite, -math.inf)
    if (distance[:, 1] < distance[:, 0]).any():
        yield Failure("order", "the second unit is nearer than the first")
    in_order = all_finite and not (case.backend in ("triton", "cuda") and torch.cuda.is_available())  # of 8 candidates there
    is_left = torch.ones_like(cosine, dtype=torch.bool)
    for where, units, far in zip(("first", "second"), two.unbind(dim=1), distance.unbind(dim=1), strict=True):
        best = cosine.max(dim=1).values
        found = best.isfinite()  # where there is such a unit
        if not far[~found].isnan().all() or units[~found].any():
            yield Failure(f"no {where}", f"units {units[~found]} at {far[~found]}")
        own = cosine.gather(1, units[:, None])[:, 0]
        allowed = REGRET.get(case.backend, REGRET_ELSEWHERE)
        yield from _above(f"{where} regret", allowed, (best - own)[found], f"of the {where} of two units")
        yield from _above(f"{where} distance", DISTANCE, (far - (1 - own))[found].abs(), f"of that of the {where} of two units")
        equal = ((first == first[units][:, None]) | (z.length[z.finite] == 0)[:, None]) & is_left  # [B, K]
        late = (units != equal.int().argmax(dim=1)) & found & in_order
        if late.any():
            yield Failure(f"{where} tie", f"{int(late.sum())} units are not the lowest of their ties: {units[late][0]}")
        is_left = is_left.scatter(1, units[:, None], False)
        cosine = cosine.masked_fill(~is_left, -math.inf)


def _broken_step(
    case: Case, output: Output, z: Tensor, prototypes: Tensor, z_rows: truth.Rows, w_rows: truth.Rows
) -> Iterator[Failure]:
    if len(z) and not (z_rows.finite.all() and w_rows.finite.all()):
        if not output.loss.isnan():
            yield Failure("not finite", f"the loss of a row that is not finite is {output.loss}")
        return
    if not len(z):
        w_rows = w_rows._replace(unit=w_rows.unit.nan_to_num(0, 0, 0), length=w_rows.length.nan_to_num(1))
    temperature = torch.tensor(case.temperature).item() if case.temperature_is_tensor else case.temperature
    bmu = output.bmu_of_step
    true = truth.step(z_rows, w_rows, bmu, case.grid, temperature, case.reduction, case.grad_output)
    exact = OF_FP64 if output.loss.dtype == torch.float64 else 1.0
    is_few = case.backend in ("triton", "cuda") and z_rows.unit.shape[1] <= 3
    floor = LOSS_FLOOR_OF_FEW if is_few else LOSS_FLOOR
    allowed = abs(case.grad_output) * exact * (RELATIVE * abs(true.loss) + floor * true.weight)
    error = (output.loss.double() - case.grad_output * true.loss).abs()
    yield from _above("loss", allowed, error, f"of the loss {output.loss.item():.9g}")
    if output.derivative is not None:
        yield from _broken_derivative(output.derivative, true, tangents(case), exact)
    for name, x, grad, expected, pull in (
        ("grad z", z, output.grad_z, true.grad_z, true.pull_z),
        ("grad prototypes", prototypes, output.grad_prototypes, true.grad_prototypes, true.pull_prototypes),
    ):
        if grad is not None:
            yield from _broken_gradient(name, x, grad.flatten(1), expected, pull, exact)


def _broken_gradient(name: str, x: Tensor, grad: Tensor, expected: Tensor, pull: Tensor, exact: float) -> Iterator[Failure]:
    if grad.dtype != x.dtype or grad.shape != expected.shape:
        yield Failure(name, f"{grad.dtype} {tuple(grad.shape)} for {x.dtype} {tuple(x.shape)}")
        return
    limits = torch.finfo(grad.dtype)
    is_rounded = limits.bits == 16 or (exact < 1 and limits.bits == 32)  # from the wider type that it was computed in
    rounding = limits.eps if is_rounded else 0.0
    least = limits.smallest_normal * (limits.eps if is_rounded else 1.0) * math.sqrt(expected.numel())
    allowed = (exact * RELATIVE + rounding) * expected.norm() + exact * GRADIENT_FLOOR * pull.norm() + least
    fits = (pull < limits.max / 2) & (expected.abs() < limits.max / 2).all(dim=1)  # others cannot be represented
    yield from _above(name, allowed.item(), (grad[fits].double() - expected[fits]).norm(), f"of {expected.norm():.3g}")


def _broken_derivative(
    derivative: Tensor, true: truth.Step, tangents: tuple[Tensor, Tensor], exact: float
) -> Iterator[Failure]:
    """The sum of products of each gradient and its tangent."""
    expected, allowed = 0.0, 0.0
    pairs = ((true.grad_z, true.pull_z), (true.grad_prototypes, true.pull_prototypes))
    for tangent, (grad, pull) in zip(tangents, pairs, strict=True):
        tangent = tangent.flatten(1).double()
        expected += (grad * tangent).sum().item()
        allowed += (
            exact * (RELATIVE * (grad.norm() * tangent.norm()) + GRADIENT_FLOOR * (pull * tangent.norm(dim=1)).sum()).item()
        )
    if abs(allowed) < torch.finfo(derivative.dtype).max / 2:
        yield from _above("derivative", allowed, (derivative.double() - expected).abs(), f"of {expected:.3g}")


def _above(what: str, allowed: float, errors: Tensor, of: str) -> Iterator[Failure]:
    """A failure where an error is above what is allowed, or NaN."""
    wrong = ~(errors <= allowed)
    if wrong.any():
        place = f" at row {int(wrong.nonzero()[0])}, {int(wrong.sum())} of {len(wrong)} rows" if errors.dim() else ""
        worst = errors.max().item()
        yield Failure(what, f"error {worst:.3g} {of}{place}, allowed {allowed:.3g}")
