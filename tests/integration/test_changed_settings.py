"""A running stream whose settings, or whose release, change: what is stored stays what it was, and the loop goes on."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, event, update

from cls.act import Actor
from cls.domain import Champion
from cls.errors import Permanent
from cls.loss_windows import LossWindows
from cls.season import Season
from detectors.loss import LossEstimate
from storage import performance, streams, tables
from storage.db import open_database, transaction
from tests.integration.test_stream_loop import START, World, stream, table

ROWS = 100


def settings(**detect: Any) -> Any:
    base = {
        "window_rows": ROWS,
        "reference_rows": 600,
        "bins": 8,
        "slide_rows": None,
        "sequential": False,
        "score_method": "none",
    }
    update = {"cadence": "drift", "min_rows": 5000, "bootstrap_rows": 400}
    return stream(detect=base | detect, update=update)


def begun(engine: Engine, **detect: Any) -> World:
    """Return a stream with its first model, after 600 rows."""
    world = World(engine, settings(**detect))
    world.boot()
    feed(world, 0, 600, 100)
    assert world.champion() == 1
    return world


def feed(world: World, start: int, stop: int, rows: int, **how: Any) -> None:
    for first in range(start, stop, rows):
        world.feed(("events", table(first, min(rows, stop - first), **how)))


def changed(world: World, **detect: Any) -> None:
    """Start the processes again with other settings."""
    world.settings = settings(**detect)
    world.boot()


def spans(world: World, detector: str) -> list[tuple[int, int]]:
    return [(row.start, row.stop) for row in world.rows(tables.verdicts) if row.detector == detector]


def latest(world: World) -> Any:
    return [row for row in world.rows(tables.verdicts) if row.detector == "kl"][-1]


def test_a_window_with_a_season_that_spans_batches_is_diagnosed(engine: Engine) -> None:
    world = begun(engine, season="weekday")
    feed(world, 600, 840, 60, shift=3.0)
    alarmed = latest(world)
    assert alarmed.alarm
    assert alarmed.diagnosis is not None
    assert alarmed.start % 60  # its first rows came with an earlier batch


@pytest.mark.parametrize(("sizes", "lengths"), [((60, 140, 50), (140, 50)), ((130, 50, 90), (50, 90))])
def test_windows_follow_each_other_without_a_gap_when_their_size_changes(
    engine: Engine, sizes: tuple[int, ...], lengths: tuple[int, ...]
) -> None:
    world = begun(engine, window_rows=sizes[0])
    feed(world, 600, 840, 60)
    for size, (first, last) in zip(sizes[1:], ((840, 1080), (1080, 1320)), strict=True):
        changed(world, window_rows=size)
        feed(world, first, last, 60)
    for detector in ("prediction", "label"):
        found = spans(world, detector)
        assert all(one[1] == other[0] for one, other in pairwise(found))
        assert {stop - start for start, stop in found} >= set(lengths)
        assert found[-1][1] > 1320 - sizes[-1]
    since = world.rows(tables.champions)[0].since
    windows = world.rows(tables.loss_windows)
    assert [row.start for row in windows] == [since, *(row.stop for row in windows[:-1])]
    assert windows[-1].stop == 1320
    assert all(0 < row.labels <= row.stop - row.start for row in windows)
    assert sum(row.labels for row in windows) >= 0.9 * (1320 - since)  # late ones find their window closed


def test_a_reference_is_watched_by_its_own_season_whatever_is_configured_since(engine: Engine) -> None:
    world = begun(engine, season="weekday")
    feed(world, 600, 750, 50)
    plain = latest(world)
    for season, sequential in (("hour", False), ("none", False), ("none", True)):
        changed(world, season=season, sequential=sequential)
        start = len(world.rows(tables.event_keys))
        feed(world, start, start + 100, 50)
        verdict = latest(world)
        assert verdict.stop > start
        assert not verdict.alarm
        assert (
            f'compared by weekday, as the reference was made: season = "{season}" begins' in verdict.summary
        )
        assert ("not watched row by row" in verdict.summary) == sequential
    assert "compared" not in plain.summary


@pytest.mark.parametrize("season", ["weekday", "hour"])
def test_a_reference_without_a_season_is_compared_without_one(engine: Engine, season: Season) -> None:
    world = begun(engine)
    changed(world, season=season)
    feed(world, 600, 760, 80, shift=3.0)
    assert latest(world).alarm
    assert latest(world).diagnosis is not None
    assert "compared without seasons, as the reference was made" in latest(world).summary


def refer(world: World, sha256: str, version: int) -> None:
    """Let a version's promotion refer to another reference."""
    with transaction(world.engine) as connection:
        for which in (tables.promotions, tables.champions):
            connection.execute(update(which).where(which.c.version == version).values(reference=sha256))
    world.boot()


