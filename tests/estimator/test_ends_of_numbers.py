"""Data at the edges of what numbers hold, of which some are missing, and of any weight."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import datasets
from sklearn.utils import check_random_state
from test_fit import Array, blobs

from vitsom_fast import SOM, Grid, batch_update


def holed() -> Array:
    random = np.random.default_rng(0)
    x = np.c_[random.normal(size=2000) * 3, random.normal(size=2000) * 2, random.normal(size=(2000, 4))]
    x[random.random(x.shape) < 0.2] = np.nan
    x[0] = np.nan
    x[0, 0] = 0
    return x


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("order", [1, -1])
def test_the_plane_of_rows_with_holes(offset: float, order: int) -> None:
    """It is that of the covariance about the mean, wherever the data lie and whatever row comes first."""
    som = SOM(3, 1, missing="ignore", n_epochs=1, sigma_initial=1e-3, sigma_final=1e-3)
    begin = _start(som, holed()[::order] + offset)
    axis = (begin[0] - begin[2]) / 2
    np.testing.assert_allclose(np.abs(axis), [3, 0, 0, 0, 0, 0], atol=0.35)
    np.testing.assert_allclose(axis, (lambda b: (b[0] - b[2]) / 2)(_start(som, holed())), atol=1e-5)


def _start(som: SOM, x: Array) -> Array:
    from vitsom_fast.estimator.moments import start

    begin = start(som._rows(x, reset=True), som.grid, som.metric, "pca", check_random_state(0), 512)
    return begin.frame.given(begin.prototypes.double()).numpy()


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_rows_without_a_number_count_for_nothing(metric: str) -> None:
    x = blobs(60)
    empty = np.concatenate([x[:7], np.full((2, 4), np.nan), x[7:]])
    som, expected = (SOM(3, 3, metric=metric, missing="ignore", n_epochs=3).fit(rows) for rows in (empty, x))
    np.testing.assert_allclose(som.prototypes_, expected.prototypes_, atol=1e-6)
    np.testing.assert_allclose(som.history_, expected.history_, rtol=1e-5)
    assert som.quantization_error(empty) == pytest.approx(expected.quantization_error(x), rel=1e-5)
    assert som.topographic_error(empty) == pytest.approx(expected.topographic_error(x), abs=1e-6)
    with pytest.raises(ValueError, match="X must have a row"):
        som.partial_fit(empty[7:9])


@pytest.mark.parametrize(("data", "side"), [("breast cancer", 4), ("digits", 6), ("blobs", 5), ("many blobs", 10)])
def test_a_fifth_missing_is_a_twentieth_at_most(data: str, side: int) -> None:
    """Of the error on all numbers, where a unit has rows enough to make a mean of what they have."""
    x = {
        "breast cancer": lambda: datasets.load_breast_cancer().data,
        "digits": lambda: datasets.load_digits().data,
        "blobs": lambda: blobs(1000, 8),
        "many blobs": lambda: blobs(3000, 20),
    }[data]()
    x = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-9)
    holes = np.where(np.random.default_rng(0).random(x.shape) < 0.2, np.nan, x)
    whole = SOM(side, side, n_epochs=10).fit(x).quantization_error(x)
    partly = SOM(side, side, n_epochs=10, missing="ignore").fit(holes).quantization_error(x)
    assert partly < 1.05 * whole


@pytest.mark.parametrize("scale", [1e-310, 1e-40, 1e39, 1e300])
@pytest.mark.parametrize("init", ["pca", "sample"])
def test_weights_are_right_up_to_a_factor(scale: float, init: str) -> None:
    x, weight = blobs(60), np.random.default_rng(1).random(60)
    one, other = (
        SOM(3, 3, n_epochs=3, init=init, random_state=0).fit(x, sample_weight=weight * factor) for factor in (1.0, scale)
    )
    np.testing.assert_allclose(other.prototypes_, one.prototypes_, atol=1e-5)
    np.testing.assert_allclose(other.history_, one.history_, rtol=1e-5)
    assert other.quantization_error(x, weight * scale) == pytest.approx(one.quantization_error(x, weight), rel=1e-5)


@pytest.mark.parametrize("scale", [1e-38, 1e38])
def test_weights_of_an_update_are_right_up_to_a_factor(scale: float) -> None:
    x, weight = torch.from_numpy(blobs(20)).float(), torch.rand(20, generator=torch.Generator().manual_seed(0)) + 1
    updated = [
        batch_update(x, x[:6], Grid(2, 3), 1.0, sample_weight=weight * factor, backend="torch")[0] for factor in (1.0, scale)
    ]
    torch.testing.assert_close(*updated)


@pytest.mark.parametrize("scale", [1e-170, 1e-100, 1e100, 1e150])
@pytest.mark.parametrize("metric", ["euclidean", "manhattan"])
def test_a_map_that_is_one_place(scale: float, metric: str) -> None:
    x = blobs(50)
    plain, scaled = (SOM(1, 1, metric=metric, n_epochs=1).fit(x * factor) for factor in (1.0, scale))
    assert scaled.quantization_error(x * scale) / scale == pytest.approx(plain.quantization_error(x), rel=1e-5)
    np.testing.assert_allclose(scaled.transform(x * scale) / scale, plain.transform(x), rtol=1e-6)
    twice = SOM.from_prototypes(np.repeat(scaled.prototypes_, 2, axis=0), 1, 2, metric=metric)
    assert twice.quantization_error(x * scale) / scale == pytest.approx(plain.quantization_error(x), rel=1e-5)


@pytest.mark.parametrize("scale", [1e-13, 1e-200, 1e60, 1e160])
def test_directions_are_all_that_the_cosine_sees(scale: float) -> None:
    x = blobs(40)
    som, far = (SOM.from_prototypes(x[:12] * factor, 3, 4, metric="cosine") for factor in (1.0, max(scale, 1e-5)))
    np.testing.assert_array_equal(far.predict(x), som.predict(x))
    np.testing.assert_allclose(far.transform(x), som.transform(x), atol=1e-12)
    nearest = som.transform(x * scale).min(axis=1)
    assert som.quantization_error(x * scale) == pytest.approx(nearest.mean(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("dtype", "scale"), [(np.float32, 1e-40), (np.float64, 1e-160), (np.float64, 1e-290), (np.float64, 1e290)]
)
@pytest.mark.parametrize("init", ["pca", "random", "sample"])
def test_data_near_the_ends_of_their_dtype(dtype: type, scale: float, init: str) -> None:
    x = blobs()
    how = {"init": init, "random_state": 0, "n_epochs": 3}
    plain, scaled = SOM(3, 3, **how).fit(x), SOM(3, 3, **how).fit((x * scale).astype(dtype))
    atol = 1e-2 if dtype == np.float32 else 1e-5  # of subnormal numbers a few digits are left
    np.testing.assert_allclose(scaled.prototypes_ / scale, plain.prototypes_, atol=atol)
    error = scaled.quantization_error((x * scale).astype(dtype)) / scale
    assert error == pytest.approx(plain.quantization_error(x), rel=atol)


def test_the_largest_numbers_of_fp32() -> None:
    x = np.float32([[3e38, 1], [-3e38, 1], [3e38, -1], [-3e38, -1]])
    som = SOM(1, 2, n_epochs=3, sigma_initial=0.3, sigma_final=0.1).fit(x)
    np.testing.assert_allclose(np.abs(som.prototypes_[:, 0]), 3e38, rtol=1e-3)
    assert len(set(som.labels_)) == 2


def test_weights_that_cancel_move_nothing() -> None:
    """Under a Mexican hat a unit stays where what is left of its weights is next to nothing."""
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    prototypes = torch.tensor([[0.0, 0.0], [5.0, 5.0], [1.0, 0.0]])
    # At distance 1 the weights of the outer units are (1 - 1 / T^2) exp(..), next to nothing at T = 1 and a little more.
    updated, _ = batch_update(
        x, prototypes, Grid(1, 3), 1.0 + 1e-7, distance="euclidean", neighborhood="mexican_hat", backend="torch"
    )
    assert torch.equal(updated[1], prototypes[1])


@pytest.mark.parametrize("missing", ["error", "ignore"])
def test_a_mexican_hat_throws_no_unit_far_away(missing: str) -> None:
    x = np.random.default_rng(0).normal(size=(200, 5)) + 1e3
    how = {"neighborhood": "mexican_hat", "sigma_initial": 2.3, "sigma_final": 2.3, "missing": missing}
    som = SOM(14, 14, n_epochs=4, **how).fit(x)
    assert np.abs(som.prototypes_ - 1e3).max() < 15 * np.abs(x - 1e3).max()


def test_no_number_is_drawn_where_nothing_is_random(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise AssertionError("a number was drawn")

    monkeypatch.setattr(np.random.mtrand, "_rand", type("Drawn", (np.random.RandomState,), {"randint": none})())
    SOM(2, 2, n_epochs=1).fit(blobs(10))
    SOM(2, 2, n_epochs=1, init=blobs(4)).fit(blobs(10))
    wide = blobs(5, dim=2100)
    first, second = (SOM(2, 2, n_epochs=1, random_state=seed).fit(wide) for seed in (0, 1))
    np.testing.assert_array_equal(first.prototypes_, second.prototypes_)


@pytest.mark.parametrize("metric", ["euclidean", "manhattan"])
@pytest.mark.parametrize("missing", ["error", "ignore"])
def test_rows_too_far_from_a_map_are_named(metric: str, missing: str) -> None:
    """What fp32 cannot hold of them would be no distance, and the first unit."""
    x = blobs(20)
    som = SOM(2, 2, metric=metric, missing=missing, n_epochs=1).fit(x)
    far = np.concatenate([x, x[:1] * 1e60])
    for use in (som.predict, som.quantization_error, som.topographic_error, som.partial_fit):
        with pytest.raises(ValueError, match="X must have rows within 1e38 times the size of the map"):
            use(far)
    assert np.isfinite(som.prototypes_).all()


def test_what_is_masked_is_missing() -> None:
    x = blobs(40)
    masked, holes = np.ma.masked_array(x, mask=x > 2), np.where(x > 2, np.nan, x)
    som, expected = (SOM(2, 2, n_epochs=2, missing="ignore").fit(rows) for rows in (masked, holes))
    np.testing.assert_array_equal(som.prototypes_, expected.prototypes_)
    with pytest.raises(ValueError, match="X must be finite, got nan"):
        SOM(2, 2).fit(masked)
