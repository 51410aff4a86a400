"""From a case that fails to the smallest that still does, in the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from soak.cases import AXES, SETTINGS, Case


def reduce(case: Case, fails: Callable[[Case], bool], most: int = 1000) -> Case:
    """Deterministic: tries at most so many smaller cases in a fixed order, and goes on from the first that still fails."""
    tried = 0
    smaller = _smaller(case)
    while tried < most and (candidate := next(smaller, None)) is not None:
        tried += 1
        if fails(candidate):
            case = candidate
            smaller = _smaller(case)
    return case


def _smaller(case: Case) -> Iterator[Case]:
    """Each a step simpler; a grid that cannot be is left out."""
    for candidate in (*_halved(case), *_simpler(case), *_thinned(case)):
        if candidate != case and _is_possible(candidate):
            yield candidate


def _simpler(case: Case) -> Iterator[Case]:
    plain = Case(case.seed)
    for name in SETTINGS:
        yield case.but(**{name: getattr(plain, name)})
    yield case.but(dtype="float32", dtype_of_prototypes="float32")
    yield case.but(dtype_of_prototypes=case.dtype)
    for twist in case.twists:
        yield case.but(twists=tuple(other for other in case.twists if other != twist))
    yield case.but(base="random")


def _halved(case: Case) -> Iterator[Case]:
    for name, kept in zip(AXES, case.kept(), strict=True):
        half = len(kept) // 2
        if half:
            yield case.but(**{name: tuple(kept[:half])})
            yield case.but(**{name: tuple(kept[half:])})


def _thinned(case: Case) -> Iterator[Case]:
    """Without a quarter, an eighth ... of an axis."""
    for name, kept in zip(AXES, case.kept(), strict=True):
        size = max(1, len(kept) // 4)
        while size:
            for start in range(0, len(kept), size):
                yield case.but(**{name: tuple(kept[:start] + kept[start + size :])})
            size //= 2


def _is_possible(case: Case) -> bool:
    _, rows, cols, dim = case.sizes
    return min(rows, cols, dim) > 0 and not (case.periodic and case.topology == "hexagonal" and rows % 2)