def test_a_reference_of_another_release_halts_its_stream_with_a_reason_until_another_is_in_force(
    engine: Engine,
) -> None:
    world = begun(engine)
    good = world.rows(tables.champions)[0].reference
    document = json.loads(world.artifacts.get(good)) | {"format": 1}
    refer(world, world.artifacts.put(json.dumps(document).encode()), 1)
    world.source.push("events", table(600, 100))
    reason = "version 1's reference was written by another release: promote another version or retrain it"
    for _ in range(2):  # and again, when the daemon tries again
        with pytest.raises(Permanent, match=reason):
            world.settle()
    with transaction(engine) as connection:  # the first reference remains, for the record
        connection.execute(update(tables.champions).values(reference=good))
    world.boot()
    world.settle()
    verdict = latest(world)
    assert verdict.stop > 600
    assert verdict.baseline_nats is None


def test_a_row_watch_of_another_release_begins_anew(engine: Engine) -> None:
    world = begun(engine, sequential=True)
    feed(world, 600, 650, 50)
    (watch,) = world.rows(tables.row_watches)
    with transaction(engine) as connection:
        connection.execute(update(tables.row_watches).values(state=watch.state | {"format": 0}))
    feed(world, 650, 700, 50)
    (anew,) = world.rows(tables.row_watches)
    assert anew.position == 650
    assert anew.state["format"] == watch.state["format"]


def put_open(engine: Engine, windows: int) -> None:
    """Keep windows of the promotions 1 and 2; the first of each waits for labels, as do all others."""
    effects = tuple((f"feature_{i}", 0.1, 0.0, 0.2) for i in range(20))
    estimate = LossEstimate(1.0, 0.9, 1.1, 1.0, effects)
    none = np.zeros(0, np.int64)
    with transaction(engine) as connection:
        streams.ensure_stream(connection, "s")
        streams.raise_watermark(connection, "s", START + timedelta(hours=1))
        for i in range(windows):
            window = performance.LossWindow(
                1 + i % 2, i * ROWS, (i + 1) * ROWS, START, START, none, True, estimate
            )
            performance.put_loss_window(connection, "s", window)


def test_settling_looks_at_one_waiting_window_and_gives_up_those_of_earlier_promotions(
    engine: Engine,
) -> None:
    put_open(engine, 400)
    world = World(engine, settings())
    world.boot()
    actor: Actor = world.loop.actor
    windows = LossWindows("s", world.settings, actor, world.loop.profile)
    fetched: list[str] = []
    event.listen(engine, "after_cursor_execute", lambda *a: fetched.append(a[2]))
    with transaction(engine) as connection:
        windows.settle(connection, Champion("s", 1, None, 0, 2, "none"))
        looked = [query for query in fetched if query.startswith("SELECT loss_windows")]
        assert len(looked) == 1
        assert "LIMIT" in looked[0]
    states = [(row.promotion, row.state) for row in world.rows(tables.loss_windows)]
    assert set(states) == {(1, performance.SUPERSEDED), (2, performance.OPEN)}


def test_the_first_waiting_window_is_found_by_the_index_of_waiting_ones(
    sqlite_template: str, tmp_path: Path
) -> None:
    shutil.copyfile(sqlite_template, tmp_path / "cls.db")
    engine = open_database(f"sqlite:///{tmp_path / 'cls.db'}")
    put_open(engine, 10)
    query = "SELECT * FROM loss_windows WHERE stream = 's' AND promotion = 2 AND state = 'open' ORDER BY start LIMIT 1"
    change = (
        "UPDATE loss_windows SET state = 'superseded' WHERE stream = 's' AND promotion < 2 AND state = 'open'"
    )
    with transaction(engine) as connection:
        for statement in (query, change):
            (plan,) = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}").fetchall()
            assert "ix_loss_windows_open" in plan[3], plan[3]
    engine.dispose()
