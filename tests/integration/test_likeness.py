"""A stream that goes far away and comes back: what an assessment finds is decided by, and learned by."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cls.backtest import _Simulation
from cls.config import Config, StreamConfig
from cls.jobs import load_checkpoint
from storage import tables
from storage.db import open_database, reading

START = datetime(2013, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
TURN, BACK, ROWS = 900, 1500, 2100


def config(recipe: str) -> Config:
    stream = {
        "task": "regression",
        "schema": {"numeric": ["x"], "key": "id", "event_time": "at", "target": "y", "label_time": "landed"},
        "model": {"arguments": {"hidden": [16], "embedding_bins": 8}},
        "detect": {
            "window_rows": 60,
            "reference_rows": 200,
            "bins": 8,
            "score_pane_rows": 30,
            "report": False,
        },
        "update": {
            "recipe": recipe,
            "min_rows": 200,
            "bootstrap_rows": 600,
            "overrides": {"epochs": 30.0, "learning_rate": 0.01, "memory_disk": True, "patience": 20},
            "bootstrap_overrides": {"epochs": 30.0, "learning_rate": 0.01},
            "device_seconds_per_1k_passes": 1.0,
            "budget_device_seconds_per_day": 1e6,
        },
        "gate": {
            "min_rows": 5,
            "fresh_rows": 200,
            "retained_rows": 300,
            "margin": 0.5,
            "retained_margin": 0.9,
        },
        "rollout": {"watch_rows": 0},
    }
    return Config(home=Path("/nowhere"), streams={"s": StreamConfig.model_validate(stream)})


def recording() -> pa.Table:
    """Ten events an hour: one regime, a far one, and nearly the first again; labels land an hour later."""
    rng = np.random.default_rng(3)
    number = np.arange(ROWS)
    away = (number >= TURN) & (number < BACK)
    x = rng.normal(np.where(away, 3.0, 0.0), 1)
    slope = np.where(away, -1.0, np.where(number < TURN, 2.0, 2.4))
    at = [START + i * HOUR / 10 for i in range(ROWS)]
    stamp = pa.timestamp("us", tz="UTC")
    return pa.table(
        {
            "id": [f"k{i}" for i in range(ROWS)],
            "at": pa.array(at, stamp),
            "x": x,
            "y": slope * x + rng.normal(0, 0.2, ROWS),
            "landed": pa.array([time + HOUR for time in at], stamp),
        }
    )


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    engine = open_database(f"sqlite:///{tmp_path_factory.mktemp('likeness')}/state.db", durable=False)
    tables.metadata.create_all(engine)
    settings = config("auto")
    simulation = _Simulation(settings, "s", settings.streams["s"], engine)
    scratch = tmp_path_factory.mktemp("scratch")
    simulation.bench = replace(simulation.bench, scratch=scratch)
    simulation.run(recording(), HOUR, None, None)
    assert list(scratch.glob("*"))  # of each update, for its memory on disk
    assert not list(scratch.glob("*/scratch"))  # and gone with it
    with reading(engine) as connection:
        found: dict[str, list[Any]] = {
            name: list(connection.execute(table.select().order_by(*table.primary_key)))
            for name, table in (
                ("jobs", tables.jobs),
                ("ledger", tables.ledger),
                ("versions", tables.versions),
            )
        }
    found["checkpoints"] = [load_checkpoint(simulation.bench, "s", number) for number in (1, 2, 3)]
    engine.dispose()
    return found


def updates(ran: dict[str, list[Any]]) -> list[Any]:
    return [job for job in ran["jobs"] if job.kind == "update" and job.input["parent"] is not None]


def test_an_assessment_stores_what_losses_and_profiles_say(ran: dict[str, list[Any]]) -> None:
    first, *_, last = [job.result for job in ran["jobs"] if job.kind == "assess"]
    assert (first["similarity"]["kind"], first["effort"]) == ("far", 2.0)
    assert first["similarity"]["nats"]["1"] > 0.3
    assert first["losses"]["1"] > 5 * first["constant"]
    assert (last["similarity"]["kind"], last["similarity"]["version"]) == ("recurring", 1)
    assert last["similarity"]["nats"]["1"] < 0.05 < last["similarity"]["nats"]["2"]
    assert last["effort"] < 1


def test_the_ledger_says_what_was_decided_and_by_what_likeness(ran: dict[str, list[Any]]) -> None:
    decided = {row.reason: row.details for row in ran["ledger"] if row.decision == "update"}
    far, back = (
        next(details for reason, details in decided.items() if word in reason)
        for word in ("far from what the champion knows", "version 1 knows most of the new regime")
    )
    assert far["assessment"]["similarity"]["kind"] == "far"
    assert back["assessment"]["similarity"]["version"] == 1


def test_jobs_learn_as_decided(ran: dict[str, list[Any]]) -> None:
    far, back = updates(ran)[0], updates(ran)[1]
    assert (far.input["base"], far.result["effort"]) == (None, 2.0)
    assert far.result["similarity"]["alignment"]["rows"] > 0  # the learner looked itself, too
    assert far.input["similarity"]["alignment"] is None
    assert back.input["base"] == 1
    assert back.result["similarity"]["kind"] == "recurring"
    assert back.result["train_rows"] < 250  # those since the onset; the regime in between is replayed


def test_a_regime_begins_where_drift_was_decided_and_stopping_looks_at_earlier_ones(
    ran: dict[str, list[Any]],
) -> None:
    metas = [checkpoint.meta for checkpoint in ran["checkpoints"]]
    assert [meta["regime"] for meta in metas] == [0, 1, 0]  # the third goes on with the first's
    assert all({"tune", "retained"} <= point.keys() for meta in metas[1:] for point in meta["curve"])
    assert metas[2]["memory"]["seen"] > metas[1]["memory"]["seen"]  # it was offered what came between, too


def test_what_came_back_is_served_from_where_it_was_left_and_what_was_between_is_not_lost(
    ran: dict[str, list[Any]],
) -> None:
    (third,) = [row for row in ran["versions"] if row.number == 3]
    assert third.parent == 1
    fresh, *retained = third.gate["slices"]
    assert fresh["candidate_loss"] < 0.8 * fresh["champion_loss"]
    assert (
        max(part["candidate_loss"] for part in retained) < 1.5
    )  # version 1 loses eight on the regime in between
