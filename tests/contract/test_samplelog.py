"""What the sample log promises on every segment store: what was written is read, however it was cut, or `Corrupt`."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sqlalchemy import Engine

from cls.domain import Batch, Labelled
from cls.errors import Corrupt
from cls.ports import Events, Predictions, SegmentStore
from cls.times import from_us
from detectors.columns import Categorical, Column
from storage.db import open_database, reading, transaction
from storage.log import (
    Log,
    label_pace,
    next_position,
    record_segment,
    segment_at,
    write_events,
    write_labels,
    write_predictions,
)
from storage.segments import DiskSegments, MemorySegments

FEATURES = ["x", "c"]
COLOURS = ["red", "green", None, "é", ""]


def batch(first: int, rows: int) -> Batch:
    """Return events whose every value follows from their position."""
    index = np.arange(first, first + rows)
    x = np.where(index % 7 == 3, np.nan, index * 1.5)
    return Batch(
        {"c": Categorical.of([COLOURS[i % 5] for i in index]), "x": x},
        [f"k{i}" for i in index],
        1_000_000 * index - 5_000_000,
        (index % 3).astype(np.int8),
        np.where(index % 4 == 0, index / 8, np.nan),
        np.where(index % 4 == 0, index % 5, 0).astype(np.int64),
    )


def colours(column: Column) -> list[str | None]:
    assert isinstance(column, Categorical)
    return [None if code < 0 else column.vocabulary[code] for code in column.codes]


def assert_events(found: Events, start: int, stop: int) -> None:
    expected = batch(start, max(stop - start, 0))
    assert len(found) == max(stop - start, 0)
    assert found.position.tolist() == list(range(start, stop))
    if len(found):
        assert list(found.columns) == FEATURES
        assert np.array_equal(
            np.asarray(found.columns["x"]), np.asarray(expected.columns["x"]), equal_nan=True
        )
        assert colours(found.columns["c"]) == colours(expected.columns["c"])
    for name in ("time_us", "role", "prediction", "version"):
        mine, theirs = getattr(found, name), getattr(expected, name)
        assert np.array_equal(mine, theirs, equal_nan=name == "prediction")
        assert mine.dtype == theirs.dtype or not len(mine)


def assert_labelled(found: Labelled, position: NDArray[np.int64], value: NDArray[np.float64]) -> None:
    assert found.position.tolist() == position.tolist()
    assert found.target.tolist() == value.tolist()
    if not len(position):
        return
    whole = batch(0, int(position.max()) + 1)
    assert np.array_equal(
        np.asarray(found.columns["x"]), np.asarray(whole.columns["x"])[position], equal_nan=True
    )
    all_colours = colours(whole.columns["c"])
    assert colours(found.columns["c"]) == [all_colours[i] for i in position]
    assert found.time_us.tolist() == whole.time_us[position].tolist()
    assert found.role.tolist() == whole.role[position].tolist()


class World:
    """A log and its writer."""

    def __init__(self, engine: Engine, store: SegmentStore, cache_rows: int = 400_000) -> None:
        self.engine, self.store = engine, store
        self.log = Log(engine, store, {"s": FEATURES, "t": FEATURES}, cache_rows)

    def add_events(self, rows: int, stream: str = "s") -> None:
        with transaction(self.engine) as connection:
            start = next_position(connection, stream, "events")
            record_segment(connection, write_events(self.store, stream, start, batch(start, rows)))

    def add_labels(self, position: NDArray[np.int64], value: NDArray[np.float64], stream: str = "s") -> None:
        with transaction(self.engine) as connection:
            start = next_position(connection, stream, "labels")
            times = np.arange(start, start + len(position), dtype=np.int64)
            record_segment(connection, write_labels(self.store, stream, start, position, value, times))

    def add_predictions(self, scores: Predictions, stream: str = "s") -> None:
        with transaction(self.engine) as connection:
            start = next_position(connection, stream, "predictions")
            record_segment(connection, write_predictions(self.store, stream, start, scores))


@pytest.fixture(params=["disk", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> SegmentStore:
    return DiskSegments(tmp_path / "segments") if request.param == "disk" else MemorySegments()


@pytest.fixture
def world(engine: Engine, store: SegmentStore) -> World:
    return World(engine, store)


@contextmanager
def scratch(template: str, cache_rows: int) -> Iterator[World]:
    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(template, f"{folder}/cls.db")
        engine = open_database(f"sqlite:///{folder}/cls.db", durable=False)
        yield World(engine, MemorySegments(), cache_rows)
        engine.dispose()


def scores(rows: int, first: int = 0) -> Predictions:
    index = np.arange(first, first + rows)
    return Predictions(
        np.where(index % 5 == 0, np.nan, index / 3),
        np.full(rows, np.nan),
        (index % 4).astype(np.int64),
        np.where(index % 2 == 0, index / 7, np.nan),
        (index % 2).astype(np.int64),
    )


def test_every_half_open_range_across_segments_is_read_as_written(world: World) -> None:
    for rows in (1, 4, 2, 5):
        world.add_events(rows)
    for start in range(13):
        for stop in range(start, 14):
            assert_events(world.log.events("s", start, stop), start, min(stop, 12) if stop > start else start)


def test_predictions_come_back_across_segments(world: World) -> None:
    world.add_predictions(scores(3))
    world.add_predictions(scores(4, 3))
    whole = scores(7)
    for start in range(8):
        for stop in range(start, 9):
            found = world.log.predictions("s", start, stop)
            assert len(found) == max(min(stop, 7) - start, 0)
            for name in ("prediction", "uncertainty", "version", "shadow", "shadow_version"):
                assert np.array_equal(getattr(found, name), getattr(whole, name)[start:stop], equal_nan=True)


def test_labels_are_joined_in_the_order_in_which_they_landed(world: World) -> None:
    for rows in (3, 5, 4):
        world.add_events(rows)
    position = np.array([7, 0, 11, 3, 2, 8])
    value = position * 10.0
    world.add_labels(position[:4], value[:4])
    world.add_labels(position[4:], value[4:])
    for start in range(7):
        for stop in range(start, 8):
            assert_labelled(world.log.labelled("s", start, stop), position[start:stop], value[start:stop])
            found = world.log.labels("s", start, stop)
            assert (found[0].tolist(), found[1].tolist()) == (
                position[start:stop].tolist(),
                value[start:stop].tolist(),
            )


def test_streams_do_not_see_each_other(world: World) -> None:
    world.add_events(3)
    world.add_events(2, "t")
    world.add_labels(np.array([1]), np.array([5.0]), "t")
    assert len(world.log.events("s", 0, 99)) == 3
    assert len(world.log.events("t", 0, 99)) == 2
    assert len(world.log.labels("s", 0, 99)[0]) == 0
    with reading(world.engine) as connection:
        assert next_position(connection, "s", "labels") == 0
        assert next_position(connection, "t", "labels") == 1


def test_the_manifest_knows_times_and_the_last_event_that_a_label_names(world: World) -> None:
    world.add_events(4)
    world.add_labels(np.array([3, 0, 2]), np.zeros(3))
    with reading(world.engine) as connection:
        events, labels = (segment_at(connection, "s", kind, 0) for kind in ("events", "labels"))
        assert segment_at(connection, "s", "events", 2) is None  # only where one begins
    assert events is not None
    assert labels is not None
    assert (events.start, events.stop, events.max_position) == (0, 4, None)
    assert (events.time_from, events.time_to) == (from_us(-5_000_000), from_us(-2_000_000))
    assert labels.max_position == 3


def test_the_pace_of_labels_is_that_of_the_last_days(world: World) -> None:
    day = 86_400_000_000
    hours = np.arange(30 * 24)
    landed = np.repeat(hours * (day // 24), np.where(hours < 20 * 24, 10, 40))  # 240 a day, then 960
    with transaction(world.engine) as connection:
        for start in range(0, len(landed), 200):
            times = landed[start : start + 200]
            position = np.arange(start, start + len(times))
            segment = write_labels(world.store, "s", start, position, np.zeros(len(times)), times)
            record_segment(connection, segment)
    with reading(world.engine) as connection:
        now = from_us(int(landed[-1]))

        def pace(days: float, stream: str = "s", labels: int = len(landed)) -> float:
            return label_pace(connection, stream, labels, now, timedelta(days=days))

        assert pace(3) == pytest.approx(960, rel=0.1)
        assert pace(9) == pytest.approx(960, rel=0.1)
        assert pace(3000) == pytest.approx(len(landed) / 30, rel=0.1)
        assert pace(7, "t", 0) == 0.0
        assert (
            label_pace(connection, "s", 200, from_us(0), timedelta(days=7)) == 0.0
        )  # no time has passed yet


@pytest.mark.parametrize(
    ("batches", "now", "expected"),
    [
        ([(0, 20_000), (1, 500), (2, 500)], 2, 500),  # a history at once, then a trickle
        ([(0, 100), (1, 50_000), (2, 10), (12, 100), (13, 10)], 13, 10),  # a burst that is long over
        (
            [(0, 7_000), (30, 30_000)],
            31,
            1_000,
        ),  # a file a month: no window of seven days has a segment in it
    ],
)
def test_the_pace_of_labels_survives_bursts(
    world: World, batches: list[tuple[int, int]], now: int, expected: int
) -> None:
    day = 86_400_000_000
    at = 0
    with transaction(world.engine) as connection:
        for landed, rows in batches:
            times = np.full(rows, landed * day)
            segment = write_labels(world.store, "s", at, np.arange(rows), np.zeros(rows), times)
            record_segment(connection, segment)
            at += rows
    with reading(world.engine) as connection:
        found = label_pace(connection, "s", at, from_us(now * day), timedelta(days=7))
        assert found == pytest.approx(expected, rel=0.25)


def test_a_segment_exists_only_once_its_row_is_committed(world: World) -> None:
    world.add_events(2)
    write_events(world.store, "s", 2, batch(2, 3))  # the process dies here
    assert len(world.log.events("s", 0, 99)) == 2
    world.add_events(3)  # the same bytes again
    assert_events(world.log.events("s", 0, 99), 0, 5)


def test_two_writers_of_one_position_cannot_both_commit(world: World) -> None:
    from sqlalchemy.exc import IntegrityError

    world.add_events(2)
    late = write_events(world.store, "s", 0, batch(0, 3))
    with pytest.raises(IntegrityError), transaction(world.engine) as connection:
        record_segment(connection, late)
    assert len(world.log.events("s", 0, 99)) == 2


def test_a_flipped_byte_is_corrupt_wherever_it_is_read(engine: Engine, tmp_path: Path) -> None:
    root = tmp_path / "segments"
    world = World(engine, DiskSegments(root))
    world.add_events(4)
    world.add_labels(np.array([1, 2]), np.array([1.0, 2.0]))
    world.add_predictions(scores(4))
    for file in [path for path in root.rglob("*") if path.is_file()]:
        whole = file.read_bytes()
        for place in range(0, len(whole), max(len(whole) // 10, 1)):
            altered = bytearray(whole)
            altered[place] ^= 1
            file.write_bytes(altered)
            fresh = World(engine, DiskSegments(root)).log
            with pytest.raises(Corrupt, match="hash"):
                fresh.events("s", 0, 4), fresh.labels("s", 0, 2), fresh.predictions("s", 0, 4)
        file.write_bytes(whole)
    file = next(path for path in root.rglob("*") if "events" in path.as_posix() and path.is_file())
    file.unlink()
    with pytest.raises(Corrupt, match="missing"):
        World(engine, DiskSegments(root)).log.labelled("s", 0, 2)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=6),
    st.data(),
    st.sampled_from([1, 5, 400_000]),
)
def test_any_split_into_segments_and_any_cache_reads_the_same(
    sqlite_template: str, sizes: list[int], data: st.DataObject, cache_rows: int
) -> None:
    total = sum(sizes)
    order = np.array(data.draw(st.permutations(range(total))), np.int64)[: data.draw(st.integers(1, total))]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(order)), max_size=3)) | {0, len(order)})
    with scratch(sqlite_template, cache_rows) as world:
        for rows in sizes:
            world.add_events(rows)
        for low, high in itertools.pairwise(cuts):
            world.add_labels(order[low:high], np.asarray(order[low:high] * 2.0, np.float64))
        for _ in range(4):
            start = data.draw(st.integers(0, total))
            stop = data.draw(st.integers(start, total + 2))
            assert_events(world.log.events("s", start, stop), start, min(stop, total))
            part = order[start:stop]
            assert_labelled(world.log.labelled("s", start, stop), part, np.asarray(part * 2.0, np.float64))


def test_the_cache_is_bounded_and_serves_what_was_read(engine: Engine) -> None:
    class Counting(MemorySegments):
        reads = 0

        def get(self, path: str, sha256: str) -> object:
            self.reads += 1
            return super().get(path, sha256)

    store = Counting()
    world = World(engine, store, cache_rows=10)
    for _ in range(4):
        world.add_events(5)
    for _ in range(3):
        world.log.events("s", 0, 10)
    assert store.reads == 2
    world.log.events("s", 0, 20)
    world.log.events("s", 10, 20)
    assert store.reads == 4  # the two newest stayed
    world.log.events("s", 0, 5)
    assert store.reads == 5


def test_a_feature_added_to_the_schema_is_missing_in_older_segments(world: World) -> None:
    world.add_events(2)
    newer = batch(2, 2)
    widened = Batch(
        {**newer.columns, "z": np.array([1.0, 2.0])},
        newer.key,
        newer.time_us,
        newer.role,
        newer.prediction,
        newer.version,
    )
    with transaction(world.engine) as connection:
        record_segment(connection, write_events(world.store, "s", 2, widened))
    found = Log(world.engine, world.store, {"s": [*FEATURES, "z"]}).events("s", 0, 4)
    assert np.array_equal(np.asarray(found.columns["z"]), [np.nan, np.nan, 1.0, 2.0], equal_nan=True)
