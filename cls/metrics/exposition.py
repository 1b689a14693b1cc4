"""What Prometheus is shown: metrics declared once, with their labels, and rendered from an own registry.

A declaration is all that a metric's name, type, help and labels come from; `deploy/METRICS.md` is written from the same ones. Labels have few
values, known beforehand: a stream of cls.toml, a role, a kind, a status. Versions are values of gauges, never labels.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from threading import Lock
from typing import Literal

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

Labels = tuple[str, ...]


@dataclass(frozen=True)
class Measure:
    """A metric: its name as Prometheus shows it (a counter's ends in _total), and what its labels are called."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: Labels = ()


class Histogram:
    """Counts of values by bucket, from any thread; under half a microsecond a value.

    Parameters
    ----------
    edges
        Upper edges of the buckets, ascending; one more follows, without an edge.
    """

    __slots__ = ("_counts", "_edges", "_lock", "_sum")

    def __init__(self, edges: tuple[float, ...]) -> None:
        self._edges = edges
        self._counts = [0] * (len(edges) + 1)
        self._sum = 0.0
        self._lock = Lock()

    def add(self, value: float) -> None:
        """Count a value."""
        bucket = bisect_left(self._edges, value)
        with self._lock:
            self._counts[bucket] += 1
            self._sum += value

    def read(self) -> tuple[list[tuple[str, float]], float]:
        """Return (edge, values up to it) for all buckets, and the sum of the values."""
        with self._lock:
            counts, total = list(self._counts), self._sum
        edges = [*(repr(float(edge)) for edge in self._edges), "+Inf"]
        return list(zip(edges, map(float, accumulate(counts)), strict=True)), total


def family(measure: Measure, samples: Mapping[Labels, float]) -> Metric:
    """Return a counter or gauge with a sample for each combination of labels."""
    kind = CounterMetricFamily if measure.kind == "counter" else GaugeMetricFamily
    found = kind(measure.name, measure.help, labels=measure.labels)
    for labels, value in samples.items():
        found.add_metric(labels, value)
    return found


def histogram_family(measure: Measure, samples: Mapping[Labels, Histogram]) -> Metric:
    """Return a histogram with its buckets for each combination of labels."""
    found = HistogramMetricFamily(measure.name, measure.help, labels=measure.labels)
    for labels, histogram in samples.items():
        buckets, total = histogram.read()
        found.add_metric(labels, buckets, total)
    return found


def registry_of(collector: Collector) -> CollectorRegistry:
    """Return a registry of a collector and of this process (memory, CPU, open files); nothing is global."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    ProcessCollector(registry=registry)
    return registry


def render(registry: CollectorRegistry, accept: str = "") -> tuple[bytes, str]:
    """Return the metrics as text, and its content type: OpenMetrics if the Accept header asks for it."""
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


def table(measures: Iterable[Measure]) -> str:
    """Return declarations as a Markdown table."""
    rows = [
        f"| `{one.name}` | {one.kind} | {', '.join(f'`{label}`' for label in one.labels)} | {one.help} |"
        for one in measures
    ]
    return "\n".join(["| name | type | labels | meaning |", "| --- | --- | --- | --- |", *rows])
