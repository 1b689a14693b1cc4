"""`cls drift performance STREAM`: what loss was expected of the champion before labels landed, and what came."""

from __future__ import annotations

from typing import Any

import typer

from cls.cli.home import known_stream, state
from cls.cli.output import AsJson, Limit, Stream, print_json, print_table

COLUMNS = {
    "start": "start", "stop": "stop", "time_to": "to", "estimated": "estimated", "interval": "95% interval",
    "realised": "realised", "inside": "inside", "labels": "labels", "state": "state", "driver": "most changed by",
}  # fmt: skip


def performance(context: typer.Context, stream: Stream, limit: Limit = 20, as_json: AsJson = False) -> None:
    """Compare the loss estimated for each window of predictions with the one that its labels showed."""
    from storage.performance import list_loss_windows

    with state(context) as (config, connection):
        windows = list_loss_windows(connection, known_stream(config, stream), limit)
    rows = [_row(window) for window in windows]
    if as_json:
        print_json(rows)
        return
    table = [row | {"interval": _interval(row), "driver": _driver(row)} for row in rows]
    print_table(table, COLUMNS, empty="no window of the champion's predictions has closed yet")


def _row(window: Any) -> dict[str, Any]:
    estimate = window.estimate
    realised = window.loss / window.labelled if window.state == "covered" and window.labelled else None
    return {
        "start": window.start,
        "stop": window.stop,
        "time_from": window.time_from,
        "time_to": window.time_to,
        "promotion": window.promotion,
        "estimated": None if estimate is None else estimate.mean,
        "interval": None if estimate is None else [estimate.low, estimate.high],
        "reference": None if estimate is None else estimate.base,
        "effects": [] if estimate is None else [list(effect) for effect in estimate.effects],
        "realised": realised,
        "inside": window.inside,
        "labels": window.labels,
        "labelled": window.labelled,
        "state": window.state,
    }


def _interval(row: dict[str, Any]) -> str:
    return "" if row["interval"] is None else "{:.4g} to {:.4g}".format(*row["interval"])


def _driver(row: dict[str, Any]) -> str:
    if not row["effects"] or not row["effects"][0][1]:
        return ""
    name, change, *_ = row["effects"][0]
    return f"{name} ({change:+.2g})"
