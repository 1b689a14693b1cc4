"""Scoring: every row once, by the champion of its position; the scorer's batches count once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save
from sqlalchemy import Engine

from cls.checkpoints import pack, restore, unpack
from cls.domain import Batch, ModelVersion, Rollout, RolloutState
from cls.errors import Corrupt, Refused
from cls.layout import LEARNER, MODEL, PROFILE, SPEC
from cls.ports import Events
from cls.score import Stretch, make_plan, score_events
from cls.scorer import Scorer
from cls.serving.models import ModelCache
from cls.times import EPOCH
from detectors.columns import Categorical, Columns
from learners.checkpoint import Checkpoint
from learners.learn import start
from learners.recipe import Recipe
from learners.rows import Rows
from learners.schema import Schema
from storage.artifacts import MemoryArtifacts, manifest_digest
from storage.db import reading, transaction
from storage.log import Log, record_segment, write_events
from storage.segments import DiskSegments
from storage.served import read_served
from storage.streams import ensure_stream, position
from storage.versions import add_rollout, add_version, move_rollout, promote, rollouts_in, shadow_plan

STREAM = "flights"


class Constant:
    """Predicts one number, or one class."""

    def __init__(self, value: float, classes: int = 0) -> None:
        self.value, self.classes = value, classes
        self.rows = 0

    def predict(self, columns: Columns) -> np.ndarray[Any, np.dtype[np.float64]]:
        n = len(next(iter(columns.values())))
        self.rows += n
        if not self.classes:
            return np.full(n, self.value)
        probability = np.full((n, self.classes), 0.4 / (self.classes - 1))
        probability[:, int(self.value)] = 0.6
        return probability


def events(rows: int, first: int = 0, prediction: Any = None, version: Any = None) -> Events:
    return Events(
        {"x": np.arange(rows, dtype=np.float64)},
        np.arange(first, first + rows),
        np.zeros(rows, np.int64),
        np.zeros(rows, np.int8),
        np.full(rows, np.nan) if prediction is None else np.asarray(prediction, np.float64),
        np.zeros(rows, np.int64) if version is None else np.asarray(version, np.int64),
    )


def test_each_row_is_scored_by_the_champion_of_its_position() -> None:
    plan = make_plan([(3, 1), (6, 2), (6, 1), (8, 2)], [])
    scores = score_events(events(10), plan, Constant)
    assert scores.version.tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 2, 2]
    assert np.array_equal(scores.prediction, [np.nan] * 3 + [1.0] * 5 + [2.0] * 2, equal_nan=True)
    assert np.isnan(scores.uncertainty).all()
    assert (scores.shadow_version == 0).all()


def test_a_row_keeps_the_prediction_that_was_served_and_is_not_predicted_again() -> None:
    served = [np.nan, 7.0, np.nan, 8.0]
    model = Constant(1.0)
    scores = score_events(events(4, 0, served, [9, 5, 9, 0]), [Stretch(0, 1)], lambda _: model)
    assert scores.prediction.tolist() == [1.0, 7.0, 1.0, 8.0]
    assert scores.version.tolist() == [1, 5, 1, 0]
    assert model.rows == 2


def test_each_compared_row_is_a_pair_whoever_answered_it() -> None:
    plan = make_plan([(0, 1)], [(2, 5)])
    scores = score_events(events(5, 0, [np.nan] * 4 + [3.0], [0, 0, 0, 0, 5]), plan, Constant)
    assert scores.shadow_version.tolist() == [0, 0, 5, 5, 1]  # the last was answered by the canary
    np.testing.assert_array_equal(scores.of(1)[2:], [*Constant(1).predict({"x": np.zeros(3)})])
    np.testing.assert_array_equal(scores.of(5), [np.nan, np.nan, 5.0, 5.0, 3.0])
    assert np.isnan(scores.of(9)).all()


def test_a_shadow_that_fails_leaves_the_champion_alone() -> None:
    scores = score_events(events(3), [Stretch(0, 1, 2)], lambda v: Constant(v if v == 1 else float("nan")))
    assert scores.prediction.tolist() == [1.0] * 3
    assert (scores.shadow_version == 2).all()  # it was asked
    assert np.isnan(scores.shadow).all()


def test_a_class_is_logged_as_its_index_with_one_minus_its_probability() -> None:
    scores = score_events(events(2), [Stretch(0, 1)], lambda _: Constant(2, classes=3))
    assert scores.prediction.tolist() == [2.0, 2.0]
    assert scores.uncertainty == pytest.approx([0.4, 0.4])


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 4)), max_size=6),
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 4)), max_size=4),
    st.integers(1, 39),
)
def test_how_rows_are_cut_into_batches_changes_nothing(
    promotions: list[tuple[int, int]], shadows: list[tuple[int, int]], cut: int
) -> None:
    plan = make_plan(promotions, shadows)
    whole = score_events(events(40), plan, Constant)
    rows = events(40)
    parts = [score_events(rows.take(part), plan, Constant) for part in (slice(0, cut), slice(cut, 40))]
    for name in ("prediction", "version", "shadow", "shadow_version"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        assert np.array_equal(getattr(whole, name), joined, equal_nan=True)
    for p, version in enumerate(whole.version.tolist()):
        assert version == next((v for since, v in reversed(promotions) if since <= p), 0)


# -- checkpoints as files ---------------------------------------------------------------------------------------------


def trained(slope: float, seed: int = 0) -> Checkpoint:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=300)
    rows = Rows(
        {"x": x, "c": Categorical.of(rng.choice(["a", "b"], 300).tolist())}, slope * x, np.arange(300)
    )
    training = start(None, rows, Recipe(epochs=2), schema=Schema(("x",), ("c",)), seed=seed)
    while not training.done:
        training.step()
    return training.finish()


CHECKPOINT = trained(2.0)
PROBE: Columns = {"x": np.linspace(-1, 1, 5), "c": Categorical.of(["a", "b", None, "z", "a"])}


def test_a_checkpoint_survives_its_files_bit_by_bit() -> None:
    files = pack(CHECKPOINT, {"any": 1})
    assert set(files) == {MODEL, SPEC, LEARNER, PROFILE}
    again = unpack(files)
    assert (again.spec, again.meta) == (CHECKPOINT.spec, CHECKPOINT.meta)
    assert again.tensors.keys() == CHECKPOINT.tensors.keys()
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in CHECKPOINT.tensors.items())
    assert pack(again, {"any": 1}) == files
    predicting = unpack({name: files[name] for name in (MODEL, SPEC)})
    assert np.array_equal(restore(predicting).predict(PROBE), restore(CHECKPOINT).predict(PROBE))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        (MODEL, b""),
        (MODEL, b"\xff" * 64),
        (MODEL, (1 << 62).to_bytes(8, "little") + b"{}"),
        (MODEL, pack(CHECKPOINT)[MODEL][:-1]),
        (LEARNER, b"nonsense"),
        (SPEC, b"{"),
        (SPEC, b"[]"),
        (SPEC, b'{"format": 1, "spec": {}, "meta": {}}'),
        (SPEC, b"[" * 100_000),
    ],
)
def test_what_is_no_checkpoint_is_refused_by_its_file(name: str, data: bytes) -> None:
    with pytest.raises(Corrupt, match=name):
        unpack(pack(CHECKPOINT) | {name: data})


def test_tensors_of_another_type_or_shape_are_refused() -> None:
    weights = {
        name.removeprefix("model."): t for name, t in CHECKPOINT.tensors.items() if name.startswith("model.")
    }
    for changed in (weights["head.weight"].double(), weights["head.weight"][:, :-1].contiguous()):
        files = pack(CHECKPOINT) | {MODEL: save(weights | {"head.weight": changed})}
        with pytest.raises(Corrupt, match=MODEL):
            restore(unpack(files))


def test_models_that_are_not_here_are_refused_by_name() -> None:
    with pytest.raises(Refused, match=r"no model is called 'tabula'.*did you mean 'tabular'"):
        restore(replace(CHECKPOINT, spec=CHECKPOINT.spec | {"name": "tabula"}))
    with pytest.raises(Refused, match="cannot read this format"):
        restore(replace(CHECKPOINT, spec=CHECKPOINT.spec | {"format": 99}))
    files = pack(CHECKPOINT)
    stranger = files[SPEC].replace(b'"name":"cls-continual"', b'"name":"no-such-package"')
    with pytest.raises(Refused, match="needs no-such-package"):
        unpack(files | {SPEC: stranger})


def test_a_network_that_the_configuration_names_survives_its_files() -> None:
    models, names = {"mine": "learners.models.mlp:Mlp"}, ("x", "y")
    x_NF = np.random.default_rng(0).normal(size=(60, 2))
    columns: Columns = dict(zip(names, x_NF.T, strict=True))
    rows = Rows(columns, x_NF.sum(axis=1), np.arange(60))
    training = start(
        None,
        rows,
        Recipe(epochs=1),
        schema=Schema(names),
        model="mine",
        config={"hidden": (4,)},
        models=models,
    )
    training.step()
    files = pack(training.finish())
    document = json.loads(files[SPEC])
    assert document["distribution"] is None
    assert (document["spec"]["name"], document["spec"]["arguments"]) == ("mine", {"hidden": [4]})
    again = restore(unpack(files), models)
    assert np.array_equal(again.predict(columns), training.model.predict(columns))
    with pytest.raises(Refused, match=r"no model is called 'mine'.*install the package"):
        restore(unpack(files))
    with pytest.raises(Refused, match="cannot be built with inputs=2, outputs=1, hidden="):
        restore(unpack(files), {"mine": "torch.nn:Linear"})


# -- the scorer -------------------------------------------------------------------------------------------------------


class World:
    """A stream with a log, versions and a scorer."""

    def __init__(self, engine: Engine, root: Path) -> None:
        self.engine = engine
        self.segments = DiskSegments(root)
        self.artifacts = MemoryArtifacts()
        self.log = Log(engine, self.segments, {STREAM: ["x", "c"]})
        self.events = 0
        with transaction(engine) as connection:
            ensure_stream(connection, STREAM)

    def scorer(self, batch_rows: int = 40) -> Scorer:
        models = ModelCache(self.engine, self.artifacts, {}, 4)
        return Scorer(STREAM, self.engine, self.log, self.segments, models, batch_rows)

    def add_events(self, rows: int) -> None:
        columns: Columns = {"x": np.linspace(-1, 1, rows), "c": Categorical.of(["a"] * rows)}
        numbers = np.arange(self.events, self.events + rows)
        none = np.full(rows, np.nan)
        batch = Batch(columns, [str(n) for n in numbers], numbers, np.zeros(rows, np.int8), none, numbers * 0)
        segment = write_events(self.segments, STREAM, self.events, batch)
        with transaction(self.engine) as connection:
            record_segment(connection, segment)
        self.events += rows

    def add_version(self, slope: float) -> int:
        files = {name: self.artifacts.put(data) for name, data in pack(trained(slope)).items()}
        version = ModelVersion(
            STREAM, 0, manifest_digest(files), None, None, "s", 0, 0, 0, {}, {}, EPOCH, files
        )
        with transaction(self.engine) as connection:
            return add_version(connection, version)

    def promote(self, version: int, expected: int | None, since: int) -> None:
        with transaction(self.engine) as connection:
            promote(
                connection,
                STREAM,
                version,
                expected=expected,
                since=since,
                reference="r",
                at=None,
                reason="test",
            )

    def begin_shadow(self, since: int) -> tuple[int, int]:
        """Let a first version serve and a second one shadow it from a position on; returns both."""
        first, second = self.add_version(1.0), self.add_version(5.0)
        self.promote(first, None, since=0)
        with transaction(self.engine) as connection:
            add_rollout(
                connection, STREAM, second, parent=first, light=False, effective_at=EPOCH, episode=None
            )
            (waiting,) = rollouts_in(connection, STREAM, RolloutState.WAITING)
            assert shadow_plan(connection, STREAM) == []
            move_rollout(connection, waiting, RolloutState.SHADOW, at=EPOCH, since=since)
        return first, second

    def shadow(self) -> Rollout:
        with reading(self.engine) as connection:
            (found,) = rollouts_in(connection, STREAM, RolloutState.SHADOW)
        return found


def test_the_scorer_waits_for_a_champion_and_then_scores_every_row_once(
    engine: Engine, tmp_path: Path
) -> None:
    world = World(engine, tmp_path)
    scorer = world.scorer()
    world.add_events(100)
    assert scorer.step() == 0
    first = world.add_version(1.0)
    world.promote(first, None, since=70)
    assert [scorer.step() for _ in range(4)] == [40, 40, 20, 0]
    second = world.add_version(5.0)
    world.promote(second, first, since=100)
    world.add_events(10)
    assert world.scorer().step() == 10
    scores = world.log.predictions(STREAM, 0, 110)
    assert scores.version.tolist() == [0] * 70 + [first] * 30 + [second] * 10
    assert np.isnan(scores.prediction[:70]).all()
    assert np.isfinite(scores.prediction[70:]).all()
    with reading(engine) as connection:
        assert position(connection, STREAM, "score") == "110"


def test_of_two_scorers_one_counts(engine: Engine, tmp_path: Path) -> None:
    world = World(engine, tmp_path)
    world.promote(world.add_version(1.0), None, since=0)
    world.add_events(30)
    one, other = world.scorer(), world.scorer()
    real = world.log.events

    def overtaken(stream: str, start: int, stop: int) -> Events:
        found = real(stream, start, stop)
        world.log.events = real  # type: ignore[method-assign]  # only the first read is overtaken
        assert other.step() == 30
        return found

    world.log.events = overtaken  # type: ignore[method-assign]  # the other scorer commits while this one predicts
    assert one.step() == 0
    assert len(world.log.predictions(STREAM, 0, 30)) == 30


def test_the_challenger_is_scored_in_shadow_and_the_predecessor_while_watching(
    engine: Engine, tmp_path: Path
) -> None:
    world = World(engine, tmp_path)
    first, second = world.begin_shadow(since=10)
    world.add_events(30)
    assert world.scorer().step() == 30
    with transaction(engine) as connection:
        move_rollout(connection, world.shadow(), RolloutState.WATCHING, at=EPOCH, since=30)
    world.promote(second, first, since=30)
    world.add_events(10)
    assert world.scorer().step() == 10
    scores = world.log.predictions(STREAM, 0, 40)
    assert scores.version.tolist() == [first] * 30 + [second] * 10
    assert scores.shadow_version.tolist() == [0] * 10 + [second] * 20 + [first] * 10


def test_a_damaged_shadow_is_left_out_and_a_damaged_champion_holds_the_rows_back(
    engine: Engine, tmp_path: Path
) -> None:
    world = World(engine, tmp_path)
    first, second = world.begin_shadow(since=0)
    world.add_events(20)
    whole = dict(world.artifacts._data)
    world.artifacts._data.clear()
    with pytest.raises(Corrupt, match="version 1"):
        world.scorer().step()
    for sha256, data in whole.items():
        world.artifacts._data[sha256] = data
    second_only = set(_files(engine, second)) - set(_files(engine, first))
    for sha256 in second_only:
        world.artifacts._data[sha256] = b"damaged"
    assert world.scorer().step() == 20
    assert np.isnan(world.log.predictions(STREAM, 0, 20).of(second)).all()
    with reading(engine) as connection:
        sums = read_served(connection, STREAM, world.shadow().id)
    assert (sums["shadow", second].rows, sums["shadow", second].errors) == (20, 1)  # evidence against it
    assert (sums["shadow", first].rows, sums["shadow", first].errors) == (20, 0)


def test_a_damaged_version_that_was_rolled_back_holds_no_row_back(engine: Engine, tmp_path: Path) -> None:
    world = World(engine, tmp_path)
    first, second = world.add_version(1.0), world.add_version(5.0)
    world.promote(first, None, since=0)
    world.promote(second, first, since=5)
    world.add_events(20)
    for sha256 in set(_files(engine, second)) - set(_files(engine, first)):
        world.artifacts._data[sha256] = b"damaged"
    with pytest.raises(Corrupt, match="version 2"):
        world.scorer().step()
    world.promote(first, second, since=10)
    assert world.scorer().step() == 20
    found = world.log.predictions(STREAM, 0, 20)
    assert found.version.tolist() == [first] * 5 + [second] * 5 + [first] * 10
    assert np.isfinite(found.prediction).tolist() == [True] * 5 + [False] * 5 + [True] * 10


def _files(engine: Engine, version: int) -> list[str]:
    from storage.versions import read_version

    with reading(engine) as connection:
        return list(read_version(connection, STREAM, version).files.values())
