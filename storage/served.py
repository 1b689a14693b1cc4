"""What versions did in each stage, as sums that every replica adds to."""

from __future__ import annotations

import numpy as np
from sqlalchemy import Connection, and_, or_, select, update

from cls.arms import BEFORE, Served
from storage.db import database_now, upsert
from storage.tables import rollouts, served

_COUNTS = ("rows", "batches", "errors", "nonfinite")


def add_served(
    connection: Connection, stream: str, rollout: int, stage: str, version: int, gain: Served
) -> None:
    """Add to a version's sums; the caller's transaction must be a writing one (`storage.db.transaction`)."""
    key = {"stream": stream, "rollout": rollout, "stage": stage, "version": version}
    empty = Served()
    values = {name: getattr(empty, name) for name in _COUNTS} | {"latency": [], "outputs": []}
    values["updated_at"] = database_now(connection)
    connection.execute(upsert(connection, served).values(**key, **values).on_conflict_do_nothing())
    where = [served.c[name] == value for name, value in key.items()]
    row = connection.execute(select(served).where(*where).with_for_update()).one()
    total = _served(row) + gain
    values = {name: int(getattr(total, name)) for name in _COUNTS}
    values |= {"latency": total.latency.tolist(), "outputs": total.outputs.tolist()}
    values["updated_at"] = database_now(connection)
    connection.execute(update(served).where(*where).values(**values))


def read_served(connection: Connection, stream: str, rollout: int) -> dict[tuple[str, int], Served]:
    """Return the sums of a rollout by (stage, version), and its parent's from outside of any rollout under the stage `BEFORE`."""
    parent = select(rollouts.c.parent).where(rollouts.c.id == rollout).scalar_subquery()
    which = or_(served.c.rollout == rollout, and_(served.c.rollout == 0, served.c.version == parent))
    query = select(served).where(served.c.stream == stream, which)
    return {
        (row.stage if row.rollout else BEFORE, int(row.version)): _served(row)
        for row in connection.execute(query)
    }


def _served(row: object) -> Served:
    latency = np.asarray(row.latency, np.int64)  # type: ignore[attr-defined]
    plain = {name: int(getattr(row, name)) for name in _COUNTS}
    outputs = np.asarray(row.outputs, np.int64)  # type: ignore[attr-defined]
    return Served(**plain, latency=latency if len(latency) else Served().latency, outputs=outputs)
