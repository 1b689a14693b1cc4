"""What `cls serve` needs to serve flights: a home with two published versions, rollouts at will, and a log that grows while it serves."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import insert, update

from benchmarks.serving_network import SPEC, WEIGHTS
from cls.checkpoints import pack, restore
from cls.config import load_config
from cls.demo.flights import CATEGORICAL, NUMERIC, load_flights
from cls.demo.settings import STREAM, TABLES
from cls.domain import Batch, ModelVersion, RolloutState
from cls.golden import make_golden
from cls.layout import GOLDEN, MODEL, to_json
from cls.settings.toml_text import toml_key, toml_value
from cls.times import EPOCH
from detectors.columns import Categorical, Columns
from learners.checkpoint import Checkpoint
from learners.learn import start
from learners.recipe import Recipe
from learners.rows import Rows
from learners.schema import Schema
from storage.artifacts import manifest_digest
from storage.db import open_database, transaction
from storage.home import Home
from storage.log import record_segment, write_events
from storage.schema import upgrade
from storage.streams import ensure_stream, position
from storage.tables import rollouts
from storage.versions import add_version, promote

SEED = 0
TRAIN_ROWS, ASKED_ROWS = 5_000, 2_048
SEGMENT_ROWS = 1_000


@dataclass(frozen=True)
class Flights:
    """Rows to learn from, and others to ask for."""

    train: Rows
    asked: list[dict[str, Any]]  # as in a request: named features, key and event time
    columns: Columns  # the same rows, decoded


def read_flights() -> Flights:
    """Return a sample of the year."""
    table = load_flights()
    table = table.filter(pc.is_valid(table["air_time"]))
    chosen = np.random.default_rng(SEED).permutation(table.num_rows)[: TRAIN_ROWS + ASKED_ROWS]
    train, asked = table.take(chosen[:TRAIN_ROWS]), table.take(chosen[TRAIN_ROWS:])
    target = train["air_time"].to_numpy().astype(np.float64)
    rows = [
        {**row, "time": row["time"].isoformat()}
        for row in asked.select(["id", "time", *NUMERIC, *CATEGORICAL]).to_pylist()
    ]
    return Flights(Rows(_columns(train), target, np.arange(TRAIN_ROWS)), rows, _columns(asked))


def _columns(table: pa.Table) -> Columns:
    numeric = {name: table[name].to_numpy().astype(np.float64) for name in NUMERIC}
    return numeric | {name: Categorical.of(table[name].to_pylist()) for name in CATEGORICAL}


def train(rows: Rows, hidden: Sequence[int]) -> Checkpoint:
    """Return a briefly trained network: how fast it answers does not depend on how well."""
    training = start(
        None,
        rows,
        Recipe(epochs=2),
        schema=Schema(NUMERIC, CATEGORICAL),
        config={"hidden": tuple(hidden)},
        seed=SEED,
    )
    while not training.done:
        training.step()
    return training.finish()


def write_network(checkpoint: Checkpoint, folder: Path) -> None:
    """Write the same weights for the peers."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).write_bytes(pack(checkpoint)[MODEL])
    (folder / SPEC).write_bytes(to_json(checkpoint.spec))


class ServingHome:
    """A home with versions 1, the champion, and 2, both of the same weights.

    Parameters
    ----------
    folder
        Where everything goes.
    address
        host:port of `cls serve`.
    checkpoint, hidden
        The network, and the width of its hidden layers.
    held_out
        Rows that golden ones are made of.
    """

    def __init__(
        self, folder: Path, address: str, checkpoint: Checkpoint, hidden: Sequence[int], held_out: Columns
    ) -> None:
        folder.mkdir(parents=True)
        self.config_path = folder / "cls.toml"
        self.config_path.write_text(_config(address, hidden))
        config = load_config(self.config_path)
        engine = open_database(config.database)
        upgrade(engine)
        engine.dispose()
        self._home = Home.open(config)
        golden = make_golden(restore(checkpoint), held_out, SEED)
        packed = pack(checkpoint) | {GOLDEN: golden.to_json()}
        files = {name: self._home.artifacts.put(data) for name, data in packed.items()}
        version = ModelVersion(
            STREAM, 0, manifest_digest(files), None, None, "s", 0, 0, 0, {}, {}, EPOCH, files
        )
        with transaction(self._home.engine) as connection:
            ensure_stream(connection, STREAM)
            for _ in range(2):
                add_version(connection, version)
            promote(connection, STREAM, 1, expected=None, since=0, reference="r", at=None, reason="benchmark")
        self._end = 0  # of the events in the log

    def close(self) -> None:
        """Let go of the database."""
        self._home.engine.dispose()

    @contextmanager
    def rollout(self, state: RolloutState, share: float = 0.0) -> Iterator[None]:
        """Hold version 2 in a state of its rollout while the block runs."""
        values = {
            "stream": STREAM,
            "version": 2,
            "parent": 1,
            "state": state,
            "light": False,
            "effective_at": EPOCH,
            "started_at": EPOCH,
            "since": self._end,
            "step": 1 if share else 0,
            "share": share,
            "step_at": EPOCH,
        }
        with transaction(self._home.engine) as connection:
            connection.execute(insert(rollouts).values(**values))
        try:
            yield
        finally:
            with transaction(self._home.engine) as connection:
                connection.execute(
                    update(rollouts).where(rollouts.c.state == state).values(state=RolloutState.REJECTED)
                )

    @contextmanager
    def growing(self, rows_per_second: float, seconds: float, columns: Columns) -> Iterator[None]:
        """Let the log grow while the block runs, by rows that the champion has answered; files are written beforehand."""
        count = max(int(rows_per_second * seconds / SEGMENT_ROWS), 1)
        rows = {
            name: column[:SEGMENT_ROWS]
            if isinstance(column, np.ndarray)
            else column.take(np.arange(SEGMENT_ROWS))
            for name, column in columns.items()
        }
        ones, zeros = np.ones(SEGMENT_ROWS), np.zeros(SEGMENT_ROWS, np.int64)
        keys = [str(i) for i in range(SEGMENT_ROWS)]
        batch = Batch(rows, keys, zeros, zeros.astype(np.int8), 100 * ones, ones.astype(np.int64))
        segments = [
            write_events(self._home.segments, STREAM, self._end + i * SEGMENT_ROWS, batch)
            for i in range(count)
        ]
        done = threading.Event()

        def grow() -> None:
            for segment in segments:
                with transaction(self._home.engine) as connection:
                    record_segment(connection, segment)
                done.wait(SEGMENT_ROWS / rows_per_second)

        thread = threading.Thread(target=grow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self._end += count * SEGMENT_ROWS

    def await_scored(self, seconds: float = 30.0) -> bool:
        """Wait until everything in the log is scored; False if it does not come to pass."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            with transaction(self._home.engine) as connection:
                if int(position(connection, STREAM, "score") or 0) >= self._end:
                    return True
            time.sleep(0.05)
        return False


def _config(address: str, hidden: Sequence[int]) -> str:
    lines = ['home = "."', "", "[http]", f"serve = {toml_value(address)}", ""]
    lines += [f"[streams.{STREAM}]", 'task = "regression"', ""]
    for name, fields in (TABLES | {"model": {"arguments": {"hidden": list(hidden)}}}).items():
        lines += [f"[streams.{STREAM}.{name}]"]
        lines += [f"{toml_key(key)} = {toml_value(value)}" for key, value in fields.items()] + [""]
    return "\n".join(lines)
