"""The factorised form in PyTorch operations: any device, any dtype, differentiable twice.

With S = G W^ smoothed over the grid and n = G 1, the loss is ``sum_i [n_b - z^_i . S_b]`` over the BMUs b; its gradients are a
gather and a smoothed segment sum. Nothing of size B x K outlives a chunk of the search.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

EPS = 1e-12  # of torch.nn.functional.normalize

# Scores searched at a time: 16 M keep a chunk at 64 MB in fp32, and larger ones were no faster.
_CHUNK = 1 << 24

# Products B K D below which the number of launches is all that counts.
_SMALL = 1 << 14


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


def context_size(batch: int, rows: int, cols: int) -> int:
    return 0


def attraction_rows(batch: int, num_prototypes: int) -> int:
    return batch


def find_bmu(z: Tensor, prototypes: Tensor) -> tuple[Tensor, Tensor]:
    """BMU (B,) int64 and cosine distance (B,) of each row of z (B, D) among the prototypes (K, D)."""
    dtype = accumulation_dtype(z.dtype)
    prototypes = prototypes.to(dtype)
    return _search(_normalize(z.to(dtype)), _normalize(prototypes), prototypes)


def _search(unit_z: Tensor, unit_prototypes: Tensor, prototypes: Tensor) -> tuple[Tensor, Tensor]:
    if unit_z.shape[0] * prototypes.numel() <= _SMALL:
        # Equal prototypes get equal scores here, for half the launches of the general way.
        best, bmu = (unit_z[:, None, :] * unit_prototypes).sum(dim=2).max(dim=1)  # from [B, K]
        return bmu, 1 - best
    bmu = torch.empty(unit_z.shape[0], dtype=torch.int64, device=unit_z.device)
    distance = torch.empty(unit_z.shape[0], dtype=unit_z.dtype, device=unit_z.device)
    step = max(1, _CHUNK // prototypes.shape[0])
    with _exact_matmul():
        for start in range(0, unit_z.shape[0], step):
            rows = slice(start, start + step)
            best, bmu[rows] = (unit_z[rows] @ unit_prototypes.T).max(dim=1)  # from [step, K]
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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss (), BMU (B,) and the attraction S_b (B, D) of every sample, which is all that the gradients need: no context."""
    dtype = accumulation_dtype(z.dtype)
    prototypes = prototypes.to(dtype)
    unit_z, unit_prototypes = _normalize(z.to(dtype)), _normalize(prototypes)
    bmu, _ = _search(unit_z, unit_prototypes, prototypes)
    loss, attraction = _weighted_loss(bmu, z.to(dtype), unit_prototypes, row_factors, col_factors, reduction)
    return loss, bmu, attraction, z.new_empty(0, dtype=torch.float32)


def loss_at(
    bmu: Tensor, z: Tensor, prototypes: Tensor, row_factors: Tensor, col_factors: Tensor, reduction: str
) -> tuple[Tensor, Tensor]:
    """The loss for given BMUs, differentiable any number of times and ways in z and the prototypes, and the attraction."""
    dtype = accumulation_dtype(z.dtype)
    return _weighted_loss(bmu, z.to(dtype), _normalize(prototypes.to(dtype)), row_factors, col_factors, reduction)


def _weighted_loss(
    bmu: Tensor, z: Tensor, unit_prototypes: Tensor, row_factors: Tensor, col_factors: Tensor, reduction: str
) -> tuple[Tensor, Tensor]:
    attraction = smooth(unit_prototypes, row_factors, col_factors)[bmu]  # [B, D]
    weight = _total_weight(row_factors, col_factors)[bmu]  # [B]
    # The loss is the small difference of two numbers of the size of the weight: fp32 alone loses 2e-7 of them.
    wide = _widest(z)
    total = (weight - (_normalize(z.to(wide)) * attraction).sum(dim=1)).sum()
    loss = total.to(z.dtype) * reduction_scale(reduction, z.shape[0], unit_prototypes.shape[0])
    return loss, attraction


