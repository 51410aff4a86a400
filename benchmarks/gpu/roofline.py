"""What a step asks of a GPU at least: bytes, operations and time of every kernel, on paper.

    python -m benchmarks.gpu.roofline [--workload large] [--dtype bf16] [--topology hexagonal]

One function a launch, named as its kernel begins and to be kept in step with kernels/. Each byte is moved once a launch, and
through device memory: what one launch leaves in the L2 for the next can beat that. Factors are dense: so can a kernel that
skips the zeros of a narrow one. The 2 to 3 microseconds of a launch itself, most of the time of a small map, are not in here.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vitsom_fast.kernels.context import keeps_weights

from benchmarks.harness.workloads import WORKLOADS, Workload

TERMS = {"rectangular": 1, "hexagonal": 3}  # separable terms of a Gaussian neighborhood
INPUT_BYTES = {"fp32": 4, "bf16": 2}
FP32 = 4  # bytes

# An fp32 operand is split into a high and a low half; the product of the two low ones is below fp32's last bit.
SPLIT_PRODUCTS = 3
PRODUCTS_OF_THIRDS = 6  # where a split in two has not the range: of bf16 thirds, those above fp32's last bit


@dataclass(frozen=True)
class Gpu:
    """Measured rates: bytes a second, and FLOP a second of tensor cores in bf16 or fp16 and of CUDA cores in fp32."""

    bandwidth: float
    bf16: float
    fp32: float = 60e12


H200 = Gpu(bandwidth=4.3e12, bf16=790e12)


@dataclass(frozen=True)
class Shape:
    """B latents and R x C prototypes of D features, stored in ``input_bytes`` each; ``terms`` of the neighborhood.

    ``certified``: an fp32 search is one fp16 product whose candidates are scored again, in place of the split product.
    """

    batch: int
    rows: int
    cols: int
    dim: int
    terms: int = 1
    input_bytes: int = FP32
    certified: bool = False

    @property
    def prototypes(self) -> int:
        return self.rows * self.cols

    @property
    def latent_elements(self) -> int:
        return self.batch * self.dim

    @property
    def prototype_elements(self) -> int:
        return self.prototypes * self.dim

    @property
    def search_products(self) -> int:
        return SPLIT_PRODUCTS if self.input_bytes == FP32 and not self.certified else 1

    @property
    def packed_bytes(self) -> int:
        """Of one element as the search reads it: fp16 high and low halves, or one 16-bit number."""
        return 4 if self.search_products == SPLIT_PRODUCTS else 2


@dataclass(frozen=True)
class Cost:
    """Of one launch: bytes of device memory, and FLOP by the unit that does them."""

    kernel: str
    bytes: float
    bf16: float = 0.0
    fp32: float = 0.0

    def seconds(self, gpu: Gpu) -> float:
        """Memory, tensor cores and CUDA cores work at the same time: the slowest of the three."""
        return max(self.bytes / gpu.bandwidth, self.bf16 / gpu.bf16, self.fp32 / gpu.fp32)

    def bound(self, gpu: Gpu) -> str:
        return "memory" if self.seconds(gpu) == self.bytes / gpu.bandwidth else "arithmetic"


def gaussian(s: Shape) -> Cost:
    """Row (terms, R, R) and column (terms, C, C) factors from the temperature: an offset, its square, a product, exp."""
    entries = s.terms * (s.rows**2 + s.cols**2)
    return Cost("gaussian", FP32 * entries, fp32=4 * entries)


def prepare(s: Shape) -> Cost:
    """Norms, and unit rows packed for the search."""
    rows, elements = s.batch + s.prototypes, s.latent_elements + s.prototype_elements
    return Cost("prepare", (s.input_bytes + s.packed_bytes) * elements + FP32 * rows, fp32=3 * elements)


def search(s: Shape) -> Cost:
    """The B x K x D product with an argmax for an epilogue; 8 bytes of packed maximum a row."""
    operands = s.packed_bytes * (s.latent_elements + s.prototype_elements)
    return Cost("search", operands + 8 * s.batch, bf16=s.search_products * 2 * s.batch * s.prototype_elements)


def smooth(s: Shape) -> Cost:
    """X1 (terms, R, C, D): unit prototypes smoothed along columns."""
    bytes_moved = (s.input_bytes + FP32 * s.terms) * s.prototype_elements + FP32 * (s.prototypes + s.terms * s.cols**2)
    return Cost("smooth", bytes_moved, bf16=SPLIT_PRODUCTS * _column_products(s))


def group(s: Shape) -> Cost:
    """Packed maxima in; BMU (int64), and the order of the samples by column, out."""
    return Cost("group", (8 + 8 + 4) * s.batch)


def attraction(s: Shape) -> Cost:
    """Every sample's row of the row factor times the column of X1 that its BMU is in; and the loss."""
    columns = min(s.cols, s.batch)  # that have a sample
    smoothed = FP32 * s.terms * s.rows * columns * s.dim
    return Cost("attraction", smoothed + (s.input_bytes + FP32) * s.latent_elements, fp32=_row_products(s))


def spread(s: Shape) -> Cost:
    """Gradient for z; and T1 (terms, R, C, D), the unit latents spread along the rows of their columns."""
    latents = (s.input_bytes + FP32 + s.input_bytes) * s.latent_elements  # z and attraction in, gradient out
    moved = latents + FP32 * s.terms * s.prototype_elements
    return Cost("spread", moved, bf16=PRODUCTS_OF_THIRDS * _row_products(s))


def project(s: Shape) -> Cost:
    """T1 smoothed along columns, then projected through the normalisation: the gradient for the prototypes."""
    moved = (FP32 * s.terms + 2 * s.input_bytes) * s.prototype_elements
    return Cost("project", moved, bf16=PRODUCTS_OF_THIRDS * _column_products(s))


