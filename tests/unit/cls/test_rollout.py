"""Roll out: every way through the states is short and safe; worse candidates go back, equal ones forward, at the stated error."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cls.config import RolloutConfig
from cls.domain import Rollout, RolloutState
from cls.rollout import Step, health, next_step

AT = datetime(2013, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
SETTINGS = RolloutConfig(
    shadow_rows=300, watch_rows=400, margin=0.1, watch_margin=0.05, deadline=timedelta(hours=72)
)
WAITING = Rollout(1, "s", 2, 1, RolloutState.WAITING, False, AT, None, 0, 0.0, 0.0, 0.0, None)
Floats = NDArray[np.float64]


def paired(rollout: Rollout, mine: Floats, theirs: Floats) -> Rollout:
    """Add rows that both versions were scored on, as the join does."""
    difference = mine - theirs
    return replace(
        rollout,
        paired_n=rollout.paired_n + len(mine),
        paired_total=rollout.paired_total + float(difference.sum()),
        paired_squares=rollout.paired_squares + float(difference @ difference),
        base_loss=rollout.base_loss + float(theirs.sum()),
    )


def in_state(state: RolloutState, **changes: object) -> Rollout:
    return replace(WAITING, state=state, started_at=AT, **changes)  # type: ignore[arg-type]  # a test's shorthand


SHADOW, WATCHING = in_state(RolloutState.SHADOW), in_state(RolloutState.WATCHING)


@pytest.mark.parametrize(
    ("rollout", "champion", "now", "step"),
    [
        (WAITING, 1, AT - HOUR, Step.STAY),
        (WAITING, 1, AT, Step.SHADOW),
        (replace(WAITING, light=True), 1, AT, Step.PROMOTE),
        (replace(WAITING, light=True), 1, AT - HOUR, Step.STAY),
        (replace(WAITING, parent=None), None, AT, Step.PROMOTE),
        (replace(WAITING, parent=None), None, AT - HOUR, Step.STAY),
        (replace(WAITING, parent=None), 3, AT, Step.REJECT),
        (WAITING, 3, AT - HOUR, Step.REJECT),
        (SHADOW, 3, AT, Step.REJECT),
        (SHADOW, 1, AT + 71 * HOUR, Step.STAY),
        (SHADOW, 1, AT + 72 * HOUR, Step.REJECT),
        (WATCHING, 2, AT, Step.STAY),
        (WATCHING, 3, AT, Step.FINISH),
        (replace(WATCHING, parent=None), 2, AT, Step.FINISH),
    ],
)
def test_the_next_step(rollout: Rollout, champion: int | None, now: datetime, step: Step) -> None:
    found = next_step(rollout, champion, now, SETTINGS)
    assert found.step == step
    assert bool(found.reason) == (step != Step.STAY)


@given(
    light=st.booleans(),
    parent=st.none() | st.just(1),
    worse=st.sampled_from([-0.2, 0.0, 0.02, 0.2]),
    seed=st.integers(0, 10**6),
    moves=st.lists(
        st.tuples(st.integers(0, 60), st.integers(0, 20), st.sampled_from(["keep", "keep", "keep", "usurp"])),
        max_size=40,
    ),
)
def test_every_way_through_the_states_is_safe_and_ends(
    light: bool, parent: int | None, worse: float, seed: int, moves: list[tuple[int, int, str]]
) -> None:
    """The rules of `storage.versions` applied to whatever `next_step` says, against an adversary."""
    rng = np.random.default_rng(seed)
    rollout, champion, now = replace(WAITING, light=light, parent=parent), parent, AT - 5 * HOUR
    ended: Step | None = None
    for rows, hours, move in [*moves, (0, 100, "keep"), *[(100, 100, "keep")] * 6]:
        now += hours * HOUR
        if move == "usurp":
            champion = 9
        if rollout.state != RolloutState.WAITING:
            theirs = rng.gamma(2, 5, rows)
            rollout = paired(rollout, theirs * (1 + worse) + rng.normal(0, 3, rows), theirs)
        step = next_step(rollout, champion, now, SETTINGS).step
        if step == Step.SHADOW:
            assert rollout.state == RolloutState.WAITING
            rollout = in_state(RolloutState.SHADOW, parent=parent)
            rollout = replace(rollout, started_at=now)
        elif step == Step.PROMOTE:
            assert champion == parent  # never over a champion that it was not made for
            assert now >= rollout.effective_at
            assert light or parent is None or rollout.paired_n >= SETTINGS.shadow_rows
            champion = rollout.version
            rollout = replace(in_state(RolloutState.WATCHING, parent=parent), started_at=now)
        elif step == Step.ROLL_BACK:
            assert rollout.state == RolloutState.WATCHING
            assert champion == rollout.version
            assert parent is not None
            champion, ended = parent, step
        elif step in (Step.REJECT, Step.FINISH):
            assert (step == Step.REJECT) == (rollout.state != RolloutState.WATCHING)
            ended = step
        elif rollout.state == RolloutState.SHADOW and rollout.started_at is not None:
            assert now < rollout.started_at + SETTINGS.deadline
        assert parent is None or champion is not None  # there is always a champion
        if ended:
            return
    raise AssertionError(f"the rollout never ended: {rollout}")


def losses(rng: np.random.Generator, rows: int, factor: float) -> tuple[Floats, Floats]:
    """Return absolute errors of a candidate and of its champion: correlated, skewed, as flights have them."""
    shared = rng.gamma(2.0, 4.0, rows)
    mine = factor * np.abs(shared + rng.normal(0, 3, rows))
    return mine, np.abs(shared + rng.normal(0, 3, rows))


def shadowed(rng: np.random.Generator, factor: float) -> tuple[Step, int]:
    """Look after every twenty rows until there is an answer; the deadline comes after 4,000 rows."""
    rollout = SHADOW
    for _ in range(200):
        rollout = paired(rollout, *losses(rng, 20, factor))
        step = next_step(rollout, 1, AT + HOUR, SETTINGS).step
        if step != Step.STAY:
            return step, rollout.paired_n
    return next_step(rollout, 1, AT + 72 * HOUR, SETTINGS).step, rollout.paired_n


def test_a_shadow_that_is_a_fifth_worse_is_rejected_and_an_equal_one_is_promoted() -> None:
    rng = np.random.default_rng(1)
    worse = [shadowed(rng, 1.2) for _ in range(60)]
    equal = [shadowed(rng, 1.0) for _ in range(60)]
    better = [shadowed(rng, 0.8) for _ in range(60)]
    assert [step for step, _ in worse].count(Step.REJECT) == 60
    assert [step for step, _ in better].count(Step.PROMOTE) == 60
    assert [step for step, _ in equal].count(Step.REJECT) <= 7  # alpha = 5%: P(more than 7 of 60) = 1%
    assert [step for step, _ in equal].count(Step.PROMOTE) >= 53
    assert all(rows >= SETTINGS.shadow_rows for step, rows in equal + better if step == Step.PROMOTE)


def watched(rng: np.random.Generator, factor: float, settings: RolloutConfig) -> Step:
    rollout = WATCHING
    while True:
        rollout = paired(rollout, *losses(rng, 20, factor))
        step = next_step(rollout, 2, AT, settings).step
        if step != Step.STAY:
            return step


def test_equal_champions_are_rolled_back_no_more_often_than_stated_even_without_a_margin() -> None:
    rng = np.random.default_rng(2)
    strict = SETTINGS.model_copy(update={"watch_margin": 0.0, "watch_rows": 1000})
    back = [watched(rng, 1.0, strict) for _ in range(300)].count(Step.ROLL_BACK)
    assert back <= 24  # one side of 5% of 300 is 7.5; 24 would be six standard deviations above it
    assert [watched(rng, 1.0, SETTINGS) for _ in range(100)].count(Step.ROLL_BACK) <= 1
    assert [watched(rng, 1.35, SETTINGS) for _ in range(50)].count(Step.ROLL_BACK) == 50


@given(st.integers(0, 10**6), st.integers(30, 300), st.floats(0.01, 100))
def test_health_is_relative_and_the_same_for_every_cut_of_the_rows(
    seed: int, rows: int, scale: float
) -> None:
    rng = np.random.default_rng(seed)
    mine, theirs = losses(rng, rows, 1.1)
    whole = health(paired(SHADOW, mine, theirs), 0.95, 300)
    cut = rows // 3
    parts = health(paired(paired(SHADOW, mine[:cut], theirs[:cut]), mine[cut:], theirs[cut:]), 0.95, 300)
    scaled = health(paired(SHADOW, scale * mine, scale * theirs), 0.95, 300)
    assert (parts.lower, parts.upper) == pytest.approx((whole.lower, whole.upper))
    assert (scaled.lower, scaled.upper) == pytest.approx((whole.lower, whole.upper), rel=1e-6)
    mean = (mine.sum() - theirs.sum()) / theirs.sum()
    assert whole.lower < mean < whole.upper


def test_nothing_is_said_on_no_rows() -> None:
    assert health(SHADOW, 0.95, 300) == health(replace(SHADOW, base_loss=3.0), 0.95, 300)
    assert health(SHADOW, 0.95, 300).upper == math.inf


def test_a_new_champion_is_rolled_back_though_its_predecessor_was_never_wrong() -> None:
    mine, theirs = np.tile([0.0, 1.0], 500), np.zeros(1000)  # every second class wrong
    assert next_step(paired(WATCHING, mine, theirs), 2, AT, SETTINGS).step == Step.ROLL_BACK


def test_a_candidate_that_answers_the_same_on_thousands_of_rows_is_not_worse() -> None:
    same = np.random.default_rng(3).gamma(2, 4, 5000)
    assert next_step(paired(SHADOW, same, same), 1, AT + HOUR, SETTINGS).step == Step.PROMOTE
