"""Reports for people: plot sheets and an Evidently report, made by a worker of lowest priority, once per episode.

Nothing is decided from them. Evidently takes seconds and megabytes; if it fails, the plots are kept and the result says why.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from cls.domain import Job, Json
from cls.errors import CLSError, Corrupt
from cls.layout import to_json
from cls.plots.attribution import Histogram, histograms
from cls.plots.drift_plot import drift_plot
from cls.plots.drift_points import INPUTS, Mark, Point, in_order, latest_alarm
from cls.plots.feature_plot import Panel, feature_plot
from cls.ports import ArtifactStore, Events, SampleLog
from cls.season import season_of, with_season
from cls.verdict_words import SUBJECTS, probability
from detectors.columns import Categorical
from detectors.reference import Reference
from detectors.verdict import PairDrift

EVIDENTLY_ROWS = 3_000  # per side
REFERENCE_ROWS = 20_000  # read per side at most
TOP_FEATURES = 6  # whose histograms are drawn
OUTPUTS = 2  # of them, of an alarm that is not of the inputs
PAIRS = 2  # drawn of features that moved together
LEAST_SHARE = 0.01  # of the drift, from which a feature is drawn


def run_report(
    job: Job,
    log: SampleLog,
    artifacts: ArtifactStore,
    verdicts: Sequence[Any],
    promotions: Sequence[Any],
    *,
    reference_rows: int = REFERENCE_ROWS,
) -> Json:
    """Report on the change that a job's input names.

    Current are the events from its onset to its end, reference those before the onset; at most `reference_rows` of each, the latest
    ones. Histograms are drawn against the stored profile that the verdict was given on.

    Parameters
    ----------
    verdicts
        Their rows, in any order; those after the job's as-of are left out.
    promotions
        Their rows, oldest first.

    Returns
    -------
    {"files": {name: sha256}, "metrics": {...}}, and "error" if a part of it could not be made.

    Raises
    ------
    Corrupt, Unavailable
        If the log cannot be read or the result not be stored.
    """
    stop = job.input.event_to
    onset = job.input.onset if job.input.onset is not None else stop - min(stop // 2, reference_rows)
    points = [point for row in verdicts if (point := Point.of(row)).stop <= stop]
    in_force = [row for row in promotions if row.since <= stop]
    marks = [Mark.of(row) for row in in_force]
    before = log.events(job.stream, max(0, onset - reference_rows), onset)
    after = log.events(job.stream, max(onset, stop - reference_rows), stop)
    errors = []
    found: dict[str, Histogram] = {}
    try:
        reference = _reference(artifacts, in_force, latest_alarm(points))
        season = season_of(reference.inputs)
        found = histograms(reference.inputs, with_season(after.columns, after.time_us, season))
    except (Corrupt, ValueError) as error:
        errors.append(f"no whole histograms: {error}")
    panels = feature_panels(points, found)
    title = f"{job.stream}: what moved since event {onset:,}"
    note = f"Shares of rows in the reference's bins: {len(after):,} rows, events {stop - len(after):,} to {stop:,}, against the reference."
    made = {
        "drift.png": drift_plot(points, marks, stream=job.stream, onset=onset),
        "features.png": feature_plot(panels, title=title, note=note),
        "features.json": to_json({"features": [panel.histogram.to_json() for panel in panels]}),
    }
    try:
        made["evidently.html"] = evidently_report(to_frame(before), to_frame(after))
    except CLSError:
        raise
    except Exception as error:  # noqa: BLE001 - another library's report; whatever it was, the plots must not be lost
        errors.append(f"no Evidently report: {type(error).__name__}: {error}")
    metrics: Json = {
        "reference_rows": len(before),
        "current_rows": len(after),
        "windows": len(points),
        "alarms": sum(point.alarm for point in points),
    }
    nats = [point.nats for point in points if point.nats is not None]
    if nats:
        metrics["max_nats"] = max(nats)
    result: Json = {
        "files": {name: artifacts.put(data) for name, data in made.items()},
        "metrics": metrics,
    }
    return result | ({"error": "; ".join(errors)} if errors else {})


def feature_panels(points: Sequence[Point], found: dict[str, Histogram]) -> list[Panel]:
    """Choose what is drawn of the features, largest share of the newest alarm first.

    An alarm of outputs comes first, by the bins that its verdict names, then the inputs of the newest window.
    """
    alarm = latest_alarm(points)
    panels: list[Panel] = []
    if alarm is not None and alarm.drift is not None and alarm.detector != INPUTS:
        subject = SUBJECTS.get(alarm.detector, alarm.detector)
        panels += [
            Panel(Histogram.of_verdict(feature), feature, subject=subject)
            for feature in alarm.drift.features[:OUTPUTS]
        ]
    of_inputs = _judged_inputs(points, alarm)
    if of_inputs is None or of_inputs.drift is None:
        far = sorted(found.values(), key=lambda histogram: -sum(histogram.parts))
        return (panels + [Panel(histogram) for histogram in far])[:TOP_FEATURES]
    findings = (
        {finding.name: finding for finding in of_inputs.diagnosis.features} if of_inputs.diagnosis else {}
    )
    of_pairs = [pair_panel(pair) for pair in of_inputs.drift.pairs[:PAIRS]]
    for feature in of_inputs.drift.features:
        if feature.share >= LEAST_SHARE or feature.name in findings:
            histogram = found.get(feature.name, Histogram.of_verdict(feature))
            panels.append(Panel(histogram, feature, findings.get(feature.name)))
    return [*panels[: TOP_FEATURES - len(of_pairs)], *of_pairs]


def pair_panel(pair: PairDrift) -> Panel:
    """Show what two features do together."""
    labels, expected, now = zip(*pair.top_cells, strict=True) if pair.top_cells else ((), (), ())
    note = f"together; grey: what each alone explains   {pair.excess_nats:.3g} nats   {probability(pair.p_value)}"
    return Panel(Histogram(pair.name, labels, expected, now, whole=False), note=note)


def _judged_inputs(points: Sequence[Point], alarm: Point | None) -> Point | None:
    """Return the newest alarm on inputs since the change began; without one, their newest window."""
    judged = [point for point in in_order(points) if point.detector == INPUTS and point.drift is not None]
    since = 0 if alarm is None else alarm.onset
    alarms = [point for point in judged if point.alarm and point.stop > since]
    chosen = alarms or judged
    return chosen[-1] if chosen else None


def _reference(artifacts: ArtifactStore, promotions: Sequence[Any], alarm: Point | None) -> Reference:
    """Load what the alarm's window was compared with; without an alarm, the newest reference. Raises `Corrupt`, `ValueError`."""
    if not promotions:
        raise ValueError("no version was promoted")
    chosen = {row.id: row for row in promotions}.get(
        None if alarm is None else alarm.promotion, promotions[-1]
    )
    return Reference.from_json(json.loads(artifacts.get(chosen.reference)))


