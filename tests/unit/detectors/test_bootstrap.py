"""The block bootstrap: covers on autocorrelated series, where one that shuffles rows does not."""

import math

import numpy as np
import pytest
from scipy import signal

from detectors.bootstrap import block_bootstrap_mean


def coverage(block: int) -> float:
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        noise = rng.normal(size=700)
        series = np.asarray(signal.lfilter([1.0], [1.0, -0.7], noise))[100:]
        low, _, high = block_bootstrap_mean(series, block=block, alpha=0.1, draws=200, seed=seed)
        hits += low <= 0 <= high
    return hits / 200


def test_coverage_on_an_autoregression() -> None:
    assert 0.84 <= coverage(30) <= 0.96
    assert coverage(1) < 0.7


def test_independent_rows_give_the_standard_error() -> None:
    series = np.random.default_rng(1).normal(5, 2, size=4000)
    low, mean, high = block_bootstrap_mean(series, block=1, alpha=0.05, draws=4000, seed=0)
    assert mean == pytest.approx(series.mean())
    assert (high - low) / 2 == pytest.approx(1.96 * series.std() / np.sqrt(4000), rel=0.06)


def test_deterministic_by_seed_and_equivariant() -> None:
    series = np.random.default_rng(1).normal(size=200)
    first = block_bootstrap_mean(series, block=7, alpha=0.1, seed=3)
    assert first == block_bootstrap_mean(series, block=7, alpha=0.1, seed=3)
    assert first != block_bootstrap_mean(series, block=7, alpha=0.1, seed=4)
    moved = block_bootstrap_mean(10 + 2 * series, block=7, alpha=0.1, seed=3)
    assert moved == pytest.approx([10 + 2 * end for end in first])


def test_too_short_a_series_says_so() -> None:
    assert block_bootstrap_mean([1.0, 2.0, 3.0], block=2, alpha=0.1, seed=0) == (-math.inf, 2.0, math.inf)
    with pytest.raises(ValueError, match="finite"):
        block_bootstrap_mean([], block=2, alpha=0.1, seed=0)
    with pytest.raises(ValueError, match="finite"):
        block_bootstrap_mean([math.nan] * 9, block=2, alpha=0.1, seed=0)
    with pytest.raises(ValueError, match="block"):
        block_bootstrap_mean([1.0] * 9, block=0, alpha=0.1, seed=0)
