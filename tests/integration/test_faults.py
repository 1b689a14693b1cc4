"""A fault of the data from its first window to its last: no update learns from broken rows, and drift is believed again afterwards."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from sqlalchemy import Engine

from storage import tables
from tests.integration.test_stream_loop import World, stream, table

ROWS = 100  # of a window


def begun(engine: Engine, min_rows: int = 30) -> World:
    """Return a stream with its first model, after six windows."""
    settings = stream(
        detect={
            "window_rows": ROWS,
            "slide_rows": None,
            "sequential": False,
            "reference_rows": 600,
            "bins": 8,
        },
        update={"cadence": "drift", "min_rows": min_rows, "bootstrap_rows": 400},
    )
    made = World(engine, settings)
    made.boot()
    for first in range(0, 600, ROWS):
        made.feed(("events", table(first, ROWS)))
    assert made.champion() == 1
    return made


def scaled(events: pa.Table, factor: float) -> pa.Table:
    x = pa.compute.multiply(events["x"], factor)
    return events.set_column(events.column_names.index("x"), "x", x)


def ledger(world: World, kind: str) -> list[Any]:
    return [row for row in world.rows(tables.ledger) if row.kind == kind]


def test_no_update_learns_from_a_column_that_is_rescaled(engine: Engine) -> None:
    world = begun(engine)
    for first in range(600, 1100, ROWS):
        world.feed(("events", scaled(table(first, ROWS), 1000.0)))
    (episode,) = world.rows(tables.episodes)
    assert "'x' is 1000 times what it was" in episode.assessment["fault"]
    assert episode.state == "decided"
    assert "a fault of the data: column 'x'" in ledger(world, "alarm")[0].reason
    assert "a fault of the data, not drift" in ledger(world, "decision")[-1].reason
    diagnoses = [row.diagnosis for row in world.rows(tables.verdicts) if row.detector == "kl" and row.alarm]
    assert {found["kind"] for found in diagnoses} == {"quality"}  # while it lasts
    assert len([row for row in world.rows(tables.jobs) if row.kind == "update"]) == 1  # the first model

    world.feed(("events", table(1100, ROWS)))
    (episode,) = world.rows(tables.episodes)
    assert (episode.state, episode.outcome) == ("closed", "the data are whole again")


def test_a_fault_that_shows_only_after_drift_was_called_stops_the_update(engine: Engine) -> None:
    world = begun(engine, min_rows=5000)  # drift waits for labels
    world.feed(("events", table(600, ROWS, shift=1.5)))
    (episode,) = world.rows(tables.episodes)
    assert "fault" not in (episode.assessment or {})
    for first in range(700, 900, ROWS):
        world.feed(("events", scaled(table(first, ROWS), 0.0)))
    (episode,) = world.rows(tables.episodes)
    assert "'x' is 0 in 100% of the rows" in episode.assessment["fault"]


def test_drift_is_believed_once_several_windows_show_it_without_the_fault(engine: Engine) -> None:
    world = begun(engine)
    world.feed(("events", scaled(table(600, ROWS), 0.0)))
    for first in range(700, 900, ROWS):
        world.feed(("events", table(first, ROWS, shift=1.5)))
        assert [row.state for row in world.rows(tables.episodes)] == ["decided"]
    world.feed(("events", table(900, ROWS, shift=1.5)))
    states = [(row.state, "fault" in (row.assessment or {})) for row in world.rows(tables.episodes)]
    assert states[0] == ("closed", True)
    assert len(states) == 2
    assert not states[1][1]


@pytest.mark.parametrize("factor", [1.0, 1000.0])
def test_what_is_seen_row_by_row_waits_for_a_window_that_tells_drift_from_a_fault(
    engine: Engine, factor: float
) -> None:
    """A policy that never updates takes drift for the new normal, but not broken rows."""
    settings = stream(
        detect={
            "window_rows": ROWS,
            "slide_rows": None,
            "reference_rows": 2000,
            "bins": 8,
            "sequential": True,
            "watch_outputs": False,
        },
        update={"cadence": "never", "bootstrap_rows": 900},
    )
    world = World(engine, settings)
    world.boot()
    for first in range(0, 2000, 2 * ROWS):
        world.feed(("events", table(first, 2 * ROWS)))
    shift = 0.0 if factor > 1 else 2.0
    changed = scaled(table(2000, 2 * ROWS, shift=shift), factor)
    world.feed(("events", changed.slice(0, ROWS // 2)))
    (episode,) = world.rows(tables.episodes)
    assert (episode.state, episode.detector) == ("open", "sequential")
    assert ledger(world, "decision")[-1].reason.startswith("drift; waits for a window")
    world.feed(("events", changed.slice(ROWS // 2, ROWS)))
    episode, promotions = world.rows(tables.episodes)[0], world.rows(tables.promotions)
    if factor > 1:
        assert episode.state == "decided"
        assert "'x' is 1000 times what it was" in episode.assessment["fault"]
        assert len(promotions) == 1
    else:
        assert episode.state == "closed"
        assert len(promotions) == 2  # on the new regime
