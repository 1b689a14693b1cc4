"""What the daemon tells Prometheus: figures as the tables have them, cheap after a year, silent and prompt while the database is away."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine, insert, text, update

from cls.config import Config
from cls.domain import JobInput, JobKind, RolloutState
from cls.metrics.daemon import DAEMON, Measures, Turning
from cls.metrics.readiness import KEPT_SECONDS, Readiness, Turns
from cls.times import to_us
from storage import outbox, queue, streams, versions
from storage.announcements import announce
from storage.db import database_now, open_database, reading, transaction
from storage.tables import inbox, jobs, loss_windows, promotions, segments, verdicts
from storage.tables import webhooks as webhook_table
from storage.totals import Totals

T0 = datetime(2013, 1, 1, tzinfo=UTC)
INPUT = JobInput("naive", 0, 1, 1, None, 0, 1, T0, T0, light=True, reason="test")
SCHEMA = {"numeric": ["x"], "key": "id", "event_time": "at", "target": "y"}
CONFIG = Config.model_validate(
    {
        "streams": {name: {"task": "regression", "schema": SCHEMA} for name in ("s", "other")},
        "webhooks": {"ops": {"url": "https://example.org/hook", "secret_env": "SECRET"}},
    },
    by_alias=True,
    by_name=False,
)
Sample = tuple[str, frozenset[tuple[str, str]]]


def sample(name: str, **labels: str) -> Sample:
    return name, frozenset(labels.items())


def read(measures: Measures) -> dict[Sample, float]:
    families = text_string_to_metric_families(measures.page()[0].decode())
    return {(s.name, frozenset(s.labels.items())): s.value for f in families for s in f.samples}


def measures_of(engine: Engine) -> Measures:
    return Measures(CONFIG, engine, lambda: {"s": Turning(1.5), "other": Turning(70.0, "a broken file")})


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every scrape read anew."""
    monkeypatch.setattr("cls.metrics.daemon.FRESH_SECONDS", -1.0)


def verdict(start: int, detector: str = "kl", **values: Any) -> dict[str, Any]:
    row = {"stream": "s", "detector": detector, "start": start, "stop": start + 100, "time_from": T0}
    row |= {"time_to": T0, "promotion": 1, "alarm": False, "p_value": 0.5, "nats": 0.01}
    return row | {"baseline_nats": 0.02, "onset": start, "summary": ""} | values


def test_an_empty_database_shows_zeros(engine: Engine) -> None:
    found = read(measures_of(engine))
    assert found[sample("cls_database_up")] == 1
    assert found[sample("cls_events_total", stream="s")] == 0
    assert found[sample("cls_alarms_total", stream="s", detector="kl")] == 0
    assert found[sample("cls_champion_version", stream="s")] == 0
    assert found[sample("cls_stream_halted", stream="other")] == 1
    assert found[sample("cls_stream_turn_age_seconds", stream="s")] == 1.5
    assert sample("cls_rollout_share", stream="s") not in found


