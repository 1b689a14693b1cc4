"""Predictions and labels in the loop: each is alarmed at for its own reason, and expected losses meet realised ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from sqlalchemy import Engine, select

from cls.columns.outputs import comparable, output_columns
from cls.config import StreamConfig
from cls.detect import input_detector, kl_detector
from cls.domain import Champion
from cls.ingest import UNCERTAINTY
from cls.jobs import Bench, NoControl, publish, run
from cls.ports import RawBatch
from cls.score import summarise
from cls.scorer import Scorer
from cls.serving.models import ModelCache
from cls.serving.prediction_log import Answered, log_table, logged_names
from cls.stream import Ports, StreamLoop
from detectors.reference import Reference
from storage import drift as drift_store
from storage import queue, tables
from storage import versions as version_store
from storage.artifacts import MemoryArtifacts
from storage.db import reading, transaction
from storage.log import Log
from storage.performance import LossWindow, list_loss_windows
from storage.segments import MemorySegments

START = datetime(2013, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
FIRST = 3000  # rows before the first model
WINDOW = 200

Floats = NDArray[np.float64]
Law = Callable[[np.random.Generator, Floats], Floats]


def settings(task: str, **changes: Any) -> StreamConfig:
    schema: dict[str, Any] = {"numeric": ["x"], "key": "id", "event_time": "at", "target": "y"}
    if task == "classification":
        schema["classes"] = ["no", "yes"]
    values: dict[str, Any] = {
        "task": task,
        "schema": schema,
        "model": {"arguments": {"hidden": [8]}},
        "detect": {
            "window_rows": WINDOW,
            "reference_rows": FIRST,
            "score_method": "none",
            "report": False,
            "false_alarm_windows": 100_000,
        },
        "update": {
            "cadence": "never",
            "bootstrap_rows": FIRST,
            "bootstrap_overrides": {"epochs": 20.0, "learning_rate": 0.02},
            "device_seconds_per_1k_passes": 1.0,
        },
    }
    values["detect"] |= changes
    return StreamConfig.model_validate(values)


class Source:
    """Batches by number."""

    def __init__(self) -> None:
        self.batches: list[RawBatch] = []

    def push(self, kind: str, table: pa.Table) -> None:
        number = len(self.batches) + 1
        self.batches.append(RawBatch(kind, table, str(number), f"test#{number}"))

    def read(self, token: str) -> RawBatch | None:
        at = int(token or 0)
        return self.batches[at] if at < len(self.batches) else None


class World:
    """A stream with its processes in one."""

    def __init__(self, engine: Engine, stream: StreamConfig) -> None:
        self.engine, self.stream, self.rng, self.rows = engine, stream, np.random.default_rng(0), 0
        self.source, self.artifacts, segments = Source(), MemoryArtifacts(), MemorySegments()
        self.log = Log(engine, segments, {"s": stream.columns.features})
        self.bench = Bench(engine, self.log, self.artifacts, {})
        ports = Ports(
            engine,
            self.log,
            segments,
            self.artifacts,
            {"source": self.source},
            lambda: START + timedelta(days=90),
        )
        self.loop = StreamLoop("s", stream, ports)
        self.scorer = Scorer("s", engine, self.log, segments, ModelCache(engine, self.artifacts, {}, 4))

    def feed(
        self,
        rows: int,
        law: Law,
        *,
        shift: float = 0.0,
        lag: Callable[[Floats], Floats] | None = None,
    ) -> None:
        """Send rows in batches of 300, then labels; `lag` in minutes by label, none by default."""
        for first in range(0, rows, 300):
            n = min(300, rows - first)
            x = self.rng.normal(shift, 1, n)
            y = law(self.rng, x)
            keys = [f"k{i}" for i in range(self.rows, self.rows + n)]
            times = [START + (self.rows + i) * MINUTE for i in range(n)]
            lags = np.zeros(n) if lag is None else lag(y)
            order = np.argsort(np.arange(n) + lags, kind="stable")
            value: Any = y
            if self.stream.task == "classification":
                value = np.array(["no", "yes"])[y.astype(np.int64)]
            self.rows += n
            when = pa.timestamp("us", tz="UTC")
            self.source.push("events", pa.table({"id": keys, "at": pa.array(times, when), "x": x}))
            labels = pa.table(
                {
                    "id": [keys[i] for i in order],
                    "y": [value[i] for i in order],
                    "label_time": pa.array([times[i] + lags[i] * MINUTE for i in order], when),
                }
            )
            self.source.push("labels", labels)
            self.settle()

    def settle(self) -> None:
        for _ in range(100):
            moved = self.loop.turn()
            moved |= self.scorer.step() > 0
            with transaction(self.engine) as connection:
                job = queue.claim(connection, "w", timedelta(minutes=10))
            if job is not None:
                outcome = run(job, self.bench, NoControl())
                with transaction(self.engine) as connection:
                    publish(connection, job, outcome)
            elif not moved:
                return
        raise AssertionError("does not come to rest")

    def champion(self) -> Champion:
        with reading(self.engine) as connection:
            found = version_store.champion(connection, "s")
        assert found is not None
        return found

    def reference(self) -> Reference:
        return Reference.from_json(json.loads(self.artifacts.get(self.champion().reference)))

    def windows(self) -> list[LossWindow]:
        with reading(self.engine) as connection:
            return list_loss_windows(connection, "s", 1000)[::-1]

    def verdicts(self, detector: str) -> list[Any]:
        with reading(self.engine) as connection:
            return [
                row
                for row in drift_store.list_verdicts(connection, "s", limit=1000)[::-1]
                if row.detector == detector
            ]

    def episodes(self) -> list[Any]:
        with reading(self.engine) as connection:
            return list(connection.execute(select(tables.episodes).order_by(tables.episodes.c.id)))


def wavy(rng: np.random.Generator, x: Floats) -> Floats:
    """A line whose noise grows with x."""
    return np.asarray(2 * x + rng.normal(size=len(x)) * (0.2 + 0.4 * (x > 0)))


def wild(rng: np.random.Generator, x: Floats) -> Floats:
    """The same line, noisier: no input and no prediction tells."""
    return np.asarray(2 * x + rng.normal(size=len(x)))


def coin(slope: float = 2.0, bias: float = 0.0) -> Law:
    return lambda rng, x: (rng.random(len(x)) < 1 / (1 + np.exp(-slope * x - bias))).astype(np.float64)


@pytest.mark.parametrize(("task", "law"), [("regression", wavy), ("classification", coin())])
def test_without_drift_nothing_alarms_and_expected_losses_come_true(
    engine: Engine, task: str, law: Law
) -> None:
    world = World(engine, settings(task))
    world.feed(FIRST + 12 * WINDOW, law)
    reference = world.reference()
    assert reference.outputs is not None
    assert (
        0.1 * FIRST < reference.outputs.rows < 0.3 * FIRST
    )  # tune and gate rows: the model has not learned them
    assert reference.labels is not None
    assert reference.labels.rows == 0.9 * FIRST  # the first to land of each window
    assert reference.losses is not None
    assert (reference.confidence is None) == (task == "regression")
    for detector in ("kl", "prediction", "label"):
        assert len(world.verdicts(detector)) >= 11
    assert world.episodes() == []
    told = [window for window in world.windows() if window.inside is not None]
    assert len(told) >= 11
    assert np.mean([window.inside for window in told]) >= 0.75
    assert all(row.losses["mean"] > 0 for row in world.verdicts("prediction"))


def test_a_shift_into_noise_is_expected_and_explained_before_labels_land(engine: Engine) -> None:
    world = World(engine, settings("regression", label_deadline="9999h"))
    world.feed(FIRST + 2 * WINDOW, wavy)
    world.feed(4 * WINDOW, wavy, shift=1.0, lag=lambda y: np.full(len(y), 1e6))
    calm = world.windows()[0]
    unlabelled = [window for window in world.windows() if window.labels == 0]
    moved = [window for window in unlabelled if window.promotion == calm.promotion][-1]
    assert calm.estimate is not None
    assert moved.estimate is not None
    assert moved.inside is None
    assert moved.estimate.mean > calm.estimate.high
    name, change, low, _ = moved.estimate.effects[0]
    assert name == "x"
    assert change > low > 0


def test_a_realised_loss_outside_is_told(engine: Engine) -> None:
    world = World(engine, settings("regression"))
    world.feed(FIRST + 2 * WINDOW, wavy)
    before = len([window for window in world.windows() if window.inside is not None])
    world.feed(4 * WINDOW, wild)
    after = [window.inside for window in world.windows() if window.inside is not None][before + 1 :]
    assert after
    assert not any(after)


def test_labels_that_change_alone_open_an_episode_of_labels(engine: Engine) -> None:
    world = World(engine, settings("classification"))
    world.feed(FIRST + 2 * WINDOW, coin())
    world.feed(4 * WINDOW, coin(bias=1.5))
    assert world.episodes()[0].detector == "label"
    alarmed = next(row for row in world.verdicts("label") if row.alarm)
    assert alarmed.summary.startswith("labels moved by")
    assert abs(alarmed.onset - (FIRST + 2 * WINDOW)) <= 2 * WINDOW
    assert not any(row.alarm for row in world.verdicts("kl"))
    assert not any(row.alarm for row in world.verdicts("prediction"))


def test_labels_that_land_late_for_what_they_say_are_no_drift(engine: Engine) -> None:
    """ "Yes" lands ten hours after "no": nine tenths of a window's labels are not a fair sample, but every window's are alike."""
    world = World(engine, settings("classification", coverage=0.7))

    def late(y: Floats) -> Floats:
        return 600.0 * y

    world.feed(FIRST, coin(), lag=late)
    world.feed(20 * WINDOW, coin(), lag=late)
    reference = world.reference()
    assert reference.labels is not None
    assert reference.labels.counts[1] != pytest.approx(
        reference.labels.rows / 2, rel=0.2
    )  # unlike all labels
    assert len(world.verdicts("label")) >= 10
    assert not any(row.alarm for row in world.verdicts("label"))


def test_predictions_that_change_open_an_episode_of_predictions(engine: Engine) -> None:
    """The reference of the inputs is blinded, so that the predictions' own is what finds the change."""
    world = World(engine, settings("regression"))
    world.feed(FIRST + WINDOW, wavy)
    champion = world.champion()
    reference = world.reference()
    assert reference.outputs is not None
    blind = replace(reference, inputs=StreamLoopBlind.inputs(world), losses=None)
    sha256 = world.artifacts.put(json.dumps(blind.to_json()).encode())
    with transaction(engine) as connection:
        version_store.promote(
            connection,
            "s",
            champion.version,
            expected=champion.version,
            previous=None,
            since=world.rows,
            reference=sha256,
            at=START,
            reason="blind",
        )
    world.feed(4 * WINDOW, wavy, shift=1.5)
    assert world.episodes()[0].detector == "prediction"


