"""Block sizes, warps and pipeline stages of every kernel, by architecture and size: reasoned, not searched for at run time.

An architecture belongs to a family: "ampere" (sm_80 to sm_89), "hopper" (sm_90), "blackwell" (sm_100 and later), "cdna" (gfx9).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Config:
    """The constexpr block sizes of one launch and how it is compiled."""

    blocks: dict[str, int]
    num_warps: int = 4
    num_stages: int = 2
    max_registers: int = 0  # a thread; 0 leaves it to the compiler

    def __hash__(self) -> int:
        return hash((*self.blocks.items(), self.num_warps, self.num_stages, self.max_registers))

    def __getitem__(self, block: str) -> int:
        return self.blocks[block]

    @property
    def is_resident(self) -> bool:
        """Of a search: whether it keeps its latents in shared memory."""
        return "BLOCKS" in self.blocks

    def options(self) -> dict[str, Any]:
        """What a launch takes beside its arguments."""
        limit = {"maxnreg": self.max_registers} if self.max_registers else {}
        return {**self.blocks, "num_warps": self.num_warps, "num_stages": self.num_stages, **limit}


FAMILIES = ("ampere", "hopper", "blackwell", "cdna")


def family(backend: str, architecture: int | str) -> str:
    """The family of a Triton target: ("cuda", 90) or ("hip", "gfx942")."""
    if backend == "hip":
        return "cdna"
    capability = int(architecture)
    return "ampere" if capability < 90 else "hopper" if capability < 100 else "blackwell"


def precision(family: str) -> str:
    """How fp32 operands of the backward smoothing are multiplied: six products of bf16 thirds, or CDNA's own fp32 matrix
    instruction. On an H200 that takes 0.89 (spread) and 0.75 (project) of the time of three TF32 products."""
    return "ieee" if family == "cdna" else "bf16x6"


def padded_dim(dim: int) -> int:
    """Features of the operands, whole blocks of every search kernel: 32 or a multiple of 64."""
    return 32 if dim <= 32 else -(-dim // 64) * 64


def is_resident(family: str, split: bool, dim: int) -> bool:
    """Whether the search keeps 128 latents in shared memory with room for prototypes beside them: of 227 KB, two halves of 192
    features take 96, one half of 256 takes 64. On Blackwell the running best of a tile spills (112 bytes a thread)."""
    return family == "hopper" and dim <= (192 if split else 256)


def search_resident(split: bool, dim: int) -> Config:
    """128 latents: at the peak of an H200's tensor cores the prototypes then take 32 bytes a cycle and multiprocessor from the
    second-level cache, which 64 would double. With two halves only 64 prototypes fit beside them, twice."""
    block_d = min(64, padded_dim(dim))
    blocks = {"BLOCK_B": 128, "BLOCK_K": 64 if split else 128, "BLOCK_D": block_d, "BLOCKS": padded_dim(dim) // block_d}
    return Config(blocks, num_warps=8, num_stages=2 if split or dim > 192 else 3)


def search_streaming(family: str, split: bool, dim: int, few_tiles: bool) -> Config:
    """Tiles of 128 x 128; of 64 x 64 where those would leave multiprocessors idle."""
    tile = 64 if few_tiles else 128
    wide = padded_dim(dim) >= 64 and (family in ("hopper", "blackwell") or not split)
    # Two halves of both operands take 64 KB a stage: three of them in Hopper's shared memory (192 of 227 KB), two in
    # Blackwell's, where the compiler makes one less than the stages.
    stages = 2 if family == "cdna" else 3
    blocks = {"BLOCK_B": tile, "BLOCK_K": tile, "BLOCK_D": 64 if wide else 32}
    # By itself ptxas stops at 80 registers for 128 x 64 on sm_100, and spills.
    most = _all_registers(family) if family == "blackwell" and not split else 0
    return Config(blocks, num_warps=4 if few_tiles else 8, num_stages=stages, max_registers=most)


def search(family: str, split: bool, batch: int, count: int, dim: int, multiprocessors: int) -> Config:
    """The form and the tiles for a search of ``batch`` rows among ``count``."""
    if is_resident(family, split, dim):
        return search_resident(split, dim)
    few_tiles = -(-batch // 128) * -(-count // 128) < multiprocessors
    return search_streaming(family, split, dim, few_tiles)


def with_tile(config: Config, **blocks: int) -> Config:
    """A configuration with some of its blocks of another size."""
    return replace(config, blocks={**config.blocks, **blocks})


def search_candidates(family: str, split: bool, dim: int) -> list[Config]:
    """What autotuning tries, the fixed choices among them."""
    fixed = [search_streaming(family, split, dim, few_tiles) for few_tiles in (False, True)]
    candidates = list(fixed)
    if fixed[0]["BLOCK_D"] == 64:  # with 32 features, 128 x 64 spill on sm_100
        candidates += [with_tile(fixed[0], BLOCK_K=64), with_tile(fixed[0], BLOCK_B=64)]
    if is_resident(family, split, dim):
        candidates.append(search_resident(split, dim))
    return candidates


def group_maxima(family: str, dim: int) -> Config:
    """As a streaming search with one product."""
    return search_streaming(family, False, dim, few_tiles=False)


def rescore() -> Config:
    return Config({"BLOCK": 1024, "BLOCK_D": 128})


def _row_block(dim: int) -> int:
    return 64 if dim <= 64 else 256 if dim <= 256 else 1024


def prepare(dim: int) -> Config:
    """2048 elements a program, whole rows where they are short; long rows one by one, 4096 features at a time: 11 us, not 16,
    for 1728 rows of 3136 on an H200."""
    if dim > 1024:
        return Config({"ROWS": 1, "BLOCK_D": 4096}, num_warps=8)
    return _few_rows(dim)


def _few_rows(dim: int) -> Config:
    return Config({"ROWS": 2048 // _row_block(dim), "BLOCK_D": _row_block(dim)})


def longest(dim: int) -> Config:
    """Rows as many as the prototypes that the centre is made of: both are read with the same loads."""
    return Config({"ROWS": 16, "BLOCK_D": min(128, _row_block(dim))})


def distance(dim: int) -> Config:
    return _few_rows(dim)


def gaussian() -> Config:
    return Config({"BLOCK": 1024})


def group() -> Config:
    """4096 samples, 32 KB of keys, in one go: 4.5 us on an H200 where 1024 at a time took 10.5."""
    return Config({"BLOCK": 4096}, num_warps=8)


def sort_units() -> Config:
    """Of 4096 samples on 128 columns, 32 are in each: a warp looks at 128 at a time."""
    return Config({"BLOCK": 128}, num_warps=1)


def sum_units(dim: int) -> Config:
    """Few samples at a time, for most units have few."""
    return Config({"BLOCK_B": 8, "BLOCK_D": 64 if dim <= 64 else 128})


def _side(size: int) -> int:
    """Units of a side of the grid that a program takes."""
    return 16 if size <= 16 else 64


def _features(dim: int) -> int:
    return 32 if dim <= 32 else 64


def smooth(family: str, cols: int, dim: int) -> Config:
    blocks = {"BLOCK_OUT": _side(cols), "BLOCK_D": _features(dim)}
    return Config(blocks, num_stages=3, max_registers=_all_registers(family))


def weights() -> Config:
    return Config({"BLOCK_B": 4, "BLOCK_K": 256})


def dense_attraction(family: str, dim: int) -> Config:
    """32 samples: with more of them a small batch leaves multiprocessors idle."""
    blocks = {"BLOCK_B": 32, "BLOCK_D": _features(dim)}
    return Config(blocks, num_stages=3, max_registers=_all_registers(family))


def dense_pull(family: str, dim: int) -> Config:
    latents = {"LATENTS": 1024 // _row_block(dim), "FEATURES": _row_block(dim)}
    blocks = {**latents, "BLOCK_K": 64, "BLOCK_D": _features(dim)}
    return Config(blocks, num_stages=3, max_registers=_all_registers(family))


def dense_project(dim: int) -> Config:
    return _few_rows(dim)


def _all_registers(family: str) -> int:
    """ptxas is told that it may take them: by itself it stops at 64 to 128, and spills."""
    return 0 if family == "cdna" else 255


def attraction(family: str, dim: int) -> Config:
    """16 samples: with more of them most programs would read several columns of the map for a few samples each. 32 rows spill
    on sm_100."""
    blocks = {"BLOCK_B": 16, "BLOCK_R": 16 if family == "blackwell" else 32, "BLOCK_D": _features(dim)}
    return Config(blocks, num_stages=3, max_registers=_all_registers(family))


def spread(family: str, rows: int, dim: int) -> Config:
    latents = {"LATENTS": 1024 // _row_block(dim), "FEATURES": _row_block(dim)}
    # 32 rows for small grids: with 16, ptxas for sm_80 and sm_90 spills 8 bytes.
    blocks = {**latents, "BLOCK_R": max(32, _side(rows)), "BLOCK_B": 16, "BLOCK_D": _features(dim)}
    return Config(blocks, max_registers=_all_registers(family))


def project(family: str) -> Config:
    """64 columns: three quarters of the time of 32 on an H200. On Ampere they spill, and on Hopper so do three stages."""
    if family == "ampere":
        return Config({"BLOCK_OUT": 32, "BLOCK_IN": 32, "BLOCK_D": 64}, num_stages=3)
    if family == "hopper":
        return Config({"BLOCK_OUT": 64, "BLOCK_IN": 16, "BLOCK_D": 64}, num_stages=2)
    return Config({"BLOCK_OUT": 64, "BLOCK_IN": 32, "BLOCK_D": 64}, num_stages=3)


def smooth_axis(family: str, count: int, dim: int) -> Config:
    """As the projection, but for short axes and few features; with 128 registers three of them spill 8 bytes on sm_80."""
    wide = project(family)
    blocks = {**wide.blocks, "BLOCK_OUT": min(_side(count), wide["BLOCK_OUT"]), "BLOCK_D": _features(dim)}
    return replace(wide, blocks=blocks, max_registers=_all_registers(family))


# Samples or units of a tile of pairs: fewer numbers than there are threads, so that each thread loads those that it needs and
# none are passed on through shared memory.
PAIR_TILE = 64
# Programs for every multiprocessor, where there is work for so many.
PAIR_PROGRAMS = 8


def pair_dim(dim: int) -> int:
    """Features of padded rows."""
    return -(-dim // 16) * 16


def pair_copy(dim: int) -> Config:
    return Config({"TILE": PAIR_TILE, "BLOCK_D": _pair_features(dim)})


def pairs(family: str) -> Config:
    return Config({"TILE": PAIR_TILE}, num_warps=8, num_stages=1, max_registers=_pair_registers(family))


def pulled(family: str, dim: int) -> Config:
    blocks = {"TILE": PAIR_TILE, "BLOCK_D": _pair_features(dim)}
    return Config(blocks, num_warps=8, num_stages=1, max_registers=_pair_registers(family))


def add_parts() -> Config:
    return Config({"BLOCK": 1024})


def merge_keys() -> Config:
    return Config({"BLOCK": 256})


def _pair_features(dim: int) -> int:
    return 16 if dim <= 16 else _features(dim)


def _pair_registers(family: str) -> int:
    """128: two programs at a time on a multiprocessor; ptxas would take more, to load far ahead. On sm_80 they spill."""
    return {"cdna": 0, "ampere": 255}.get(family, 128)
