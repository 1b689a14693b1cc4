"""What the prequential benchmark says: errors, intervals of differences, tables and plots.

Shapes: N scored rows, K classes, B scored blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.prequential_cells import Outcome
from benchmarks.prequential_data import BLOCKS, WARM, Stream
from learners.evaluate import Measure, row_losses

LEAST_PROBABILITY = 1e-3  # forests say zero: without a bound, their log-loss would be that of a few rows
BLOCKS_TOGETHER = 4  # length of a resampled run of blocks: neighbours are alike
RESAMPLED = 4000
INTERVAL = (2.5, 97.5)  # percent
LINES = {  # colour and width
    "frozen": ("#8a8a8a", 1.0),
    "naive": ("#e08214", 1.0),
    "full retrain": ("#31688e", 1.2),
    "ours": ("#c51b1b", 2.2),
}


@dataclass(frozen=True, eq=False)
class Result:
    """One contender on one stream, over all its seeds."""

    name: str
    outcomes: Sequence[Outcome]

    @property
    def seconds(self) -> float:
        """CPU-seconds, to predict and learn the scored blocks."""
        return float(np.mean([outcome.seconds for outcome in self.outcomes]))

    def losses(self, stream: Stream, measure: Measure) -> NDArray[np.float64]:
        """Return (N,) losses, mean over seeds."""
        losses = [_losses(outcome.prediction, stream, measure) for outcome in self.outcomes]
        return np.asarray(np.mean(losses, axis=0), dtype=np.float64)

    def at_once(self, stream: Stream, measure: Measure) -> float | None:
        """Return the mean loss where every label is known before the next row; None where that was not run."""
        found = [outcome.at_once for outcome in self.outcomes if outcome.at_once is not None]
        return float(np.mean([_losses(said, stream, measure) for said in found])) if found else None

    def balanced(self, stream: Stream) -> float:
        """Return the error, mean over classes."""
        class_N = scored(stream).astype(np.int64)
        count_K = np.bincount(class_N, minlength=len(stream.schema.classes))
        wrong_K = np.bincount(class_N, self.losses(stream, "zero_one"), minlength=len(count_K))
        return float((wrong_K / np.maximum(count_K, 1))[count_K > 0].mean())


def scored(stream: Stream) -> NDArray[np.float64]:
    """Return the (N,) labels of the scored blocks."""
    return stream.blocks(WARM, BLOCKS).target


def by_block(loss_N: NDArray[np.float64], stream: Stream) -> NDArray[np.float64]:
    """Return the (B,) mean loss of each block."""
    edges = [len(stream.rows) * block // BLOCKS for block in range(WARM, BLOCKS + 1)]
    return np.array([loss_N[low - edges[0] : high - edges[0]].mean() for low, high in pairwise(edges)])


def interval(difference_B: NDArray[np.float64], seed: int = 0) -> tuple[float, float]:
    """Return the 95% interval of a mean over blocks, from runs of neighbouring blocks (Kuensch 1989)."""
    blocks = len(difference_B)
    runs = -(-blocks // BLOCKS_TOGETHER)
    first = np.random.default_rng(seed).integers(
        0, blocks, (RESAMPLED, runs, 1)
    )  # runs go on at the beginning
    index = (first + np.arange(BLOCKS_TOGETHER)).reshape(RESAMPLED, -1)[:, :blocks] % blocks
    low, high = np.percentile(difference_B[index].mean(axis=1), INTERVAL)
    return float(low), float(high)


def plot(results: Sequence[tuple[Stream, Sequence[Result]]], path: Path) -> None:
    """Draw each stream's error over time, as the mean of five neighbouring blocks, of our networks and the best forest."""
    from matplotlib.figure import Figure as Sheet

    sheet = Sheet(figsize=(11, 2.4 * len(results)), layout="constrained")
    at_B = (np.arange(WARM, BLOCKS) + 0.5) * 100 / BLOCKS
    neighbours_B = np.convolve(np.ones(len(at_B)), np.ones(5), "same")
    for axes, (stream, contenders) in zip(
        sheet.subplots(len(results), 1, squeeze=False)[:, 0], results, strict=True
    ):
        loss = {result.name: by_block(result.losses(stream, stream.measure), stream) for result in contenders}
        forest = min(
            (name for name in loss if name.startswith("river")), key=lambda name: float(loss[name].mean())
        )
        for name, (colour, width) in {**LINES, forest: ("#35b779", 1.2)}.items():
            smooth_B = np.convolve(loss[name], np.ones(5), "same") / neighbours_B
            axes.plot(at_B, smooth_B, label=name, color=colour, linewidth=width)
        axes.set_title(f"{stream.name}: {UNITS[stream.measure]}", fontsize=8, loc="left")
        axes.tick_params(labelsize=7)
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=6, ncols=3, loc="best")
    sheet.axes[-1].set_xlabel("percent of the stream", fontsize=7)
    sheet.savefig(path, dpi=110)


UNITS = {"zero_one": "error", "log": "log-loss, nats", "absolute": "mean absolute error"}


def _losses(said: NDArray[np.float32], stream: Stream, measure: Measure) -> NDArray[np.float64]:
    prediction = said.astype(np.float64)
    if measure == "log":
        prediction = np.maximum(prediction, LEAST_PROBABILITY)
    return row_losses(prediction, scored(stream), measure)
