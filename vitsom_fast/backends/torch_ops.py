"""The factorised form in PyTorch operations: any device, any dtype, differentiable twice.

With S = G W^ smoothed over the grid and n = G 1, the loss is ``sum_i [n_b - z^_i . S_b]`` over the BMUs b; its gradients are a
gather and a smoothed segment sum. Nothing of size B x K outlives a chunk of the search.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

EPS = 1e-12  # of torch.nn.functional.normalize

# Scores searched at a time: 16 M keep a chunk at 64 MB in fp32, and larger ones were no faster.
_CHUNK = 1 << 24


def unavailable() -> str | None:
    return None


def unsupported(device: torch.device, dtype: torch.dtype) -> str | None:
    return None


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """fp32 for everything but fp64: sums never run in half precision."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def reduction_scale(reduction: str, batch: int, num_prototypes: int) -> float:
    """What the sum over samples and prototypes is multiplied with; an empty batch has loss 0, not 0/0."""
    batch = max(batch, 1)
    return {"mean": 1.0 / (batch * num_prototypes), "batchmean": 1.0 / batch, "sum": 1.0}[reduction]


def find_bmu(z: Tensor, prototypes: Tensor) -> tuple[Tensor, Tensor]:
    """BMU (B,) int64 and cosine distance (B,) of each row of z (B, D) among the prototypes (K, D)."""
    dtype = accumulation_dtype(z.dtype)
    prototypes = prototypes.to(dtype)
    targets = _normalize(prototypes).T  # [D, K]
    bmu = torch.empty(z.shape[0], dtype=torch.int64, device=z.device)
    distance = torch.empty(z.shape[0], dtype=dtype, device=z.device)
    step = max(1, _CHUNK // prototypes.shape[0])
    with _exact_matmul():
        for start in range(0, z.shape[0], step):
            rows = slice(start, start + step)
            scores = _normalize(z[rows].to(dtype)) @ targets  # [step, K]
            best, bmu[rows] = scores.max(dim=1)
            distance[rows] = 1 - best
    return _lowest_equal(prototypes, bmu), distance


def _lowest_equal(prototypes: Tensor, bmu: Tensor) -> Tensor:
    """The lowest index whose prototype equals that of each BMU, bit for bit.

    A matrix product may round the scores of equal columns differently at the edge of its tiles: of maps with duplicated
    prototypes, 0.5 % of the samples got a later one. Equal rows are found by a hash, then compared.
    """
    order_of_hash, by_hash = _row_hash(prototypes).sort(stable=True)
    starts = torch.ones_like(by_hash, dtype=torch.bool)
    starts[1:] = order_of_hash[1:] != order_of_hash[:-1]
    position = torch.arange(by_hash.shape[0], device=by_hash.device)
    first = torch.where(starts, position, 0).cummax(0).values  # where the run of equal hashes begins
    lowest = torch.empty_like(by_hash).index_copy_(0, by_hash, by_hash[first])[bmu]  # [B]
    equal = (prototypes[lowest] == prototypes[bmu]).all(dim=1)
    return torch.where(equal, lowest, bmu)


def _row_hash(x: Tensor) -> Tensor:
    """(K,) int64, the same for equal rows whatever their position: integer sums do not depend on their order."""
    integer = torch.int64 if x.dtype == torch.float64 else torch.int32
    place = torch.arange(1, x.shape[1] + 1, device=x.device, dtype=torch.int64)
    multiplier = ((place * 0x9E3779B1) % 0x7FFFFFFF | 1).to(integer)  # [D], odd
    step = max(1, (1 << 20) // x.shape[1])  # 4 MB of products stay in cache
    chunks = [((rows + 0.0).view(integer) * multiplier).sum(dim=1) for rows in x.split(step)]  # + 0.0: -0 equals 0
    return torch.cat(chunks)


def som_forward(
    z: Tensor, prototypes: Tensor, row_factors: Tensor, col_factors: Tensor, reduction: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss (), BMU (B,) and the attraction S_b (B, D) of every sample, which is all that the gradients need."""
    bmu, _ = find_bmu(z, prototypes)
    loss, attraction = loss_at(bmu, z, prototypes, row_factors, col_factors, reduction)
    return loss, bmu, attraction


def loss_at(
    bmu: Tensor, z: Tensor, prototypes: Tensor, row_factors: Tensor, col_factors: Tensor, reduction: str
) -> tuple[Tensor, Tensor]:
    """The loss for given BMUs, differentiable any number of times in z and the prototypes, and the attraction (B, D)."""
    dtype = accumulation_dtype(z.dtype)
    unit_z = _normalize(z.to(dtype))  # [B, D]
    smoothed = smooth(_normalize(prototypes.to(dtype)), row_factors, col_factors)  # [K, D]
    attraction = smoothed[bmu]  # [B, D]
    weight = _total_weight(row_factors, col_factors)[bmu]  # [B]
    total = (weight - (unit_z * attraction).sum(dim=1)).sum()
    return total * reduction_scale(reduction, z.shape[0], prototypes.shape[0]), attraction


def som_backward(
    grad_loss: Tensor,
    z: Tensor,
    prototypes: Tensor,
    row_factors: Tensor,
    col_factors: Tensor,
    bmu: Tensor,
    attraction: Tensor,
    reduction: str,
    for_z: bool,
    for_prototypes: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients (B, D) and (K, D) in the dtype of their input; an empty tensor for one that is not asked for."""
    dtype = accumulation_dtype(z.dtype)
    factor = grad_loss.to(dtype) * -reduction_scale(reduction, z.shape[0], prototypes.shape[0])
    grad_z, grad_prototypes = z.new_empty(0), prototypes.new_empty(0)
    if for_z:
        grad_z = _through_normalize(attraction * factor, z.to(dtype)).to(z.dtype)
    if for_prototypes:
        pulled = _segment_sum(_normalize(z.to(dtype)), bmu, prototypes.shape[0])  # [K, D]
        spread = smooth(pulled, row_factors.mT, col_factors.mT).mul_(factor)
        grad_prototypes = _through_normalize(spread, prototypes.to(dtype)).to(prototypes.dtype)
    return grad_z, grad_prototypes


def smooth(x: Tensor, row_factors: Tensor, col_factors: Tensor) -> Tensor:
    """G x for x (K, D): one small matrix product along each axis of the grid and each separable term."""
    (_, rows, _), (_, cols, _) = row_factors.shape, col_factors.shape
    width = x.shape[1]
    terms = []
    with _exact_matmul():
        for row_factor, col_factor in zip(row_factors, col_factors, strict=True):
            along_cols = col_factor @ x.view(rows, cols, width)  # [rows, cols, D]
            terms.append((row_factor @ along_cols.view(rows, cols * width)).view(rows * cols, width))
    return terms[0] if len(terms) == 1 else torch.stack(terms).sum(0)


def _total_weight(row_factors: Tensor, col_factors: Tensor) -> Tensor:
    """n = G 1, (K,). fp64 where there is any: the loss is the small difference of n and a dot product of its size."""
    if row_factors.device.type != "mps":
        row_factors, col_factors = row_factors.double(), col_factors.double()
    return (row_factors.sum(2)[:, :, None] * col_factors.sum(2)[:, None, :]).sum(0).flatten()


def _segment_sum(unit_z: Tensor, bmu: Tensor, num_prototypes: int) -> Tensor:
    """The sum of the samples of every BMU, (K, D), added in an order that does not change from run to run."""
    pulled = unit_z.new_zeros(num_prototypes, unit_z.shape[1])
    if unit_z.device.type == "cpu":
        return pulled.index_add_(0, bmu, unit_z)
    # On a GPU index_add_ adds with atomics; index_put_ sorts the indices first.
    return pulled.index_put_((bmu,), unit_z, accumulate=True)


def _normalize(x: Tensor) -> Tensor:
    return x / _norm(x).clamp_min(EPS)


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=1, keepdim=True)


def _through_normalize(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient for x from that for x / max(|x|, eps); below eps the map is linear and nothing is projected away."""
    norm = _norm(x)
    unit = x / norm.clamp_min(EPS)
    along = (unit * grad).sum(dim=1, keepdim=True) * (norm >= EPS)
    return grad.sub(unit * along).div_(norm.clamp_min(EPS))


@contextmanager
def _exact_matmul() -> Iterator[None]:
    """Full fp32 products, whatever the user allows elsewhere: TF32 or bf16 scores would pick other BMUs."""
    precision = torch.get_float32_matmul_precision()
    if precision == "highest" or torch.compiler.is_compiling():
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
