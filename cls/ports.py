"""What stages and processes need from outside, as protocols, with the values that pass through them.

Every port has at least two implementations, one of them in memory, and one contract suite that runs on all of them
(tests/contract).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cls.domain import Json, Labelled
from detectors.columns import Columns, take

Index = NDArray[Any] | slice


@dataclass(frozen=True, eq=False)
class Events:
    """Events as the log returns them."""

    columns: Columns
    position: NDArray[np.int64]
    time_us: NDArray[np.int64]
    role: NDArray[np.int8]
    prediction: NDArray[np.float64]  # NaN where the event came without one
    version: NDArray[np.int64]
    uncertainty: NDArray[np.float64] | None = None  # of the prediction; None where no event came with one

    def __len__(self) -> int:
        return len(self.position)

    def take(self, index: Index) -> Events:
        """Select rows."""
        return Events(
            take(self.columns, index),
            self.position[index],
            self.time_us[index],
            self.role[index],
            self.prediction[index],
            self.version[index],
            None if self.uncertainty is None else self.uncertainty[index],
        )


@dataclass(frozen=True, eq=False)
class Predictions:
    """One score per event; `shadow` is that of the version that it is compared with, NaN (version 0) where there is none."""

    prediction: NDArray[np.float64]
    uncertainty: NDArray[np.float64]
    version: NDArray[np.int64]
    shadow: NDArray[np.float64]
    shadow_version: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.prediction)

    def of(self, version: int) -> NDArray[np.float64]:
        """Return a version's predictions, whether it served or was compared; NaN where it did neither."""
        own = np.where(self.version == version, self.prediction, np.nan)
        return np.where(self.shadow_version == version, self.shadow, own)

    def take(self, index: Index) -> Predictions:
        """Select rows."""
        return Predictions(
            self.prediction[index],
            self.uncertainty[index],
            self.version[index],
            self.shadow[index],
            self.shadow_version[index],
        )

    @staticmethod
    def concat(parts: Sequence[Predictions]) -> Predictions:
        """Join parts in order."""
        floats, integers = [np.empty(0)], [np.empty(0, np.int64)]
        return Predictions(
            np.concatenate(floats + [part.prediction for part in parts]),
            np.concatenate(floats + [part.uncertainty for part in parts]),
            np.concatenate(integers + [part.version for part in parts]),
            np.concatenate(floats + [part.shadow for part in parts]),
            np.concatenate(integers + [part.shadow_version for part in parts]),
        )


class SegmentStore(Protocol):
    """Immutable tables by path."""

    def put(self, stem: str, table: Any) -> tuple[str, str]: ...  # noqa: D102 - a pyarrow.Table; see storage/segments.py
    def get(self, path: str, sha256: str) -> Any: ...  # noqa: D102
    def files(self) -> Iterator[tuple[str, float]]: ...  # noqa: D102
    def delete(self, path: str) -> None: ...  # noqa: D102


class SampleLog(Protocol):
    """The sample log as stages read it; all ranges are half-open."""

    def events(self, stream: str, start: int, stop: int) -> Events:
        """Return events by event position."""
        ...

    def predictions(self, stream: str, start: int, stop: int) -> Predictions:
        """Return scores by event position."""
        ...

    def labels(self, stream: str, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return (event position, value) by label position."""
        ...

    def labelled(self, stream: str, start: int, stop: int) -> Labelled:
        """Return events joined with labels by label position."""
        ...


class ArtifactStore(Protocol):
    """Content-addressed bytes."""

    def put(self, data: bytes) -> str:
        """Store bytes durably; returns their SHA-256."""
        ...

    def get(self, sha256: str) -> bytes:
        """Return bytes; raises `Corrupt` if they are gone or altered."""
        ...


@dataclass(frozen=True)
class RunRecord:
    """A job as the registry shows it: one run."""

    stream: str
    job_id: int
    name: str
    params: dict[str, str]
    metrics: list[tuple[str, float, int]]  # (name, value, step)
    tags: dict[str, str]
    started_at: datetime
    ended_at: datetime
    failed: bool
    files: dict[str, bytes]  # run artifacts by path


@dataclass(frozen=True)
class VersionRecord:
    """A model version as the registry shows it."""

    stream: str
    number: int
    digest: str
    job_id: int | None
    files: dict[str, bytes]
    tags: dict[str, str]


class Registry(Protocol):
    """The outside view of runs, versions and aliases. Every call is idempotent: it may be repeated after a crash."""

    def put_run(self, run: RunRecord) -> str:
        """Write a run, or find the one already written for its job; returns its id."""
        ...

    def put_version(self, version: VersionRecord) -> None:
        """Write a complete copy of a version."""
        ...

    def put_aliases(self, stream: str, aliases: dict[str, int | None]) -> None:
        """Point aliases at version numbers; None removes one."""
        ...

    def aliases(self, stream: str) -> dict[str, int]:
        """Return where the aliases point."""
        ...

    def put_standings(self, stream: str, standings: dict[int, str]) -> None:
        """Say of versions how far they have come, "state" or "state: reason"; of those that were never put, nothing."""
        ...

    def standings(self, stream: str, numbers: Sequence[int]) -> dict[int, str]:
        """Return what was said of some versions."""
        ...


@dataclass(frozen=True, eq=False)
class RawBatch:
    """What a source hands over: a raw Arrow table, or the reason why a piece cannot be read."""

    kind: str  # "events" or "labels"
    table: Any  # pyarrow.Table, or None if `fault` is set
    token: str  # position after this batch
    origin: str  # for people: file and row, or producer and sequence
    fault: str = ""
    details: Json | None = None


class Source(Protocol):
    """Where raw batches come from; reading from the same token gives the same batch."""

    def read(self, token: str) -> RawBatch | None:
        """Return the batch after a position, or None if there is none yet."""
        ...
