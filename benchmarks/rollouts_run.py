"""One rollout in simulation: rows drawn from a pool, counted as `cls serve` does, judged and moved on by the code of the service.

Each look brings a batch of rows with their labels, or without any. In the shadow both versions predict all of them; in the canary each
answers its share of the keys, and the other one predicts them as well; while it is watched, the new champion answers all. Requests hold one row each, take a lognormal
time around a millisecond, and fail once in two thousand for no reason of the version.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from benchmarks.rollouts_versions import Contest
from cls.arms import BEFORE, LATENCY_US, LIVE, OUTPUT_BINS, Served, count_outputs, stage_name
from cls.config import RolloutConfig
from cls.domain import Rollout, RolloutState
from cls.guardrails import Allocation, slow_threshold
from cls.health import Finding, Health, judge
from cls.rollout import Step, next_step
from detectors.dependence import Dependence

BEGIN = datetime(2013, 1, 1, tzinfo=UTC)
CHAMPION, VERSION = 1, 2
LOOK_ROWS = 100
HORIZON = 10_000  # rows at which an undecided one goes back
ERROR_RATE = 0.0005  # of requests, of both versions
HISTORY = 20_000  # requests that the champion answered before


@dataclass(frozen=True)
class Fault:
    """What is wrong with a version beside its losses."""

    name: str = "nothing"
    error_rate: float = ERROR_RATE  # of requests
    nonfinite_rate: float = 0.0  # of rows
    slowness: float = 1.0  # times the champion's latency
    shift: float = (
        0.0  # of predictions, in scales of the target; of classes: share of rows that answer the first one
    )


@dataclass(frozen=True)
class Ended:
    """How a rollout ended."""

    outcome: str  # worse | undecided | released
    rows: int
    stage: str
    reason: str
    compared: (
        int  # rows of the comparison that ended it: all since the shadow began, or those since the promotion
    )


class Traffic:
    """What `cls serve` counts of the rows of one contest."""

    def __init__(self, contest: Contest, fault: Fault, random: np.random.Generator) -> None:
        self.contest, self.fault, self.random = contest, fault, random
        self.bins = contest.classes or OUTPUT_BINS
        moved = contest.mine_N + fault.shift * contest.scale
        if contest.classes:
            moved = np.where(random.random(len(contest.mine_N)) < fault.shift, 0.0, contest.mine_N)
        self.bin_mine_N, self.bin_theirs_N = (self._bin(value) for value in (moved, contest.theirs_N))
        draws = 1000 * np.exp(0.5 * np.random.default_rng(0).normal(size=200_000))
        self.latency_mine, self.latency_theirs = (
            _latencies(factor * draws) for factor in (fault.slowness, 1.0)
        )

    def _bin(self, value: NDArray[np.float64]) -> NDArray[np.int64]:
        contest = self.contest
        one = {
            float(v): int(
                count_outputs(
                    np.array([v]), contest.location, contest.scale, self.bins, classes=bool(contest.classes)
                ).argmax()
            )
            for v in np.unique(value)
        }
        return np.array([one[float(v)] for v in value])

    def served(self, rows: NDArray[np.int64], *, mine: bool) -> Served:
        """Return the sums of some rows that one of the versions answered."""
        fault = self.fault if mine else Fault()
        batches = len(rows)
        wrong = int(self.random.binomial(len(rows), fault.nonfinite_rate)) if fault.nonfinite_rate else 0
        return Served(
            len(rows),
            batches,
            int(self.random.binomial(batches, fault.error_rate)),
            wrong,
            self.random.multinomial(batches, self.latency_mine if mine else self.latency_theirs),
        )

    def predicted(self, rows: NDArray[np.int64], *, mine: bool) -> Served:
        """Return what one of the versions predicts for some rows that the other one predicts as well."""
        index = (self.bin_mine_N if mine else self.bin_theirs_N)[rows]
        return Served(outputs=np.bincount(index, minlength=self.bins))


def _latencies(microseconds: NDArray[np.float64]) -> NDArray[np.float64]:
    counts = np.bincount(np.searchsorted(LATENCY_US, microseconds), minlength=len(LATENCY_US) + 1)
    return np.asarray(counts / counts.sum())


class Simulation:
    """A rollout on its way."""

    def __init__(self, traffic: Traffic, settings: RolloutConfig, horizon: int = HORIZON) -> None:
        self.traffic, self.settings = traffic, settings
        self.labels = settings.evidence == "labels"
        before = traffic.served(np.zeros(HISTORY, np.int64), mine=False)
        self.served = {(BEFORE, CHAMPION): before}
        self.keys = Allocation()
        self.neighbours = Dependence()
        self.rollout = Rollout(
            1, "s", VERSION, CHAMPION, RolloutState.SHADOW, False, BEGIN, BEGIN, 0, 0.0, 0.0, 0.0, None
        )
        self.rollout = replace(
            self.rollout, step_at=BEGIN, deadline_at=BEGIN + timedelta(seconds=horizon), since=0
        )

    def run(self, looks: Iterator[NDArray[np.int64]]) -> Ended:
        """Take looks until the rollout ends."""
        rows = 0
        for drawn in looks:
            rows += len(drawn)
            self._count(drawn)
            health = judge(self.rollout, self.served, self.keys, self.settings)
            watching = self.rollout.state == RolloutState.WATCHING
            serving = VERSION if watching else CHAMPION
            step = next_step(self.rollout, serving, BEGIN + timedelta(seconds=rows), self.settings, health)
            if step.step in (Step.REJECT, Step.ROLL_BACK, Step.FINISH):
                return self._ended(step.step, health, rows)
            self._move(step.step, step.canary_step)
        raise AssertionError("a rollout ends")

    def _ended(self, step: Step, health: Health, rows: int) -> Ended:
        outcome = "worse" if health.finding == Finding.WORSE else "undecided"
        outcome = "released" if step == Step.FINISH else outcome
        return Ended(
            outcome,
            rows,
            stage_name(self.rollout.state, self.rollout.step),
            health.reason,
            self.rollout.paired_n,
        )

    def _count(self, drawn: NDArray[np.int64]) -> None:
        rollout, traffic = self.rollout, self.traffic
        stage = stage_name(rollout.state, rollout.step)
        mine = theirs = drawn
        if rollout.state == RolloutState.CANARY:
            own = traffic.random.random(len(drawn)) < rollout.share
            mine, theirs = drawn[own], drawn[~own]
            canary, champion = self.keys.canary + len(mine), self.keys.champion + len(theirs)
            self.keys = Allocation(champion, canary)
        self._add(stage, VERSION, traffic.served(mine, mine=True))
        if rollout.state != RolloutState.WATCHING:
            self._add(stage, CHAMPION, traffic.served(theirs, mine=False))
            for version in (VERSION, CHAMPION):
                self._add(stage, version, traffic.predicted(drawn, mine=version == VERSION))
        if rollout.state == RolloutState.SHADOW:
            self._add(LIVE, CHAMPION, traffic.served(drawn, mine=False))
        if self.labels:
            loss_mine = traffic.contest.loss_mine_N[drawn]
            loss_theirs = traffic.contest.loss_theirs_N[drawn]
            difference = loss_mine - loss_theirs
            self.neighbours = self.neighbours.add(difference)
            self.rollout = replace(
                rollout,
                paired_n=rollout.paired_n + len(drawn),
                paired_total=rollout.paired_total + float(difference.sum()),
                paired_squares=rollout.paired_squares + float(difference @ difference),
                paired_dependence=self.neighbours.factor,
                base_loss=rollout.base_loss + float(loss_theirs.sum()),
            )

    def _add(self, stage: str, version: int, gain: Served) -> None:
        self.served[stage, version] = self.served.get((stage, version), Served()) + gain

    def _move(self, step: Step, canary: int) -> None:
        """Change the row as `storage.versions.move_rollout` does."""
        rollout = self.rollout
        if step == Step.CANARY:
            slow = rollout.slow_us or slow_threshold(self.served, CHAMPION, self.settings.latency_margin)
            self.keys = Allocation()
            self.rollout = replace(
                rollout,
                state=RolloutState.CANARY,
                step=canary,
                share=self.settings.canary_steps[canary],
                step_n=rollout.paired_n,
                slow_us=slow,
            )
        elif step == Step.PROMOTE:
            self.neighbours = Dependence()
            self.rollout = replace(
                rollout,
                state=RolloutState.WATCHING,
                step=0,
                share=0.0,
                paired_n=0,
                paired_total=0.0,
                paired_squares=0.0,
                paired_dependence=1.0,
                base_loss=0.0,
                step_n=0,
                deadline_at=None,
            )
