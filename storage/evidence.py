"""What is known about a rollout beside its paired losses, gathered for `cls.health.judge`."""

from __future__ import annotations

from sqlalchemy import Connection

from cls.config import RolloutConfig
from cls.domain import Rollout, RolloutState
from cls.health import Allocation, Health, judge
from storage.allocations import read_allocation
from storage.served import read_served


def health_of(connection: Connection, rollout: Rollout, settings: RolloutConfig) -> Health:
    """Return what the evidence of a rollout says now."""
    if rollout.state == RolloutState.WAITING:
        return judge(rollout, {}, Allocation(), settings)
    served = read_served(connection, rollout.stream, rollout.id)
    canary = rollout.state == RolloutState.CANARY
    allocation = read_allocation(connection, rollout.id, rollout.step) if canary else Allocation()
    return judge(rollout, served, allocation, settings)
