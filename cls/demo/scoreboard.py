"""What the demo shows: by month, the error of the first model left alone beside that of the champion of each moment."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from cls.config import Config
from cls.demo.settings import STREAM
from cls.domain import JobKind
from cls.serving.models import ModelCache
from storage import drift, job_rows, streams, versions
from storage.db import reading
from storage.home import Home
from storage.log import next_position


@dataclass(frozen=True)
class Month:
    """One row of the table."""

    name: str  # 2013-02
    rows: int
    frozen: float  # mean absolute error of version 1, minutes
    champion: float
    alarms: int
    updates: int
    promotions: int
    rolled_back: int


class Scoreboard:
    """Reads the demo's home; needs no process of it."""

    def __init__(self, config: Config) -> None:
        self.home = Home.open(config)
        self._models = ModelCache(self.home.engine, self.home.artifacts, config.models)
        self._read = 0  # label position
        self._month: list[NDArray[np.datetime64]] = []
        self._frozen: list[NDArray[np.float64]] = []
        self._champion: list[NDArray[np.float64]] = []

    def look(self) -> None:
        """Take in the labels that were joined since the last look."""
        with reading(self.home.engine) as connection:
            joined = int(streams.position(connection, STREAM, "join") or 0)
        if joined <= self._read:
            return
        labelled = self.home.log.labelled(STREAM, self._read, joined)
        low, high = int(labelled.position.min()), int(labelled.position.max()) + 1
        prediction = self.home.log.predictions(STREAM, low, high).prediction[labelled.position - low]
        served = np.isfinite(prediction)
        frozen = self._models.get(STREAM, 1).predict(labelled.columns)
        self._month.append(labelled.time_us.astype("datetime64[us]").astype("datetime64[M]")[served])
        self._frozen.append(np.abs(frozen - labelled.target)[served])
        self._champion.append(np.abs(prediction - labelled.target)[served])
        self._read = joined

    def months(self) -> list[Month]:
        """Return the rows of the table so far."""
        if not self._month:
            return []
        month = np.concatenate(self._month)
        frozen, champion = np.concatenate(self._frozen), np.concatenate(self._champion)
        with reading(self.home.engine) as connection:
            alarms = Counter(
                f"{row.opened_at:%Y-%m}" for row in drift.list_episodes(connection, STREAM, limit=10**6)
            )
            jobs = [
                row for row in job_rows.listing(connection, STREAM, limit=10**6) if row.kind == JobKind.UPDATE
            ]
            updates = Counter(f"{row.decided_at:%Y-%m}" for row in jobs if row.input["parent"] is not None)
            rollouts = versions.list_rollouts(connection, STREAM, limit=10**6)
            promotions = versions.list_promotions(connection, STREAM)
        promoted = Counter(f"{row.at:%Y-%m}" for row in promotions if row.at is not None)
        back = Counter(f"{row.ended_at:%Y-%m}" for row in rollouts if row.state == "rolled_back")
        return [
            Month(
                str(name),
                int((month == name).sum()),
                float(frozen[month == name].mean()),
                float(champion[month == name].mean()),
                alarms[str(name)],
                updates[str(name)],
                promoted[str(name)],
                back[str(name)],
            )
            for name in np.unique(month)
        ]

    def totals(self) -> tuple[int, float, float]:
        """Return (labelled rows served, mean error of the first model, mean error of the champions)."""
        frozen, champion = np.concatenate(self._frozen), np.concatenate(self._champion)
        return len(frozen), float(frozen.mean()), float(champion.mean())

    def events(self) -> int:
        """Return how many events are in the log."""
        with reading(self.home.engine) as connection:
            return next_position(connection, STREAM, "events")


def month_table(months: list[Month]) -> Table:
    """Return the table for people."""
    table = Table(
        title="Mean absolute error of air_time in minutes: the first model, and the champion of each moment",
        title_justify="left",
    )
    table.add_column("month", no_wrap=True)
    names = ("flights", "first", "champion", "better", "alarms", "updates", "promoted", "back")
    for name in names:
        table.add_column(name, justify="right")
    for month in months:
        table.add_row(
            month.name,
            f"{month.rows:,}",
            f"{month.frozen:.2f}",
            f"{month.champion:.2f}",
            f"{1 - month.champion / month.frozen:.0%}",
            str(month.alarms),
            str(month.updates),
            str(month.promotions),
            str(month.rolled_back),
        )
    return table
