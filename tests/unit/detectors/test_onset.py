"""The onset: a planted rise is found where it was planted."""

import numpy as np
import pytest

from detectors.onset import contrasts, onset


def test_finds_a_planted_rise() -> None:
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(200):
        series = np.abs(rng.normal(0, 0.01, size=60))
        series[45:] += 0.05
        errors.append(onset(series.tolist()) - 45)
    assert np.mean(np.array(errors) == 0) > 0.95


def test_contrast_is_the_scaled_difference_of_means() -> None:
    series = np.random.default_rng(0).normal(size=9)
    direct = [np.sqrt(k * (9 - k) / 9) * (series[k:].mean() - series[:k].mean()) for k in range(1, 9)]
    assert np.allclose(contrasts(series), direct)


def test_edges() -> None:
    assert onset([3.0]) == 0
    assert onset([0.1] * 7) == 6
    assert onset([3.0, 2.0, 1.0]) == 2
    assert onset([np.nan, 0.0, np.nan, 1.0, 1.0]) == 3
    assert onset([0.0, 0.0, 0.0, 5.0]) == 3
    with pytest.raises(ValueError, match="at least one"):
        onset([])
