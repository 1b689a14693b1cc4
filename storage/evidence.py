"""What is known about a rollout beside its paired losses, gathered for `cls.health.judge`."""

from __future__ import annotations

from sqlalchemy import Connection, select

from cls.arms import TRIES, UNLOADABLE, Served
from cls.config import RolloutConfig
from cls.domain import Rollout, RolloutState
from cls.health import Allocation, Health, judge
from storage.allocations import read_allocation
from storage.served import read_served
from storage.tables import rollouts


def health_of(connection: Connection, rollout: Rollout, settings: RolloutConfig) -> Health:
    """Return what the evidence of a rollout says now."""
    if rollout.state == RolloutState.WAITING:
        return judge(rollout, {}, Allocation(), settings)
    served = read_served(connection, rollout.stream, rollout.id)
    canary = rollout.state == RolloutState.CANARY
    allocation = read_allocation(connection, rollout.id, rollout.step) if canary else Allocation()
    tried = served.get((UNLOADABLE, rollout.version), Served()).errors
    unloadable = _fault(connection, rollout) if tried >= TRIES else ""
    return judge(rollout, served, allocation, settings, unloadable)


def _fault(connection: Connection, rollout: Rollout) -> str:
    """Return why a version cannot be loaded, as the scorer wrote it; "" if it can by now."""
    return connection.execute(select(rollouts.c.fault).where(rollouts.c.id == rollout.id)).scalar_one() or ""
