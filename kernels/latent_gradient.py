"""The gradient of the latents: the attraction, projected through the normalisation."""

import triton
import triton.language as tl
from vitsom_fast.kernels.prepare import EPS


@triton.jit
def latent_gradient(
    factor, z, norm_z, attraction, grad_z, samples, batch, dim, z_stride, z_step, LATENTS: tl.constexpr, FEATURES: tl.constexpr
):
    """``grad_z`` of these samples; ``factor`` is the gradient of the loss times minus the scale of the reduction."""
    is_sample = samples < batch
    norm = tl.load(norm_z + samples, mask=is_sample, other=1.0)
    length = tl.maximum(norm, EPS, propagate_nan=tl.PropagateNan.ALL)[:, None]
    at = samples.to(tl.int64)[:, None]
    product = tl.zeros([LATENTS, FEATURES], tl.float32)
    for first in range(0, dim, FEATURES):
        features = (first + tl.arange(0, FEATURES)[None, :]).to(tl.int64)
        inside = is_sample[:, None] & (features < dim)
        unit = tl.load(z + at * z_stride + features * z_step, mask=inside, other=0.0).to(tl.float32) / length
        product += unit * (tl.load(attraction + at * dim + features, mask=inside, other=0.0) * factor)
    # Below eps x / max(|x|, eps) is linear: nothing is projected away.
    along = tl.where(norm < EPS, 0.0, tl.sum(product, axis=1))[:, None]
    for first in range(0, dim, FEATURES):
        features = (first + tl.arange(0, FEATURES)[None, :]).to(tl.int64)
        inside = is_sample[:, None] & (features < dim)
        unit = tl.load(z + at * z_stride + features * z_step, mask=inside, other=0.0).to(tl.float32) / length
        pull = tl.load(attraction + at * dim + features, mask=inside, other=0.0) * factor
        tl.store(grad_z + at * dim + features, ((pull - unit * along) / length).to(grad_z.dtype.element_ty), mask=inside)