def test_figures_are_what_the_tables_say(engine: Engine) -> None:
    with transaction(engine) as connection:
        streams.ensure_stream(connection, "s")
        streams.raise_watermark(connection, "s", T0 + timedelta(hours=3))
        events = {"stream": "s", "partition": 0, "path": "", "sha256": ""}
        for start in range(0, 1000, 100):
            times = {"time_from": T0, "time_to": T0 + timedelta(minutes=start / 10)}
            row = {"kind": "events", "start": start, "stop": start + 100} | times
            connection.execute(insert(segments).values(**events, **row))
        row = {"kind": "labels", "start": 0, "stop": 350, "max_position": 420}
        connection.execute(insert(segments).values(**events, **row))
        streams.advance(connection, "s", "score", "", "900")
        streams.advance(connection, "s", "join", "", "340")
        now = database_now(connection)
        for sequence in range(3):
            request = {"stream": "s", "producer": "p", "sequence": sequence, "kind": "events", "rows": 1}
            connection.execute(insert(inbox).values(**request, path="", sha256="", received_at=now))
        connection.execute(text("UPDATE inbox SET received_at = received_at - 60000000 WHERE id = 2"))
        streams.advance(connection, "s", "source", "", "1")
        streams.add_dead_letters(connection, "s", "events", [("bad", {}), ("bad", {})])
        streams.mark_replayed(connection, [1])
        connection.execute(insert(verdicts), [verdict(0), verdict(100, alarm=True, nats=0.3, p_value=0.001)])
        promotion = {"stream": "s", "version": 4, "previous": 3, "since": 0, "reference": "", "reason": ""}
        connection.execute(insert(promotions).values(**promotion))
        champion = "INSERT INTO champions (stream, promotion, version, previous, since, reference) VALUES ('s', 1, 4, 3, 0, '')"
        connection.execute(text(champion))
        window = {"stream": "s", "promotion": 1, "time_from": T0, "time_to": T0, "complete": True}
        window |= {
            "label_counts": b"",
            "estimate": {"mean": 2.5},
            "labels": 80,
            "labelled": 40,
            "loss": 100.0,
        }
        settled = {"start": 0, "stop": 100, "state": "covered"}
        waiting = {"start": 100, "stop": 200, "state": "open", "labels": 1}
        connection.execute(insert(loss_windows), [window | settled, window | waiting])
        streams.write_ledger(connection, "s", "promotion", "why", at=T0)
        streams.write_ledger(connection, "s", "decision", "why", at=T0, decision="skip")
        outbox.post(connection, "s", "aliases", {})
        announce(connection, "s", "drift.alarm", {})
        hook = {"name": "ops", "position": 0, "next_at": T0}
        connection.execute(insert(webhook_table), [hook, hook | {"name": "gone"}])
    found = read(measures_of(engine))
    expected = {
        sample("cls_events_total", stream="s"): 1000,
        sample("cls_labels_total", stream="s"): 350,
        sample("cls_unlabelled_rows", stream="s"): 650,
        sample("cls_score_lag_rows", stream="s"): 100,
        sample("cls_join_lag_rows", stream="s"): 10,
        sample("cls_label_lag_seconds", stream="s"): 3 * 3600 - 40 * 60,  # its segment ends at minute 40
        sample("cls_stream_time_seconds", stream="s"): to_us(T0 + timedelta(hours=3)) / 1e6,
        sample("cls_ingest_waiting_requests", stream="s"): 2,
        sample("cls_dead_letters_total", stream="s", kind="events"): 2,
        sample("cls_dead_letters", stream="s"): 1,
        sample("cls_drift_nats", stream="s", detector="kl"): 0.3,
        sample("cls_drift_p_value", stream="s", detector="kl"): 0.001,
        sample("cls_windows_total", stream="s", detector="kl"): 2,
        sample("cls_alarms_total", stream="s", detector="kl"): 1,
        sample("cls_champion_version", stream="s"): 4,
        sample("cls_label_coverage_ratio", stream="s"): 0.8,
        sample("cls_loss", stream="s"): 2.5,
        sample("cls_expected_loss", stream="s"): 2.5,
        sample("cls_promotions_total", stream="s"): 1,
        sample("cls_decisions_total", stream="s", decision="skip"): 1,
        sample("cls_budget_left_device_seconds", stream="s"): 7 * 3600,
        sample("cls_outbox_waiting"): 1,
        sample("cls_webhook_waiting", webhook="ops"): 1,
        sample("cls_events_total", stream="other"): 0,
    }
    assert {name: found.get(name) for name in expected} == expected
    assert 60 <= found[sample("cls_ingest_lag_seconds", stream="s")] < 90
    assert sample("cls_webhook_waiting", webhook="gone") not in found  # series are of what is configured


def test_a_rollout_shows_where_it_is(engine: Engine) -> None:
    with transaction(engine) as connection:
        streams.ensure_stream(connection, "s")
        streams.raise_watermark(connection, "s", T0)
        number = versions.add_rollout(
            connection, "s", 7, parent=6, light=False, effective_at=T0, episode=None
        )
        [rollout] = versions.rollouts_in(connection, "s", RolloutState.WAITING)
        late = T0 + timedelta(hours=1)
        versions.move_rollout(connection, rollout, RolloutState.SHADOW, at=T0, since=0, deadline_at=late)
        versions.add_paired(connection, number, np.full(100, -0.1), 200.0)
        [rollout] = versions.rollouts_in(connection, "s", RolloutState.SHADOW)
        versions.move_rollout(connection, rollout, RolloutState.CANARY, at=T0, step=1, share=0.25, slow_us=9)
    found = read(measures_of(engine))
    assert found[sample("cls_rollout_state", stream="s", state="canary")] == 1
    assert found[sample("cls_rollout_state", stream="s", state="shadow")] == 0
    assert found[sample("cls_rollout_version", stream="s")] == 7
    assert (
        found[sample("cls_rollout_step", stream="s")],
        found[sample("cls_rollout_share", stream="s")],
    ) == (
        1,
        0.25,
    )
    assert found[sample("cls_rollout_paired_rows", stream="s")] == 100
    low, high = (found[sample(f"cls_rollout_loss_change_{end}", stream="s")] for end in ("low", "high"))
    assert low < -10.0 / 200.0 < high
    assert found[sample("cls_rollout_deadline_seconds", stream="s")] == 3600
    assert found[sample("cls_rollout_paused", stream="s")] == 0
    assert found[sample("cls_rollout_state", stream="other", state="canary")] == 0


