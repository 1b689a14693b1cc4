"""Schedule: when a cron expression fires, in stream time. APScheduler knows cron; the truth about what has fired is in SQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache

from apscheduler.triggers.cron import CronTrigger


@lru_cache(maxsize=64)
def _trigger(cron: str) -> CronTrigger:
    return CronTrigger.from_crontab(cron, timezone=UTC)


def last_fire(cron: str, since: datetime, now: datetime) -> datetime | None:
    """Return the last time in (since, now] at which a cron expression fires, None if there is none.

    Several missed times are one: a stream that was away for a week is not updated seven times.
    """
    for span in (
        timedelta(hours=1),
        timedelta(days=2),
        timedelta(days=62),
        now - since,
    ):  # near ones first: cron only walks forward
        fire: datetime | None = None
        after = max(since, now - span) + timedelta(microseconds=1)
        while (following := _trigger(cron).get_next_fire_time(None, after)) is not None and following <= now:
            fire, after = following, following + timedelta(microseconds=1)
        if fire is not None:
            return fire
    return None
