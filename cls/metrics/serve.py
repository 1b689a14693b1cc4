"""What `cls serve` counts of itself, for Prometheus. Counting costs about a microsecond; names and text are made when somebody looks.

    metrics = ServeMetrics(config.streams)
    metrics.reads("cls_serve_queue_rows", lambda: {("flights",): 12})
    metrics.answered("flights", 200, 0.0021, rows=1)
    body, content_type = metrics.page(request.headers.get("accept", ""))

Streams that cls.toml does not know count as stream="", so that callers cannot make series.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from threading import Lock
from typing import Literal

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from cls.metrics.exposition import Histogram, Labels, Measure, family, histogram_family, registry_of, render

Role = Literal["champion", "canary"]
ROLES: tuple[Role, ...] = ("champion", "canary")
SECONDS = (0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.015, 0.03, 0.06, 0.125, 0.25, 0.5, 1.0, 2.5)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
STATUSES = (200, 400, 401, 403, 404, 405, 408, 409, 411, 413, 415, 422, 429, 431, 500, 503, 504)
REASONS = ("queue", "deadline", "rate", "other")

REQUESTS = Measure(
    "cls_serve_requests_total", "counter", "Requests for predictions, by HTTP status.", ("stream", "status")
)
REQUEST_ROWS = Measure(
    "cls_serve_rows_total", "counter", "Rows answered with a prediction (status 200).", ("stream",)
)
REQUEST_SECONDS = Measure(
    "cls_serve_request_seconds",
    "histogram",
    "Seconds from a request's arrival to its answer, whatever its status.",
    ("stream",),
)
BATCH_ROWS = Measure(
    "cls_serve_batch_rows", "histogram", "Rows that a version predicted at once.", ("stream", "role")
)
BATCH_SECONDS = Measure(
    "cls_serve_batch_seconds", "histogram", "Seconds that a version took for a batch.", ("stream", "role")
)
SHED = Measure(
    "cls_serve_shed_total",
    "counter",
    "Requests that were turned away unanswered: the queue was full, the deadline passed, the rate was exceeded.",
    ("stream", "reason"),
)
UNREADABLE = Measure(
    "cls_serve_unreadable_metrics", "gauge", "Metrics that could not be read at this scrape."
)
READ = (  # what is asked for at each scrape; role: champion or canary
    Measure("cls_serve_ready", "gauge", "1 if every stream with a champion has it loaded, as /readyz says."),
    Measure("cls_serve_version", "gauge", "Number of the version that answers.", ("stream", "role")),
    Measure("cls_serve_share", "gauge", "Share of the keys that a canary answers.", ("stream",)),
    Measure(
        "cls_serve_runtime",
        "gauge",
        "1 for what runs the version: eager, onnx or compile.",
        ("stream", "role", "runtime"),
    ),
    Measure("cls_serve_queue_rows", "gauge", "Rows that wait for a version.", ("stream",)),
    Measure(
        "cls_serve_stuck_seconds",
        "gauge",
        "Seconds that the champion has been at one batch, past its deadline; absent while it answers.",
        ("stream",),
    ),
    Measure("cls_serve_database_up", "gauge", "1 if the database answered when the rollouts were last read."),
    Measure("cls_serve_prediction_log_rows", "gauge", "Answered rows that wait to be written to the inbox."),
    Measure("cls_serve_prediction_log_lost_total", "counter", "Answered rows that the log had no room for."),
    Measure("cls_serve_scorer_up", "gauge", "1 if the process that scores and shadows is alive."),
)
SERVE = (
    REQUESTS,
    REQUEST_ROWS,
    REQUEST_SECONDS,
    BATCH_ROWS,
    BATCH_SECONDS,
    SHED,
    *READ,
    UNREADABLE,
)
_READ = {measure.name: measure for measure in READ}


class ServeMetrics(Collector):
    """The counters of one serving process.

    Parameters
    ----------
    streams
        Names of the streams of cls.toml.
    """

    def __init__(self, streams: Iterable[str]) -> None:
        self._streams = {name: _Stream() for name in ("", *streams)}
        self._unknown = self._streams[""]
        self._reads: dict[str, Callable[[], Mapping[Labels, float]]] = {}
        self._registry = registry_of(self)

    def answered(self, stream: str, status: int, seconds: float, rows: int) -> None:
        """Count a request that was answered, `seconds` after it came."""
        self._streams.get(stream, self._unknown).answered(status, seconds, rows)

    def batch(self, stream: str, role: Role, rows: int, seconds: float) -> None:
        """Count a batch that a version predicted."""
        one = self._streams.get(stream, self._unknown)
        one.batch_rows[role].add(rows)
        one.batch_seconds[role].add(seconds)

    def shed(self, stream: str, reason: str) -> None:
        """Count a request that was turned away; `reason` is one of `REASONS`, what else there may be is "other"."""
        self._streams.get(stream, self._unknown).turned_away(reason)

    def reads(self, name: str, read: Callable[[], Mapping[Labels, float]]) -> None:
        """Have a metric of `READ` read at each scrape, as values by labels.

        Raises
        ------
        KeyError
            If there is no such metric.
        """
        self._reads[_READ[name].name] = read

    def render(self, accept: str = "") -> bytes:
        """Return all metrics as text."""
        return self.page(accept)[0]

    def page(self, accept: str = "") -> tuple[bytes, str]:
        """Return all metrics as text, and its content type: OpenMetrics if the Accept header asks for it."""
        return render(self._registry, accept)

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics; one that cannot be read is left out and counted."""
        streams = self._streams
        yield family(
            REQUESTS,
            {(n, s): v for n, one in streams.items() for s, v in list(one.statuses.items()) if n or v},
        )
        yield family(REQUEST_ROWS, {(name,): one.rows for name, one in streams.items() if name})
        yield histogram_family(REQUEST_SECONDS, {(name,): one.seconds for name, one in streams.items()})
        known = {name: one for name, one in streams.items() if name}
        yield histogram_family(
            BATCH_ROWS, {(n, role): one.batch_rows[role] for n, one in known.items() for role in ROLES}
        )
        yield histogram_family(
            BATCH_SECONDS, {(n, role): one.batch_seconds[role] for n, one in known.items() for role in ROLES}
        )
        yield family(
            SHED, {(n, why): v for n, one in streams.items() for why, v in one.shed.items() if n or v}
        )
        unreadable = 0
        for name, read in self._reads.items():
            try:
                yield family(_READ[name], read())
            except Exception:  # noqa: BLE001 - the others are still worth showing
                unreadable += 1
        yield family(UNREADABLE, {(): unreadable})


class _Stream:
    """The counters of one stream."""

    def __init__(self) -> None:
        self.statuses = dict.fromkeys(
            ("200", "429", "500", "503"), 0
        )  # others begin when they are first answered
        self.rows = 0
        self.seconds = Histogram(SECONDS)
        self.batch_rows = {role: Histogram(ROWS) for role in ROLES}
        self.batch_seconds = {role: Histogram(SECONDS) for role in ROLES}
        self.shed = dict.fromkeys(REASONS, 0)
        self._lock = Lock()

    def answered(self, status: int, seconds: float, rows: int) -> None:
        code = _CODES.get(status) or f"{status // 100}xx"
        with self._lock:
            self.statuses[code] = self.statuses.get(code, 0) + 1
            if status == 200:
                self.rows += rows
        self.seconds.add(seconds)

    def turned_away(self, reason: str) -> None:
        with self._lock:
            self.shed[reason if reason in self.shed else "other"] += 1


_CODES = {status: str(status) for status in STATUSES}