def test_jobs_are_counted_once_as_they_end(engine: Engine, fresh: None) -> None:
    measures = measures_of(engine)
    queued = sample("cls_jobs", stream="s", kind="update", state="queued")
    running = sample("cls_jobs", stream="s", kind="update", state="running")
    dead = sample("cls_jobs_total", stream="s", kind="update", outcome="dead")
    succeeded = sample("cls_jobs_total", stream="s", kind="update", outcome="succeeded")
    with transaction(engine) as connection:
        streams.ensure_stream(connection, "s")
        number = queue.enqueue(connection, "s", JobKind.UPDATE, INPUT, priority=0)
        connection.execute(text("UPDATE jobs SET run_at = run_at - 60000000"))
    found = read(measures)
    assert (found[queued], found[running], found[dead]) == (1, 0, 0)
    assert 60 <= found[sample("cls_job_wait_seconds", kind="update")] < 90
    with transaction(engine) as connection:
        job = queue.claim(connection, "w", timedelta(seconds=60))
        streams.sign_in(connection, "worker@h:1", "worker", {})
        streams.sign_in(connection, "worker@h:2", "worker", {})
    found = read(measures)
    assert (found[queued], found[running]) == (0, 1)
    assert (found[sample("cls_slots", state="busy")], found[sample("cls_slots", state="idle")]) == (1, 1)
    with transaction(engine) as connection:
        assert job is not None
        queue.fail(connection, job, "no", queue.Limits(), permanent=True, charged_seconds=4.0)
    assert read(measures)[dead] == 1
    assert read(measures)[dead] == 1
    with transaction(
        engine
    ) as connection:  # an operator queues it again, behind others that have ended since
        for _ in range(2):
            other = queue.enqueue(connection, "s", JobKind.ASSESS, INPUT, priority=0)
            connection.execute(update(jobs).where(jobs.c.id == other).values(state="cancelled"))
        queue.retry(connection, number)
        job = queue.claim(connection, "w", timedelta(seconds=60))
    assert read(measures)[running] == 1
    with transaction(engine) as connection:
        assert job is not None
        result = {"gate": {"verdict": "pass"}}
        queue.succeed(connection, job, result, charged_seconds=6.0, passes=1.0)
    found = read(measures)
    assert (found[dead], found[succeeded], found[running]) == (1, 1, 0)
    assert found[sample("cls_device_seconds_total", stream="s", kind="update")] == 10
    assert found[sample("cls_gates_total", stream="s", verdict="pass")] == 1
    assert found[sample("cls_jobs_total", stream="s", kind="assess", outcome="cancelled")] == 2
    again = read(measures_of(engine))  # a new process counts what is there
    assert (again[succeeded], again[dead]) == (1, 0)
    assert again[sample("cls_gates_total", stream="s", verdict="pass")] == 1


def test_counting_on_equals_counting_anew(engine: Engine) -> None:
    totals = Totals()
    for batch in range(4):
        with transaction(engine) as connection:
            alarms = [i % 5 == batch for i in range(20)]
            rows = [verdict(1000 * batch + i, "kl", alarm=a) for i, a in enumerate(alarms)]
            connection.execute(insert(verdicts), [*rows, *(r | {"stream": "other"} for r in rows[:7])])
            streams.write_ledger(connection, "s", "rollback", "why", at=T0)
            streams.add_dead_letters(connection, "other", "labels", [("bad", {})] * batch)
        with reading(engine) as connection:
            totals.update(connection, CONFIG.streams)
            totals.update(connection, CONFIG.streams)
    fresh = Totals()
    with reading(engine) as connection:
        fresh.update(connection, CONFIG.streams)
    assert totals == fresh
    assert fresh.alarms["s", "kl"] == 16
    assert fresh.verdicts["other", "kl"] == 28
    assert fresh.dead_letters["other", "labels"] == 6


def test_every_series_is_declared(engine: Engine) -> None:
    measures = measures_of(engine)
    measures.page()
    declared = {measure.name: measure for measure in DAEMON}
    shown = set()
    for found in measures.collect():
        name = f"{found.name}_total" if found.type == "counter" else found.name
        shown.add(name)
        assert declared[name].kind == found.type
        for one in found.samples:
            assert set(one.labels) == set(declared[name].labels)
    assert shown == set(declared)


