"""Sums of each arm are what one would count row by row, and none is lost or counted twice."""

from __future__ import annotations

from bisect import bisect_left
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sqlalchemy import Engine, insert

from cls.arms import LATENCY_US
from cls.errors import Unavailable
from cls.serving.tally import Tally
from cls.times import EPOCH
from storage.db import open_database, reading, transaction
from storage.served import read_served
from storage.streams import ensure_stream
from storage.tables import served

ARM = ("flights", 3, "canary-0", 2)


@pytest.fixture
def streams(engine: Engine) -> Engine:
    with transaction(engine) as connection:
        ensure_stream(connection, "flights")
    return engine


def test_sums_are_those_of_all_batches_whatever_thread_counted_and_however_often_they_were_sent(
    streams: Engine,
) -> None:
    rng = np.random.default_rng(0)
    batches = [rng.normal(size=int(n)) for n in rng.integers(1, 400, 200)]
    batches[7][3] = np.nan
    seconds = rng.exponential(0.002, 200)
    tally = Tally()
    with ThreadPoolExecutor(4) as pool:
        for i, batch in enumerate(batches):
            bad = int(np.count_nonzero(~np.isfinite(batch)))
            pool.submit(tally.batch, ARM, float(seconds[i]), len(batch), bad)
            if i % 50 == 0:
                tally.flush(streams)
    tally.error(*ARM)
    tally.flush(streams)
    tally.flush(streams)
    with reading(streams) as connection:
        found = read_served(connection, "flights", 3)[ARM[2:]]
    rows = np.concatenate(batches)
    assert (found.rows, found.batches, found.errors, found.nonfinite) == (len(rows), 201, 1, 1)
    places = [bisect_left(LATENCY_US, second * 1e6) for second in seconds]
    assert found.latency.tolist() == np.bincount(places, minlength=len(LATENCY_US) + 1).tolist()


def test_sums_outlive_a_database_that_is_away(streams: Engine) -> None:
    away = open_database("sqlite:////nowhere/at/all.db")
    tally = Tally()
    for _ in range(3):
        tally.batch(ARM, 0.001, 2, 0)
        with pytest.raises(Unavailable):
            tally.flush(away)
    tally.flush(streams)
    away.dispose()
    with reading(streams) as connection:
        found = read_served(connection, "flights", 3)[ARM[2:]]
    assert (found.rows, found.batches) == (6, 3)


def test_counts_that_cannot_be_added_are_dropped_alone_and_none_is_added_twice(streams: Engine) -> None:
    key = dict(zip(("stream", "rollout", "stage", "version"), ARM, strict=True)) | {"stage": "bad"}
    counts = {"rows": 0, "batches": 0, "errors": 0, "nonfinite": 0, "outputs": [], "updated_at": EPOCH}
    with transaction(streams) as connection:
        connection.execute(insert(served).values(**key, **counts, latency=[0, 0, 0]))  # of other bins
    tally = Tally()
    tally.batch(("flights", 3, "bad", 2), 0.001, 5, 0)
    tally.batch(ARM, 0.001, 3, 1)
    for _ in range(3):
        tally.flush(streams)
    with reading(streams) as connection:
        found = read_served(connection, "flights", 3)[ARM[2:]]
    assert (found.rows, found.batches, found.nonfinite) == (3, 1, 1)
