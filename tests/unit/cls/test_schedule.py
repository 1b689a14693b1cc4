"""Schedule: a cron expression in stream time fires once however often it is asked, and missed times are one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from cls.schedule import last_fire

START = datetime(2013, 1, 1, tzinfo=UTC)
minutes = st.integers(0, 3 * 24 * 60).map(lambda m: START + timedelta(minutes=m))


@given(minutes, minutes)
def test_the_last_daily_fire_is_the_last_three_o_clock_in_the_span(since: datetime, now: datetime) -> None:
    fires = [START + timedelta(days=day, hours=3) for day in range(5)]
    due = [fire for fire in fires if since < fire <= now]
    assert last_fire("0 3 * * *", since, now) == (due[-1] if due else None)


@given(minutes, st.lists(st.integers(1, 500), min_size=1, max_size=12))
def test_looking_often_or_seldom_ends_at_the_same_fire(since: datetime, steps: list[int]) -> None:
    now, token, fired = since, since, 0
    for step in steps:
        now += timedelta(minutes=step)
        fire = last_fire("*/30 * * * *", token, now)
        if fire is not None:
            assert token < fire <= now
            token, fired = fire, fired + 1
            assert last_fire("*/30 * * * *", token, now) is None
    once = last_fire("*/30 * * * *", since, now)
    assert (once or since) == token
    assert (once is None) == (fired == 0)


def test_a_fire_at_the_very_moment_counts_once() -> None:
    at = START + timedelta(hours=3)
    assert last_fire("0 3 * * *", START, at) == at
    assert last_fire("0 3 * * *", at, at + timedelta(hours=23)) is None
    assert last_fire("0 3 * * *", at - timedelta(microseconds=1), at) == at


def test_a_stream_that_was_away_for_a_week_is_updated_once() -> None:
    assert last_fire("0 3 * * *", START, START + timedelta(days=7)) == START + timedelta(days=6, hours=3)


def test_cron_is_utc_whatever_the_daylight_saving_of_the_machine() -> None:
    spring = datetime(2013, 3, 31, tzinfo=UTC)
    assert last_fire("30 2 * * *", spring, spring + timedelta(hours=3)) == spring + timedelta(
        hours=2, minutes=30
    )
