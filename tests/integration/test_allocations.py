"""How a canary's keys came back is counted with the batch that brought them: once, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from sqlalchemy import Connection, Engine, insert, select, update

import cls.stream
from cls.config import StreamConfig
from cls.domain import RolloutState
from cls.guardrails import Allocation
from cls.ports import RawBatch
from cls.serving.routing import in_canary
from cls.stream import Ports, StreamLoop
from storage import tables
from storage.allocations import read_allocation
from storage.artifacts import MemoryArtifacts
from storage.db import reading, transaction
from storage.log import Log
from storage.segments import MemorySegments

START = datetime(2013, 1, 1, tzinfo=UTC)


class Source:
    def __init__(self) -> None:
        self.batches: list[pa.Table] = []

    def read(self, token: str) -> RawBatch | None:
        at = int(token or 0)
        return RawBatch("events", self.batches[at], str(at + 1), "test") if at < len(self.batches) else None


def settings(group: str = "") -> StreamConfig:
    columns = {"numeric": ["x"], "key": "id", "event_time": "at", "target": "y", "group": group}
    return StreamConfig.model_validate({"task": "regression", "schema": columns})


def begin(engine: Engine, state: RolloutState, share: float) -> int:
    with transaction(engine) as connection:
        row = {"stream": "s", "version": 2, "parent": 1, "state": state, "light": False, "share": share}
        made = connection.execute(insert(tables.rollouts).values(**row, effective_at=START))
        return int(next(iter(made.inserted_primary_key or ())))


def batch(rollout: int, first: int, rows: int, share: float, *, group: str = "id") -> pa.Table:
    """Return events that were answered by the version of their key; ten rows share a customer."""
    names = {
        "id": [f"k{i}" for i in range(first, first + rows)],
        "who": [f"w{i // 10}" for i in range(first, first + rows)],
    }
    return pa.table(
        {
            **names,
            "at": pa.array([START + timedelta(seconds=i) for i in range(first, first + rows)]),
            "x": [1.0] * rows,
            "cls_prediction": [0.5] * rows,
            "cls_version": [2 if in_canary(rollout, key, share) else 1 for key in names[group]],
        }
    )


def looped(engine: Engine, source: Source, config: StreamConfig) -> StreamLoop:
    segments = MemorySegments()
    log = Log(engine, segments, {"s": config.columns.features})
    ports = Ports(
        engine, log, segments, MemoryArtifacts(), {"source": source}, lambda: START + timedelta(days=1)
    )
    return StreamLoop("s", config, ports)


def found(engine: Engine, rollout: int, step: int = 0) -> Allocation:
    with reading(engine) as connection:
        return read_allocation(connection, rollout, step)


def test_a_batch_counts_once_whenever_the_process_dies(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, rollout = Source(), begin(engine, RolloutState.CANARY, 0.25)
    loop = looped(engine, source, settings())
    source.batches = [
        batch(rollout, 0, 200, 0.25),
        batch(rollout, 100, 200, 0.25),
    ]  # half of it is there already

    @contextmanager
    def dying(engine: Engine) -> Iterator[Connection]:
        with transaction(engine) as connection:
            yield connection
            raise KeyboardInterrupt

    monkeypatch.setattr(cls.stream, "transaction", dying)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            loop.ingest()
    monkeypatch.undo()
    assert found(engine, rollout) == Allocation()
    while loop.ingest():
        pass
    keys = [f"k{i}" for i in range(300)]
    seen = found(engine, rollout)
    assert seen.canary == pytest.approx(sum(in_canary(rollout, key, 0.25) for key in keys), abs=2)
    assert seen.canary + seen.champion == pytest.approx(300, abs=4)  # a few share a slot
    assert seen.misrouted == 0


def test_a_step_counts_afresh_and_a_lagging_replica_is_reported(engine: Engine) -> None:
    source, rollout = Source(), begin(engine, RolloutState.CANARY, 0.05)
    loop = looped(engine, source, settings())
    source.batches = [batch(rollout, 0, 100, 0.05)]
    assert loop.ingest()
    first = found(engine, rollout)
    with transaction(engine) as connection:
        connection.execute(update(tables.rollouts).values(share=0.5, step=1))
    source.batches.append(batch(rollout, 100, 100, 0.05))  # answered before the replica heard of it
    assert loop.ingest()
    assert found(engine, rollout) == first
    second = found(engine, rollout, 1)
    assert second.champion + second.canary == pytest.approx(100, abs=2)
    assert second.canary > 30
    assert second.misrouted > 20


def test_rows_go_by_their_group_where_the_schema_has_one(engine: Engine) -> None:
    source, rollout = Source(), begin(engine, RolloutState.CANARY, 0.5)
    loop = looped(engine, source, settings("who"))
    source.batches = [batch(rollout, 0, 400, 0.5, group="who")]
    assert loop.ingest()
    seen = found(engine, rollout)
    assert seen.champion + seen.canary == 40  # customers, not rows
    assert seen.misrouted == 0


@pytest.mark.parametrize("state", [RolloutState.SHADOW, RolloutState.WATCHING])
def test_without_a_canary_nothing_is_counted(engine: Engine, state: RolloutState) -> None:
    source, rollout = Source(), begin(engine, state, 0.5)
    loop = looped(engine, source, settings())
    source.batches = [batch(rollout, 0, 50, 0.5)]
    assert loop.ingest()
    with reading(engine) as connection:
        assert connection.execute(select(tables.allocations)).all() == []
