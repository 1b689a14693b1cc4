"""One contender over one stream, test then train, and what is kept of it so that an interrupted run goes on.

Shapes: N scored rows, K classes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.prequential_data import BLOCKS, WARM, Stream
from benchmarks.report import COMMIT
from learners.rows import Rows


class Contender(Protocol):
    """What predicts a block before it learns it."""

    def learn(self, rows: Rows) -> None:
        """Learn labelled rows; the first call brings the warm blocks."""

    def predict(self, rows: Rows) -> NDArray[np.float64]:
        """Return (N,) values or (N, K) probabilities."""
        ...


Maker = Callable[[Stream, int], Contender]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one contender said of every scored row, before it knew the label."""

    prediction: NDArray[np.float32]  # (N,) or (N, K)
    seconds: float  # CPU, to predict and learn the scored blocks
    warm_seconds: float  # CPU, to learn the warm ones
    at_once: NDArray[np.float32] | None = None  # the same, with every label known before the next row
    commit: str = COMMIT  # of the code that said it


def run(stream: Stream, contender: Contender, blocks: int = BLOCKS, warm: int = WARM) -> Outcome:
    """Predict each block, then learn it."""
    began = time.process_time()
    contender.learn(stream.blocks(0, warm))
    warm_seconds = time.process_time() - began
    parts, seconds = [], 0.0
    aside_before = getattr(contender, "aside_seconds", 0.0)
    for block in range(warm, blocks):
        rows = stream.blocks(block, block + 1)
        began = time.process_time()
        parts.append(contender.predict(rows))
        contender.learn(rows)
        seconds += time.process_time() - began
    aside = getattr(contender, "aside_seconds", 0.0)
    prediction = np.concatenate(parts).astype(np.float32)
    at_once = getattr(contender, "at_once", None)
    if at_once is not None:
        at_once = np.array(at_once[-len(prediction) :], dtype=np.float32)
    return Outcome(prediction, seconds - (aside - aside_before), warm_seconds - aside_before, at_once)


class Scratch:
    """Finished cells, as files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def cell(self, stream: Stream, name: str, maker: Maker, seed: int) -> Outcome:
        """Return what is kept of the cell, or run it and keep it."""
        path = self.directory / f"{stream.name}.{len(stream.rows)}.{name.replace(' ', '_')}.{seed}.json"
        if not path.exists():
            self._write(path, run(stream, maker(stream, seed)))
        times = json.loads(path.read_text())
        at_once = _read(path.with_suffix(".at_once.parquet")) if times["at_once"] else None
        prediction = _read(path.with_suffix(".parquet"))
        return Outcome(prediction, times["seconds"], times["warm_seconds"], at_once, times["commit"])

    def _write(self, path: Path, outcome: Outcome) -> None:
        _keep(path.with_suffix(".parquet"), outcome.prediction)
        if outcome.at_once is not None:
            _keep(path.with_suffix(".at_once.parquet"), outcome.at_once)
        times = {
            "seconds": outcome.seconds,
            "warm_seconds": outcome.warm_seconds,
            "at_once": outcome.at_once is not None,
            "commit": outcome.commit,
        }
        path.write_text(json.dumps(times) + "\n")  # last: a cell without it is not finished


def _keep(path: Path, values: NDArray[np.float32]) -> None:
    table = values[:, None] if values.ndim == 1 else values
    frame = pd.DataFrame(
        table, columns=[f"{'value' if values.ndim == 1 else 'class'}{k}" for k in range(table.shape[1])]
    )
    frame.to_parquet(path, compression="zstd")


def _read(path: Path) -> NDArray[np.float32]:
    frame = pd.read_parquet(path)
    table = np.asarray(frame, dtype=np.float32)
    return table[:, 0] if frame.columns[0].startswith("value") else table
