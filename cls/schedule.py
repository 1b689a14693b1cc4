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
    fire, after = None, since + timedelta(microseconds=1)
    while True:
        following = _trigger(cron).get_next_fire_time(None, after)
        if following is None or following > now:
            return fire
        fire, after = following, following + timedelta(microseconds=1)
