"""Temperature and gamma over the steps of a training run."""

from __future__ import annotations

from itertools import pairwise

import pytest

from vitsom_fast import exponential_decay, linear_ramp


@pytest.mark.parametrize(("start", "stop"), [(8.0, 0.5), (0.1, 20.0), (3.0, 3.0)])
def test_decay_from_start_to_stop_by_a_constant_factor(start: float, stop: float) -> None:
    temperature = exponential_decay(start, stop, 11)
    values = [temperature(step) for step in range(11)]
    assert values[0] == pytest.approx(start)
    assert values[-1] == pytest.approx(stop)
    factor = (stop / start) ** 0.1
    assert [b / a for a, b in pairwise(values)] == pytest.approx([factor] * 10)


def test_decay_stays_at_its_ends() -> None:
    temperature = exponential_decay(8.0, 0.5, 11)
    assert temperature(10**9) == pytest.approx(0.5)
    assert temperature(-1) == pytest.approx(8.0)


def test_decay_of_one_step_is_start() -> None:
    assert exponential_decay(8.0, 0.5, 1)(0) == 8.0


def test_ramp() -> None:
    gamma = linear_ramp(0.4, 8)
    assert [gamma(step) for step in (-1, 0, 2, 4, 8, 100)] == pytest.approx([0, 0, 0.1, 0.2, 0.4, 0.4])


def test_values_are_floats() -> None:
    assert type(exponential_decay(8, 1, 5)(0)) is float
    assert type(linear_ramp(1, 5)(5)) is float
