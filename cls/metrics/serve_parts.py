"""What `cls serve` shows of its parts at each scrape: who answers, what runs it, what waits and what was lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from cls.metrics.exposition import Labels
from cls.metrics.serve import ServeMetrics
from cls.serving.follow import Follower
from cls.serving.models import LoadedModel
from cls.serving.prediction_log import PredictionLog

EAGER = "eager"


def show_parts(
    metrics: ServeMetrics,
    streams: Iterable[str],
    follower: Follower,
    log: PredictionLog,
    scoring: Callable[[], int | None],
) -> None:
    """Have the metrics read the parts of a serving process.

    Parameters
    ----------
    scoring
        Process id of what scores and shadows; None while it does not run.
    """
    names = tuple(streams)

    def answering() -> dict[Labels, LoadedModel]:
        found: dict[Labels, LoadedModel] = {}
        for name in names:
            route = follower.route(name)
            if route is not None:
                found[name, "champion"] = route.champion
                if route.challenger is not None:
                    found[name, "canary"] = route.challenger
        return found

    def shares() -> dict[Labels, float]:
        routes = ((name, follower.route(name)) for name in names)
        return {(name,): 0.0 if route is None else route.share for name, route in routes}

    def runtimes() -> dict[Labels, float]:
        return {
            (*labels, EAGER if model.runtime is None else model.runtime.name): 1.0
            for labels, model in answering().items()
        }

    metrics.reads("cls_serve_ready", lambda: {(): float(follower.ready)})
    metrics.reads("cls_serve_version", lambda: {labels: m.version for labels, m in answering().items()})
    metrics.reads("cls_serve_share", shares)
    metrics.reads("cls_serve_runtime", runtimes)
    metrics.reads("cls_serve_prediction_log_rows", lambda: {(): log.held})
    metrics.reads("cls_serve_prediction_log_lost_total", lambda: {(): log.lost})
    metrics.reads("cls_serve_scorer_up", lambda: {(): float(scoring() is not None)})