def weights(s: Shape) -> Cost:
    """Of all units as seen from every BMU, out of the factors; and the BMUs."""
    pairs = s.batch * s.prototypes
    return Cost("weights", FP32 * pairs + 16 * s.batch, fp32=2 * s.terms * pairs)


def dense_attraction(s: Shape) -> Cost:
    """Weights (B, K) times the unit prototypes as seen from the centre; and the loss."""
    read = FP32 * s.batch * s.prototypes + s.input_bytes * (s.prototype_elements + s.latent_elements)
    products = SPLIT_PRODUCTS * 2.0 * s.batch * s.prototype_elements
    return Cost("dense_attraction", read + FP32 * s.latent_elements, bf16=products)


def dense_pull(s: Shape) -> Cost:
    """Gradient for z; and weights (K, B) times the unit latents, with its product with the prototypes."""
    latents = (s.input_bytes + FP32 + s.input_bytes) * s.latent_elements  # z and attraction in, gradient out
    read = FP32 * s.batch * s.prototypes + s.input_bytes * s.prototype_elements
    moved = latents + read + FP32 * s.prototype_elements
    return Cost("dense_pull", moved, bf16=SPLIT_PRODUCTS * 2.0 * s.batch * s.prototype_elements)


def dense_project(s: Shape) -> Cost:
    """The pull and the prototypes in, the gradient for the prototypes out."""
    return Cost("dense_project", (FP32 + 2 * s.input_bytes) * s.prototype_elements)


def distance(s: Shape) -> Cost:
    """Of a search alone: BMU (int64) and distance (fp32) from the maxima, the latents and their prototypes."""
    rows = s.input_bytes * s.dim * (s.batch + min(s.batch, s.prototypes))
    return Cost("distance", rows + (8 + 8 + FP32) * s.batch, fp32=2 * s.latent_elements)


def _column_products(s: Shape) -> float:
    return 2.0 * s.terms * s.cols * s.prototype_elements


def _row_products(s: Shape) -> float:
    return 2.0 * s.terms * s.rows * s.latent_elements


SEARCH: tuple[Callable[[Shape], Cost], ...] = (prepare, search, distance)
FACTORISED = (gaussian, prepare, search, smooth, group, attraction, spread, project)
DENSE = (gaussian, prepare, search, weights, dense_attraction, dense_pull, dense_project)
OPERATIONS = ("search", "step")


def shape_of(workload: Workload, dtype: str, topology: str = "rectangular", certified: bool = False) -> Shape:
    """``dtype``: "fp32" or "bf16"."""
    return Shape(workload.batch, workload.rows, workload.cols, workload.dim, TERMS[topology], INPUT_BYTES[dtype], certified)


def costs(operation: str, shape: Shape) -> list[Cost]:
    """Of every launch of "search" or "step", in their order."""
    step = DENSE if keeps_weights(shape.batch, shape.prototypes) else FACTORISED
    return [kernel(shape) for kernel in (SEARCH if operation == "search" else step)]


def floor(operation: str, shape: Shape, gpu: Gpu) -> float:
    """Seconds: launches follow one another, so their floors add up."""
    return sum(cost.seconds(gpu) for cost in costs(operation, shape))


def render(name: str, shape: Shape, gpu: Gpu) -> str:
    """The step of one workload, a line for each launch, and the totals of search and step."""
    step = costs("step", shape)
    lines = [f"{name}: B {shape.batch}, {shape.rows} x {shape.cols} x {shape.dim}, {len(step)} launches"]
    lines.append(f"  {'kernel':<18}{'MB':>10}{'bf16 GFLOP':>13}{'fp32 GFLOP':>13}{'floor us':>11}  bound")
    for cost in step:
        gflop = "".join(f"{flop / 1e9:>13.2f}" for flop in (cost.bf16, cost.fp32))
        microseconds = cost.seconds(gpu) * 1e6
        lines.append(f"  {cost.kernel:<18}{cost.bytes / 1e6:>10.2f}{gflop}{microseconds:>11.1f}  {cost.bound(gpu)}")
    totals = (f"{operation} {floor(operation, shape, gpu) * 1e6:.1f} us" for operation in OPERATIONS)
    return "\n".join([*lines, f"  total: {', '.join(totals)}"])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    workloads = {name: workload for name, workload in WORKLOADS.items() if not workload.organised and name != "tiny"}
    parser.add_argument("--workload", choices=workloads, help="default: all")
    parser.add_argument("--dtype", choices=INPUT_BYTES, help="default: all")
    parser.add_argument("--topology", choices=TERMS, default="rectangular")
    parser.add_argument("--certified", action="store_true", help="fp32 search as one fp16 product and rescoring")
    parser.add_argument("--bandwidth", type=float, default=H200.bandwidth / 1e12, help="TB/s (default: %(default)s, an H200)")
    parser.add_argument("--bf16", type=float, default=H200.bf16 / 1e12, help="TFLOP/s (default: %(default)s, an H200)")
    options = parser.parse_args(arguments)
    gpu = Gpu(options.bandwidth * 1e12, options.bf16 * 1e12)
    print(f"{gpu.bandwidth / 1e12:g} TB/s, TFLOP/s: bf16 {gpu.bf16 / 1e12:g}, fp32 {gpu.fp32 / 1e12:g}")
    for name in [options.workload] if options.workload else workloads:
        for dtype in [options.dtype] if options.dtype else INPUT_BYTES:
            shape = shape_of(workloads[name], dtype, options.topology, options.certified)
            print(f"\n{render(f'{name} {dtype}', shape, gpu)}")


if __name__ == "__main__":
    main()
