"""Guardrails: what the sums of two versions say about one of them without any label. Pure.

What is as good, and how much evidence sends a version back:

- errors, answers that are no number: at most `error_ratio` times as often as the champion
- slow: at most one batch in a hundred beyond the champion's p99 and `latency_margin`, or `error_ratio` times as often as the champion
- drift: predictions distributed as the champion's for the same rows; what counts as different must lie `drift_nats` apart, too
- allocation: keys come back in the shares that were configured

All of them together, over all stages of one rollout, may err with half of `false_alarm`; each guardrail with the same part of that (parts
add up, whatever depends on what). Each may be looked at as often as one likes; see `detectors.evidence` for that, and for what is assumed.

Evidence goes on from stage to stage: E = sum over stages j of w_j E_j E_(j+1) ... E_now, where E_i is the e-process of a stage, kept as it
ended, and the weights w_j sum up to one. Each product begins with its stage and is an e-process, so the sum is one. A fault that was almost
evident in the canary is not forgotten in the watch, and a flawless shadow does not excuse what comes after it. Drift and allocation look at
the present stage only, with its weight.

While two versions answer beside each other they are compared with each other. In a canary they answer different keys, and few or heavy keys
are distributed otherwise than others, whoever answers. So predictions are compared on rows that both predict, as in the shadow; errors and
times on the rows that each answered. A new champion has nobody beside it: it is compared with
what its predecessor did before. The predecessor's rates count at the upper end of what its rows leave open; a change of the machine or of
the requests since then cannot be told from one of the version.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from cls.arms import ASKED, BEFORE, LATENCY_US, LIVE, Counts, Served, stage_name
from cls.config import RolloutConfig
from cls.domain import Json, Rollout, RolloutState
from detectors.evidence import (
    allocation_evidence,
    binomial_evidence,
    clumped,
    divergence,
    divergence_evidence,
    rate_bound,
    rate_evidence,
)

Sums = Mapping[tuple[str, int], Served]  # by (stage, version)
SLOW_RATE = 0.01  # of batches, beyond p99
SLOW_CLUMP = 4  # batches that one pause of the machine makes slow
THRESHOLD_BATCHES = 200  # that tell where p99 lies
KINDS = 5  # guardrails that share the budget
_OF_BOUND = 0.2  # of a guardrail's budget: that the predecessor's rate is bounded too low


@dataclass(frozen=True)
class Allocation:
    """How keys of a canary's step came back: distinct ones by the arm that they belong to, and rows that the wrong one answered."""

    champion: int = 0
    canary: int = 0
    misrouted: int = 0


@dataclass(frozen=True)
class Guardrail:
    """One guardrail's finding."""

    name: str  # errors | nonfinite | slow | drift | allocation
    evidence: float  # nats
    needed: float  # nats at which a version goes back
    breached: bool
    said: str  # the numbers, for people
    figures: Json


def stages_of(rollout: Rollout, settings: RolloutConfig) -> int:
    """Return how many stages share the budget of a rollout: a light one is only watched."""
    return 1 if rollout.light else 2 + len(settings.canary_steps)


def guardrails(
    rollout: Rollout, served: Sums, allocation: Allocation, settings: RolloutConfig
) -> list[Guardrail]:
    """Return what each guardrail says in a rollout's stage; nothing before its shadow, or without a predecessor."""
    sides = _sides(rollout, served, settings)
    if not sides:
        return []
    alpha = settings.false_alarm / 2 / KINDS
    count = stages_of(rollout, settings)
    rates = _Rates(sides, count, alpha, settings.error_ratio)
    found = [rates.errors(), rates.nonfinite()]
    slow_us = rollout.slow_us or slow_threshold(served, rollout.parent, settings.latency_margin)
    if slow_us and sides[-1].timed:
        found.append(rates.slow(slow_us))
    if sides[-1].beside:
        found.append(_drift(sides[-1], math.log(count / alpha), settings.drift_nats))
    if rollout.state == RolloutState.CANARY:
        found.append(_allocation(allocation, rollout.share, math.log(count / alpha)))
    return found


