"""What the daemon shows to Prometheus: the loop as the tables tell it, read when somebody looks, never in the way of ingest.

A scrape reads SQL in a thread of its own and waits for it a moment; several scrapes share what was read within a few seconds. While the
database is away there are no figures but `cls_database_up 0`, the errors so far and those of this process.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from threading import Lock, Thread

from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from sqlalchemy import Connection, Engine

from cls.config import Config
from cls.errors import CLSError
from cls.logging import get_logger
from cls.metrics.exposition import Measure, family, registry_of, render
from cls.metrics.stream import SQL, Seen, Values, of_all, of_streams
from storage.db import reading
from storage.measures import common_figures, stream_figures
from storage.streams import allowance
from storage.totals import Totals

FRESH_SECONDS = 3.0  # what was read within these is shown again
PATIENCE_SECONDS = 3.0  # that a scrape waits for the database
STALE_SECONDS = 60.0  # older figures are not shown
SEEN_SECONDS = 30.0  # since a process last signed in

DATABASE_UP = Measure("cls_database_up", "gauge", "1 if the database answered this scrape in time.")
DATABASE_ERRORS = Measure("cls_database_errors_total", "counter", "Scrapes whose figures could not be read.")
READ_AGE = Measure("cls_figures_age_seconds", "gauge", "Age of the figures from the database.")
READ_SECONDS = Measure("cls_figures_read_seconds", "gauge", "Seconds that reading them took.")
HALTED = Measure(
    "cls_stream_halted",
    "gauge",
    "1 while a stream stands still for a fault that it cannot get over.",
    ("stream",),
)
TURN_AGE = Measure(
    "cls_stream_turn_age_seconds", "gauge", "Seconds since a stream's last turn that ended well.", ("stream",)
)
DAEMON = (*SQL, DATABASE_UP, DATABASE_ERRORS, READ_AGE, READ_SECONDS, HALTED, TURN_AGE)

_log = get_logger(__name__)


@dataclass(frozen=True)
class Turning:
    """How a stream's loop is doing in this process."""

    since_turn: float  # seconds since its last turn that ended well, or since the process began
    halted: str = ""  # why it does not go on; empty while it does


class Measures(Collector):
    """The daemon's metrics.

    Parameters
    ----------
    config
        With the streams and webhooks that there may be series of.
    engine
        The database.
    turning
        Tells of each stream's loop.
    """

    def __init__(self, config: Config, engine: Engine, turning: Callable[[], Mapping[str, Turning]]) -> None:
        self._config = config
        self._engine = engine
        self._turning = turning
        self._registry = registry_of(self)
        self._totals = Totals()
        self._lock = Lock()
        self._reader: Thread | None = None
        self._values: Mapping[str, Values] = {}
        self._read_at = -math.inf  # monotonic
        self._read_seconds = 0.0
        self._errors = 0
        self._complaint = ""

    def page(self, accept: str = "") -> tuple[bytes, str]:
        """Return all metrics as text, and its content type; waits for the database a moment."""
        with self._lock:
            if self._reader is None and time.monotonic() - self._read_at > FRESH_SECONDS:
                self._reader = Thread(target=self._read, name="measures", daemon=True)
                self._reader.start()
            reader = self._reader
        if reader is not None:
            reader.join(PATIENCE_SECONDS)
        return render(self._registry, accept)

    def collect(self) -> Iterator[Metric]:
        """Yield what was read last, and what this process knows of itself."""
        age = time.monotonic() - self._read_at
        values = self._values if age < STALE_SECONDS else {}
        for measure in SQL:
            if measure.name in values:
                yield family(measure, values[measure.name])
        yield family(DATABASE_UP, {(): self._reader is None and not self._complaint})
        yield family(DATABASE_ERRORS, {(): self._errors})
        if values:
            yield family(READ_AGE, {(): age})
            yield family(READ_SECONDS, {(): self._read_seconds})
        turning = self._turning()
        yield family(HALTED, {(name,): bool(one.halted) for name, one in turning.items()})
        yield family(TURN_AGE, {(name,): one.since_turn for name, one in turning.items()})

    def _read(self) -> None:
        began = time.monotonic()
        try:
            with reading(self._engine) as connection:
                found = self._figures(connection)
        except Exception as error:  # noqa: BLE001 - whatever it is, metrics go on and say so
            if str(error) != self._complaint:
                _log.warning("metrics", reason=str(error), exc_info=not isinstance(error, CLSError))
            self._errors += 1
            self._values, self._read_at, self._complaint = {}, -math.inf, str(error)
        else:
            self._values, self._read_at, self._complaint = found, time.monotonic(), ""
            self._read_seconds = self._read_at - began
        finally:
            self._reader = None

    def _figures(self, connection: Connection) -> Mapping[str, Values]:
        self._totals.update(connection, self._config.streams)
        seen = []
        for name, settings in self._config.streams.items():
            figures, update = stream_figures(connection, name), settings.update
            per_day, days = update.budget_device_seconds_per_day, update.budget_burst_days
            left = (
                per_day * days
                if figures.time is None
                else allowance(connection, name, figures.time, per_day, days)
            )
            seen.append(Seen(name, settings, figures, left, self._totals))
        return of_streams(seen) | of_all(common_figures(connection, self._config.webhooks, SEEN_SECONDS))
