"""The backward pass: the gradient of the latents, and that of the prototypes in two steps.

The pull on the prototypes is the sum of the samples of every BMU, smoothed as the prototypes were. That sum is never stored:
each sample is spread along the rows of its column, then the columns are smoothed.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from vitsom_fast.kernels.common.latent_gradient import latent_gradient
from vitsom_fast.kernels.common.unit import DROP, is_short, two_factors
from vitsom_fast.kernels.factorised.smooth import band
from vitsom_fast.kernels.launch import configs
from vitsom_fast.kernels.launch.device import blocks, family, multiprocessors, precision
from vitsom_fast.kernels.launch.plan import Buffer, Recording


@triton.jit(do_not_specialize=["batch", "num_tickets", "latent_programs"])
def spread_kernel(
    grad_loss,  # fp32
    z,  # [B, D], any strides
    inverse_z,  # [B] fp32
    row_factors,  # [terms, R, R] fp32
    bmu,  # [B] int64
    order,  # [B] int32
    starts,  # [C + 1] int32
    attraction,  # [B, D] fp32
    grad_z,  # [B, D] in z's dtype
    spread,  # [terms, R, C, D] fp32
    tickets,  # [num_tickets] int32
    scale,  # minus that of the reduction
    latent_programs,  # the first so many programs take the latents, the others the prototypes
    batch,
    rows,
    cols,
    dim,
    num_tickets,
    z_stride,
    z_step,
    PRECISION: tl.constexpr,
    LATENTS: tl.constexpr,
    FEATURES: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Gradients of the latents; ``spread[t, r, c] = sum of row_factors[t, row_i, r] * z^_i over samples i in column c``."""
    program = tl.program_id(0)
    if program == 0:
        for first in range(0, num_tickets, 1024):
            at = first + tl.arange(0, 1024)
            tl.store(tickets + at, tl.zeros([1024], tl.int32), mask=at < num_tickets)
    if program < latent_programs:
        samples = program * LATENTS + tl.arange(0, LATENTS)
        latent_gradient(
            tl.load(grad_loss),
            scale,
            z,
            inverse_z,
            attraction,
            grad_z,
            samples,
            batch,
            dim,
            z_stride,
            z_step,
            LATENTS,
            FEATURES,
        )
    else:
        _spread(
            program - latent_programs,
            z,
            inverse_z,
            row_factors,
            bmu,
            order,
            starts,
            spread,
            rows,
            cols,
            dim,
            z_stride,
            z_step,
            PRECISION,
            BLOCK_R,
            BLOCK_B,
            BLOCK_D,
        )


