"""Losses by row against hand-computed ones."""

import numpy as np
import pytest

from learners.evaluate import Measure, row_losses, uncertainty

PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.0, 0.0, 1.0], [0.2, 0.3, 0.5]])
TARGET = np.array([0.0, 2.0, 0.0, np.nan])


def test_absolute_error() -> None:
    loss = row_losses(np.array([1.0, 5.0, 2.0]), np.array([3.0, 4.5, np.nan]))
    np.testing.assert_array_equal(loss, [2.0, 0.5, np.nan])


def test_zero_one_and_log_loss() -> None:
    np.testing.assert_array_equal(row_losses(PROBABILITIES, TARGET), [0.0, 1.0, 1.0, np.nan])
    loss = row_losses(PROBABILITIES, TARGET, "log")
    np.testing.assert_allclose(loss[:2], -np.log([0.7, 0.3]))
    assert np.isfinite(loss[2])  # a sure and wrong model is very wrong, not infinitely
    assert np.isnan(loss[3])


def test_uncertainty_is_the_entropy() -> None:
    entropy = uncertainty(np.array([[1.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]]))
    np.testing.assert_allclose(entropy, [0.0, np.log(4)], atol=1e-12)
    assert np.isnan(uncertainty(np.array([3.0]))).all()


@pytest.mark.parametrize(
    ("prediction", "measure"), [(PROBABILITIES, "absolute"), (np.zeros(4), "zero_one"), (np.zeros(4), "log")]
)
def test_a_measure_that_does_not_fit_is_refused(prediction: np.ndarray, measure: Measure) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        row_losses(prediction, TARGET, measure)
