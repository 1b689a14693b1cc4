"""Roll out: every way through the states is short and safe; worse candidates go back, equal ones forward, at the stated error."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cls.config import RolloutConfig
from cls.domain import Rollout, RolloutState
from cls.health import Allocation, Finding, Health, judge, relative_loss
from cls.rollout import Next, Step, following, next_step, resumed

AT = datetime(2013, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
SETTINGS = RolloutConfig(
    shadow_rows=300,
    step_rows=100,
    canary_steps=(0.1, 0.5),
    watch_rows=400,
    margin=0.1,
    watch_margin=0.05,
    false_alarm=0.05,
    deadline=timedelta(hours=72),
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
    begun = replace(WAITING, state=state, started_at=AT, step_at=AT, since=0)
    deadline = None if state == RolloutState.WATCHING else AT + SETTINGS.deadline
    return replace(begun, deadline_at=deadline, **changes)  # type: ignore[arg-type]  # a test's shorthand


def health_of(rollout: Rollout, settings: RolloutConfig = SETTINGS, answered: int = 0) -> Health:
    """Judge by labels; of those rows that were answered live, both versions did equally well."""
    return replace(judge(rollout, {}, Allocation(), settings), answered=answered)


def step_of(
    rollout: Rollout,
    champion: int | None,
    now: datetime,
    settings: RolloutConfig = SETTINGS,
    answered: int = 0,
) -> Next:
    return next_step(rollout, champion, now, settings, health_of(rollout, settings, answered))


SHADOW, WATCHING = in_state(RolloutState.SHADOW), in_state(RolloutState.WATCHING)
CANARY = in_state(RolloutState.CANARY, share=0.1)
GOOD = Health(Finding.NOT_WORSE, "not worse", 1000, -0.01, 0.01, 500)
BAD = Health(Finding.WORSE, "worse", 1000, 0.1, 0.2, 500)
OPEN = Health(Finding.UNDECIDED, "undecided", 10, -1.0, 1.0, 500)


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
    found = step_of(rollout, champion, now)
    assert found.step == step
    assert found.reason or step == Step.STAY
    assert not found.held


def test_an_equal_candidate_goes_step_by_step_and_without_requests_straight_to_champion() -> None:
    assert next_step(SHADOW, 1, AT, SETTINGS, GOOD) == Next(Step.CANARY, "not worse", 0)
    assert next_step(CANARY, 1, AT, SETTINGS, GOOD) == Next(Step.CANARY, "not worse", 1)
    assert next_step(replace(CANARY, step=1), 1, AT, SETTINGS, GOOD).step == Step.PROMOTE
    assert next_step(SHADOW, 1, AT, SETTINGS, replace(GOOD, answered=0)).step == Step.PROMOTE
    assert next_step(CANARY, 1, AT, SETTINGS, replace(GOOD, answered=0)).step == Step.CANARY
    none = SETTINGS.model_copy(update={"canary_steps": ()})
    assert next_step(SHADOW, 1, AT, none, GOOD).step == Step.PROMOTE


@pytest.mark.parametrize(
    "state", [SHADOW, CANARY, replace(CANARY, paused_at=AT), replace(SHADOW, paused_at=AT)]
)
def test_a_worse_candidate_goes_back_from_everywhere_paused_or_not(state: Rollout) -> None:
    assert next_step(state, 1, AT, SETTINGS, BAD) == Next(Step.REJECT, "worse")
    both = SETTINGS.model_copy(update={"approval": "both"})
    assert next_step(state, 1, AT, both, BAD).step == Step.REJECT


def test_each_stage_takes_its_time() -> None:
    slow = SETTINGS.model_copy(update={"step_time": 2 * HOUR, "watch_time": 5 * HOUR})
    for rollout, champion, hours in ((SHADOW, 1, 2), (CANARY, 1, 2), (WATCHING, 2, 5)):
        assert next_step(rollout, champion, AT + (hours - 1) * HOUR, slow, GOOD).step == Step.STAY
        assert next_step(rollout, champion, AT + hours * HOUR, slow, GOOD).step != Step.STAY


def test_a_pause_stops_the_clock() -> None:
    paused = replace(CANARY, paused_at=AT + HOUR)
    late = AT + 100 * HOUR
    assert next_step(paused, 1, late, SETTINGS, GOOD) == Next(Step.STAY, "paused by an operator", held=True)
    after = resumed(paused, late)
    assert (after.paused_at, after.deadline_at) == (None, AT + 171 * HOUR)
    assert next_step(after, 1, late, SETTINGS, OPEN).step == Step.STAY
    assert next_step(after, 1, AT + 171 * HOUR, SETTINGS, OPEN).step == Step.REJECT


@pytest.mark.parametrize(
    ("approval", "approved", "rollout", "step"),
    [
        ("canary", "", SHADOW, Step.STAY),
        ("canary", "canary", SHADOW, Step.CANARY),
        ("champion", "", replace(WAITING, light=True), Step.STAY),
        ("canary", "", replace(WAITING, light=True), Step.STAY),
        ("canary", "champion", replace(WAITING, light=True), Step.PROMOTE),
        ("canary", "champion", SHADOW, Step.CANARY),
        ("canary", "", CANARY, Step.CANARY),  # the first step was approved
        ("canary", "", replace(CANARY, step=1), Step.PROMOTE),
        ("champion", "", SHADOW, Step.CANARY),
        ("champion", "canary", replace(CANARY, step=1), Step.STAY),
        ("champion", "champion", replace(CANARY, step=1), Step.PROMOTE),
        ("both", "canary", SHADOW, Step.CANARY),
        ("both", "canary", replace(CANARY, step=1), Step.STAY),
    ],
)
def test_stages_wait_for_operators_who_asked_to_be_asked(
    approval: str, approved: str, rollout: Rollout, step: Step
) -> None:
    settings = SETTINGS.model_copy(update={"approval": approval})
    found = next_step(replace(rollout, approved=approved), 1, AT, settings, GOOD)
    assert found.step == step
    assert found.held == (step == Step.STAY)
    late = next_step(replace(rollout, approved=approved), 1, AT + 72 * HOUR, settings, GOOD)
    assert late.step == (Step.REJECT if step == Step.STAY else step)


def test_where_there_is_no_canary_its_approval_is_asked_for_before_it_is_champion() -> None:
    settings = SETTINGS.model_copy(update={"approval": "canary"})
    quiet = replace(GOOD, answered=0)
    held = next_step(SHADOW, 1, AT, settings, quiet)
    assert (held.step, held.held) == (Step.STAY, True)
    assert "as champion" in held.reason
    assert next_step(replace(SHADOW, approved="champion"), 1, AT, settings, quiet).step == Step.PROMOTE
    assert "no canary" in next_step(SHADOW, 1, AT, SETTINGS, quiet).reason
    first = replace(WAITING, parent=None)
    assert next_step(first, None, AT, settings, quiet).step == Step.PROMOTE  # nothing serves without it


def test_a_comparison_waits_until_the_champion_is_no_longer_watched() -> None:
    assert next_step(WAITING, 1, AT, SETTINGS, OPEN, watched=True).step == Step.STAY
    assert next_step(replace(WAITING, light=True), 1, AT, SETTINGS, OPEN, watched=True).step == Step.PROMOTE


def test_a_watch_ends_at_the_deadline_whatever_is_known() -> None:
    assert next_step(WATCHING, 2, AT + 71 * HOUR, SETTINGS, OPEN).step == Step.STAY
    assert next_step(WATCHING, 2, AT + 72 * HOUR, SETTINGS, OPEN).step == Step.FINISH
    assert next_step(WATCHING, 2, AT + 72 * HOUR, SETTINGS, BAD).step == Step.ROLL_BACK


def test_what_is_approved_is_what_comes_next() -> None:
    assert following(SHADOW, SETTINGS, GOOD) == ("canary", 0)
    assert following(SHADOW, SETTINGS, replace(GOOD, answered=0)) == ("champion", 0)
    assert following(replace(CANARY, step=1), SETTINGS, GOOD) == ("champion", 0)


@given(
    light=st.booleans(),
    parent=st.none() | st.just(1),
    worse=st.sampled_from([-0.2, 0.0, 0.02, 0.2]),
    seed=st.integers(0, 10**6),
    answered=st.sampled_from([0, 500]),
    moves=st.lists(
        st.tuples(
            st.integers(0, 60),
            st.integers(0, 20),
            st.sampled_from(["keep", "keep", "keep", "usurp", "pause", "resume"]),
        ),
        max_size=40,
    ),
)
def test_every_way_through_the_states_is_safe_and_ends(
    light: bool, parent: int | None, worse: float, seed: int, answered: int, moves: list[tuple[int, int, str]]
) -> None:
    """The rules of `storage.versions` applied to whatever `next_step` says, against an adversary."""
    rng = np.random.default_rng(seed)
    walk = Walk(replace(WAITING, light=light, parent=parent), parent, AT - 5 * HOUR, answered)
    for rows, hours, move in [*moves, (0, 100, "resume"), *[(100, 100, "keep")] * 8]:
        walk.meddle(move, hours)
        if walk.rollout.state != RolloutState.WAITING:
            theirs = rng.gamma(2, 5, rows)
            mine = theirs * (1 + worse) + rng.normal(0, 3, rows)
            walk.rollout = paired(walk.rollout, mine, theirs)
        if walk.go():
            return
    raise AssertionError(f"the rollout never ended: {walk.rollout}")


@dataclass
class Walk:
    """A rollout on its way, with what must hold at each step."""

    rollout: Rollout
    champion: int | None
    now: datetime
    answered: int

    def meddle(self, move: str, hours: int) -> None:
        """What others do meanwhile."""
        self.now += hours * HOUR
        if move == "usurp":
            self.champion = 9
        if move == "pause" and self.rollout.state != RolloutState.WATCHING:
            self.rollout = replace(self.rollout, paused_at=self.rollout.paused_at or self.now)
        if move == "resume" and self.rollout.paused_at is not None:
            self.rollout = resumed(self.rollout, self.now)

    def go(self) -> bool:
        """Take the next step; returns whether the rollout has ended."""
        rollout = self.rollout
        found = step_of(rollout, self.champion, self.now, answered=self.answered)
        if rollout.paused_at is not None and rollout.parent is not None:
            assert found.step in (Step.STAY, Step.REJECT)
        match found.step:
            case Step.SHADOW:
                assert rollout.state == RolloutState.WAITING
                begun = in_state(RolloutState.SHADOW, parent=rollout.parent, step_at=self.now)
                self.rollout = replace(begun, deadline_at=self.now + SETTINGS.deadline)
            case Step.CANARY:
                self.climb(found.canary_step)
            case Step.PROMOTE:
                self.promote()
            case Step.STAY:
                if rollout.deadline_at is not None and rollout.paused_at is None:
                    assert self.now < rollout.deadline_at
            case ended:
                self.end(ended)
                return True
        assert rollout.parent is None or self.champion is not None  # there is always a champion
        return False

    def climb(self, step: int) -> None:
        rollout = self.rollout
        assert self.champion == rollout.parent
        assert self.answered
        assert step == (0 if rollout.state == RolloutState.SHADOW else rollout.step + 1)
        assert rollout.paired_n - rollout.step_n >= SETTINGS.step_rows
        self.rollout = replace(
            rollout, state=RolloutState.CANARY, step=step, step_at=self.now, step_n=rollout.paired_n
        )

    def promote(self) -> None:
        rollout = self.rollout
        assert self.champion == rollout.parent  # never over a champion that it was not made for
        assert self.now >= rollout.effective_at
        direct = rollout.light or rollout.parent is None
        assert direct or rollout.paired_n >= SETTINGS.shadow_rows
        assert direct or not self.answered or rollout.state == RolloutState.CANARY
        self.champion = rollout.version
        self.rollout = in_state(RolloutState.WATCHING, parent=rollout.parent, step_at=self.now)

    def end(self, step: Step) -> None:
        rollout = self.rollout
        assert (step == Step.REJECT) == (rollout.state != RolloutState.WATCHING)
        if step == Step.ROLL_BACK:
            assert self.champion == rollout.version
            assert rollout.parent is not None
            self.champion = rollout.parent


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
        step = step_of(rollout, 1, AT + HOUR).step
        if step != Step.STAY:
            return step, rollout.paired_n
    return step_of(rollout, 1, AT + 72 * HOUR).step, rollout.paired_n


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
        step = step_of(rollout, 2, AT, settings).step
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
    whole = relative_loss(paired(SHADOW, mine, theirs), 0.05, 300)
    cut = rows // 3
    parts = relative_loss(
        paired(paired(SHADOW, mine[:cut], theirs[:cut]), mine[cut:], theirs[cut:]), 0.05, 300
    )
    scaled = relative_loss(paired(SHADOW, scale * mine, scale * theirs), 0.05, 300)
    assert (parts.lower, parts.upper) == pytest.approx((whole.lower, whole.upper))
    assert (scaled.lower, scaled.upper) == pytest.approx((whole.lower, whole.upper), rel=1e-6)
    mean = (mine.sum() - theirs.sum()) / theirs.sum()
    assert whole.lower < mean < whole.upper


def test_nothing_is_said_on_no_rows() -> None:
    assert relative_loss(SHADOW, 0.05, 300) == relative_loss(replace(SHADOW, base_loss=3.0), 0.05, 300)
    assert relative_loss(SHADOW, 0.05, 300).upper == math.inf


def test_a_new_champion_is_rolled_back_though_its_predecessor_was_never_wrong() -> None:
    mine, theirs = np.tile([0.0, 1.0], 500), np.zeros(1000)  # every second class wrong
    assert step_of(paired(WATCHING, mine, theirs), 2, AT).step == Step.ROLL_BACK


def test_a_candidate_that_answers_the_same_on_thousands_of_rows_is_not_worse() -> None:
    same = np.random.default_rng(3).gamma(2, 4, 5000)
    assert step_of(paired(SHADOW, same, same), 1, AT + HOUR).step == Step.PROMOTE
