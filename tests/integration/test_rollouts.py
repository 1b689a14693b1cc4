"""Rollouts in SQL: each step with its champion, ledger and announcement in one transaction; what operators ask is done, or refused with a reason."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, select

from cls.arms import BEFORE, Served, stage_name
from cls.config import StreamConfig
from cls.domain import ModelVersion, Rollout, RolloutState
from cls.errors import Refused
from cls.layout import PROFILE
from cls.promote import Promoter
from storage import versions as store
from storage.artifacts import MemoryArtifacts
from storage.db import reading, transaction
from storage.log import Log
from storage.segments import MemorySegments
from storage.served import add_served, read_served
from storage.streams import ensure_stream, read_ledger
from storage.tables import announcements, outbox

AT = datetime(2013, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
ROLLOUT: dict[str, Any] = {
    "shadow_rows": 100,
    "step_rows": 50,
    "canary_steps": [0.1, 0.5],
    "watch_rows": 100,
    "margin": 0.2,
    "deadline": "48h",
}


@dataclass
class World:
    """A stream with a champion, version 1, and a candidate on its way, version 2."""

    engine: Engine
    promoter: Promoter
    now: datetime = AT

    def roll(self, hours: float = 1.0) -> Rollout:
        self.now += hours * HOUR
        with transaction(self.engine) as connection:
            self.promoter.roll(connection, self.now)
        return self.rollout()

    def rollout(self) -> Rollout:
        with reading(self.engine) as connection:
            return store.rollout_of(store.list_rollouts(connection, "s", 1)[0])

    def hold(self, kind: str, hours: float = 0.0) -> str:
        self.now += hours * HOUR
        with transaction(self.engine) as connection:
            return self.promoter.hold(connection, kind, self.now, "by ops@here")

    def pairs(self, rows: int, worse: float = 0.0) -> None:
        """Labels land: on half of the rows the version is better by one, on the others worse."""
        with transaction(self.engine) as connection:
            difference = np.resize([1.0 + worse, -1.0 + worse], rows)
            store.add_paired(connection, self.rollout().id, difference, 10.0 * rows)

    def answers(self, rows: int = 40) -> None:
        """Both versions answer, as the stage has it."""
        rollout = self.rollout()
        stage = stage_name(rollout.state, rollout.step)
        with transaction(self.engine) as connection:
            for version in (1, 2):
                gain = Served(rows=rows, batches=rows)
                if rollout.state == RolloutState.SHADOW:
                    add_served(connection, "s", rollout.id, "champion", 1, gain)
                else:
                    add_served(connection, "s", rollout.id, stage, version, gain)

    def champion(self) -> int:
        with reading(self.engine) as connection:
            found = store.champion(connection, "s")
        assert found is not None
        return found.version

    def told(self) -> list[str]:
        with reading(self.engine) as connection:
            kinds = connection.execute(select(announcements.c.kind).order_by(announcements.c.id)).scalars()
            return [kind.removeprefix("rollout.") for kind in kinds]

    def ledger(self) -> list[str]:
        with reading(self.engine) as connection:
            return [row.kind for row in read_ledger(connection, "s")][::-1]


@pytest.fixture
def world(engine: Engine) -> World:
    return begin(engine)


def begin(engine: Engine, **changes: Any) -> World:
    settings = StreamConfig.model_validate(
        {
            "task": "regression",
            "schema": {"numeric": ["x"], "key": "id", "event_time": "at", "target": "y"},
            "rollout": ROLLOUT | changes,
        }
    )
    log = Log(engine, MemorySegments(), {"s": settings.columns.features})
    world = World(engine, Promoter("s", settings, log, MemoryArtifacts()))
    files = {PROFILE: "a" * 64}
    version = ModelVersion("s", 0, "d" * 64, None, None, "s", 0, 0, 0, {}, {}, AT, files)
    with transaction(engine) as connection:
        ensure_stream(connection, "s")
        store.add_version(connection, version)
        store.add_version(connection, replace(version, parent=1))
        store.promote(
            connection, "s", 1, expected=None, since=0, reference="a" * 64, at=AT, reason="the first version"
        )
        store.add_rollout(connection, "s", 2, parent=1, light=False, effective_at=AT, episode=None)
    return world


def test_an_equal_candidate_climbs_and_each_step_is_told_and_kept(world: World) -> None:
    assert world.roll().state == RolloutState.SHADOW
    world.answers()
    world.pairs(100)
    first = world.roll()
    assert (first.state, first.step, first.share, first.step_n) == (RolloutState.CANARY, 0, 0.1, 100)
    assert world.roll().step == 0  # no row has come since
    world.answers()
    world.pairs(50)
    second = world.roll()
    assert (second.step, second.share, second.step_n, second.paired_n) == (1, 0.5, 150, 150)
    assert second.since == first.since  # one comparison all along
    world.pairs(50)
    last = world.roll()
    assert (last.state, last.paired_n) == (RolloutState.WATCHING, 0)
    assert world.champion() == 2
    world.pairs(100)
    assert world.roll().state == RolloutState.DONE
    assert world.told() == ["shadow", "canary", "canary", "promoted", "done"]
    assert world.ledger() == ["promotion"]


def test_a_stream_that_nobody_asks_goes_from_shadow_to_champion(world: World) -> None:
    world.roll()
    world.pairs(100)
    assert world.roll().state == RolloutState.WATCHING
    assert world.told() == ["shadow", "promoted"]


@pytest.mark.parametrize("stage", ["shadow", "canary"])
def test_a_worse_candidate_goes_back_though_it_is_paused(world: World, stage: str) -> None:
    world.roll()
    if stage == "canary":
        world.answers()
        world.pairs(100)
        world.roll()
    world.hold("pause")
    world.pairs(400, worse=2.0)
    assert world.roll().state == RolloutState.REJECTED
    assert world.champion() == 1
    assert world.ledger()[-1] == "rejection"
    with reading(world.engine) as connection:
        entry = read_ledger(connection, "s", 1)[0]
        assert connection.execute(select(outbox.c.kind)).scalars().all() == ["aliases"] * len(world.told())
    assert "worse than the champion on" in entry.reason
    assert entry.details["rows"] == world.rollout().paired_n


def test_a_champion_that_disappoints_goes_back_and_the_ledger_says_why(world: World) -> None:
    world.roll()
    world.pairs(100)
    world.roll()
    world.pairs(400, worse=2.0)
    assert world.roll().state == RolloutState.ROLLED_BACK
    assert world.champion() == 1
    assert world.ledger() == ["promotion", "promotion", "rollback"]
    assert world.told()[-1] == "rolled_back"


def test_pause_moves_the_deadline_and_resume_goes_on(world: World) -> None:
    world.roll()
    before = world.rollout().deadline_at
    assert "paused by ops@here" in world.hold("pause", 1)
    with pytest.raises(Refused, match="paused already"):
        world.hold("pause")
    assert world.roll(100).state == RolloutState.SHADOW  # long after its deadline
    world.hold("resume")
    after = world.rollout()
    assert before is not None
    assert after.deadline_at == before + 100 * HOUR
    with pytest.raises(Refused, match="not paused"):
        world.hold("resume")
    assert world.roll(100).state == RolloutState.REJECTED


def test_an_approval_is_waited_for_told_once_and_good_for_its_stage_alone(engine: Engine) -> None:
    world = begin(engine, approval="both", deadline="10d")
    with pytest.raises(Refused, match="does not wait to be approved"):
        world.hold("approve")
    world.roll()
    with pytest.raises(Refused, match="does not wait to be approved"):  # not yet: nothing is known of it
        world.hold("approve")
    world.answers()
    world.pairs(100)
    for _ in range(3):
        held = world.roll()
        assert held.state == RolloutState.SHADOW
    assert world.told() == ["shadow", "held"]
    assert "approved as canary" in world.hold("approve")
    with pytest.raises(Refused, match="does not wait to be approved"):
        world.hold("approve")
    assert world.roll().state == RolloutState.CANARY
    world.answers()
    world.pairs(50)
    assert world.roll().step == 1  # the first step was approved: so are the next
    world.pairs(50)
    assert world.roll().state == RolloutState.CANARY
    world.hold("approve")
    assert world.roll().state == RolloutState.WATCHING
    assert world.told() == ["shadow", "held", "canary", "canary", "held", "promoted"]


def test_an_operator_who_rolls_a_watched_champion_back_ends_its_rollout(world: World) -> None:
    world.roll()
    world.pairs(100)
    world.roll()
    with transaction(world.engine) as connection:
        champion = store.champion(connection, "s")
        assert world.promoter.roll_back_by_hand(connection, champion, world.now, "rolled back by ops") == 1
    assert world.rollout().state == RolloutState.ROLLED_BACK
    assert world.champion() == 1
    assert world.told()[-1] == "rolled_back"
    assert world.roll().state == RolloutState.ROLLED_BACK


def test_what_was_held_says_so_no_longer_once_it_goes_on(world: World) -> None:
    world.roll()
    world.hold("pause")
    world.roll()
    world.hold("resume")
    with reading(world.engine) as connection:
        assert store.list_rollouts(connection, "s", 1)[0].reason == "resumed by ops@here"
    world.hold("pause")
    world.roll()
    assert world.told().count("held") == 2


def test_an_abort_sends_it_back_from_anywhere_but_from_the_champion(world: World) -> None:
    world.roll()
    assert "aborted" in world.hold("abort")
    assert world.rollout().state == RolloutState.REJECTED
    with pytest.raises(Refused, match="no rollout on its way"):
        world.hold("abort")
    assert world.champion() == 1


def test_a_watched_champion_is_not_aborted_but_rolled_back(world: World) -> None:
    world.roll()
    world.pairs(100)
    world.roll()
    with pytest.raises(Refused, match="cls rollback"):
        world.hold("abort")


def test_sums_of_many_replicas_add_up(engine: Engine) -> None:
    world = begin(engine)
    for part in range(3):
        with transaction(engine) as connection:
            latency = Served().latency.copy()
            latency[part] = 2
            add_served(connection, "s", 1, "shadow", 2, Served(5, 1, part, 0, latency, np.array([1, part])))
    with transaction(engine) as connection:
        total = read_served(connection, "s", 1)["shadow", 2]
        assert read_served(connection, "s", 7) == {}
        for version in (1, 2, 3):  # outside of rollouts; of these the parent alone is compared with
            add_served(connection, "s", 0, "champion", version, Served(rows=version))
        assert set(read_served(connection, "s", 1)) == {("shadow", 2), (BEFORE, 1)}
    assert (total.rows, total.batches, total.errors) == (15, 3, 3)
    assert total.latency[:4].tolist() == [2, 2, 2, 0]
    assert total.outputs.tolist() == [3, 3]
    assert world.champion() == 1