@dataclass(frozen=True, eq=False)
class _Side:
    """What a version and its counterpart did in one stage."""

    mine: Served
    theirs: Served
    beside: bool = True  # both at work at the same time
    timed: bool = True  # answers wait for it; a shadow runs in the background, at no time in particular


def _sides(rollout: Rollout, served: Sums, settings: RolloutConfig) -> list[_Side]:
    """Return the stages so far, the present one last."""
    parent, none = rollout.parent, Served()
    if parent is None:
        return []

    def beside(stage: str, *, timed: bool) -> _Side:
        mine, theirs = (served.get((stage, version), none) for version in (rollout.version, parent))
        return _Side(mine, theirs, timed=timed)

    shadow = [beside(stage_name(RolloutState.SHADOW, 0), timed=False)]
    steps = [
        beside(stage_name(RolloutState.CANARY, step), timed=True)
        for step in range(len(settings.canary_steps))
    ]
    match rollout.state:
        case RolloutState.SHADOW:
            return shadow
        case RolloutState.CANARY:
            now = beside(stage_name(rollout.state, rollout.step), timed=True)
            return [*shadow, *steps[: rollout.step], now]
        case RolloutState.WATCHING:
            mine = served.get((stage_name(rollout.state, 0), rollout.version), none)
            return [
                *([] if rollout.light else [*shadow, *steps]),
                _Side(mine, _past(served, parent), beside=False),
            ]
        case _:
            return []


def slow_threshold(served: Sums, parent: int | None, margin: float) -> int | None:
    """Return beyond how many microseconds a batch is slow: the p99 of a version's answers before any canary, and a margin on it.

    To the nearest edge of the bins, at most 9% off. None where fewer than `THRESHOLD_BATCHES` batches tell.
    """
    counts = np.zeros(len(LATENCY_US) + 1, np.int64)
    for (stage, version), sums in served.items():
        if version == parent and stage in (BEFORE, LIVE):
            counts = counts + sums.latency
    total = int(counts.sum())
    if total < THRESHOLD_BATCHES:
        return None
    share = (1 - SLOW_RATE) * total
    cumulated = np.cumsum(counts)
    bin_of_p99 = int(np.searchsorted(cumulated, share))
    within = (share - (cumulated[bin_of_p99] - counts[bin_of_p99])) / counts[bin_of_p99]
    p99 = LATENCY_US[0] * 2 ** ((bin_of_p99 - 1 + within) / 4)  # bins are quarters of a doubling
    nearest = int(np.abs(np.log(LATENCY_US) - math.log(p99 * (1 + margin))).argmin())
    return LATENCY_US[nearest]


def slow_batches(latency: Counts, slow_us: int) -> int:
    """Return how many batches certainly took longer: those of the bins that lie beyond as a whole."""
    first = int(np.searchsorted(LATENCY_US, slow_us)) + 1
    return int(latency[first:].sum())


Counted = tuple[int, int, int, int]  # events and trials of a version, and of its counterpart


