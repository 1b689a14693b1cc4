"""Profiles for people: where their rows come from, the files that keep them, and what sets two of them apart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cls.domain import JobInput, Role
from cls.errors import BadData, NotFound
from cls.layout import to_json
from cls.ports import SampleLog
from cls.times import to_us
from detectors.columns import Columns, concat, take
from detectors.profile import Profile, recount

READ_ROWS = 100_000  # events that are read from the log at once
Bound = int | datetime | None  # an event position, a time, or none


def load_profile(path: Path) -> Profile:
    """Read a profile's file.

    Raises
    ------
    NotFound
        If there is none.
    BadData
        If it holds no profile, or one that another release wrote.
    """
    require_no_directory(path)
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise NotFound(f"{path}: there is no such file") from error
    except (ValueError, RecursionError) as error:
        from storage.file_readers import format_of  # Arrow, which profiles that are in order do without

        if format_of(path):
            raise BadData(
                f"{path}: holds data, not a profile: build one with `cls drift profile build {path} --out PROFILE.json`"
            ) from error
        raise BadData(f"{path}: is no profile: it is no JSON") from error
    try:
        return Profile.from_json(document)
    except KeyError as error:
        raise BadData(f"{path}: is no profile: it lacks {error}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise BadData(f"{path}: is no profile that can be read: {error}") from error


def require_no_directory(path: Path) -> None:
    """Make sure that a path can be a file's.

    Raises
    ------
    BadData
        If it is a directory.
    """
    if path.is_dir():
        raise BadData(f"{path}: is a directory: name a file")


def is_profile(path: Path) -> bool:
    """Whether a file looks like a profile rather than like data."""
    try:
        document = json.loads(path.read_bytes()) if path.suffix == ".json" else None
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and {"format", "features", "rows"} <= document.keys()


def save_profile(path: Path, profile: Profile) -> None:
    """Write a profile's file; equal profiles have equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(to_json(profile.to_json()) + b"\n")


def parse_bound(text: str) -> int | datetime:
    """Read an event position (digits) or a time (ISO 8601, UTC unless it says otherwise).

    Raises
    ------
    BadData
        If it is neither.
    """
    if text.isdecimal():
        return int(text)
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadData(
            f"{text!r} is neither an event position, as 12000, nor a time, as 2013-02-01T06:00"
        ) from error
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def log_columns(log: SampleLog, stream: str, stop: int, low: Bound, high: Bound) -> dict[str, Any]:
    """Return the features of logged events, in the order of their positions.

    Parameters
    ----------
    stop
        One past the last event's position.
    low, high
        The first position or time, and the one past the last.

    Raises
    ------
    NotFound
        If there is no event between them.
    """
    first = low if isinstance(low, int) else 0
    last = min(high, stop) if isinstance(high, int) else stop
    parts: list[Columns] = []
    for start in range(first, last, READ_ROWS):
        events = log.events(stream, start, min(start + READ_ROWS, last))
        rows = np.ones(len(events), bool)
        if isinstance(low, datetime):
            rows &= events.time_us >= to_us(low)
        if isinstance(high, datetime):
            rows &= events.time_us < to_us(high)
        if rows.any():
            parts.append(events.columns if rows.all() else take(events.columns, rows))
    if not parts:
        raise NotFound(f"stream {stream} has no events there; it has {stop} in all")
    return concat(parts)


def training_columns(log: SampleLog, stream: str, job: JobInput) -> Columns:
    """Return the features of the new rows that a version was trained on, without those that its memory replayed.

    Raises
    ------
    NotFound
        If there are none.
    """
    labelled = log.labelled(stream, job.label_from, job.label_to)
    rows: NDArray[np.bool_] = labelled.role == Role.TRAIN
    if not rows.any():
        raise NotFound(f"stream {stream}: no train rows among the labels {job.label_from} to {job.label_to}")
    return take(labelled.columns, np.flatnonzero(rows))


def like_profile(profile: Profile, columns: Columns) -> Profile:
    """Return the profile of further rows in the bins of one that is there.

    Raises
    ------
    BadData
        If a feature is of another kind.
    """
    try:
        return recount(profile, columns)
    except TypeError as error:
        raise BadData(str(error)) from error


def merge_profiles(named: Sequence[tuple[str, Profile]]) -> Profile:
    """Add profiles of partitions, given with the names to call them by.

    Raises
    ------
    BadData
        If their bins differ, naming the feature and what to do.
    """
    (first, merged), *others = named
    for name, profile in others:
        require_same_bins(first, merged, name, profile)
        merged = merged.merge(profile)
    return merged


def require_same_bins(first: str, one: Profile, second: str, other: Profile) -> None:
    """Make sure that counts of two profiles mean the same.

    Raises
    ------
    BadData
        Naming the first feature that differs.
    """
    mine, theirs = ({bins.name: bins for bins in profile.features} for profile in (one, other))
    for name in dict.fromkeys((*mine, *theirs)):
        if mine.get(name) != theirs.get(name):
            what = "other bins" if name in mine and name in theirs else "in one of them only"
            raise BadData(
                f"{first} and {second} do not go together: feature {name!r}: {what}; "
                f"build the second one with --like {first}"
            )
    if tuple(mine) != tuple(theirs):
        raise BadData(
            f"{first} and {second} have their features in another order; build the second one with --like {first}"
        )


def counted_shares(
    reference: Profile, counts: NDArray[np.int64]
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return the shares of each feature's bins in a reference and in a window as they were counted, without smoothing: for people."""
    expected, _ = reference.expected(counts)
    return [
        (before / (before.sum() or 1.0), now / (now.sum() or 1.0))
        for before, now in zip(reference.split(expected), reference.split(counts), strict=True)
    ]
