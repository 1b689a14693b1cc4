"""How the keys of a canary came back: distinct ones, by the arm that they belong to, counted on bitmaps of hash slots."""

from __future__ import annotations

from sqlalchemy import Connection, Insert, bindparam, select, update

from cls.credits import EMPTY, Credits
from cls.guardrails import Allocation
from storage.db import upsert
from storage.statements import per_dialect
from storage.tables import allocations

_STEP = select(allocations).where(
    allocations.c.rollout == bindparam("of_rollout"), allocations.c.step == bindparam("of_step")
)
_SET = (
    update(allocations)
    .where(allocations.c.rollout == bindparam("of_rollout"), allocations.c.step == bindparam("of_step"))
    .values(champion=bindparam("keys"), canary=bindparam("canary_keys"), misrouted=bindparam("rows"))
)


@per_dialect
def _begin(connection: Connection) -> Insert:
    return upsert(connection, allocations).on_conflict_do_nothing()


def credit(connection: Connection, gain: Credits) -> None:
    """Add a batch to a step of a canary, in the transaction that takes the batch in."""
    key = {"rollout": gain.rollout, "step": gain.step}
    connection.execute(_begin(connection), key | {"champion": EMPTY, "canary": EMPTY, "misrouted": 0})
    which = {f"of_{name}": value for name, value in key.items()}
    row = connection.execute(_STEP, which).one()
    champion, canary = gain.added(row.champion, row.canary)
    values = {"keys": champion, "canary_keys": canary, "rows": row.misrouted + gain.misrouted}
    connection.execute(_SET, which | values)


def read_allocation(connection: Connection, rollout: int, step: int) -> Allocation:
    """Return what came back in a step of a canary; zeros before anything did."""
    row = connection.execute(_STEP, {"of_rollout": rollout, "of_step": step}).first()
    if row is None:
        return Allocation()
    return Allocation(_bits(row.champion), _bits(row.canary), int(row.misrouted))


def _bits(bitmap: bytes) -> int:
    return int.from_bytes(bitmap, "little").bit_count()
