"""The gradient of the latents: the attraction, projected through the normalisation."""

import triton
import triton.language as tl
from vitsom_fast.kernels.common.unit import DROP, is_short, two_factors


@triton.jit
def latent_gradient(
    grad_loss,
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
    LATENTS: tl.constexpr,
    FEATURES: tl.constexpr,
):
    """``grad_z`` of these samples, for the gradient of the loss (a number); ``scale`` is minus that of the reduction."""
    is_sample = samples < batch
    inverse = tl.load(inverse_z + samples, mask=is_sample, other=1.0)
    at = samples.to(tl.int64)[:, None]
    product = tl.zeros([LATENTS, FEATURES], tl.float32)
    for first in range(0, dim, FEATURES):
        features = (first + tl.arange(0, FEATURES)[None, :]).to(tl.int64)
        inside = is_sample[:, None] & (features < dim)
        unit = tl.load(z + at * z_stride + features * z_step, mask=inside, other=0.0).to(tl.float32) * inverse[:, None] * DROP
        product += unit * tl.load(attraction + at * dim + features, mask=inside, other=0.0)
    along = tl.where(is_short(inverse), 0.0, tl.sum(product, axis=1))[:, None]
    factor, more = two_factors(grad_loss, scale, inverse)
    for first in range(0, dim, FEATURES):
        features = (first + tl.arange(0, FEATURES)[None, :]).to(tl.int64)
        inside = is_sample[:, None] & (features < dim)
        unit = tl.load(z + at * z_stride + features * z_step, mask=inside, other=0.0).to(tl.float32) * inverse[:, None] * DROP
        pull = tl.load(attraction + at * dim + features, mask=inside, other=0.0)
        gradient = (pull - unit * along) * factor[:, None] * more[:, None]
        tl.store(grad_z + at * dim + features, gradient.to(grad_z.dtype.element_ty), mask=inside)
