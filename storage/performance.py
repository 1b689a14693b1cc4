"""Windows over the champion's predictions, and what labels came to say of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import Connection, Insert, Row, Table, bindparam, delete, select

from detectors.loss import LossEstimate
from storage.db import upsert
from storage.statements import per_dialect
from storage.tables import loss_window_is_open, loss_windows, output_windows

OPEN, COVERED, UNCOVERED = "open", "covered", "uncovered"

_OUTPUT_WINDOW = select(output_windows).where(output_windows.c.stream == bindparam("stream"))
_DROP_OUTPUT_WINDOW = delete(output_windows).where(output_windows.c.stream == bindparam("stream"))
_OF_PROMOTION = (
    loss_windows.c.stream == bindparam("stream"),
    loss_windows.c.promotion == bindparam("promotion"),
)
_SOME = select(loss_windows).where(
    *_OF_PROMOTION, loss_windows.c.pane.in_(bindparam("panes", expanding=True))
)
_OPEN = select(loss_windows).where(*_OF_PROMOTION, loss_window_is_open).order_by(loss_windows.c.pane)


@dataclass(frozen=True, eq=False)
class OutputWindow:
    """A window of predictions that is being filled: only counts are kept of it."""

    promotion: int
    pane: int  # counted from the promotion's first position
    rows: int  # predicted by its version
    time_from: datetime
    time_to: datetime
    inputs: Any  # int64, on the bins of the reference's inputs
    outputs: Any  # int64, on the bins of its outputs; empty without any


@dataclass(frozen=True, eq=False)
class LossWindow:
    """A window of events with the loss that was expected of it and the one that labels told."""

    promotion: int
    pane: int  # counted from the promotion's first position
    start: int  # first event position
    stop: int
    time_from: datetime  # of the events seen in it
    time_to: datetime
    label_counts: Any  # int64, of the first labels to land; empty where labels are not watched
    complete: bool = False  # all of its events are predicted
    estimate: LossEstimate | None = None
    labels: int = 0  # landed
    labelled: int = 0  # of these, with a prediction by its version
    loss: float = 0.0  # sum over these
    inside: bool | None = None  # whether the realised mean loss fell inside the estimated interval
    state: str = OPEN

    def spanning(self, time_from: datetime, time_to: datetime) -> LossWindow:
        """Return it with the times of further events."""
        return replace(self, time_from=min(self.time_from, time_from), time_to=max(self.time_to, time_to))


def _upsert(table: Table, key: Sequence[str]) -> Any:
    @per_dialect
    def statement(connection: Connection) -> Insert:
        insert = upsert(connection, table)
        changed = {column.name: insert.excluded[column.name] for column in table.c if not column.primary_key}
        return insert.on_conflict_do_update(index_elements=key, set_=changed)

    return statement


_keep_output_window = _upsert(output_windows, ["stream"])
_put_loss_window = _upsert(loss_windows, ["stream", "promotion", "pane"])


def read_output_window(connection: Connection, stream: str) -> OutputWindow | None:
    """Return the window of predictions that is being filled."""
    row = connection.execute(_OUTPUT_WINDOW, {"stream": stream}).first()
    if row is None:
        return None
    return OutputWindow(
        row.promotion,
        row.pane,
        row.rows,
        row.time_from,
        row.time_to,
        np.frombuffer(row.inputs, "<i8"),
        np.frombuffer(row.outputs, "<i8"),
    )


def keep_output_window(connection: Connection, stream: str, window: OutputWindow | None) -> None:
    """Keep the window that is being filled; None forgets it."""
    if window is None:
        connection.execute(_DROP_OUTPUT_WINDOW, {"stream": stream})
        return
    values = window.__dict__ | {"inputs": _bytes(window.inputs), "outputs": _bytes(window.outputs)}
    connection.execute(_keep_output_window(connection), {"stream": stream} | values)


def loss_windows_of(
    connection: Connection, stream: str, promotion: int, panes: Sequence[int]
) -> dict[int, LossWindow]:
    """Return those of some windows that are there, by pane."""
    found = connection.execute(_SOME, {"stream": stream, "promotion": promotion, "panes": list(panes)})
    return {row.pane: _loss_window(row) for row in found}


def open_loss_windows(connection: Connection, stream: str, promotion: int) -> list[LossWindow]:
    """Return the windows that wait for their labels, in order."""
    found = connection.execute(_OPEN, {"stream": stream, "promotion": promotion})
    return [_loss_window(row) for row in found]


def put_loss_window(connection: Connection, stream: str, window: LossWindow) -> None:
    """Write a window, whether it was there or not."""
    values = window.__dict__ | {
        "label_counts": _bytes(window.label_counts),
        "estimate": None if window.estimate is None else window.estimate.to_json(),
    }
    connection.execute(_put_loss_window(connection), {"stream": stream} | values)


def list_loss_windows(connection: Connection, stream: str, limit: int) -> list[LossWindow]:
    """Return the newest windows, newest first."""
    query = (
        select(loss_windows)
        .where(loss_windows.c.stream == stream)
        .order_by(loss_windows.c.promotion.desc(), loss_windows.c.pane.desc())
        .limit(limit)
    )
    return [_loss_window(row) for row in connection.execute(query)]


def _loss_window(row: Row[Any]) -> LossWindow:
    values = {name: getattr(row, name) for name in LossWindow.__dataclass_fields__}
    values["label_counts"] = np.frombuffer(row.label_counts, "<i8")
    values["estimate"] = None if row.estimate is None else LossEstimate.from_json(row.estimate)
    return LossWindow(**values)


def _bytes(counts: Any) -> bytes:
    return bytes(counts.astype("<i8").tobytes())
