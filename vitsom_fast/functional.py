"""The loss and the search as functions: the arguments are checked, then one operator does the work."""

from __future__ import annotations

import math
import numbers
from typing import get_args

import torch
from torch import Tensor

from vitsom_fast import backends, long_axis, long_axis_pairs, neighborhoods, ops, reference
from vitsom_fast.arguments import whole_number
from vitsom_fast.backends import compose
from vitsom_fast.backends.distances.losses import sample_losses
from vitsom_fast.backends.spec import Spec, accumulation_dtype
from vitsom_fast.backends.unit_rows import unit_rows
from vitsom_fast.choices import Distance, Missing, Neighborhood, Reduction
from vitsom_fast.grid import Grid
from vitsom_fast.pair_ops import backend_of_pairs

DISTANCES: tuple[Distance, ...] = get_args(Distance)
MISSING: tuple[Missing, ...] = get_args(Missing)
REDUCTIONS: tuple[Reduction, ...] = get_args(Reduction)
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def som_loss(
    z: Tensor,
    prototypes: Tensor,
    grid: Grid,
    temperature: float | Tensor,
    *,
    distance: Distance = "cosine",
    neighborhood: Neighborhood = "gaussian",
    reduction: Reduction = "mean",
    sample_weight: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """The SOM loss of ViT-SOM (Luo & Yuan 2025): ``mean_ik h_ik d_ik`` with ``h_ik = exp(-|r_k - r_b|^2 / (2 T^2))``, or with
    another neighborhood.

    Differentiable in ``z`` and ``prototypes`` (twice, should one want to); no gradient runs through the BMU or the weights.

    Args:
        z: latents, (B, D), or (B, ...) which is flattened from dim 1; fp64, fp32, bf16 or fp16.
        prototypes: (K, D) on the same device; where its dtype differs, both are promoted as PyTorch promotes them.
        grid: the map, with ``grid.num_prototypes == K``.
        temperature: T > 0 in units of the grid: a float, or a 0-dim tensor on z's device, which a captured graph or a compiled
            step can change without being built anew. A tensor's value is not checked (that would wait for the device); where
            it is not positive the loss is NaN.
        distance: "cosine", ``1 - z.w / (|z| |w|)``, a row of zeros has distance 1 to everything; "sqeuclidean",
            ``|z - w|^2``; "euclidean", its root, and "manhattan", the sum of absolute differences, without a gradient where the
            distance is 0. Of the last two each pair is computed, in O(B D + K D) memory: by kernels of "cpu" and "triton",
            elsewhere and in fp64 by PyTorch operations.
        neighborhood: "gaussian"; "bubble"; "mexican_hat", whose weights are negative beyond T; "triangle";
            "manhattan_gaussian", on a rectangular topology. Formulas: ``neighborhoods.neighborhood``. "bubble" and
            "manhattan_gaussian" read the value of a temperature that is a tensor, which waits for the device; a compiler gets
            a term for each offset instead, and more to multiply.
        reduction: "mean" over B and K (ViT-SOM), "batchmean" (sum over K, mean over B: DESOM), "sum", or "none": the mean over
            K of each sample.
        sample_weight: (B,), not negative: a sample of weight 2 counts as one that is there twice, in means too. Its values are
            not checked (that would wait for the device).
        backend: "auto", "reference", "torch", "cpu", "triton" or "cuda".

    Returns:
        The loss, 0-dim or for "none" (B,), fp32 (fp64 for fp64 inputs), and the BMU of every row, (B,) int64, the lowest index
        on ties. An empty batch has loss 0; a row that is not finite makes the loss NaN.

    Raises:
        TypeError, ValueError: an argument of the wrong type, shape, dtype, device or value; the message names it.

    Example:
        >>> z, prototypes = torch.eye(3), torch.eye(3)
        >>> loss, bmu = som_loss(z, prototypes, Grid(1, 3), 0.1)
        >>> round(loss.item(), 6), bmu.tolist()
        (0.0, [0, 1, 2])
    """
    z, prototypes = _checked_inputs(z, prototypes, distance)
    _check_grid(grid, prototypes)
    temperature = _checked_temperature(temperature, z.device)
    neighborhoods.check(grid, neighborhood)
    check_choice("reduction", reduction, REDUCTIONS)
    sample_weight = _checked_weight(sample_weight, z)
    backend = backends.resolve(backend, Spec(z.device, z.dtype, distance))
    dtype = accumulation_dtype(z.dtype)
    if backend == "reference":
        if isinstance(temperature, Tensor):
            temperature = temperature.detach().to(dtype)
        with torch.autocast(z.device.type, enabled=False):
            how = reduction, neighborhood, distance, sample_weight
            return reference.som_loss(z.to(dtype), prototypes.to(dtype), grid, temperature, *how)
    is_too_long = not neighborhoods.has_factors(grid)
    if distance != "cosine" or reduction == "none" or sample_weight is not None or (is_too_long and neighborhood != "gaussian"):
        bmu, _ = ops.find_bmu(z.detach(), prototypes.detach(), backend, grid.rows, grid.cols, distance)
        with torch.autocast(z.device.type, enabled=False):
            if is_too_long:
                losses = long_axis_pairs.sample_losses(bmu, z, prototypes, grid, temperature, distance, neighborhood)
            else:
                own = backends.get(backend)
                factors = neighborhoods.neighborhood(grid, temperature, neighborhood, device=z.device, dtype=dtype)
                of_pairs = backend_of_pairs(backend, z.dtype)
                losses = sample_losses(own, bmu, z, prototypes, factors.rows, factors.cols, distance, of_pairs)
            return reference.reduced(losses, reduction, grid.num_prototypes, sample_weight).to(dtype), bmu
    if neighborhood == "gaussian" and long_axis.serves(grid, z.shape[0]):
        return long_axis.som_loss(z, prototypes, grid, temperature, reduction, backend)
    weigh = ops.gaussian_weights_of(backend)
    factors = neighborhoods.neighborhood(grid, temperature, neighborhood, device=z.device, dtype=dtype, weigh=weigh)
    loss, bmu, *_ = ops.som_forward(z, prototypes, factors.rows, factors.cols, reduction, backend)
    return loss, bmu


def find_bmu(
    z: Tensor,
    prototypes: Tensor,
    *,
    distance: Distance = "cosine",
    grid: Grid | None = None,
    k: int = 1,
    missing: Missing = "error",
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """The best-matching unit of every latent and its distance, or the nearest two; not differentiable.

    Args:
        z: latents, (B, D) or (B, ...) flattened from dim 1.
        prototypes: (K, D).
        distance: as in ``som_loss``.
        grid: the map whose units they are. It changes nothing of the result, and saves the search a guess.
        k: 1 or 2.
        missing: "error": a NaN makes the row one that is not finite. "ignore": it stands for a feature that was not measured,
            and the distance is that over the others (in PyTorch operations, on every backend); a row of nothing else has NaN.
        backend: as in ``som_loss``.

    Returns:
        BMU (B,) int64, the lowest index of equal prototypes, and distance (B,) fp32 (fp64 for fp64 inputs); of different
        prototypes that are exactly as near, kernels may find any under a Euclidean distance. A row that is not finite gets an
        index within range and the distance NaN. With k = 2 both are (B, 2), the nearest first; a map of one unit has no
        second one, which then is 0 with the distance NaN.

    Raises:
        TypeError, ValueError: an argument of the wrong type, shape, dtype, device or value; the message names it.

    Example:
        >>> rows = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
        >>> find_bmu(torch.tensor([[3.0, 3.0]]), rows, distance="euclidean")
        (tensor([1]), tensor([1.]))
    """
    z, prototypes = _checked_inputs(z, prototypes, distance)
    if grid is not None:
        _check_grid(grid, prototypes)
    if type(k) is not int or k not in (1, 2):
        k = whole_number("k", k)
        if k > 2:
            raise ValueError(f"k must be 1 or 2, got {k}")
    check_choice("missing", missing, MISSING)
    backend = backends.resolve(backend, Spec(z.device, z.dtype, distance))
    z, prototypes = z.detach(), prototypes.detach()
    if backend == "reference" and missing == "error":
        dtype = accumulation_dtype(z.dtype)
        with torch.autocast(z.device.type, enabled=False):
            return reference.find_bmu(z.to(dtype), prototypes.to(dtype), distance, k)
    rows, cols = (0, 0) if grid is None else (grid.rows, grid.cols)
    bmu, nearest = ops.find_bmu(z, prototypes, backend, rows, cols, distance, k, missing == "ignore")
    return bmu, nearest


@torch.no_grad()
def batch_update(
    z: Tensor,
    prototypes: Tensor,
    grid: Grid,
    temperature: float | Tensor,
    *,
    distance: Distance = "cosine",
    neighborhood: Neighborhood = "gaussian",
    sample_weight: Tensor | None = None,
    missing: Missing = "error",
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """One step of a batch SOM (Kohonen 2001, section 3.6): each prototype becomes the mean of all latents, weighted with the
    neighborhood of their BMUs. Memory: O(B D + K D), and the square of each axis of up to 4096 units.

    Args:
        z: (B, D) or (B, ...) flattened from dim 1. Under the cosine distance their directions are averaged, under all others
            the rows themselves.
        prototypes, grid, temperature, distance, neighborhood, sample_weight, backend: as in ``som_loss``; "reference" computes
            as "torch".
        missing: as in ``find_bmu``; with "ignore" each feature is the mean of those latents that have it.

    Returns:
        New prototypes (K, D), in the dtype of the old ones, and the BMUs (B,) int64 among the old ones. A prototype that no
        latent reaches, as its weight underflows, stays as it is. So does, under a Mexican hat, one whose weights, of both
        signs, cancel: they add up to less than 1e-6 of the largest such sum, or their mean lies ten times as far from that of
        the latents as the mean of the latents of any unit. A latent that is not finite makes prototypes NaN.

    Raises:
        TypeError, ValueError: an argument of the wrong type, shape, dtype, device or value; the message names it.

    Example:
        >>> rows = torch.tensor([[0.0], [1.0], [10.0]])
        >>> prototypes, bmu = batch_update(rows, torch.tensor([[0.0], [9.0]]), Grid(1, 2), 0.1, distance="euclidean")
        >>> prototypes.tolist(), bmu.tolist()
        ([[0.5], [10.0]], [0, 0, 1])
    """
    dtype_of_prototypes = prototypes.dtype if isinstance(prototypes, Tensor) else None
    z, prototypes = _checked_inputs(z, prototypes, distance)
    _check_grid(grid, prototypes)
    temperature = _checked_temperature(temperature, z.device)
    neighborhoods.check(grid, neighborhood)
    backend = backends.resolve(backend, Spec(z.device, z.dtype, distance))
    sample_weight = _checked_weight(sample_weight, z)
    bmu, _ = find_bmu(z, prototypes, distance=distance, grid=grid, missing=missing, backend=backend)
    dtype = accumulation_dtype(z.dtype)
    own = backends.get("torch" if backend == "reference" else backend)
    with torch.autocast(z.device.type, enabled=False):
        x = z.to(dtype)
        known = None
        if missing == "ignore":
            known = ~x.isnan()
            x = torch.where(known, x, 0.0)
        if distance == "cosine":
            x = unit_rows(x).unit.to(dtype)
        pull = long_axis_pairs.pulling(own, grid, temperature, neighborhood, x)
        updated = compose.batch_update(
            own, x, bmu, prototypes.to(dtype), pull, sample_weight, known, signed=neighborhood in neighborhoods.SIGNED
        )
    return updated.to(dtype_of_prototypes), bmu


def _checked_inputs(z: Tensor, prototypes: Tensor, distance: str) -> tuple[Tensor, Tensor]:
    """z flattened to (B, D) and the prototypes, of one dtype, or an error that says what is wrong."""
    for name, x in (("z", z), ("prototypes", prototypes)):
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
        if x.layout is not torch.strided or x.is_nested:
            raise TypeError(f"{name} must be a dense tensor, got layout {x.layout}{' of a nested tensor' * x.is_nested}")
        if x.dtype not in DTYPES:
            raise TypeError(f"{name} must have one of the dtypes {DTYPES}, got {x.dtype}")
    if z.dim() < 2:
        raise ValueError(f"z must have shape (B, D) or (B, ...), got {tuple(z.shape)}")
    if z.dim() > 2:
        z = z.flatten(1)
    if prototypes.dim() != 2 or prototypes.shape[0] < 1:
        raise ValueError(f"prototypes must have shape (K, D) with K at least 1, got {tuple(prototypes.shape)}")
    if z.shape[1] < 1 or z.shape[1] != prototypes.shape[1]:
        raise ValueError(
            f"z and prototypes must have the same number of features, at least 1, got z {tuple(z.shape)} and prototypes"
            f" {tuple(prototypes.shape)}"
        )
    if z.device != prototypes.device:
        raise ValueError(f"prototypes must be on the device of z, {z.device}, got {prototypes.device}")
    check_choice("distance", distance, DISTANCES)
    if z.dtype != prototypes.dtype:
        dtype = torch.promote_types(z.dtype, prototypes.dtype)
        z, prototypes = z.to(dtype), prototypes.to(dtype)
    return z, prototypes


def _check_grid(grid: Grid, prototypes: Tensor) -> None:
    if not isinstance(grid, Grid):
        raise TypeError(f"grid must be a vitsom_fast.Grid, got {type(grid).__name__}")
    if grid.rows * grid.cols != prototypes.shape[0]:
        raise ValueError(
            f"grid must have one unit for each prototype, got {grid.rows} x {grid.cols} = {grid.num_prototypes} units"
            f" for prototypes of shape {tuple(prototypes.shape)}"
        )


def _checked_weight(sample_weight: Tensor | None, z: Tensor) -> Tensor | None:
    if sample_weight is None:
        return None
    if not isinstance(sample_weight, Tensor) or not sample_weight.is_floating_point():
        raise TypeError(f"sample_weight must be a floating torch.Tensor or None, got {_kind_of(sample_weight)}")
    if sample_weight.shape != z.shape[:1] or sample_weight.device != z.device:
        raise ValueError(
            f"sample_weight must have shape ({z.shape[0]},) on the device of z, {z.device}, got {tuple(sample_weight.shape)} on"
            f" {sample_weight.device}"
        )
    return sample_weight.detach().to(accumulation_dtype(z.dtype))


def _kind_of(x: object) -> str:
    return f"a tensor of {x.dtype}" if isinstance(x, Tensor) else type(x).__name__


def _checked_temperature(temperature: float | Tensor, device: torch.device) -> float | Tensor:
    if isinstance(temperature, Tensor):
        if temperature.dim() != 0 or not temperature.is_floating_point():
            raise ValueError(
                "temperature must be a float or a 0-dim floating tensor, got a tensor of shape"
                f" {tuple(temperature.shape)} and dtype {temperature.dtype}"
            )
        if temperature.device != device:
            raise ValueError(f"temperature must be on the device of z, {device}, got {temperature.device}")
        return temperature
    if type(temperature) is not float:
        if isinstance(temperature, bool) or not isinstance(temperature, numbers.Real):
            raise TypeError(f"temperature must be a float or a 0-dim tensor, got {temperature!r}")
        temperature = float(temperature)  # also of NumPy's scalars
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    return temperature


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises the ValueError that names an argument which is none of its choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {choices}, got {value!r}")
