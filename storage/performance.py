"""Windows over the champion's predictions, and what labels came to say of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import Connection, Insert, Row, Table, bindparam, delete, func, select, update

from detectors.loss import LossEstimate
from storage.db import upsert
from storage.statements import per_dialect
from storage.tables import loss_window_is_open, loss_windows, output_windows

OPEN, COVERED, UNCOVERED = "open", "covered", "uncovered"
SUPERSEDED = "superseded"  # another promotion came before its labels

_OUTPUT_WINDOW = select(output_windows).where(output_windows.c.stream == bindparam("stream"))
_DROP_OUTPUT_WINDOW = delete(output_windows).where(output_windows.c.stream == bindparam("stream"))
_OF_PROMOTION = (
    loss_windows.c.stream == bindparam("stream"),
    loss_windows.c.promotion == bindparam("promotion"),
)
_FLOOR = select(func.max(loss_windows.c.start)).where(
    *_OF_PROMOTION, loss_windows.c.start <= bindparam("position")
)
_STARTS = (
    select(loss_windows.c.start)
    .where(
        *_OF_PROMOTION,
        loss_windows.c.start >= bindparam("low"),
        loss_windows.c.start <= bindparam("high"),
    )
    .order_by(loss_windows.c.start)
)
_SOME = select(loss_windows).where(
    *_OF_PROMOTION, loss_windows.c.start.in_(bindparam("starts", expanding=True))
)
_FIRST_OPEN = (
    select(loss_windows).where(*_OF_PROMOTION, loss_window_is_open).order_by(loss_windows.c.start).limit(1)
)
_SUPERSEDE = (
    update(loss_windows)
    .where(
        loss_windows.c.stream == bindparam("of_stream"),
        loss_windows.c.promotion < bindparam("of_promotion"),
        loss_window_is_open,
    )
    .values(state=SUPERSEDED)
)


@dataclass(frozen=True, eq=False)
class OutputWindow:
    """A window of predictions that is being filled: only counts are kept of it."""

    promotion: int
    start: int  # first event position
    stop: int  # one past the last that was counted: it closes once as many are as windows have
    rows: int  # of these, predicted by its version
    time_from: datetime
    time_to: datetime
    inputs: Any  # int64, on the bins of the reference's inputs
    outputs: Any  # int64, on the bins of its outputs; empty without any


@dataclass(frozen=True, eq=False)
class LossWindow:
    """A window of events with the loss that was expected of it and the one that labels told."""

    promotion: int
    start: int  # first event position
    stop: int  # one past the last; as far as it is filled, until it is complete
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
_put_loss_window = _upsert(loss_windows, ["stream", "promotion", "start"])


def read_output_window(connection: Connection, stream: str) -> OutputWindow | None:
    """Return the window of predictions that is being filled."""
    row = connection.execute(_OUTPUT_WINDOW, {"stream": stream}).first()
    if row is None:
        return None
    return OutputWindow(
        row.promotion,
        row.start,
        row.stop,
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


def loss_window_starts(connection: Connection, stream: str, promotion: int, low: int, high: int) -> list[int]:
    """Return where the windows begin that hold the positions from `low` to `high`, both included, in order."""
    which = {"stream": stream, "promotion": promotion}
    floor = connection.execute(_FLOOR, which | {"position": low}).scalar_one()
    found = connection.execute(_STARTS, which | {"low": low if floor is None else floor, "high": high})
    return [int(row.start) for row in found]


def loss_windows_of(
    connection: Connection, stream: str, promotion: int, starts: Sequence[int]
) -> dict[int, LossWindow]:
    """Return those of some windows that are there, by where they start."""
    found = connection.execute(_SOME, {"stream": stream, "promotion": promotion, "starts": list(starts)})
    return {row.start: _loss_window(row) for row in found}


def first_open_loss_window(connection: Connection, stream: str, promotion: int) -> LossWindow | None:
    """Return the first window that waits for its labels; there may be very many."""
    row = connection.execute(_FIRST_OPEN, {"stream": stream, "promotion": promotion}).first()
    return None if row is None else _loss_window(row)


def supersede_loss_windows(connection: Connection, stream: str, promotion: int) -> None:
    """Give up the windows of earlier promotions that still wait for labels: nobody looks at them any more."""
    connection.execute(_SUPERSEDE, {"of_stream": stream, "of_promotion": promotion})


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
        .order_by(loss_windows.c.promotion.desc(), loss_windows.c.start.desc())
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
