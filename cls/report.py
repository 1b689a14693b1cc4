"""Reports for people: a drift plot and an Evidently report, made by a worker of lowest priority, once per episode.

Nothing is decided from them. Evidently takes seconds and megabytes; if it fails, the plot is kept and the result says why.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from cls.domain import Job, Json
from cls.drift_plot import Mark, Point, drift_plot
from cls.errors import CLSError
from cls.ports import ArtifactStore, Events, SampleLog
from detectors.columns import Categorical

EVIDENTLY_ROWS = 3_000  # per side
REFERENCE_ROWS = 20_000  # read per side at most


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
    ones.

    Parameters
    ----------
    verdicts
        Rows (or values) with the fields of `cls.domain.Verdict`, in any order; those after the job's as-of are left out.
    promotions
        Rows with `version`, `since` (event position) and `reason`.

    Returns
    -------
    {"files": {name: sha256}, "metrics": {...}}, and "error" if the Evidently report could not be made.

    Raises
    ------
    Corrupt, Unavailable
        If the log cannot be read or the result not be stored.
    """
    stop = job.input.event_to
    onset = job.input.onset if job.input.onset is not None else stop - min(stop // 2, reference_rows)
    points = [point for row in verdicts if (point := Point.of(row)).stop <= stop]
    marks = [Mark.of(row) for row in promotions if row.since <= stop]
    plot = drift_plot(
        points, marks, title=job.stream, onset=onset, threshold_nats=_threshold(job.input.settings)
    )
    files = {"drift.png": artifacts.put(plot)}
    before = log.events(job.stream, max(0, onset - reference_rows), onset)
    after = log.events(job.stream, max(onset, stop - reference_rows), stop)
    metrics: Json = {
        "reference_rows": len(before),
        "current_rows": len(after),
        "windows": len(points),
        "alarms": sum(point.alarm for point in points),
    }
    nats = [point.nats for point in points if point.nats is not None]
    if nats:
        metrics["max_nats"] = max(nats)
    result: Json = {"files": files, "metrics": metrics}
    try:
        html = evidently_report(to_frame(before), to_frame(after))
    except CLSError:
        raise
    except Exception as error:  # noqa: BLE001 - another library's report; whatever it was, the plot must not be lost
        result["error"] = f"no Evidently report: {type(error).__name__}: {error}"
    else:
        files["evidently.html"] = artifacts.put(html)
    return result


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


def _threshold(settings: Json) -> float | None:
    value = settings.get("detect", {}).get("nats")
    return None if value is None else float(value)
