"""Contenders of `benchmarks.drift_delay`: detectors with one knob, turned until all alarm equally rarely at nothing.

Shapes: W windows, F features. Two kinds. One judges windows by distances, and its knob, the threshold, follows from the distances
of windows without a change. The other reads row by row, and its knob is found by running it: the logarithm of the mean
run length is close to a straight line in the logarithm of every such knob.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.kswin import Kswin
from benchmarks.peers import Score, window_peers
from detectors.columns import Columns, rows_of, take
from detectors.detector import KLDetector
from detectors.evaluation import Evaluation, Monitor, blocks_of, combine, evaluate
from detectors.monitors import Sequential
from detectors.monitors_river import RiverMonitor
from detectors.sequential import SequentialDetector
from detectors.streams import Recipe, reference_of, stream_of

REFERENCE_ROWS = 10_000
NULL_ROWS = 40_000  # of each stream without a change
NULL_SEED, TEST_SEED = 1_000_000, 2_000_000  # of the runs that set the knobs, and of those that check them
BLOCK = 250
ROUNDS = 4  # of the search for a knob, at most, behind the first two
CLOSE = 0.15  # in the logarithm of the run length: the search ends


class Contender(Protocol):
    """A detector whose rate of false alarms can be set."""

    name: str
    ours: bool
    cost: float  # about, in units of the cheap ones: it gets so many fewer seeds

    def calibrate(self, layout: Recipe, run_length: float, alarms: float) -> float:
        """Turn the knob until the mean run length on streams without a change is as asked; returns the knob.

        Parameters
        ----------
        alarms
            False alarms to see: what the precision of the knob follows from.
        """
        ...

    def null(self, layout: Recipe, knob: float, run_length: float, alarms: float) -> Evaluation:
        """Run on streams without a change, of other seeds than the knob was set on."""
        ...

    def prepare(self, reference: Columns, knob: float) -> Callable[[Columns, int], int | None]:
        """Return what tells the delay on a stream that changes at a row, in rows; None if it finds nothing."""
        ...


@dataclass
class Windows:
    """A distance per feature, on windows that follow each other; it alarms above a threshold."""

    name: str
    score: Callable[[Columns], Score]
    rows: int  # of a window
    ours: bool = False
    cost: float = 1.0
    _scales: dict[int, NDArray[np.float64]] = field(default_factory=dict)  # by the number of categories

    def calibrate(self, layout: Recipe, run_length: float, alarms: float) -> float:
        """Set the threshold to the quantile of the largest distance of a window; see `Contender`."""
        rate = self.rows / run_length
        scores_WF = np.concatenate(list(self._null(layout, alarms / rate, NULL_SEED)))
        features = scores_WF.shape[1]
        numeric = layout.numeric if features == layout.numeric + layout.categorical else features
        scale_F = np.ones(features)
        for kind in (
            slice(None, numeric),
            slice(numeric, None),
        ):  # distances of numbers and of categories are no one scale
            if scores_WF[:, kind].size:
                scale_F[kind] = np.quantile(scores_WF[:, kind], 1 - rate / features, method="higher")
        self._scales[layout.categorical] = scale_F
        return float(np.quantile((scores_WF / scale_F).max(axis=1), 1 - rate))

    def null(self, layout: Recipe, knob: float, run_length: float, alarms: float) -> Evaluation:
        """See `Contender`."""
        windows = alarms * run_length / self.rows
        scale_F = self._scales[layout.categorical]
        scores_WF = np.concatenate(list(self._null(layout, windows, TEST_SEED)))
        found = int(((scores_WF / scale_F).max(axis=1) > knob).sum())
        rows = len(scores_WF) * self.rows
        return Evaluation(rows, found, rows, found, 0)

    def prepare(self, reference: Columns, knob: float) -> Callable[[Columns, int], int | None]:
        """See `Contender`."""
        score = self.score(reference)
        scale_F = self._scales[sum(not isinstance(column, np.ndarray) for column in reference.values())]

        def delay(stream: Columns, onset: int) -> int | None:
            first = onset - onset % self.rows
            for start in range(first, rows_of(stream) - self.rows + 1, self.rows):
                window = take(stream, slice(start, start + self.rows))
                if float((score(window) / scale_F).max()) > knob:
                    return start + self.rows - onset
            return None

        return delay

    def _null(self, layout: Recipe, windows: float, seed: int) -> Iterator[NDArray[np.float64]]:
        each = max(NULL_ROWS // self.rows // 4, 1)  # few windows on a reference: it is drawn anew, too
        for i in range(math.ceil(windows / each)):
            score = self.score(reference_of(layout, REFERENCE_ROWS, seed + 2 * i))
            stream = stream_of(layout, each * self.rows, seed + 2 * i + 1, onset=None)
            yield np.stack([score(window) for window in blocks_of(stream, self.rows)])


@dataclass
class Rows:
    """A monitor that reads row by row, made from the reference and a knob; a larger knob alarms less often."""

    name: str
    make: Callable[[Columns, float], Monitor]
    knobs: tuple[float, ...]  # where the search begins; or, if `discrete`, all there are
    ours: bool = False
    cost: float = 1.0
    discrete: bool = False

    def calibrate(self, layout: Recipe, run_length: float, alarms: float) -> float:
        """Search along a straight line in logarithms; see `Contender`."""
        found: dict[float, float] = {}

        def excess(knob: float) -> float:
            run = self._run(layout, knob, run_length, alarms, NULL_SEED)
            # Half an alarm where there was none: a bound to go on from, in the right direction.
            return math.log(run.rows / max(run.alarms, 0.5) / run_length)

        for knob in self.knobs:
            found[knob] = excess(knob)
        if self.discrete:
            return min(found, key=lambda knob: abs(found[knob]))
        for _ in range(ROUNDS):
            if min(abs(value) for value in found.values()) < CLOSE:
                break
            knob = _between(found)
            found[knob] = excess(knob)
        return min(found, key=lambda knob: abs(found[knob]))

    def null(self, layout: Recipe, knob: float, run_length: float, alarms: float) -> Evaluation:
        """See `Contender`."""
        return self._run(layout, knob, run_length, alarms, TEST_SEED)

    def prepare(self, reference: Columns, knob: float) -> Callable[[Columns, int], int | None]:
        """See `Contender`."""
        warm = self.make(reference, knob)

        def delay(stream: Columns, onset: int) -> int | None:
            monitor = warm.copy() if isinstance(warm, RiverMonitor) else self.make(reference, knob)
            seen = 0
            for block in blocks_of(stream, BLOCK):
                for row in monitor.update(block):
                    if seen + row >= onset:
                        return seen + row - onset + 1
                seen += rows_of(block)
            return None

        return delay

    def _run(self, layout: Recipe, knob: float, run_length: float, alarms: float, seed: int) -> Evaluation:
        streams = math.ceil(alarms * run_length / NULL_ROWS)
        return combine(
            [
                evaluate(
                    lambda reference: self.make(reference, knob),
                    reference_of(layout, REFERENCE_ROWS, seed + 2 * i),
                    stream_of(layout, NULL_ROWS, seed + 2 * i + 1, onset=None),
                    [],
                )
                for i in range(streams)
            ]
        )


def _between(found: dict[float, float]) -> float:
    """Return the knob at which the line through the two nearest runs meets the run length that is asked for."""
    (a, y), (b, z) = sorted(found.items(), key=lambda item: abs(item[1]))[:2]
    slope = (z - y) / (math.log(b) - math.log(a))
    return a * math.exp(
        min(max(-y / max(slope, 0.5), -1.5), 1.5)
    )  # noise may hide the slope; no step is too long


def contenders() -> list[Contender]:
    """Return ours, river's, and those per window of the libraries that are installed."""
    found: list[Contender] = [
        *(Windows(f"CLS KL, windows of {rows}", kl_score, rows, ours=True) for rows in (200, 500, 1000)),
        Rows("CLS sequential", _sequential, (1000.0, 10_000.0), ours=True),
        Rows("river ADWIN", _adwin, (50.0, 200.0)),
        Rows("river Page-Hinkley, delta .005", _page_hinkley(0.005), (100.0, 200.0)),
        Rows("river Page-Hinkley, delta .25", _page_hinkley(0.25), (15.0, 25.0)),
        Rows("KSWIN", _kswin, (16.0, 17.0, 18.0, 19.0), discrete=True, cost=3),
    ]
    for peer in window_peers():
        found.append(Windows(f"{peer.name}, windows of 1000", peer.score, 1000, cost=2))
        if peer.name in ("Evidently kl_div", "frouros KS test"):
            found.append(Windows(f"{peer.name}, windows of 250", peer.score, 250, cost=4))
    return found


def kl_score(reference: Columns) -> Score:
    """Return how improbable the window is to our detector: -log10 of its p-value, one for all features."""
    detector = KLDetector()
    profile = detector.profile(reference)
    return lambda window: np.array(
        [-math.log10(max(detector.compare(profile, profile.count(window)).p_value, 1e-300))]
    )


def _sequential(reference: Columns, knob: float) -> Monitor:
    return Sequential(reference, detector=SequentialDetector(run_length=knob))


def _adwin(reference: Columns, knob: float) -> Monitor:
    from river.drift import ADWIN

    return RiverMonitor(reference, lambda: ADWIN(delta=1 / knob), warm_up=REFERENCE_ROWS)


def _page_hinkley(delta: float) -> Callable[[Columns, float], Monitor]:
    from river.drift import PageHinkley

    return lambda reference, knob: RiverMonitor(
        reference, lambda: PageHinkley(threshold=knob, delta=delta), warm_up=REFERENCE_ROWS
    )


def _kswin(reference: Columns, knob: float) -> Monitor:
    return Kswin(reference, int(knob))
