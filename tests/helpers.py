"""What the tests share: the list of backends, a way to run one, and the fp64 truth that its results are held against."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from vitsom_fast import Grid, backends, find_bmu, reference, som_loss

GPU = "cuda" if torch.cuda.is_available() else "cpu"

# Every backend under test and the device that its inputs live on. Without a GPU, Triton interprets its kernels on CPU tensors;
# CUDA kernels may be built for the host.
BACKENDS = {
    "reference": "cpu",
    "torch": "cpu",
    "cpu": "cpu",
    "triton": GPU,
    "cuda": "cpu" if "VITSOM_CUDA_MODULE" in os.environ else "cuda",
}

BMU_TOLERANCE = 1e-6  # of d[i, bmu] - min d, in fp64
EXACT_BMU_TOLERANCE = 1e-12  # the same of the CPU kernels
RELATIVE_TOLERANCE = 1e-5  # of the loss, and norm-wise of each gradient, for fp32 inputs
LOSS_FLOOR = 1e-7  # of the mean weight h, where 1 - cos cancels
# A gradient is the pull on x / |x| less its part along x. In a map that fits its data little is left: of the pull, this much
# may be wrong (5 roundings of fp32; the eager form in fp32 was measured at up to 2.5e-7).
GRADIENT_FLOOR = 3e-7


class Result(NamedTuple):
    """What one forward and backward pass gives; a gradient that was not asked for is empty."""

    loss: Tensor
    bmu: Tensor
    grad_z: Tensor
    grad_prototypes: Tensor


class Truth(NamedTuple):
    """The loss and its gradients for given BMUs in fp64, and the sizes that rounding errors are in proportion to."""

    loss: float
    grad_z: Tensor
    grad_prototypes: Tensor
    weight: float  # the loss if all distances were 1
    pull_z: float  # norms that the gradients would have if nothing cancelled: no projection, all prototypes or latents alike
    pull_prototypes: float


def skip_unless_supported(backend: str, dtype: torch.dtype) -> None:
    """Skip where a backend says that it does not serve a dtype."""
    try:
        backends.resolve(backend, backends.Spec(torch.device(BACKENDS[backend]), dtype))
    except ValueError as error:
        pytest.skip(str(error))


def is_emulated(backend: str) -> bool:
    """Whether the kernels are made for a GPU and run without one."""
    return backend in ("triton", "cuda") and BACKENDS[backend] == "cpu"


def _skip_unless_quick(backend: str, batch: int, grid: Grid, dim: int) -> None:
    """Skip what an interpreter would take long for: 10 ms a program, each of some rows or columns and 64 features."""
    if backend != "triton" or BACKENDS[backend] != "cpu":
        return
    terms = 3 if grid.topology == "hexagonal" else 1
    programs = (batch / 16 + grid.rows + terms * (grid.rows + grid.cols)) * math.ceil(dim / 64) + grid.cols
    if programs > 120:
        pytest.skip(f"{programs:.0f} programs take an interpreter long")


def _skip_unless_few_pairs(backend: str, z: Tensor, prototypes: Tensor, distance: str, k: int = 1) -> None:
    """Skip what an interpreter would take long for: 20 ms for 16 features of a tile of 64 x 64 pairs."""
    if backend != "triton" or BACKENDS[backend] != "cpu" or distance == "cosine" or (distance != "manhattan" and k == 1):
        return
    pieces = math.ceil(z.shape[0] / 64) * math.ceil(prototypes.shape[0] / 64) * math.ceil(z.shape[1] / 16)
    if pieces > 30:
        pytest.skip(f"{pieces} pieces of tiles take an interpreter long")


def _skip_unless_quick_to_search(backend: str, z: Tensor, prototypes: Tensor) -> None:
    """Skip what an interpreter would take long for: 60 ms a tile of 128 x 128."""
    if backend == "triton" and BACKENDS[backend] == "cpu" and z.shape[0] * prototypes.shape[0] > 1 << 19:
        pytest.skip(f"{z.shape[0]} x {prototypes.shape[0]} scores take an interpreter long")


def run(
    backend: str,
    z: Tensor,
    prototypes: Tensor,
    grid: Grid,
    temperature: float | Tensor,
    *,
    distance: str = "cosine",
    reduction: str = "mean",
    grad_output: float = 1.0,
    needs_grad: tuple[bool, bool] = (True, True),
    neighborhood: str = "gaussian",
) -> Result:
    """One step: strides and dtypes of the inputs are kept, results come back on the CPU."""
    _skip_unless_quick(backend, z.shape[0], grid, prototypes.shape[1])
    _skip_unless_few_pairs(backend, z, prototypes, "manhattan" if distance == "euclidean" else distance)
    device = BACKENDS[backend]
    if isinstance(temperature, Tensor):
        temperature = temperature.to(device)
    z = z.detach().to(device).requires_grad_(needs_grad[0])
    prototypes = prototypes.detach().to(device).requires_grad_(needs_grad[1])
    how = {"distance": distance, "neighborhood": neighborhood, "reduction": reduction}
    loss, bmu = som_loss(z, prototypes, grid, temperature, **how, backend=backend)
    if any(needs_grad):
        (loss * grad_output).backward()
    grads = [torch.empty(0) if x.grad is None else x.grad.cpu() for x in (z, prototypes)]
    return Result(loss.detach().cpu(), bmu.cpu(), *grads)


def search(backend: str, z: Tensor, prototypes: Tensor, *, distance: str = "cosine", k: int = 1) -> tuple[Tensor, Tensor]:
    """``find_bmu`` on a backend's device; results on the CPU."""
    _skip_unless_quick_to_search(backend, z, prototypes)
    _skip_unless_few_pairs(backend, z, prototypes, distance, k)
    device = BACKENDS[backend]
    bmu, nearest = find_bmu(z.to(device), prototypes.to(device), distance=distance, k=k, backend=backend)
    return bmu.cpu(), nearest.cpu()


