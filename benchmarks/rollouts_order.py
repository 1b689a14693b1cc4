"""Rows in the order of time: versions that take turns by lot, and what was true when a version was sent back.

Two things send an equal version back where rows come in order. Neighbours depend on each other, so that chance looks like evidence; and a
version that is equal over years is worse for weeks. They are told apart in two ways.

Versions that take turns are equal whenever one looks ahead, and keep the dependence of real rows: blocks of neighbouring rows, and by lot
either version has the other's losses in a block. Within a block one of the two may be worse throughout, so that neighbours depend on each
other about as far as a block is long.

Of a version that was sent back on real rows, what was true is read from the rows around: the mean difference of the rows that it was compared
on, each replaced by the mean of the 250 rows around it (three to four weeks), and the mean of the 500 rows that came next.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.rollouts_versions import Contest

SMOOTHED_ROWS = 250
NEXT_ROWS = 500
Rows = NDArray[np.int64]


def two_sided(contest: Contest) -> Contest:
    """Return a contest of twice the rows; in the second half the versions have changed places."""

    def both(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.concatenate([one, other])

    return replace(
        contest,
        excess=0.0,
        mine_N=both(contest.mine_N, contest.theirs_N),
        theirs_N=both(contest.theirs_N, contest.mine_N),
        loss_mine_N=both(contest.loss_mine_N, contest.loss_theirs_N),
        loss_theirs_N=both(contest.loss_theirs_N, contest.loss_mine_N),
    )


def in_turns(random: np.random.Generator, pool: int, rows: int, block: int) -> Iterator[Rows]:
    """Yield looks of rows of a two-sided contest: blocks from anywhere, of either side by lot; the first one is under way already."""
    half = pool // 2
    waiting = np.empty(0, np.int64)
    skipped = int(random.integers(block))
    while True:
        while len(waiting) < rows + skipped:
            begin, side = random.integers(half), random.integers(2)
            waiting = np.append(waiting, side * half + (begin + np.arange(block)) % half)
        waiting, skipped = waiting[skipped:], 0
        yield waiting[:rows]
        waiting = waiting[rows:]


def truth(contest: Contest, compared: Rows) -> dict[str, float]:
    """Return by how much a version was worse, relative to the champion's loss: so far, and on the rows that came next.

    Parameters
    ----------
    compared
        Neighbouring rows of the pool, round and round, on which the versions were compared.
    """
    pool = len(contest.loss_mine_N)
    reach = SMOOTHED_ROWS // 2
    around = np.arange(compared[0] - reach, compared[0] + len(compared) + reach)
    # How often a row lies around one of those compared.
    weight = np.convolve(np.ones(len(compared)), np.ones(2 * reach + 1))
    after = compared[-1] + 1 + np.arange(NEXT_ROWS)
    return {
        "so_far": _relative(contest, around % pool, weight),
        "next": _relative(contest, after % pool, np.ones(NEXT_ROWS)),
    }


def _relative(contest: Contest, rows: Rows, weight: NDArray[np.float64]) -> float:
    mine, theirs = (float(weight @ loss[rows]) for loss in (contest.loss_mine_N, contest.loss_theirs_N))
    return mine / theirs - 1
