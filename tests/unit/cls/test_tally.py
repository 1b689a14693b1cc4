"""Sums of each arm are what one would count row by row, and none is lost or counted twice."""

from __future__ import annotations

from bisect import bisect_left
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sqlalchemy import Engine

from cls.arms import LATENCY_US, OUTPUT_BINS, count_outputs
from cls.errors import Unavailable
from cls.tally import Tally
from storage.db import open_database, reading, transaction
from storage.served import read_served
from storage.streams import ensure_stream

ARM = ("flights", 3, "canary-0", 2)
BINS = (1.0, 2.0, OUTPUT_BINS, False)


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
            pool.submit(tally.batch, ARM, float(seconds[i]), batch, BINS)
            if i % 50 == 0:
                tally.flush(streams)
    tally.error(*ARM)
    tally.flush(streams)
    tally.flush(streams)
    with reading(streams) as connection:
        found = read_served(connection, "flights", 3)[ARM[2:]]
    rows = np.concatenate(batches)
    assert (found.rows, found.batches, found.errors, found.nonfinite) == (len(rows), 201, 1, 1)
    assert found.outputs.tolist() == count_outputs(rows, 1.0, 2.0, OUTPUT_BINS, classes=False).tolist()
    places = [bisect_left(LATENCY_US, second * 1e6) for second in seconds]
    assert found.latency.tolist() == np.bincount(places, minlength=len(LATENCY_US) + 1).tolist()


def test_sums_outlive_a_database_that_is_away(streams: Engine) -> None:
    away = open_database("sqlite:////nowhere/at/all.db")
    tally = Tally()
    for _ in range(3):
        tally.batch(ARM, 0.001, np.array([0.0, 1.0]), (0.0, 1.0, 2, True))
        with pytest.raises(Unavailable):
            tally.flush(away)
    tally.flush(streams)
    away.dispose()
    with reading(streams) as connection:
        found = read_served(connection, "flights", 3)[ARM[2:]]
    assert (found.rows, found.batches, found.outputs.tolist()) == (6, 3, [3, 3])
