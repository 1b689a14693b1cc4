"""What a comparison counts: rows that both versions were asked for, each once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine

from cls.arms import ASKED, TRIES, WAITS
from cls.config import RolloutConfig
from cls.domain import Rollout, RolloutState
from cls.errors import Corrupt, Permanent, Refused
from cls.health import Finding
from cls.ports import Events, Predictions
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
from storage.versions import add_rollout, list_rollouts, move_rollout, rollouts_in
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
    first, second = world.add_version(1.0), world.add_version(5.0)
    world.promote(first, None, since=0)
    with transaction(engine) as connection:
        add_rollout(connection, STREAM, second, parent=first, light=False, effective_at=EPOCH, episode=None)
        (found,) = rollouts_in(connection, STREAM, RolloutState.WAITING)
        move_rollout(connection, found, RolloutState.SHADOW, at=EPOCH, since=10)
        if state == RolloutState.CANARY:
            (found,) = rollouts_in(connection, STREAM, RolloutState.SHADOW)
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
    first, second = world.add_version(1.0), world.add_version(5.0)
    world.promote(first, None, since=0)
    with transaction(engine) as connection:
        add_rollout(connection, STREAM, second, parent=first, light=False, effective_at=EPOCH, episode=None)
        (found,) = rollouts_in(connection, STREAM, RolloutState.WAITING)
        move_rollout(connection, found, RolloutState.SHADOW, at=EPOCH, since=0)
    real = ModelCache.load

    def load(cache: ModelCache, stream: str, version: int) -> LoadedModel:
        if version == second:
            raise fault
        return real(cache, stream, version)

    monkeypatch.setattr(ModelCache, "load", load)
    scorer, findings, reason = world.scorer(), list[Finding](), ""
    for _ in range(TRIES):
        world.add_events(40)
        assert scorer.step() == 40
        with reading(engine) as connection:
            (rollout,) = rollouts_in(connection, STREAM, RolloutState.SHADOW)
            health = health_of(connection, rollout, RolloutConfig())
            assert list_rollouts(connection, STREAM, 1)[0].reason == f"{WAITS}{fault}"
        findings.append(health.finding)
        reason = health.reason
    assert findings == [Finding.UNDECIDED] * (TRIES - 1) + [finding]
    if finding == Finding.WORSE:
        assert reason == "cannot be loaded: bytes differ from their hash"
