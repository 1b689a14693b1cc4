"""One verdict with everything around it: whole histograms, the windows before it, its episode, where its report lies."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from cls.config import Config
    from cls.domain import Json
    from cls.plots.attribution import Histogram

WINDOWS = 60  # of the series, up to the verdict's


def histograms_of(
    config: Config, connection: Connection, row: Any
) -> tuple[dict[str, Histogram], str | None]:
    """Count a window's rows, from the log, in the bins of the stored reference; where that cannot be, say why."""
    from cls.errors import CLSError
    from cls.plots.attribution import Histogram, histograms
    from cls.plots.drift_points import INPUTS
    from cls.season import season_of, with_season
    from detectors.reference import Reference
    from detectors.verdict import Drift
    from storage.artifacts import DiskArtifacts
    from storage.log import Log
    from storage.segments import DiskSegments
    from storage.versions import list_promotions

    if not row.drift:
        return {}, None
    named = {feature.name: Histogram.of_verdict(feature) for feature in Drift.from_json(row.drift).features}
    if row.detector != INPUTS or row.stream not in config.streams:
        return named, None
    promotions = {one.id: one for one in list_promotions(connection, row.stream)}
    if row.promotion not in promotions:
        return named, f"its promotion {row.promotion} is not known"
    try:
        artifacts = DiskArtifacts(config.home / "artifacts")
        document = json.loads(artifacts.get(promotions[row.promotion].reference))
        stream = config.streams[row.stream]
        log = Log(
            connection.engine, DiskSegments(config.home / "segments"), {row.stream: stream.columns.features}
        )
        events = log.events(row.stream, row.start, row.stop)
        if len(events) != row.stop - row.start:
            return named, "its rows are no longer in the log"
        reference = Reference.from_json(document).inputs
        columns = with_season(events.columns, events.time_us, season_of(reference))
        return named | histograms(reference, columns), None
    except (CLSError, ValueError, TypeError) as error:
        return named, str(error)


def version_of(connection: Connection, row: Any) -> int | None:
    """Return the version whose reference the window was compared with."""
    from storage.versions import list_promotions

    promotions = list_promotions(connection, row.stream)
    return next((int(one.version) for one in promotions if one.id == row.promotion), None)


def series_of(connection: Connection, row: Any) -> list[Json]:
    """Return the last windows of the verdict's detector, up to it."""
    from storage.drift import verdicts_until

    return [
        {
            "id": one.id,
            "start": one.start,
            "stop": one.stop,
            "time_to": one.time_to,
            "alarm": bool(one.alarm),
            "nats": one.nats,
            "p_value": one.p_value,
            "largest_nats": _largest(one.drift),
        }
        for one in verdicts_until(connection, row.stream, row.detector, row.id, WINDOWS)
    ]


def episode_of(connection: Connection, row: Any) -> Json | None:
    """Return the episode that an alarm belongs to."""
    from storage.drift import episode_at

    found = episode_at(connection, row.stream, row.id) if row.alarm else None
    if found is None:
        return None
    names = ("id", "state", "onset", "opened_at", "closed_at", "outcome")
    return {name: getattr(found, name) for name in names}


def report_of(config: Config, connection: Connection, row: Any, episode: Json | None) -> Json | None:
    """Return the job that reports on an episode, and where MLflow has its files."""
    from storage import job_rows

    job = None if episode is None else job_rows.report_of(connection, row.stream, episode["id"])
    if job is None:
        return None
    result = job.result or {}
    return {
        "job_id": job.id,
        "state": job.state,
        "tracking_uri": config.mlflow,
        "experiment": f"cls/{row.stream}",
        "run": f"{job.kind}-{job.id}",
        "files": result.get("files", {}),
        "error": result.get("error") or job.error,
    }


def _largest(drift: Json | None) -> float | None:
    if not drift:
        return None
    moved = [*drift["features"], *drift.get("pairs", ())]
    return max((float(one["excess_nats"]) for one in moved), default=0.0)
