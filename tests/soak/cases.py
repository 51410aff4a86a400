"""A case: all that decides one search and one step, as plain numbers and words, and the tensors that it stands for."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from soak.contents import BASES, TWISTS, Source
from soak.layouts import LATENT_LAYOUTS, LAYOUTS
from vitsom_fast import Grid

MODES = (
    "plain",
    "again",  # the same bits when repeated
    "poisoned",  # in memory that is NaN before it is written
    "no gradients",
    "gradient of z",
    "gradient of prototypes",
    "create_graph",
    "torch.func",
    "forward derivative",
    "autocast",
)

AXES = {"kept_latents": "batch", "kept_rows": "rows", "kept_cols": "cols", "kept_features": "dim"}

# What a case may have other than a plain one, dearest first.
SETTINGS = (
    "mode",
    "threads",
    "layout",
    "layout_of_prototypes",
    "pruning",
    "topology",
    "periodic",
    "temperature_is_tensor",
    "grad_output",
    "reduction",
    "temperature",
)

# Around the widths of registers, of tiles and of chains of products.
SIZES = (1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 48, 63, 64, 65, 95, 96, 97, 127, 128, 130, 192, 256, 300)
BATCHES = (100, 200, 400, 500, 512, 700, 1000)
DIMS = (*SIZES, 383, 384, 480, 512, 768, 1000, 1024, 3136, 4096)


@dataclass(frozen=True)
class Case:
    """``kept_*`` are the indices that are left of the inputs once a case was reduced; None for all of them."""

    seed: int
    backend: str = "cpu"
    dtype: str = "float32"
    dtype_of_prototypes: str = "float32"
    batch: int = 1
    rows: int = 1
    cols: int = 1
    dim: int = 1
    base: str = "random"
    twists: tuple[str, ...] = ()
    layout: str = "plain"
    layout_of_prototypes: str = "plain"
    topology: str = "rectangular"
    periodic: bool = False
    temperature: float = 1.0
    temperature_is_tensor: bool = False
    reduction: str = "mean"
    grad_output: float = 1.0
    mode: str = "plain"
    threads: int = 1
    pruning: str = "auto"
    kept_latents: tuple[int, ...] | None = None
    kept_rows: tuple[int, ...] | None = None
    kept_cols: tuple[int, ...] | None = None
    kept_features: tuple[int, ...] | None = None

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Case:
        given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return cls(**given)

    def but(self, **changes: Any) -> Case:
        return replace(self, **changes)

    def kept(self) -> tuple[list[int], ...]:
        """The indices along each of ``AXES`` that are left."""
        every = ((getattr(self, kept), getattr(self, size)) for kept, size in AXES.items())
        return tuple(list(range(size) if kept is None else kept) for kept, size in every)

    @property
    def sizes(self) -> tuple[int, ...]:
        """B, rows, cols and D of what is left."""
        return tuple(map(len, self.kept()))

    @property
    def grid(self) -> Grid:
        _, rows, cols, _ = self.sizes
        return Grid(rows, cols, self.topology, self.periodic)

    def __str__(self) -> str:
        batch, rows, cols, dim = self.sizes
        plain = Case(self.seed)
        settings = [f"{name}={getattr(self, name)!r}" for name in SETTINGS if getattr(self, name) != getattr(plain, name)]
        types = self.dtype if self.dtype == self.dtype_of_prototypes else f"{self.dtype} and {self.dtype_of_prototypes}"
        content = " + ".join((self.base, *self.twists))
        return f"{batch} latents, {rows} x {cols} units, {dim} features, {types}, {content}; {', '.join(settings) or 'plain'}"

    def inputs(self, device: str = "cpu") -> tuple[Tensor, Tensor]:
        """z (B, D) or (B, ...) and the prototypes (K, D), laid out in memory as the case says."""
        types = [getattr(torch, name) for name in (self.dtype, self.dtype_of_prototypes)]
        narrow = min((torch.finfo(dtype) for dtype in types), key=lambda limits: limits.max)
        source = Source(
            torch.Generator().manual_seed(self.seed),
            self.batch,
            self.rows,
            self.cols,
            self.dim,
            min(narrow.max, 1e300),
            narrow.tiny,
        )
        z, prototypes = BASES[self.base](source)
        for twist in self.twists:
            z, prototypes = TWISTS[twist](source, z, prototypes)
        latents, rows, cols, features = self.kept()
        z = z[latents][:, features]
        prototypes = prototypes.view(self.rows, self.cols, self.dim)[rows][:, cols][:, :, features].flatten(0, 1)
        z, prototypes = (_rounded(x, dtype).to(device) for x, dtype in zip((z, prototypes), types, strict=True))
        return LATENT_LAYOUTS[self.layout](z), LAYOUTS[self.layout_of_prototypes](prototypes)


def _rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """What is finite stays so."""
    largest = torch.finfo(dtype).max
    return torch.where(x.isfinite(), x.clamp(-largest, largest), x).to(dtype).contiguous()


def draw(seed: int, backend: str, threads: Sequence[int] = (1, 1, 2, 3, 5)) -> Case:
    """The case of this seed on a backend."""
    choose = random.Random(seed)
    batch, rows, cols, dim = _sizes(choose)
    topology, periodic = choose.choice(
        (("rectangular", False), ("rectangular", True), ("hexagonal", False), ("hexagonal", True))
    )
    if topology == "hexagonal" and periodic:
        rows += rows % 2
    types = ["float32"] * 4 + ["bfloat16", "float16"] + (["float64"] if backend in ("torch", "reference") else [])
    dtype = choose.choice(types)
    other = choose.choice(types) if choose.random() < 0.05 else dtype
    return Case(
        seed=seed,
        backend=backend,
        dtype=dtype,
        dtype_of_prototypes=other,
        batch=batch,
        rows=rows,
        cols=cols,
        dim=dim,
        base=choose.choice(list(BASES)),
        twists=tuple(choose.sample(list(TWISTS), choose.choice((0, 0, 1, 1, 1, 2)))),
        layout=choose.choice(list(LATENT_LAYOUTS)) if choose.random() < 0.4 else "plain",
        layout_of_prototypes=choose.choice(list(LAYOUTS)) if choose.random() < 0.4 else "plain",
        topology=topology,
        periodic=periodic,
        temperature=choose.choice((1e-25, 1e-3, 1e6, 10 ** choose.uniform(-1, 2.5), *(10 ** choose.uniform(-0.5, 1.2),) * 4)),
        temperature_is_tensor=choose.random() < 0.2,
        reduction=choose.choice(("mean", "batchmean", "sum")),
        grad_output=choose.choice((1.0, 1.0, 1.0, 65536.0, -0.01)),
        mode=choose.choice(("plain", "plain", *MODES)),
        threads=choose.choice(threads),
        pruning=choose.choice(("auto", "always", "never")),
    )


def _sizes(choose: random.Random) -> tuple[int, int, int, int]:
    """B, rows, cols, D, of any shape, but no more products than take some milliseconds; of twenty, one is much larger, and of
    fifty one is a map that is searched by groups of samples."""
    if choose.random() < 0.02:
        rows, cols = choose.choice(((32, 32), (33, 47), (127, 9), (1, 1500), (1100, 1), (3, 600), (45, 44)))
        return choose.choice((512, 513, 700, 1000)), rows, cols, choose.choice([dim for dim in SIZES if dim < 64])
    products = choose.choice((1e6, 3e6, 3e6)) if choose.random() < 0.95 else 5e7
    while True:
        batch = 0 if choose.random() < 0.01 else choose.choice((*SIZES, *BATCHES))
        rows, cols, dim = choose.choice(SIZES), choose.choice(SIZES), choose.choice(DIMS)
        if choose.random() < 0.1:
            rows, cols = choose.choice(((1, rows * cols), (rows * cols, 1)))
        units = rows * cols
        if max(rows, cols) <= 2000 and units * dim * max(batch, 10) <= products and batch * max(units, dim) <= products / 10:
            return batch, rows, cols, dim