def to_frame(events: Events) -> pd.DataFrame:
    """Return the features of events as a frame: floats, and strings with None for missing."""
    return pd.DataFrame({name: _values(column) for name, column in events.columns.items()})


def evidently_report(reference: pd.DataFrame, current: pd.DataFrame) -> bytes:
    """Return Evidently's data drift report as one self-contained HTML page.

    Parameters
    ----------
    reference, current
        Features by column, evenly thinned to 3,000 rows each; columns that are empty on either side are left out, Evidently does not
        take them.

    Raises
    ------
    ValueError
        If a side has no rows, or no column has values on both sides. Evidently itself may raise anything.
    """
    if reference.empty or current.empty:
        raise ValueError(f"nothing to compare: {len(reference)} reference rows, {len(current)} current rows")
    reference, current = _thinned(reference), _thinned(current)
    usable = [
        name for name in reference.columns if reference[name].notna().any() and current[name].notna().any()
    ]
    if not usable:
        raise ValueError("no column has values on both sides")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scipy and pandas, inside Evidently
        from evidently import DataDefinition, Dataset, Report
        from evidently.presets import DataDriftPreset

        numeric = [name for name in usable if pd.api.types.is_numeric_dtype(reference[name])]
        definition = DataDefinition(
            numerical_columns=numeric, categorical_columns=[name for name in usable if name not in numeric]
        )
        sides = [Dataset.from_pandas(frame[usable], definition) for frame in (current, reference)]
        html: str = Report([DataDriftPreset()]).run(*sides).get_html_str(as_iframe=False)
    return html.encode()


def _values(column: Any) -> Any:
    if isinstance(column, Categorical):
        words = np.array([*column.vocabulary, None], dtype=object)
        return words[column.codes]  # code -1, missing, is the last one
    return column


def _thinned(frame: pd.DataFrame) -> pd.DataFrame:
    if len(frame) <= EVIDENTLY_ROWS:
        return frame
    return frame.iloc[np.linspace(0, len(frame) - 1, EVIDENTLY_ROWS).astype(np.int64)]
