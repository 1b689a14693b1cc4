"""Versions, promotions, rollouts and the budget on both databases: one champion always, one rollout, never overspent."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier

import numpy as np
import pytest
from sqlalchemy import Connection, Engine

from cls.domain import ModelVersion, RolloutState
from cls.errors import NotFound, Refused
from cls.times import EPOCH
from storage import streams
from storage import versions as store
from storage.db import open_database, reading, transaction

AT = datetime(2013, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def version(learned: int = 10, job: int | None = None) -> ModelVersion:
    return ModelVersion(
        "s", 0, "d" * 64, None, job, "ewc", learned, 0, 5, {}, {"loss": 1.5}, EPOCH, {"a": "b"}
    )


@pytest.fixture
def stream(engine: Engine) -> Engine:
    with transaction(engine) as connection:
        streams.ensure_stream(connection, "s")
        for job in range(1, 6):
            assert store.add_version(connection, version(10 * job, job)) == job
    return engine


def promote(connection: Connection, number: int, expected: int | None, since: int = 0) -> None:
    store.promote(
        connection,
        "s",
        number,
        expected=expected,
        since=since,
        reference=f"{number:064}",
        at=AT,
        reason="test",
    )


def test_versions_are_numbered_without_gaps_by_many_at_once(database_url: str) -> None:
    engine = open_database(database_url)
    with transaction(engine) as connection:
        streams.ensure_stream(connection, "s")
    barrier = Barrier(4)

    def register(worker: int) -> list[int]:
        barrier.wait()
        numbers = []
        for i in range(10):
            with transaction(engine) as connection:
                numbers.append(store.add_version(connection, version(job=100 * worker + i)))
        return numbers

    with ThreadPoolExecutor(4) as pool:
        numbers = [number for found in pool.map(register, range(4)) for number in found]
    assert sorted(numbers) == list(range(1, 41))
    engine.dispose()


def test_a_version_comes_back_as_it_was(stream: Engine) -> None:
    with reading(stream) as connection:
        found = store.read_version(connection, "s", 3)
        assert (found.number, found.learned_up_to, found.files, found.metrics) == (
            3,
            30,
            {"a": "b"},
            {"loss": 1.5},
        )
        assert [v.number for v in store.list_versions(connection, "s", 2)] == [5, 4]
        assert store.learned_ends(connection, "s") == [10, 20, 30, 40, 50]
        with pytest.raises(NotFound, match="no version 9"):
            store.read_version(connection, "s", 9)


def test_of_concurrent_promoters_exactly_one_wins_each_round_and_there_is_always_a_champion(
    stream: Engine, database_url: str
) -> None:
    with reading(stream) as connection:
        assert store.champion(connection, "s") is None
    expected: int | None = None
    watched: list[int] = []
    for contest in range(8):
        barrier = Barrier(4)

        def attempt(
            number: int, barrier: Barrier = barrier, expected: int | None = expected, contest: int = contest
        ) -> int:
            barrier.wait()
            try:
                with transaction(stream) as connection:
                    promote(connection, number, expected, since=contest)
            except Refused:
                with reading(stream) as connection:
                    champion = store.champion(connection, "s")
                assert champion is not None  # a loser sees the winner's
                watched.append(champion.version)
                return 0
            return number

        challengers = [n for n in range(1, 6) if n != expected][:4]
        with ThreadPoolExecutor(4) as pool:
            winners = [number for number in pool.map(attempt, challengers) if number]
        assert len(winners) == 1
        with reading(stream) as connection:
            champion = store.champion(connection, "s")
            promotions = store.list_promotions(connection, "s")
        assert champion is not None
        assert (champion.version, champion.previous, champion.since) == (winners[0], expected, contest)
        assert len(promotions) == contest + 1  # what lost has left no trace
        assert promotions[-1].id == champion.promotion
        expected = winners[0]
    assert len(watched) == 24


def test_a_refused_promotion_changes_nothing(stream: Engine) -> None:
    with transaction(stream) as connection:
        promote(connection, 1, None)
    for expected in (None, 2):
        with pytest.raises(Refused, match="no longer champion"), transaction(stream) as connection:
            promote(connection, 3, expected)
    with reading(stream) as connection:
        champion = store.champion(connection, "s")
        assert champion is not None
        assert champion.version == 1
        assert [row.version for row in store.list_promotions(connection, "s")] == [1]


def test_who_served_each_position_is_known(stream: Engine) -> None:
    with transaction(stream) as connection:
        for number, expected, since in ((1, None, 0), (2, 1, 100), (3, 2, 100), (2, 3, 250)):
            promote(connection, number, expected, since)
        assert store.first_reference(connection, "s") == f"{1:064}"
        for position, numbers in (
            (0, [1, 2, 3, 2]),
            (99, [1, 2, 3, 2]),
            (100, [3, 2]),
            (249, [3, 2]),
            (250, [2]),
        ):
            found = store.promotions_covering(connection, "s", position)
            assert [row.version for row in found] == numbers
        assert [row.version for row in store.list_promotions(connection, "s", newest=2)] == [3, 2]


def begin(connection: Connection, number: int, parent: int | None = 1) -> None:
    store.add_rollout(connection, "s", number, parent=parent, light=False, effective_at=AT, episode=None)


def test_one_rollout_is_on_its_way_per_stream_and_moves_by_compare_and_set(stream: Engine) -> None:
    with transaction(stream) as connection:
        begin(connection, 2)
        with pytest.raises(Refused, match="on the way"):
            begin(connection, 3)
        (waiting,) = store.rollouts_in(connection, "s", RolloutState.WAITING)
        store.move_rollout(connection, waiting, RolloutState.SHADOW, at=AT, since=40)
        with pytest.raises(Refused, match="moved on"):
            store.move_rollout(connection, waiting, RolloutState.REJECTED, at=AT)
        with pytest.raises(Refused, match="on the way"):
            begin(connection, 3)
        (shadow,) = store.rollouts_in(connection, "s", RolloutState.SHADOW)
        store.add_paired(connection, shadow.id, np.resize([0.5, -0.5], 10), 20.0)
        store.add_paired(connection, shadow.id, np.resize([1.0, 0.0], 5), 10.0)
        (shadow,) = store.rollouts_in(connection, "s", RolloutState.SHADOW)
        assert (shadow.paired_n, shadow.paired_total, shadow.paired_squares, shadow.base_loss) == (
            15,
            3.0,
            5.5,
            30.0,
        )
        assert shadow.paired_dependence == 1.0
        turns = np.repeat(np.resize([1.0, -1.0], 10), 20)  # neighbours of one sign
        store.add_paired(connection, shadow.id, turns[:50], 100.0)  # in whatever batches
        store.add_paired(connection, shadow.id, turns[50:], 300.0)
        (shadow,) = store.rollouts_in(connection, "s", RolloutState.SHADOW)
        assert shadow.paired_dependence > 5
        assert store.shadow_plan(connection, "s") == [(40, 2)]
        store.move_rollout(connection, shadow, RolloutState.WATCHING, at=AT, since=90)
        (watching,) = store.rollouts_in(connection, "s", RolloutState.WATCHING)
        assert (watching.paired_n, watching.base_loss) == (0, 0.0)  # the record starts anew
        assert watching.paired_dependence == 1.0
        assert store.shadow_plan(connection, "s") == [(90, 1)]  # now the predecessor runs beside it
        begin(connection, 3)  # while one is watched, the next may come
        store.move_rollout(connection, watching, RolloutState.DONE, at=AT)
        assert store.shadow_plan(connection, "s") == []


def test_one_of_many_begins_the_rollout(stream: Engine) -> None:
    barrier = Barrier(4)

    def attempt(number: int) -> bool:
        barrier.wait()
        try:
            with transaction(stream) as connection:
                begin(connection, number)
        except Refused:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(attempt, range(2, 6))) == [False, False, False, True]


@pytest.mark.parametrize("seed", range(6))
def test_spending_in_any_span_stays_within_the_budget_and_one_overshoot(stream: Engine, seed: int) -> None:
    """A greedy spender who guesses each price by the last one, over two months of stream time."""
    rng = np.random.default_rng(seed)
    per_day, burst = float(rng.uniform(1, 50)), float(rng.uniform(0.2, 10))
    now, price, spent = AT, 0.0, list[tuple[datetime, float]]()
    with transaction(stream) as connection:
        for _ in range(150):
            now += timedelta(hours=float(rng.exponential(10)))
            left = streams.allowance(connection, "s", now, per_day, burst)
            assert left <= per_day * burst * (1 + 1e-9)
            while left >= max(min(price, per_day * burst), 1e-9):
                price = float(rng.exponential(per_day))
                streams.charge(connection, "s", price, now, per_day, burst)
                spent.append((now, price))
                after = streams.allowance(connection, "s", now, per_day, burst)
                assert after == pytest.approx(left - price)
                left = after
    assert len(spent) > 10
    for i, (first, _) in enumerate(spent):
        total = 0.0
        for last, seconds in spent[i:]:
            days = (last - first) / DAY
            assert total <= per_day * (days + burst) + 1e-6  # before the job that may overshoot
            total += seconds
            assert total <= per_day * (days + burst) + seconds + 1e-6


def test_an_unused_bucket_is_full_and_a_debt_is_paid_off_by_time(stream: Engine) -> None:
    with transaction(stream) as connection:
        assert streams.allowance(connection, "s", AT, 10.0, 3.0) == 30.0
        streams.charge(connection, "s", 50.0, AT, 10.0, 3.0)
        assert streams.allowance(connection, "s", AT, 10.0, 3.0) == -20.0
        assert streams.allowance(connection, "s", AT + DAY, 10.0, 3.0) == -10.0
        assert streams.allowance(connection, "s", AT + 2 * DAY, 10.0, 3.0) == 0.0
        assert streams.allowance(connection, "s", AT + 99 * DAY, 10.0, 3.0) == 30.0


def test_a_position_moves_by_compare_and_set_and_stream_time_never_goes_back(stream: Engine) -> None:
    with transaction(stream) as connection:
        streams.advance(connection, "s", "c", "", "1")
        with pytest.raises(Refused):
            streams.advance(connection, "s", "c", "", "1")
        with pytest.raises(Refused):
            streams.advance(connection, "s", "c", "0", "2")
        streams.advance(connection, "s", "c", "1", "2")
        assert streams.position(connection, "s", "c") == "2"
        streams.raise_watermark(connection, "s", AT)
        streams.raise_watermark(connection, "s", AT - DAY)
        assert streams.watermark(connection, "s") == AT


def test_of_many_who_move_a_position_one_does(stream: Engine) -> None:
    for old, new in (("", "1"), ("1", "2")):
        barrier = Barrier(4)

        def attempt(_: int, barrier: Barrier = barrier, old: str = old, new: str = new) -> bool:
            barrier.wait()
            try:
                with transaction(stream) as connection:
                    streams.advance(connection, "s", "c", old, new)
            except Refused:
                return False
            return True

        with ThreadPoolExecutor(4) as pool:
            assert sorted(pool.map(attempt, range(4))) == [False, False, False, True]