@triton.jit
def _spread(
    program,
    z,
    inverse_z,
    row_factors,
    bmu,
    order,
    starts,
    spread,
    rows,
    cols,
    dim,
    z_stride,
    z_step,
    PRECISION: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    dim_blocks = tl.cdiv(dim, BLOCK_D)
    row_blocks = tl.cdiv(rows, BLOCK_R)
    features = (program % dim_blocks * BLOCK_D + tl.arange(0, BLOCK_D)).to(tl.int64)
    program //= dim_blocks
    targets = program % row_blocks * BLOCK_R + tl.arange(0, BLOCK_R)
    program //= row_blocks
    column = program % cols
    term = program // cols
    is_feature = features < dim
    is_target = targets < rows
    factor = row_factors + tl.cast(term, tl.int64) * rows * rows
    begin = tl.load(starts + column)
    end = tl.load(starts + column + 1)

    total = tl.zeros([BLOCK_R, BLOCK_D], tl.float32)
    for first in range(begin, end, BLOCK_B):
        places = first + tl.arange(0, BLOCK_B)
        is_sample = places < end
        samples = tl.load(order + tl.minimum(places, end - 1)).to(tl.int64)
        row = tl.load(bmu + samples) // cols
        weight = tl.load(
            factor + row[None, :] * rows + targets[:, None], mask=is_target[:, None] & is_sample[None, :], other=0.0
        )
        inverse = tl.load(inverse_z + samples)[:, None]
        latents = tl.load(
            z + samples[:, None] * z_stride + features[None, :] * z_step,
            mask=is_sample[:, None] & is_feature[None, :],
            other=0.0,
        ).to(tl.float32)
        total += tl.dot(weight, latents * inverse * DROP, input_precision=PRECISION)
    at = (((term * rows + targets).to(tl.int64) * cols + column) * dim)[:, None] + features[None, :]
    tl.store(spread + at, total, mask=is_target[:, None] & is_feature[None, :])


@triton.jit(do_not_specialize=["terms", "dim_splits"])
def project_kernel(
    grad_loss,  # fp32
    prototypes,  # [R * C, D], any strides
    inverse,  # [R * C] fp32
    col_factors,  # [terms, C, C] fp32
    spread,  # [terms, R, C, D] fp32
    # [R * C, D] fp32: the gradient before its projection, but for its factors; grad_prototypes itself where that is fp32
    pulled,
    grad_prototypes,  # [R * C, D] in the prototypes' dtype
    along,  # [dim_splits, R * C] fp32; not used where dim_splits is 1
    tickets,  # [R * column blocks] int32, zeros
    scale,  # minus that of the reduction
    rows,
    cols,
    dim,
    dim_splits,
    features_a_split,  # a multiple of BLOCK_D
    stride,
    step,
    terms,
    PRECISION: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """``g[r, c'] = sum of col_factors[t, c, c'] * spread[t, r, c]``, then its part along the prototype is taken away."""
    program = tl.program_id(0)
    dim_split = program % dim_splits
    block = program // dim_splits
    out_blocks = tl.cdiv(cols, BLOCK_OUT)
    outputs = (block % out_blocks * BLOCK_OUT + tl.arange(0, BLOCK_OUT)).to(tl.int64)
    row = (block // out_blocks).to(tl.int64)
    is_output = outputs < cols
    units = row * cols + outputs
    inverses = tl.load(inverse + units, mask=is_output, other=1.0)

    # No weight but zero is negligible: a gradient is divided by a length, and the shortest prototype may have the largest
    # gradient of all, however far it is from every BMU.
    low = cols  # of all terms together: for three of them as good as each one's own
    high = 0
    for term in range(terms):
        factors = col_factors + tl.cast(term, tl.int64) * cols * cols
        low_of_term, high_of_term = band(factors, 1, outputs, is_output, cols, cols, 0.0, BLOCK_IN)
        low = tl.minimum(low, low_of_term)
        high = tl.maximum(high, high_of_term)
    product = tl.zeros([BLOCK_OUT], tl.float32)
    first_feature = dim_split * features_a_split
    for start in range(first_feature, tl.minimum(first_feature + features_a_split, dim), BLOCK_D):
        features = (start + tl.arange(0, BLOCK_D)).to(tl.int64)
        inside = is_output[:, None] & (features < dim)[None, :]
        total = tl.zeros([BLOCK_OUT, BLOCK_D], tl.float32)
        for term in range(terms):
            factors = col_factors + tl.cast(term, tl.int64) * cols * cols
            source = spread + (tl.cast(term, tl.int64) * rows + row) * cols * dim + features[None, :]
            for first in range(low, high, BLOCK_IN):
                inputs = first + tl.arange(0, BLOCK_IN)
                is_input = inputs < cols
                weight = tl.load(
                    factors + inputs.to(tl.int64)[None, :] * cols + outputs[:, None],
                    mask=is_output[:, None] & is_input[None, :],
                    other=0.0,
                )
                x = tl.load(
                    source + inputs.to(tl.int64)[:, None] * dim, mask=is_input[:, None] & (features < dim)[None, :], other=0.0
                )
                total += tl.dot(weight, x, input_precision=PRECISION)
        unit = tl.load(prototypes + units[:, None] * stride + features[None, :] * step, mask=inside, other=0.0)
        product += tl.sum(unit.to(tl.float32) * inverses[:, None] * DROP * total, axis=1)
        tl.store(pulled + units[:, None] * dim + features[None, :], total, mask=inside)

    # What other threads stored is read below.
    tl.debug_barrier()
    count = rows * cols
    is_last = dim_splits == 1
    if dim_splits > 1:
        tl.store(along + tl.cast(dim_split, tl.int64) * count + units, product, mask=is_output)
        tl.debug_barrier()
        is_last = tl.atomic_add(tickets + block, 1) == dim_splits - 1
        tl.debug_barrier()
        if is_last:
            product = tl.zeros([BLOCK_OUT], tl.float32)
            for split in range(dim_splits):
                at = tl.cast(split, tl.int64) * count + units
                product += tl.load(along + at, mask=is_output, other=0.0, cache_modifier=".cg")
    if is_last:
        removed = tl.where(is_short(inverses), 0.0, product)[:, None]
        factor, more = two_factors(tl.load(grad_loss), scale, inverses)
        for start in range(0, dim, BLOCK_D):
            features = (start + tl.arange(0, BLOCK_D)).to(tl.int64)
            inside = is_output[:, None] & (features < dim)[None, :]
            at = units[:, None] * dim + features[None, :]
            total = tl.load(pulled + at, mask=inside, other=0.0, cache_modifier=".cg")
            unit = tl.load(prototypes + units[:, None] * stride + features[None, :] * step, mask=inside, other=0.0)
            grad = total - unit.to(tl.float32) * inverses[:, None] * DROP * removed
            grad = grad * factor[:, None] * more[:, None]
            tl.store(grad_prototypes + at, grad.to(grad_prototypes.dtype.element_ty), mask=inside)


def gradients(
    recording: Recording,
    grad_loss: Buffer,
    z: Buffer,
    prototypes: Buffer,
    inverse_z: Buffer,
    inverse_prototypes: Buffer,
    row_factors: Buffer,
    col_factors: Buffer,
    bmu: Buffer,
    order: Buffer,
    starts: Buffer,
    attraction: Buffer,
    scale: float,
    for_z: bool,
    for_prototypes: bool,
) -> None:
    """Results: gradients (B, D) and (K, D) in the dtype of their input, empty where not asked for; ``scale`` is that of the
    reduction."""
    (batch, dim), (terms, rows, _), cols, device = z.shape, row_factors.shape, col_factors.shape[1], z.device
    grad_z = recording.result(z.shape if for_z else (0,), z.dtype)
    grad_prototypes = recording.result(prototypes.shape if for_prototypes else (0,), prototypes.dtype)

    projection = configs.project(family(device))
    unit_blocks = rows * blocks(cols, projection["BLOCK_OUT"])
    # Features are split where units alone would leave multiprocessors idle.
    dim_blocks = blocks(dim, projection["BLOCK_D"])
    blocks_a_split = blocks(dim_blocks, min(dim_blocks, max(1, 2 * multiprocessors(device) // unit_blocks)))
    dim_splits = blocks(dim_blocks, blocks_a_split)
    tickets = recording.temporary((unit_blocks,), torch.int32)

    config = configs.spread(family(device), rows, dim)
    latent_programs = blocks(batch, config["LATENTS"]) if for_z else 0
    spread = recording.temporary((terms if for_prototypes else 0, rows * cols, dim), torch.float32)
    spread_programs = spread.shape[0] * cols * blocks(rows, config["BLOCK_R"]) * blocks(dim, config["BLOCK_D"])
    recording.launch(
        spread_kernel,
        latent_programs + spread_programs,
        grad_loss,
        z,
        inverse_z,
        row_factors,
        bmu,
        order,
        starts,
        attraction,
        grad_z,
        spread,
        tickets,
        -scale,
        latent_programs,
        batch,
        rows,
        cols,
        dim,
        unit_blocks,
        *z.stride(),
        PRECISION=precision(device),
        **config.options(),
    )
    if for_prototypes:
        in_place = prototypes.dtype == torch.float32
        recording.launch(
            project_kernel,
            unit_blocks * dim_splits,
            grad_loss,
            prototypes,
            inverse_prototypes,
            col_factors,
            spread,
            grad_prototypes if in_place else recording.temporary(prototypes.shape, torch.float32),
            grad_prototypes,
            recording.temporary((dim_splits if dim_splits > 1 else 0, rows * cols), torch.float32),
            tickets,
            -scale,
            rows,
            cols,
            dim,
            dim_splits,
            blocks_a_split * projection["BLOCK_D"],
            *prototypes.stride(),
            terms,
            PRECISION=precision(device),
            **projection.options(),
        )
