"""`cls drift performance`: expected beside realised, for people and for scripts."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine

from detectors.loss import LossEstimate
from storage import performance, streams
from storage.db import transaction
from storage.performance import COVERED, OPEN, UNCOVERED, LossWindow

T0 = datetime(2013, 1, 1, tzinfo=UTC)
KEYS = {
    "start", "stop", "time_from", "time_to", "promotion", "estimated", "interval", "reference", "effects", "realised",
    "inside", "labels", "labelled", "state",
}  # fmt: skip


@pytest.fixture
def windows(state: Engine) -> Engine:
    estimate = LossEstimate(0.2, 0.15, 0.25, 0.1, (("distance", 0.1, 0.05, 0.15), ("wind", 0.0, -0.01, 0.01)))
    none = np.zeros(0, np.int64)
    made = [
        LossWindow(1, 0, 100, T0, T0 + timedelta(hours=1), none, True, estimate, 95, 90, 18.0, True, COVERED),
        LossWindow(1, 100, 200, T0, T0 + timedelta(hours=2), none, True, None, 10, 10, 3.0, None, UNCOVERED),
        LossWindow(1, 200, 300, T0, T0 + timedelta(hours=3), none, True, estimate, 3, 3, 1.0, None, OPEN),
    ]
    with transaction(state) as connection:
        streams.ensure_stream(connection, "flights")
        for window in made:
            performance.put_loss_window(connection, "flights", window)
    return state


@pytest.mark.usefixtures("windows")
def test_windows_come_newest_first_with_stable_keys(cli: Any) -> None:
    rows = cli.json("drift", "performance", "flights")
    assert [set(row) for row in rows] == [KEYS] * 3
    assert [row["start"] for row in rows] == [200, 100, 0]
    waiting, uncovered, told = rows
    assert told["estimated"] == 0.2
    assert told["interval"] == [0.15, 0.25]
    assert told["realised"] == pytest.approx(0.2)
    assert told["inside"] is True
    assert told["effects"][0] == ["distance", 0.1, 0.05, 0.15]
    assert uncovered["estimated"] is uncovered["realised"] is uncovered["inside"] is None
    assert waiting["realised"] is None  # half-covered windows are told of nobody


@pytest.mark.usefixtures("windows")
def test_people_get_a_table(cli: Any) -> None:
    said = cli("drift", "performance", "flights").output
    assert "0.15 to 0.25" in said
    assert "distance" in said


@pytest.mark.usefixtures("state")
def test_an_unknown_stream_is_told(cli: Any) -> None:
    assert "flights" in cli("drift", "performance", "flihgts").output
    assert cli("drift", "performance", "flihgts").exit_code != 0


@pytest.mark.usefixtures("state")
def test_before_the_first_window_there_is_nothing_to_tell(cli: Any) -> None:
    assert cli.json("drift", "performance", "flights") == []