def truth(
    z: Tensor,
    prototypes: Tensor,
    grid: Grid,
    temperature: float | Tensor,
    bmu: Tensor,
    *,
    reduction: str = "mean",
    grad_output: float = 1.0,
    neighborhood: str = "gaussian",
) -> Truth:
    """The formulas of the reference in fp64 at the BMUs that a backend chose: any within the tolerance is right."""
    temperature = float(temperature)
    z = z.detach().double().requires_grad_()
    prototypes = prototypes.detach().double().requires_grad_()
    (batch, _), (count, _) = z.shape, prototypes.shape
    scale = {"mean": 1 / max(batch * count, 1), "batchmean": 1 / max(batch, 1), "sum": 1.0}[reduction]
    h = reference.neighborhood_weights(bmu, grid, temperature, torch.float64, neighborhood)  # [B, K]
    loss = (h * reference.distances(z, prototypes)).sum() * scale
    grad_z, grad_prototypes = torch.autograd.grad(loss * grad_output, (z, prototypes))
    h = h.abs()
    with torch.no_grad():
        pull_z = h.sum(1) / _length(z)
        pull_prototypes = h.sum(0) / _length(prototypes)
    return Truth(
        loss.item(),
        grad_z,
        grad_prototypes,
        h.sum().item() * scale,
        pull_z.norm().item() * scale * grad_output,
        pull_prototypes.norm().item() * scale * grad_output,
    )


def check(
    result: Result,
    z: Tensor,
    prototypes: Tensor,
    grid: Grid,
    temperature: float | Tensor,
    *,
    reduction: str = "mean",
    grad_output: float = 1.0,
    cancels: bool = False,
    neighborhood: str = "gaussian",
) -> None:
    """The contract, for 16-bit inputs plus a rounding of each gradient; ``cancels`` where gradients are small differences and
    held to ``GRADIENT_FLOOR``, too."""
    check_bmu(result.bmu, z, prototypes)
    true = truth(
        z, prototypes, grid, temperature, result.bmu, reduction=reduction, grad_output=grad_output, neighborhood=neighborhood
    )
    error = abs(result.loss.item() - true.loss)
    assert error <= RELATIVE_TOLERANCE * abs(true.loss) + LOSS_FLOOR * true.weight, f"loss {result.loss} of {true.loss}"
    for name, grad, true_grad, pull in (
        ("z", result.grad_z, true.grad_z, true.pull_z),
        ("prototypes", result.grad_prototypes, true.grad_prototypes, true.pull_prototypes),
    ):
        # eps is twice a rounding: Triton's interpreter cuts bf16 off
        rounding = torch.finfo(grad.dtype).eps if grad.element_size() == 2 else 0.0
        tolerance = (RELATIVE_TOLERANCE + rounding) * true_grad.norm().item() + (GRADIENT_FLOOR * pull if cancels else 0.0)
        error = (grad.double() - true_grad).norm().item()
        assert error <= tolerance, f"gradient of {name}: error {error:.3g}, allowed {tolerance:.3g}"


def check_bmu(bmu: Tensor, z: Tensor, prototypes: Tensor) -> None:
    """``d[i, bmu] - min d`` in fp64 on the inputs as given."""
    d = reference.distances(z.double(), prototypes.double())  # [B, K]
    assert bmu.dtype == torch.int64
    assert bmu.shape == z.shape[:1]
    if bmu.numel():
        assert bmu.min() >= 0
        assert bmu.max() < prototypes.shape[0]
        excess = d.gather(1, bmu[:, None])[:, 0] - d.min(dim=1).values
        assert excess.max() <= BMU_TOLERANCE, f"a BMU is {excess.max():.3g} further than the nearest prototype"


LOW_PRECISION = ("torch.set_float32_matmul_precision", "fp32_precision")


def matmul_setting() -> str:
    """How precise PyTorch's fp32 products on the CPU have to be: "highest", "ieee" or "none" (unset) for full precision."""
    matmul = getattr(torch.backends.mkldnn, "matmul", None)  # torch >= 2.9
    return torch.get_float32_matmul_precision() if matmul is None else matmul.fp32_precision


@contextmanager
def low_precision_products(how: str) -> Iterator[None]:
    """PyTorch may multiply fp32 matrices in bf16, by the older or the newer setting; a block that changes it fails."""
    matmul: Any = getattr(torch.backends.mkldnn, "matmul", None)
    if how == "fp32_precision":
        if matmul is None:
            pytest.skip("this version of PyTorch has the older setting only")
        before = matmul.fp32_precision
        matmul.fp32_precision = "bf16"
    else:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("medium")
    during = matmul_setting()
    try:
        yield
        assert matmul_setting() == during
    finally:
        if how == "fp32_precision":
            matmul.fp32_precision = before
        else:
            torch.set_float32_matmul_precision(before)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """``|actual - expected| / |expected|`` in fp64."""
    return ((actual.double() - expected.double()).norm() / expected.double().norm()).item()


def _length(x: Tensor) -> Tensor:
    return x.norm(dim=1).clamp_min(1e-12)