class StreamLoopBlind:
    """A profile of a column that no event has."""

    @staticmethod
    def inputs(world: World) -> Any:
        return input_detector(world.stream.detect).profile({"absent": np.full(2000, np.nan)})


def test_a_reference_that_moves_takes_predictions_labels_and_losses_along(engine: Engine) -> None:
    world = World(engine, settings("classification"))
    world.feed(FIRST + 2 * WINDOW, coin())
    first = world.champion()
    world.feed(10 * WINDOW, coin(), shift=1.0)
    moved = world.champion()
    assert moved.version == first.version
    assert moved.promotion != first.promotion
    reference = world.reference()
    assert reference.outputs is not None
    assert reference.outputs.rows > 0
    world.feed(8 * WINDOW, coin(), shift=1.0)
    assert [window.inside for window in world.windows() if window.promotion == world.champion().promotion]


def test_watching_can_be_left_out(engine: Engine) -> None:
    world = World(engine, settings("classification", watch_outputs=False))
    world.feed(FIRST + 2 * WINDOW, coin())
    world.feed(4 * WINDOW, coin(bias=1.5))
    assert world.episodes() == []
    assert world.verdicts("label") == world.verdicts("prediction") == []
    assert any(window.inside is not None for window in world.windows())


class Served(World):
    """A stream whose rows have been answered by `cls serve`: they come from its log, with what was predicted."""

    bare = False  # as of a user who sends predictions without their uncertainty

    def feed(self, rows: int, law: Law, **other: Any) -> None:
        """Answer rows in batches of 300, log them, and send their labels."""
        models = ModelCache(self.engine, self.artifacts, {}, 4)
        champion = self.champion().version
        model, names = models.get("s", champion), logged_names(self.stream.columns)
        assert not other
        for _ in range(rows // 300):
            x = self.rng.normal(0, 1, 300)
            keys = [f"k{i}" for i in range(self.rows, self.rows + 300)]
            times = [(START + (self.rows + i) * MINUTE).isoformat() for i in range(300)]
            records = [{"id": k, "at": t, "x": v} for k, t, v in zip(keys, times, x.tolist(), strict=True)]
            summary = summarise(model.predict({"x": x}))
            table = log_table([Answered(records, *summary, champion)], names)
            self.source.push("events", table.drop_columns([UNCERTAINTY]) if self.bare else table)
            value = np.array(["no", "yes"])[law(self.rng, x).astype(np.int64)]
            self.source.push("labels", pa.table({"id": keys, "y": value, "label_time": times}))
            self.rows += 300
            self.settle()
            kept = self.log.predictions("s", self.rows - 300, self.rows)
            np.testing.assert_array_equal(kept.prediction, summary[0])
            np.testing.assert_array_equal(kept.uncertainty, np.full(300, np.nan) if self.bare else summary[1])


@pytest.mark.parametrize("bare", [False, True])
def test_rows_that_were_answered_by_serve_are_no_drift(engine: Engine, bare: bool) -> None:
    world = Served(engine, settings("classification"))
    World.feed(world, FIRST, coin())
    world.bare = bare
    world.feed(12 * WINDOW, coin())
    verdicts = world.verdicts("prediction")
    assert len(verdicts) >= 11
    assert world.episodes() == []
    drift = verdicts[-1].drift
    assert {feature["name"] for feature in drift["features"]} == (
        {"prediction"} if bare else {"prediction", "uncertainty"}
    )
    assert all(row.losses["mean"] > 0 for row in verdicts)


def test_predictions_that_moved_alarm_without_their_uncertainty(engine: Engine) -> None:
    world = Served(engine, settings("classification"))
    World.feed(world, FIRST, coin())
    reference = world.reference().outputs
    assert reference is not None
    predicted = np.r_[np.zeros(20), np.ones(180)]
    counts = reference.count(output_columns(world.stream, predicted, np.full(200, np.nan)))
    seen, found = comparable(reference, counts)
    assert kl_detector(world.stream.detect).compare(seen, found).alarm
    calm = reference.count(output_columns(world.stream, predicted, np.full(200, 0.2)))
    assert comparable(reference, calm)[0] is reference
