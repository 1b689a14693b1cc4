"""What status and doctor ask, on both databases."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine, text

from cls.domain import JobInput, JobKind
from storage import outbox, overview, queue, streams
from storage.db import reading, transaction

T0 = datetime(2013, 1, 1, tzinfo=UTC)
INPUT = JobInput("naive", 0, 1, 1, None, 0, 1, T0, T0, light=True, reason="test")


def test_an_empty_database_has_nothing_to_tell(engine: Engine) -> None:
    with reading(engine) as connection:
        assert overview.undelivered(connection) == overview.Undelivered(0, None, None)
        assert overview.tokens(connection, "s") == {}
        assert overview.live_jobs(connection, "s") == []
        assert overview.orphaned(connection, timedelta()) == []
        assert overview.job_waits(connection) == []
        assert overview.waiting_dead_letters(connection, "s") == overview.waiting_labels(connection, "s") == 0


def test_the_first_waiting_message_tells_its_age_and_error(engine: Engine) -> None:
    with transaction(engine) as connection:
        outbox.post(connection, "s", "aliases", {})
        outbox.post(connection, "s", "aliases", {})
        outbox.postponed(connection, 1, 0, "away")
        connection.execute(text("UPDATE outbox SET created_at = created_at - 60000000 WHERE id = 1"))
    with reading(engine) as connection:
        found = overview.undelivered(connection)
    assert (found.waiting, found.error) == (2, "away")
    assert found.oldest_seconds is not None
    assert 60 <= found.oldest_seconds < 90


def test_a_job_waits_until_it_is_claimed_and_is_orphaned_when_its_lease_ends(engine: Engine) -> None:
    with transaction(engine) as connection:
        streams.ensure_stream(connection, "s")
        number = queue.enqueue(connection, "s", JobKind.UPDATE, INPUT, priority=0)
        connection.execute(text("UPDATE jobs SET run_at = run_at - 60000000"))
    with reading(engine) as connection:
        [(job, stream, seconds)] = overview.job_waits(connection)
        assert [row.id for row in overview.live_jobs(connection, "s")] == [number]
    assert (job, stream) == (number, "s")
    assert 60 <= seconds < 90
    with transaction(engine) as connection:
        assert queue.claim(connection, "w", timedelta(seconds=60)) is not None
    with reading(engine) as connection:
        assert overview.job_waits(connection) == []
        assert overview.orphaned(connection, timedelta()) == []
    with transaction(engine) as connection:
        connection.execute(text("UPDATE jobs SET lease_until = lease_until - 120000000"))
    with reading(engine) as connection:
        assert [row.id for row in overview.orphaned(connection, timedelta(seconds=30))] == [number]
        assert overview.orphaned(connection, timedelta(seconds=90)) == []


def test_dead_letters_count_until_they_are_sent_in_again(engine: Engine) -> None:
    with transaction(engine) as connection:
        streams.add_dead_letters(connection, "s", "events", [("bad", {"a": 1}), ("worse", {"a": 2})])
        streams.add_dead_letters(connection, "t", "events", [("bad", {"a": 3})])
        streams.mark_replayed(connection, [1])
    with reading(engine) as connection:
        assert overview.waiting_dead_letters(connection, "s") == 1
        assert overview.dead_letter_ids(connection, "s") == [2]
        assert [row.record for row in overview.show_dead_letters(connection, "s", [1, 2, 3])] == [
            {"a": 1},
            {"a": 2},
        ]


def test_each_consumer_has_its_token(engine: Engine) -> None:
    with transaction(engine) as connection:
        streams.advance(connection, "s", "source", "", "7")
        streams.advance(connection, "s", "score", "", "3", partition=2)
    with reading(engine) as connection:
        assert overview.tokens(connection, "s") == {"score/2": "3", "source": "7"}
