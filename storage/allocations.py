"""How the keys of a canary came back: distinct ones, by the version that answered first, counted on bitmaps of hash slots."""

from __future__ import annotations

from sqlalchemy import Connection, select

from cls.health import Allocation
from storage.tables import allocations


def read_allocation(connection: Connection, rollout: int, step: int) -> Allocation:
    """Return what came back in a step of a canary; zeros before anything did."""
    where = (allocations.c.rollout == rollout, allocations.c.step == step)
    row = connection.execute(select(allocations).where(*where)).first()
    if row is None:
        return Allocation()
    return Allocation(_bits(row.champion), _bits(row.canary), int(row.misrouted))


def _bits(bitmap: bytes) -> int:
    return int.from_bytes(bitmap, "little").bit_count()
