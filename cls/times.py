"""Stream time as integers and as datetimes: microseconds since the epoch, UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def from_us(microseconds: int) -> datetime:
    """Return the datetime of some microseconds since the epoch."""
    return EPOCH + int(microseconds) * MICROSECOND


def to_us(time: datetime) -> int:
    """Return the microseconds since the epoch of a datetime."""
    return (time - EPOCH) // MICROSECOND