def som_backward(
    grad_loss: Tensor,
    z: Tensor,
    prototypes: Tensor,
    row_factors: Tensor,
    col_factors: Tensor,
    bmu: Tensor,
    attraction: Tensor,
    context: Tensor,
    reduction: str,
    for_z: bool,
    for_prototypes: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients (B, D) and (K, D) in the dtype of their input; an empty tensor for one that is not asked for."""
    dtype = accumulation_dtype(z.dtype)
    factor = grad_loss.to(dtype) * -reduction_scale(reduction, z.shape[0], prototypes.shape[0])
    grad_z, grad_prototypes = z.new_empty(0), prototypes.new_empty(0)
    norm, unit_z = _norm_and_unit(z.to(dtype))
    if for_z:
        grad_z = _through_normalize(attraction * factor, norm, unit_z).to(z.dtype)
    if for_prototypes:
        pulled = _segment_sum(unit_z, bmu, prototypes.shape[0])  # [K, D]
        spread = smooth(pulled, row_factors.mT, col_factors.mT).mul_(factor)
        grad_prototypes = _through_normalize(spread, *_norm_and_unit(prototypes.to(dtype))).to(prototypes.dtype)
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
    """n = G 1, (K,)."""
    dtype = _widest(row_factors)
    row_sums, col_sums = row_factors.sum(dim=2, dtype=dtype), col_factors.sum(dim=2, dtype=dtype)  # [terms, R], [terms, C]
    return (row_sums.T @ col_sums).flatten()


def _segment_sum(unit_z: Tensor, bmu: Tensor, num_prototypes: int) -> Tensor:
    """The sum of the samples of every BMU, (K, D), added in an order that does not change from run to run."""
    batch = unit_z.shape[0]
    index = torch.arange(batch, device=bmu.device)
    # The samples of a BMU are summed up at the place of its first one: (B, D) is the smaller table where fp64 matters.
    first = torch.full((num_prototypes,), batch, device=bmu.device).scatter_reduce_(0, bmu, index, "amin")[bmu]  # [B]
    wide = unit_z.to(_widest(unit_z))  # 20000 samples of one unit summed up in fp32 are wrong by 6e-6
    sums = torch.zeros_like(wide)
    if wide.device.type == "cpu":
        sums.index_add_(0, first, wide)
    else:  # on a GPU index_add_ adds with atomics; index_put_ sorts the indices first
        sums.index_put_((first,), wide, accumulate=True)
    pulled = unit_z.new_zeros(num_prototypes, unit_z.shape[1])
    pulled[bmu] = sums[first].to(unit_z.dtype)  # the same row for all samples of a BMU
    return pulled


def _widest(x: Tensor) -> torch.dtype:
    """fp64, but for devices that have none."""
    return x.dtype if x.device.type == "mps" else torch.float64


def _norm_and_unit(x: Tensor) -> tuple[Tensor, Tensor]:
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)  # [rows, 1]
    return norm, x / norm.clamp_min(EPS)


def _normalize(x: Tensor) -> Tensor:
    return _norm_and_unit(x)[1]


def _through_normalize(grad: Tensor, norm: Tensor, unit: Tensor) -> Tensor:
    """The gradient for x, in the place of that for x / max(|x|, eps); below eps that is linear, nothing is projected away."""
    with _exact_matmul():
        along = torch.linalg.vecdot(unit, grad).unsqueeze(1) * (norm >= EPS)  # [rows, 1]
    return grad.addcmul_(unit, along, value=-1).div_(norm.clamp_min(EPS))


@contextmanager
def _exact_matmul() -> Iterator[None]:
    """Full fp32 products, whatever the user allows elsewhere: TF32 or bf16 scores would pick other BMUs."""
    if torch.compiler.is_compiling():
        yield
        return
    backends = (torch.backends.cuda, torch.backends.mkldnn)
    matmuls: list[Any] = [
        matmul for backend in backends if hasattr(matmul := getattr(backend, "matmul", None), "fp32_precision")
    ]
    if not matmuls:
        yield from _exact_matmul_before_2_9()
        return
    # torch >= 2.9, where the older getter fails once a user has set these.
    lowered = [(matmul, matmul.fp32_precision) for matmul in matmuls if matmul.fp32_precision not in ("ieee", "none")]
    for matmul, _ in lowered:
        matmul.fp32_precision = "ieee"
    try:
        yield
    finally:
        for matmul, precision in lowered:
            matmul.fp32_precision = "none"  # inherits again what it may have inherited before
            if matmul.fp32_precision != precision:
                matmul.fp32_precision = precision


def _exact_matmul_before_2_9() -> Iterator[None]:
    precision = torch.get_float32_matmul_precision()
    if precision != "highest":
        torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        if precision != "highest":
            torch.set_float32_matmul_precision(precision)
