"""Temperature and gamma over the steps of a training run."""

from __future__ import annotations

import pickle
from itertools import pairwise

import pytest

from vitsom_fast import asymptotic_decay, constant, exponential_decay, inverse_decay, linear_decay, linear_ramp


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


def test_linear_decay() -> None:
    temperature = linear_decay(8.0, 2.0, 4)
    assert [temperature(step) for step in (-1, 0, 1, 2, 3, 9)] == pytest.approx([8, 8, 6, 4, 2, 2])
    assert linear_decay(8.0, 2.0, 1)(0) == 8.0


def test_inverse_decay_is_linear_in_its_inverse() -> None:
    temperature = inverse_decay(8.0, 2.0, 4)
    assert [1 / temperature(step) for step in (-1, 0, 1, 2, 3, 9)] == pytest.approx([1 / 8, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 1 / 2])


def test_asymptotic_decay() -> None:
    temperature = asymptotic_decay(9.0, 10)
    assert [temperature(step) for step in (-1, 0, 5, 10, 40)] == pytest.approx([9, 9, 4.5, 3, 1])


def test_constant() -> None:
    assert [constant(3)(step) for step in (0, 7)] == [3.0, 3.0]
    assert type(constant(3)(0)) is float


@pytest.mark.parametrize(
    "schedule", [linear_decay(3, 1, 5), inverse_decay(3, 1, 5), asymptotic_decay(3, 5), constant(2), exponential_decay(3, 1, 5)]
)
def test_schedules_can_be_pickled(schedule: object) -> None:
    again = pickle.loads(pickle.dumps(schedule))
    assert [again(step) for step in range(6)] == [schedule(step) for step in range(6)]  # type: ignore[operator]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: linear_decay(0.0, 1.0, 5), "start must be positive, got 0.0"),
        (lambda: inverse_decay(1.0, -2.0, 5), "stop must be positive, got -2.0"),
        (lambda: asymptotic_decay(1.0, 0), "total_steps must be at least 1, got 0"),
        (lambda: constant(float("nan")), "value must be finite, got nan"),
        (lambda: constant(-1.0), "value must be positive, got -1.0"),
    ],
)
def test_what_is_no_schedule_is_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
