"""Dispersion: one for independent rows, the known design effect for chains, and what a short reference cannot tell."""

import numpy as np
import pytest
from scipy import signal

from detectors.dispersion import SOUND_BLOCKS, Dispersion, _doublings_of, dispersion_of, dispersions_of


def chain(rng: np.random.Generator, rows: int, r: float) -> np.ndarray:
    """Two states that change with probability (1 - r) / 2: lag-one correlation r, design effect (1 + r) / (1 - r)."""
    return np.asarray(np.cumsum(rng.random(rows) < (1 - r) / 2) % 2)


def test_independent_rows_have_dispersion_one_exactly_but_for_one_reference_in_twenty() -> None:
    rng = np.random.default_rng(0)
    estimates = [dispersion_of(rng.integers(16, size=4000), 16) for _ in range(200)]
    assert np.mean([estimate.mean == 1 for estimate in estimates]) > 0.95
    assert np.mean([estimate.mean for estimate in estimates]) < 1.01
    assert all(estimate.rows == 4000 for estimate in estimates)


@pytest.mark.parametrize(("r", "rows"), [(0.2, 4000), (0.6, 4000), (0.6, 100_000), (0.9, 100_000)])
def test_design_effect_of_a_markov_chain(r: float, rows: int) -> None:
    rng = np.random.default_rng(1)
    estimates = [dispersion_of(chain(rng, rows, r), 2) for _ in range(30)]
    assert np.mean([estimate.mean for estimate in estimates]) == pytest.approx((1 + r) / (1 - r), rel=0.1)
    assert all(estimate.unevenness == 1 for estimate in estimates)


def test_what_every_feature_shows_a_little_is_believed_of_all() -> None:
    rng = np.random.default_rng(5)
    faint = [chain(rng, 1500, 0.06) for _ in range(20)]
    alone = [dispersion_of(bins, 2).memory > 1 for bins in faint]
    together = dispersions_of(faint, [2] * 20, np.eye(20))
    assert np.mean(alone) < 0.6
    assert all(estimate.memory > 1 for estimate in together)
    assert np.mean([estimate.mean for estimate in together]) == pytest.approx(1.06 / 0.94, abs=0.05)
    same = [rng.integers(4, size=1500)] * 20  # twenty copies of one feature are one witness
    assert dispersions_of(same, [4] * 20, np.ones((20, 20))) == (dispersion_of(same[0], 4),) * 20


def test_the_order_of_a_shuffled_reference_says_nothing() -> None:
    rng = np.random.default_rng(2)
    bins = rng.permutation(chain(rng, 20_000, 0.9))
    assert dispersion_of(bins, 2) == Dispersion(rows=20_000)


def test_a_reference_that_is_short_for_its_memory_names_the_rows_it_needs() -> None:
    rng = np.random.default_rng(3)
    noise = rng.normal(size=1100) * np.sqrt(1 - 0.97**2)
    level = np.asarray(signal.lfilter([1.0], [1.0, -0.97], noise))[100:]
    effects = dispersion_of(np.searchsorted([-1.0, 0.0, 1.0], level), 4)
    assert effects.blocks < SOUND_BLOCKS
    assert effects.rows_needed == SOUND_BLOCKS * effects.memory > 1000


def test_a_season_is_no_dependence() -> None:
    rng = np.random.default_rng(4)
    hour = np.arange(10_000) // 50 % 24
    bins = np.clip(hour // 6 + (rng.random(10_000) < 0.2), 0, 4)
    assert dispersion_of(bins, 5).mean > 5
    assert dispersion_of(bins, 5, hour).mean < 1.2


def test_estimates_of_two_references_are_averaged_by_rows() -> None:
    merged = Dispersion(1.0, 1.0, 1, 1000).merge(Dispersion(4.0, 3.0, 16, 3000))
    assert merged == Dispersion(3.25, 2.5, 16, 4000)


@pytest.mark.parametrize("bins", [[], [0], [0] * 100, [0, 1] * 50])
def test_degenerate_references_have_a_finite_dispersion(bins: list[int]) -> None:
    effects = dispersion_of(np.array(bins, dtype=np.intp), 3)
    assert np.isfinite([effects.mean, effects.unevenness]).all()


def test_correlations_are_those_of_the_deviations_written_out() -> None:
    """Single rows are correlated by counting, blocks of two from sparse tables: equal to one-hot rows less their shares."""
    rng = np.random.default_rng(6)
    bins = np.repeat(rng.integers(5, size=700), 3)  # four bins and one for what holds nothing
    bins[bins == 2] = 1  # a bin that nobody saw
    one_hot = (bins[:, None] == [0, 1, 3]).astype(float)
    share = one_hot.sum(axis=0) / one_hot.sum()
    deviation = (one_hot - (bins < 4)[:, None] * share) / np.sqrt(one_hot.mean(axis=0))
    for found in _doublings_of(bins, 4, None):
        blocks = len(deviation)
        carry = (deviation[1:] * deviation[:-1]).sum() / (deviation**2).sum() + 1 / blocks
        assert found.carry == pytest.approx(carry, rel=1e-9)
        deviation = deviation[: blocks // 2 * 2].reshape(blocks // 2, 2, 3).sum(axis=1)
