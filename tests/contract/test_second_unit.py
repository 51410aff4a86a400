"""The nearest two units by cosine: those of fp64, the lower index first on ties, in either place."""

from __future__ import annotations

import pytest
import torch
from helpers import BACKENDS, is_emulated, search, skip_unless_supported
from torch import Tensor
from torch.nn.functional import normalize

from vitsom_fast import find_bmu
from vitsom_fast.backends import cpu


def _skip_unless_in_fp64(backend: str) -> None:
    if is_emulated(backend):
        pytest.skip("in PyTorch operations: as torch")
    if BACKENDS[backend] != "cpu":
        pytest.skip("of eight candidates in fp32")


def _collapsed(z: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Prototypes that fp32 cannot tell apart."""
    return w[:1] + 1e-5 * z, w[:1] + 1e-5 * w


def _shifted(z: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Most of every row is its mean."""
    return 300 + z, 300 + w


def _in_order(z: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """A map along a bent line, and latents beside it."""
    place = torch.linspace(-1, 1, len(w))[:, None]
    w = w[:1] + place * w[-1:] + place.square() * z[:1]
    return w[torch.arange(len(z)) % len(w)] + 0.05 * z, w


KINDS = {"random": lambda z, w: (z, w), "collapsed": _collapsed, "shifted": _shifted, "in order": _in_order}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "shape", [(1, 2, 1), (40, 17, 3), (127, 300, 17), (100, 1000, 127), (30, 1100, 1000), (128, 700, 192)], ids=str
)
def test_both_are_those_of_fp64(backend: str, shape: tuple[int, int, int], kind: str, dtype: torch.dtype) -> None:
    _skip_unless_in_fp64(backend)
    skip_unless_supported(backend, dtype)
    batch, count, dim = shape
    z, w = (x.to(dtype) for x in KINDS[kind](torch.randn(batch, dim), torch.randn(count, dim)))
    two, distance = search(backend, z, w, k=2)
    cosine = normalize(z.double()) @ normalize(w.double()).T
    own = cosine.gather(1, two)
    assert (cosine.topk(2, dim=1).values - own).amax() <= 1e-12
    assert (two[:, 0] != two[:, 1]).all()
    assert (distance.double() - (1 - own)).abs().amax() <= 1e-6


@pytest.mark.parametrize(("count", "distinct"), [(17, 2), (127, 30), (1000, 300), (2159, 12)])
@pytest.mark.parametrize("dim", [1, 17, 127])
def test_equal_prototypes_come_in_the_order_of_their_indices(backend: str, count: int, distinct: int, dim: int) -> None:
    """Equal but for a power of two. Of the first's equals the second is the next one; where it has none, of the second's the
    first."""
    _skip_unless_in_fp64(backend)
    kinds = torch.randn(distinct, dim)
    if dim == 1:  # only the direction counts, and there are two
        kinds = kinds.sign()
    kind = torch.randint(distinct, (count,))
    kind[:-1:5] = kind[1::5][: len(kind[:-1:5])]
    two, _ = search(backend, torch.randn(300, dim), kinds[kind] * torch.exp2(torch.randint(-20, 20, (count, 1))), k=2)
    label = kinds[kind].sign()[:, 0] if dim == 1 else kind
    equal = label[two][:, :, None] == label  # [B, 2, K]
    equal[:, 1] &= torch.arange(count) != two[:, :1]
    assert torch.equal(equal.int().argmax(dim=2), two)
    has_an_equal = (label[two[:, :1]] == label).sum(dim=1) > 1
    assert torch.equal(label[two[:, 0]] == label[two[:, 1]], has_an_equal)


def test_to_a_row_of_zeros_all_are_as_near(backend: str) -> None:
    w = torch.randn(300, 64)
    w[:5] *= torch.tensor([torch.nan, 1.0, torch.inf, 0.0, 1.0])[:, None]
    z = torch.randn(70, 64)
    z[::7], z[1::7] = 0, torch.nan
    two, distance = search(backend, z, w, k=2)
    assert ((two >= 0) & (two < 300)).all()
    assert distance[1::7].isnan().all()
    _skip_unless_in_fp64(backend)
    assert (two[::7] == torch.tensor([1, 3])).all()
    assert (distance[::7] == 1).all()
    finite = torch.arange(70) % 7 > 1
    cosine = (normalize(z.double()) @ normalize(w.double()).T).nan_to_num(-torch.inf)[finite]
    assert torch.equal(two[finite], cosine.topk(2, dim=1).indices)


@pytest.mark.skipif(cpu.unavailable() is not None, reason="needs the CPU kernels")
@pytest.mark.parametrize("distance", ["cosine", "sqeuclidean", "euclidean"])
def test_the_kernels_search_once(distance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    right = cpu._cpu

    class Watched:
        """The compiled module, and what is asked of its search."""

        def __getattr__(self, name: str) -> object:
            return getattr(right, name)

        def find_bmu(self, problem: object, wanted: int, *rest: object) -> object:
            asked.append(wanted)
            return right.find_bmu(problem, wanted, *rest)

    monkeypatch.setattr(cpu, "_cpu", Watched())
    find_bmu(torch.randn(9, 5), torch.randn(12, 5), distance=distance, k=2, backend="cpu")
    assert asked == [2]


def test_equally_far_units_come_in_the_order_of_their_indices(backend: str) -> None:
    """Whole numbers, whose distances are the same in fp64: of the lifted rows they differ in the last bit."""
    _skip_unless_in_fp64(backend)
    z, w = torch.randint(-3, 4, (200, 6)).float(), torch.randint(-3, 4, (90, 6)).float()
    two, distance = search(backend, z, w, distance="sqeuclidean", k=2)
    assert ((distance[:, 0] < distance[:, 1]) | (two[:, 0] < two[:, 1])).all()