YEAR = 60_000  # windows: one every nine minutes for a year
NOTHING, LETTERS, JSON = "''", "'xxxxxxxxxxxxxxxxxxxxxxxx'", "'{}'"
SPAN = {"time_from": "0", "time_to": "0"}
LONG: list[tuple[str, int, dict[str, str]]] = [
    (
        "verdicts",
        YEAR,
        {
            "stream": "'s'",
            "detector": "'kl'",
            "start": "i",
            "stop": "i + 1",
            "promotion": "1",
            "alarm": "false",
        }
        | {"nats": "0.1", "onset": "i", "drift": JSON, "summary": LETTERS}
        | SPAN,
    ),
    (
        "ledger",
        20_000,
        {"stream": "'s'", "recorded_at": "0", "kind": "'decision'", "decision": "'skip'"}
        | {"reason": LETTERS, "details": JSON},
    ),
    (
        "dead_letters",
        20_000,
        {"stream": "'s'", "kind": "'events'", "reason": LETTERS, "record": JSON, "received_at": "0"},
    ),
    (
        "segments",
        20_000,
        {
            "stream": "'s'",
            "kind": "'events'",
            "partition": "0",
            "start": "1000 * i",
            "stop": "1000 * i + 1000",
        }
        | {"path": LETTERS, "sha256": LETTERS}
        | SPAN,
    ),
    (
        "inbox",
        30_000,
        {"stream": "'s'", "producer": "'p'", "sequence": "i", "kind": "'events'", "rows": "1"}
        | {"path": NOTHING, "sha256": NOTHING, "received_at": "0"},
    ),
]


def test_a_year_of_rows_makes_no_scrape_slow(engine: Engine, fresh: None) -> None:
    measures = measures_of(engine)
    with transaction(engine) as connection:
        streams.ensure_stream(connection, "s")
        streams.raise_watermark(connection, "s", T0)
        for table, rows, columns in LONG:
            names = ", ".join(columns)
            counter = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :rows)"
            query = f"INSERT INTO {table} ({names}) {counter} SELECT {', '.join(columns.values())} FROM n"
            connection.execute(text(query), {"rows": rows})
        streams.advance(connection, "s", "source", "", "5")
    began = time.perf_counter()
    first = read(measures)
    counted = time.perf_counter() - began
    found = {}
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        found = read(measures)
        seconds.append(time.perf_counter() - began)
    assert first[sample("cls_windows_total", stream="s", detector="kl")] == YEAR
    assert found[sample("cls_windows_total", stream="s", detector="kl")] == YEAR
    assert found[sample("cls_dead_letters", stream="s")] == 10_000  # no further
    assert found[sample("cls_ingest_waiting_requests", stream="s")] == 10_000
    assert counted < 3.0
    assert min(seconds) < 0.25, seconds
    assert len(found) < 400


def test_a_database_that_is_away_is_told_of_and_waited_for_no_longer(
    fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_database("postgresql+psycopg://nobody@127.0.0.1:1/none")
    measures = measures_of(engine)
    for times in (1, 2):
        found = read(measures)
        assert found[sample("cls_database_up")] == 0
        assert found[sample("cls_database_errors_total")] == times
        assert sample("cls_events_total", stream="s") not in found
        assert found[sample("cls_stream_halted", stream="other")] == 1
    engine.dispose()


def test_a_database_that_hangs_holds_up_no_scrape(
    engine: Engine, fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    measures = measures_of(engine)
    assert read(measures)[sample("cls_database_up")] == 1
    monkeypatch.setattr("cls.metrics.daemon.PATIENCE_SECONDS", 0.2)
    honest = measures._figures

    def hanging(connection: Any) -> Any:
        time.sleep(2.0)
        return honest(connection)

    monkeypatch.setattr(measures, "_figures", hanging)
    began = time.perf_counter()
    found = read(measures)
    assert time.perf_counter() - began < 1.5
    assert found[sample("cls_database_up")] == 0
    assert found[sample("cls_events_total", stream="s")] == 0  # as last read, with its age
    assert found[sample("cls_figures_age_seconds")] > 0.2
    monkeypatch.setattr("cls.metrics.daemon.PATIENCE_SECONDS", 5.0)
    assert read(measures)[sample("cls_database_up")] == 1


@pytest.fixture
def turns() -> Turns:
    return Turns(["s", "other"])


def test_readiness_names_what_is_amiss(engine: Engine, turns: Turns) -> None:
    ready = Readiness(engine, turns, measures_of(engine))
    assert ready.faults() == []
    turns.halt("s", "a segment is damaged")
    assert ready.faults() == ["stream s is halted: a segment is damaged"]
    turns.went_well("s")
    assert ready.faults() == []
    with transaction(engine) as connection:
        connection.execute(text("UPDATE cls_alembic_version SET version_num = 'earlier'"))
    assert ready.faults() == []  # the database is asked once a second
    time.sleep(KEPT_SECONDS + 0.1)
    [fault] = ready.faults()
    assert "schema is at revision earlier" in fault


def test_without_a_database_the_daemon_is_not_ready(turns: Turns) -> None:
    engine = open_database("postgresql+psycopg://nobody@127.0.0.1:1/none")
    [fault] = Readiness(engine, turns, measures_of(engine)).faults()
    assert fault.startswith("database:")
    engine.dispose()