@dataclass(frozen=True)
class _Rates:
    """How often what happened, over the stages so far."""

    sides: list[_Side]
    stages: int  # of the whole rollout
    alpha: float
    ratio: float

    def errors(self) -> Guardrail:
        """Batches that raised, per row and per batch: the canary's batches are smaller, and a fault may lie in rows or in batches.

        What a version fails at beside its counterpart, the counterpart is asked or was loaded for: it passed as many trials, or has errors, too.
        """

        def evidence(side: _Side) -> float:
            mine, theirs = side.mine, side.theirs
            passed = mine.errors if side.beside else 0
            by_batch = self._more(
                side, (mine.errors, mine.batches, theirs.errors, max(theirs.batches, passed))
            )
            by_row = self._more(side, (mine.errors, mine.rows, theirs.errors, max(theirs.rows, passed)))
            return min(by_batch, by_row)

        def counted(side: _Side) -> Counted:
            return side.mine.errors, side.mine.batches, side.theirs.errors, side.theirs.batches

        return self._told("errors", "errors in {} batches", evidence, counted)

    def nonfinite(self) -> Guardrail:
        def counted(side: _Side) -> Counted:
            return side.mine.nonfinite, side.mine.rows, side.theirs.nonfinite, side.theirs.rows

        def evidence(side: _Side) -> float:
            return self._more(side, counted(side))

        return self._told("nonfinite", "answers that are no number in {} rows", evidence, counted)

    def slow(self, slow_us: int) -> Guardrail:
        def counted(side: _Side) -> Counted:
            if not side.timed:
                return 0, 0, 0, 0
            mine, theirs = side.mine.latency, side.theirs.latency
            slow = slow_batches(mine, slow_us), slow_batches(theirs, slow_us)
            return slow[0], int(mine.sum()), slow[1], int(theirs.sum())

        def evidence(side: _Side) -> float:
            counts = counted(side)
            absolute = binomial_evidence(counts[0], counts[1], SLOW_RATE)
            least = min(self._more(side, counts), absolute)
            return (
                least if side.beside else clumped(least, SLOW_CLUMP)
            )  # beside each other, pauses befall both

        return self._told("slow", f"in {{}} batches slower than {slow_us / 1000:.3g} ms", evidence, counted)

    def _more(self, side: _Side, counts: Counted) -> float:
        """Return the evidence that events are more frequent than allowed."""
        events, trials, other_events, other_trials = counts
        if side.beside:
            return rate_evidence(events, other_events, trials, other_trials, self.ratio)
        bound = rate_bound(other_events, other_trials, _OF_BOUND * self.alpha)
        return binomial_evidence(events, max(trials, events), self.ratio * bound)

    def _told(
        self,
        name: str,
        what: str,
        evidence_of: Callable[[_Side], float],
        counted: Callable[[_Side], Counted],
    ) -> Guardrail:
        evidence = np.array([evidence_of(side) for side in self.sides])
        since = np.cumsum(evidence[::-1])[::-1]  # of the products that begin with each stage
        total = float(np.logaddexp.reduce(since)) - math.log(self.stages)
        needed = -math.log((1 - _OF_BOUND) * self.alpha)
        first = int(since.argmax())
        counts = np.array([counted(side) for side in self.sides[first:]])
        k, n = counts[:, :2].sum(axis=0).tolist()
        # What a predecessor did is counted whole in the last stage.
        other_k, other_n = (counts if self.sides[-1].beside else counts[-1:])[:, 2:].sum(axis=0).tolist()
        other = "the champion's" if self.sides[-1].beside else "its predecessor's"
        said = f"{k} {what.format(n)}, {other} {other_k} in {other_n}"
        figures = {"version": [k, n], "other": [other_k, other_n]}
        return Guardrail(name, total, needed, total >= needed, said, figures)


def _past(served: Sums, version: int) -> Served:
    """Return what a version did while it answered: in a shadow it answers nobody, and rows that were asked for are in another stage."""
    sums = Served()
    for (stage, which), one in served.items():
        if which == version and stage not in (ASKED, stage_name(RolloutState.SHADOW, 0)):
            sums = sums + one
    return sums


def _drift(side: _Side, needed: float, allowed: float) -> Guardrail:
    evidence = divergence_evidence(side.mine.outputs, side.theirs.outputs)
    nats = divergence(side.mine.outputs, side.theirs.outputs)
    said = f"predictions lie {nats:.2f} nats from the champion's ({allowed:g} are allowed)"
    breached = evidence >= needed and nats > allowed
    return Guardrail("drift", evidence, needed, breached, said, {"nats": nats})


def _allocation(keys: Allocation, share: float, needed: float) -> Guardrail:
    total = keys.champion + keys.canary
    evidence = allocation_evidence(keys.canary, total, share) if 0 < share < 1 else 0.0
    said = f"{keys.canary} of {total} keys came back from the canary, {share:.0%} are its share"
    figures = {"canary": keys.canary, "champion": keys.champion, "misrouted": keys.misrouted}
    return Guardrail("allocation", evidence, needed, evidence >= needed, said, figures)
