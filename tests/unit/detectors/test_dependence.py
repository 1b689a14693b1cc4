"""Dependence of neighbouring rows: what it is estimated at, and that looking all the time keeps the budget with it and still finds harm."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from detectors.anytime import Paired, excess
from detectors.dependence import SEGMENT_ROWS, Dependence

Floats = NDArray[np.float64]
ALPHA = 0.01
LOOK = 100  # labels in a batch


def followers(phi: float, paths: int, rows: int, seed: int = 0) -> Floats:
    """Return differences of unit variance, each of which follows the one before by `phi`: their sum varies (1 + phi) / (1 - phi) times as much."""
    noise = np.random.default_rng(seed).normal(size=(rows, paths))
    found = noise.copy()
    for i in range(1, rows):
        found[i] = phi * found[i - 1] + math.sqrt(1 - phi**2) * noise[i]
    return found.T


def turns(length: int, paths: int, rows: int) -> Floats:
    """Return differences by which one version, drawn by lot, is better for blocks of rows that begin anywhere."""
    random = np.random.default_rng(1)
    blocks = random.choice([-0.5, 0.5], size=(paths, rows // length + 2))
    found = np.repeat(blocks, length, axis=1) + random.normal(size=(paths, blocks.shape[1] * length))
    begins = random.integers(0, length, paths)
    return np.array([path[begin : begin + rows] for path, begin in zip(found, begins, strict=True)])


def sources(count: int, phi: float, paths: int, rows: int) -> Floats:
    """Return differences of sources whose rows come in turn: only every `count`-th row depends on the one before."""
    of_each = followers(phi, count * paths, -(-rows // count)).reshape(paths, count, -1)
    return of_each.swapaxes(1, 2).reshape(paths, -1)[:, :rows]


def alternating(paths: int, rows: int) -> Floats:
    """Return differences that change their sign from row to row, around a mean that changes slowly."""
    size = np.abs(np.random.default_rng(2).normal(size=(paths, rows)))
    found: Floats = size * (-1.0) ** np.arange(rows) + 0.7 * followers(0.9, paths, rows)
    return found


def first_alarms(draws: Floats, *, blind: bool = False) -> Floats:
    """Return at how many rows each path is first called worse, looking after every batch; infinity for never."""
    found = np.full(len(draws), np.inf)
    for i, path in enumerate(draws):
        kept, paired = Dependence(), Paired()
        for part in path.reshape(-1, LOOK):
            kept, paired = kept.add(part), paired.add(part)
            seen = Paired(paired.n, paired.total, paired.total_squares, 1.0 if blind else kept.factor)
            if excess(seen, ALPHA) > 0:
                found[i] = paired.n
                break
    return found


def share(alarms: Floats) -> float:
    return float(np.isfinite(alarms).mean())


@pytest.mark.parametrize("phi", [0.3, 0.6])
def test_followers_are_called_worse_no_more_often_than_stated(phi: float) -> None:
    draws = followers(phi, 200, 1500)
    assert share(first_alarms(draws)) <= 2 * ALPHA  # P(more than 4 of 200) is 5% at the budget
    assert share(first_alarms(draws, blind=True)) > 2 * ALPHA


def test_versions_that_take_turns_are_called_worse_no_more_often_than_stated() -> None:
    draws = turns(10, 200, 1500)
    assert share(first_alarms(draws)) <= 2 * ALPHA
    assert share(first_alarms(draws, blind=True)) > 3 * ALPHA


@pytest.mark.parametrize("count", [2, 4])
def test_sources_that_come_in_turn_are_seldom_called_worse(count: int) -> None:
    draws = sources(count, 0.5, 200, 1500)  # neighbours do not correlate, and the first doubling sees nothing
    assert share(first_alarms(draws)) <= 4 * ALPHA  # 1.3% and 1.5% in 3000 rows
    assert share(first_alarms(draws, blind=True)) > 5 * ALPHA


def test_neighbours_that_alternate_do_not_hide_a_mean_that_changes_slowly() -> None:
    draws = alternating(100, 1500)
    assert share(first_alarms(draws)) <= 5 * ALPHA
    assert share(first_alarms(draws, blind=True)) > 20 * ALPHA


def test_rows_that_do_not_depend_on_each_other_count_nearly_in_full() -> None:
    factors = [Dependence().add(path).factor for path in followers(0.0, 200, 2000)]
    assert np.median(factors) <= 1.1


def test_harm_is_found_in_hardly_more_rows_where_rows_do_not_depend_on_each_other() -> None:
    for worse in (0.15, 0.4):
        draws = followers(0.0, 100, 3000) + worse
        found, blind = first_alarms(draws), first_alarms(draws, blind=True)
        assert found.mean() <= 1.25 * blind.mean()


def test_a_version_that_turns_worse_is_found_as_soon() -> None:
    draws = followers(0.0, 100, 2000)
    draws[:, 1000:] += 0.5
    found, blind = first_alarms(draws), first_alarms(draws, blind=True)
    assert np.median(found) <= np.median(blind) + LOOK


def test_a_version_that_breaks_in_the_middle_of_a_segment_is_found_in_the_next_one() -> None:
    draws = followers(0.0, 30, 1500)
    draws[:, 128:] += 3.0
    assert np.median(first_alarms(draws)) <= 128 + 1.5 * SEGMENT_ROWS


@pytest.mark.parametrize("phi", [0.0, 0.3, 0.6])
def test_the_factor_is_the_variance_of_sums(phi: float) -> None:
    found = np.mean([Dependence().add(path).factor for path in followers(phi, 50, 5000)])
    assert found == pytest.approx((1 + phi) / (1 - phi), rel=0.12)


def test_neighbours_that_alternate_do_not_count_for_more_rows_than_they_are() -> None:
    assert Dependence().add(followers(-0.5, 1, 2000)[0]).factor == 1.0


def test_batches_make_no_difference() -> None:
    path = followers(0.5, 1, 3 * SEGMENT_ROWS + 100)[0]
    whole, parts = Dependence().add(path), Dependence()
    for part in np.split(path, [1, 2, 40, 700, 1500]):
        parts = parts.add(part)
    assert parts.rows == whole.rows
    assert len(parts.rows) == 100
    assert parts.factor == pytest.approx(whole.factor)


def test_nothing_is_said_of_few_rows_or_of_rows_that_do_not_differ() -> None:
    assert Dependence().factor == 1.0
    assert Dependence().add([3.0, 3.0, -1.0]).factor == 1.0
    assert Dependence().add(np.zeros(2000)).factor == 1.0
    assert Dependence().add(np.ones(2000)).factor == 1.0  # worse everywhere is no dependence
