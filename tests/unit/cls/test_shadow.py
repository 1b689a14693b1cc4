"""What a comparison counts: rows that both versions were asked for, each once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine, select

from cls.arms import ASKED, TRIES
from cls.config import RolloutConfig, StreamConfig
from cls.domain import Rollout, RolloutState
from cls.errors import Corrupt, Permanent, Refused
from cls.health import Finding
from cls.ports import Events, Predictions
from cls.promote import Promoter
from cls.serving.models import LoadedModel, ModelCache
from cls.shadow import pair_sums
from cls.times import EPOCH
from learners.models.tabular import TabularNetwork
from learners.models.tabular_config import TabularConfig
from learners.rows import Rows
from learners.schema import Schema
from storage.db import reading, transaction
from storage.evidence import health_of
from storage.served import read_served
from storage.tables import announcements
from storage.versions import list_rollouts, move_rollout
from tests.unit.cls.test_score import STREAM, World

OLD, NEW = 1, 2
ROWS = Rows({"x": np.linspace(-1, 1, 50)}, np.linspace(-1, 1, 50), np.arange(50))
MODEL = TabularNetwork.fit_preprocessing(TabularConfig(hidden=(4,)), Schema(("x",)), ROWS).eval()
PARENT = LoadedModel(STREAM, OLD, MODEL)


def rollout(state: RolloutState) -> Rollout:
    return Rollout(7, STREAM, NEW, OLD, state, False, EPOCH, EPOCH, 0, 0.0, 0.0, 0.0, None, since=12)


def scores(version: list[int], shadow_version: list[int], *, shadow: float = 0.0) -> Predictions:
    rows = len(version)
    numbers = np.zeros(rows), np.full(rows, np.nan), np.array(version), np.full(rows, shadow)
    return Predictions(*numbers, np.array(shadow_version))


def test_rows_count_from_the_rollout_s_beginning_on_and_where_both_were_asked() -> None:
    # Positions 10 to 15, of which the rollout has those from 12 on; one was answered by the canary, one by a third version.
    made = scores([OLD, OLD, OLD, NEW, 3, OLD], [NEW, NEW, NEW, OLD, NEW, 0])
    sums = pair_sums(rollout(RolloutState.SHADOW), PARENT, 10, made, {})
    for version in (OLD, NEW):
        assert (sums[version].rows, sums[version].batches, sums[version].outputs.sum()) == (2, 1, 2)


def test_a_canary_s_outputs_alone_are_counted_for_both_on_the_same_rows() -> None:
    made = scores([OLD, OLD, NEW, NEW], [NEW, NEW, OLD, OLD], shadow=1.0)
    sums = pair_sums(rollout(RolloutState.CANARY), PARENT, 12, made, {NEW: 1})
    for version in (OLD, NEW):
        one = sums[version]
        assert (one.rows, one.batches, one.errors, one.latency.sum()) == (0, 0, 0, 0)
        assert one.outputs.sum() == 4


def test_a_batch_that_raised_is_an_error_and_not_as_many_rows_without_a_number() -> None:
    made = scores([OLD] * 3, [NEW] * 3, shadow=np.nan)
    failed = pair_sums(rollout(RolloutState.SHADOW), PARENT, 12, made, {NEW: 1})[NEW]
    assert (failed.rows, failed.errors, failed.nonfinite) == (3, 1, 0)
    silent = pair_sums(rollout(RolloutState.SHADOW), PARENT, 12, made, {})[NEW]
    assert (silent.rows, silent.errors, silent.nonfinite) == (3, 0, 3)


@pytest.mark.parametrize("state", [RolloutState.SHADOW, RolloutState.CANARY])
def test_the_scorer_counts_each_row_once_whoever_is_overtaken(
    engine: Engine, tmp_path: Path, state: RolloutState
) -> None:
    world = World(engine, tmp_path)
    first, second = world.begin_shadow(since=10)
    found = world.shadow()
    if state == RolloutState.CANARY:
        with transaction(engine) as connection:
            move_rollout(connection, found, state, at=EPOCH, step=0, share=0.1)
    world.add_events(30)
    one, other = world.scorer(), world.scorer()
    real = world.log.events

    def overtaken(stream: str, start: int, stop: int) -> Events:
        read = real(stream, start, stop)
        world.log.events = real  # type: ignore[method-assign]  # only the first read is overtaken
        assert other.step() == 30
        return read

    world.log.events = overtaken  # type: ignore[method-assign]  # the other scorer commits while this one predicts
    assert one.step() == 0  # refused, and nothing was counted
    world.add_events(10)
    assert one.step() == 10
    with reading(engine) as connection:
        sums = read_served(connection, STREAM, found.id)
    stage, rows = ("shadow", 30) if state == RolloutState.SHADOW else ("canary-0", 0)
    assert set(sums) == {(stage, first), (stage, second)}  # nobody asked: no row came with a prediction
    assert ASKED not in {name for name, _ in sums}
    for version in (first, second):
        assert sums[stage, version].rows == rows
        assert sums[stage, version].outputs.sum() == 30


def refuse(monkeypatch: pytest.MonkeyPatch, version: int, fault: Permanent) -> None:
    """Let a version not be loaded."""
    real = ModelCache.load

    def load(cache: ModelCache, stream: str, number: int) -> LoadedModel:
        if number == version:
            raise fault
        return real(cache, stream, number)

    monkeypatch.setattr(ModelCache, "load", load)


@pytest.mark.parametrize(
    ("fault", "finding"),
    [
        (Corrupt("bytes differ from their hash"), Finding.WORSE),
        (Refused("install sweetnets"), Finding.UNDECIDED),
    ],
)
def test_a_shadow_that_is_damaged_goes_back_after_a_few_tries_and_one_that_lacks_a_package_waits(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Permanent, finding: Finding
) -> None:
    world = World(engine, tmp_path)
    _, second = world.begin_shadow(since=0)
    refuse(monkeypatch, second, fault)
    scorer, findings, reason = world.scorer(), list[Finding](), ""
    for _ in range(TRIES):
        world.add_events(40)
        assert scorer.step() == 40
        with reading(engine) as connection:
            health = health_of(connection, world.shadow(), RolloutConfig())
            assert list_rollouts(connection, STREAM, 1)[0].fault == str(fault)
        findings.append(health.finding)
        reason = health.reason
    assert findings == [Finding.UNDECIDED] * (TRIES - 1) + [finding]
    if finding == Finding.WORSE:
        assert reason == "cannot be loaded: bytes differ from their hash"


SETTINGS = {
    "task": "regression",
    "schema": {"numeric": ["x"], "categorical": ["c"], "key": "id", "event_time": "at", "target": "y"},
}


def told(engine: Engine) -> list[str]:
    with reading(engine) as connection:
        return list(connection.execute(select(announcements.c.kind).order_by(announcements.c.id)).scalars())


def test_a_paused_shadow_that_lacks_a_package_is_told_once(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(engine, tmp_path)
    _, second = world.begin_shadow(since=0)
    refuse(monkeypatch, second, Refused("install sweetnets"))
    scorer = world.scorer()
    promoter = Promoter(STREAM, StreamConfig.model_validate(SETTINGS), world.log, world.artifacts)
    with transaction(engine) as connection:
        promoter.hold(connection, "pause", EPOCH, "by ops@here")
    for _ in range(3):
        world.add_events(10)
        assert scorer.step() == 10
        with transaction(engine) as connection:
            promoter.roll(connection, EPOCH)
    assert told(engine) == ["rollout.held"]
    with reading(engine) as connection:
        (row,) = list_rollouts(connection, STREAM)
    assert (row.reason, row.fault) == ("paused by an operator", "install sweetnets")


def test_the_damage_of_a_shadow_is_the_reason_whatever_operators_say_and_is_gone_when_it_can_be_loaded(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(engine, tmp_path)
    _, second = world.begin_shadow(since=0)
    promoter = Promoter(STREAM, StreamConfig.model_validate(SETTINGS), world.log, world.artifacts)
    scorer = world.scorer()
    with monkeypatch.context() as damage:
        refuse(damage, second, Corrupt("bytes differ from their hash"))
        for _ in range(TRIES):
            world.add_events(10)
            scorer.step()
        with transaction(engine) as connection:
            for kind in ("pause", "resume"):
                promoter.hold(connection, kind, EPOCH, "by ops@here")
        with reading(engine) as connection:
            health = health_of(connection, world.shadow(), RolloutConfig())
        assert health.reason == "cannot be loaded: bytes differ from their hash"
    world.add_events(10)
    scorer.step()
    with reading(engine) as connection:
        assert list_rollouts(connection, STREAM)[0].fault is None
        assert "cannot be loaded" not in health_of(connection, world.shadow(), RolloutConfig()).reason
