from __future__ import annotations

import time
from threading import Thread

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cls.metrics.serve import SERVE, ServeMetrics

Sample = tuple[str, frozenset[tuple[str, str]]]


def read(metrics: ServeMetrics) -> dict[Sample, float]:
    families = text_string_to_metric_families(metrics.render().decode())
    return {(s.name, frozenset(s.labels.items())): s.value for f in families for s in f.samples}


def sample(name: str, **labels: str) -> Sample:
    return name, frozenset(labels.items())


def test_requests_are_counted_by_stream_and_status() -> None:
    metrics = ServeMetrics(["a", "b"])
    metrics.answered("a", 200, 0.003, 10)
    metrics.answered("a", 200, 0.3, 5)
    metrics.answered("a", 422, 0.001, 7)
    metrics.answered("a", 418, 0.001, 0)
    found = read(metrics)
    assert found[sample("cls_serve_requests_total", stream="a", status="200")] == 2
    assert found[sample("cls_serve_requests_total", stream="a", status="422")] == 1
    assert found[sample("cls_serve_requests_total", stream="a", status="4xx")] == 1
    assert found[sample("cls_serve_requests_total", stream="b", status="500")] == 0  # a rate begins at zero
    assert found[sample("cls_serve_rows_total", stream="a")] == 15  # those of refused requests are no rows
    assert found[sample("cls_serve_request_seconds_bucket", stream="a", le="0.004")] == 3
    assert found[sample("cls_serve_request_seconds_count", stream="a")] == 4
    assert found[sample("cls_serve_request_seconds_sum", stream="a")] == pytest.approx(0.305)


def test_batches_are_counted_by_role_and_by_their_upper_edges() -> None:
    metrics = ServeMetrics(["a"])
    for rows in (1, 2, 3, 5000):
        metrics.batch("a", "canary", rows, 0.002)
    found = read(metrics)
    counts = {
        edge: found[sample("cls_serve_batch_rows_bucket", stream="a", role="canary", le=edge)]
        for edge in ("1.0", "2.0", "4.0", "4096.0", "+Inf")
    }
    assert counts == {"1.0": 1, "2.0": 2, "4.0": 3, "4096.0": 3, "+Inf": 4}
    assert found[sample("cls_serve_batch_rows_count", stream="a", role="champion")] == 0


def test_strangers_make_no_series() -> None:
    metrics = ServeMetrics(["a"])
    metrics.answered("a", 200, 0.1, 1)
    metrics.answered("elsewhere", 404, 0.1, 1)
    before = len(read(metrics))
    for number in range(1000):
        metrics.answered(f"stream-{number}", 404, 0.1, 1)
        metrics.batch(f"stream-{number}", "champion", 1, 0.1)
        metrics.shed(f"stream-{number}", f"reason-{number}")
    found = read(metrics)
    assert len(found) <= before + 1  # shed as "other"
    assert found[sample("cls_serve_requests_total", stream="", status="404")] == 1001
    assert found[sample("cls_serve_shed_total", stream="", reason="other")] == 1000


def test_what_cannot_be_read_hides_nothing_else() -> None:
    def broken() -> dict[tuple[str, ...], float]:
        raise RuntimeError

    metrics = ServeMetrics(["a"])
    metrics.reads("cls_serve_queue_rows", broken)
    metrics.reads("cls_serve_version", lambda: {("a", "champion"): 7.0})
    metrics.reads("cls_serve_prediction_log_lost_total", lambda: {(): 3.0})
    found = read(metrics)
    assert found[sample("cls_serve_unreadable_metrics")] == 1
    assert found[sample("cls_serve_version", stream="a", role="champion")] == 7
    assert found[sample("cls_serve_prediction_log_lost_total")] == 3
    with pytest.raises(KeyError):
        metrics.reads("cls_serve_no_such_metric", dict)


def test_every_series_is_declared() -> None:
    metrics = ServeMetrics(["a"])
    metrics.answered("a", 200, 0.1, 1)
    declared = {measure.name: measure for measure in SERVE}
    for found in metrics.collect():
        name = f"{found.name}_total" if found.type == "counter" else found.name
        measure = declared[name]
        assert measure.kind == found.type
        for one in found.samples:
            assert set(one.labels) - {"le"} == set(measure.labels)


def test_threads_lose_no_count() -> None:
    metrics = ServeMetrics(["a"])

    def count() -> None:
        for _ in range(5000):
            metrics.answered("a", 200, 0.001, 2)
            metrics.batch("a", "champion", 2, 0.001)

    threads = [Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        metrics.render()
    found = read(metrics)
    assert found[sample("cls_serve_requests_total", stream="a", status="200")] == 40_000
    assert found[sample("cls_serve_rows_total", stream="a")] == 80_000
    assert found[sample("cls_serve_batch_rows_sum", stream="a", role="champion")] == 80_000
    assert found[sample("cls_serve_request_seconds_bucket", stream="a", le="+Inf")] == 40_000


def test_counting_is_cheap() -> None:
    metrics = ServeMetrics(["a"])
    best = float("inf")
    for _ in range(20):
        began = time.perf_counter()
        for _ in range(1000):
            metrics.answered("a", 200, 0.004, 1)
        best = min(best, (time.perf_counter() - began) / 1000)
    assert best < 5e-6  # 0.8 us on a quiet machine


def test_openmetrics_is_spoken_to_those_who_ask_for_it() -> None:
    body, content_type = ServeMetrics(["a"]).page("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")
    assert ServeMetrics(["a"]).page()[1].startswith("text/plain")


def test_the_process_shows_its_memory_and_files() -> None:
    text = ServeMetrics([]).render().decode()
    assert "process_resident_memory_bytes " in text
    assert "process_open_fds " in text
