"""Guardrails: what the sums of two versions say about one of them without any label. Pure.

What is as good, and how much evidence sends a version back:

- errors, answers that are no number: at most `error_ratio` times as often as the champion
- slow: at most one batch in a hundred beyond the champion's p99 and `latency_margin`, or `error_ratio` times as often as the champion
- drift: predictions distributed as the champion's; what counts as different must lie `drift_nats` apart, too
- allocation: keys come back in the shares that were configured

All of them together, over all stages of one rollout, may err with half of `false_alarm`: each stage gets the same part of it, and each
guardrail of a stage the same part of that. Parts add up (Bonferroni), whatever depends on what. Within its part each may be looked at as
often as one likes; see `detectors.arms` for that, and for what is assumed.

While two versions answer beside each other they are compared with each other. A new champion has nobody beside it: it is compared with
what its predecessor did before. The predecessor's rates count at the upper end of what its rows leave open; a change of the machine or of
the requests since then cannot be told from one of the version.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cls.arms import BEFORE, LATENCY_US, Counts, Served, stage_name
from cls.config import RolloutConfig
from cls.domain import Json, Rollout, RolloutState
from detectors.arms import (
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
KINDS = {RolloutState.SHADOW: 3, RolloutState.CANARY: 5, RolloutState.WATCHING: 3}  # guardrails of a stage


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
    """Return what each guardrail of a rollout's stage says; nothing before its shadow, or without a predecessor."""
    if rollout.parent is None or rollout.state not in KINDS:
        return []
    alpha = settings.false_alarm / 2 / stages_of(rollout, settings) / KINDS[rollout.state]
    watching = rollout.state == RolloutState.WATCHING
    stage = stage_name(rollout.state, rollout.step)
    mine = served.get((stage, rollout.version), Served())
    theirs = _past(served, rollout.parent) if watching else served.get((stage, rollout.parent), Served())
    compare = _Compare(mine, theirs, alpha, settings.error_ratio, beside=not watching)
    found = [compare.errors(), compare.nonfinite()]
    if rollout.state != RolloutState.SHADOW:  # one is scored in the background, at no time in particular
        slow_us = rollout.slow_us or slow_threshold(served, rollout.parent, settings.latency_margin)
        found += [compare.slow(slow_us)] if slow_us else []
    if not watching:
        found.append(_drift(mine, theirs, rollout.share or 0.5, alpha, settings.drift_nats))
    if rollout.state == RolloutState.CANARY:
        found.append(_allocation(allocation, rollout.share, alpha))
    return found


def slow_threshold(served: Sums, parent: int | None, margin: float) -> int | None:
    """Return beyond how many microseconds a batch is slow: the p99 of a version's answers before any canary, and a margin on it.

    None where fewer than `THRESHOLD_BATCHES` batches tell.
    """
    counts = np.zeros(len(LATENCY_US) + 1, np.int64)
    for (stage, version), sums in served.items():
        if version == parent and stage in (BEFORE, stage_name("", 0)):
            counts = counts + sums.latency
    total = int(counts.sum())
    if total < THRESHOLD_BATCHES:
        return None
    bin_of_p99 = int(np.searchsorted(np.cumsum(counts), (1 - SLOW_RATE) * total))
    return int(LATENCY_US[min(bin_of_p99, len(LATENCY_US) - 1)] * (1 + margin))


def slow_batches(latency: Counts, slow_us: int) -> int:
    """Return how many batches certainly took longer: those of the bins that lie beyond as a whole."""
    first = int(np.searchsorted(LATENCY_US, slow_us)) + 1
    return int(latency[first:].sum())


@dataclass(frozen=True)
class _Compare:
    """Rates of a version and of its counterpart."""

    mine: Served
    theirs: Served
    alpha: float
    ratio: float
    beside: bool  # both at work at the same time

    def errors(self) -> Guardrail:
        """Batches that raised, per row and per batch: the canary's batches are smaller, and a fault may lie in rows or in batches."""
        mine, theirs = self.mine, self.theirs
        by_batch = self._more(mine.errors, mine.batches, theirs.errors, theirs.batches)
        by_row = self._more(mine.errors, mine.rows, theirs.errors, theirs.rows)
        counts = (
            mine.errors,
            max(mine.batches, mine.errors),
            theirs.errors,
            max(theirs.batches, theirs.errors),
        )
        return self._told("errors", min(by_batch, by_row), counts, "errors in {} batches")

    def nonfinite(self) -> Guardrail:
        mine, theirs = self.mine, self.theirs
        counts = (mine.nonfinite, mine.rows, theirs.nonfinite, theirs.rows)
        return self._told("nonfinite", self._more(*counts), counts, "answers in {} rows that are no number")

    def slow(self, slow_us: int) -> Guardrail:
        mine, theirs = slow_batches(self.mine.latency, slow_us), slow_batches(self.theirs.latency, slow_us)
        counts = (mine, int(self.mine.latency.sum()), theirs, int(self.theirs.latency.sum()))
        relative = self._more(*counts)
        absolute = binomial_evidence(mine, counts[1], SLOW_RATE)
        evidence = clumped(min(relative, absolute), SLOW_CLUMP)
        return self._told("slow", evidence, counts, f"in {{}} batches slower than {slow_us / 1000:.3g} ms")

    def _more(self, events: int, trials: int, other_events: int, other_trials: int) -> float:
        """Return the evidence that events are more frequent than allowed."""
        if self.beside:
            return rate_evidence(events, other_events, trials, other_trials, self.ratio)
        bound = rate_bound(other_events, other_trials, self.alpha / 2)
        return binomial_evidence(events, max(trials, events), self.ratio * bound)

    def _told(self, name: str, evidence: float, counts: tuple[int, int, int, int], what: str) -> Guardrail:
        needed = -math.log(self.alpha if self.beside else self.alpha / 2)  # the other half: a rate too low
        k, n, other_k, other_n = counts
        other = "the champion's" if self.beside else "its predecessor's"
        said = f"{k} {what.format(n)}, {other} {other_k} in {other_n}"
        figures = {"version": [k, n], "other": [other_k, other_n]}
        return Guardrail(name, evidence, needed, evidence >= needed, said, figures)


def _past(served: Sums, version: int) -> Served:
    """Return what a version did while it answered: in a shadow it answers nobody."""
    sums = Served()
    for (stage, which), one in served.items():
        if which == version and stage != stage_name(RolloutState.SHADOW, 0):
            sums = sums + one
    return sums


def _drift(mine: Served, theirs: Served, share: float, alpha: float, allowed: float) -> Guardrail:
    evidence, needed = divergence_evidence(mine.outputs, theirs.outputs, share), -math.log(alpha)
    nats = divergence(mine.outputs, theirs.outputs)
    said = f"predictions lie {nats:.2f} nats from the champion's ({allowed:g} are allowed)"
    breached = evidence >= needed and nats > allowed
    return Guardrail("drift", evidence, needed, breached, said, {"nats": nats})


def _allocation(keys: Allocation, share: float, alpha: float) -> Guardrail:
    total, needed = keys.champion + keys.canary, -math.log(alpha)
    evidence = allocation_evidence(keys.canary, total, share) if 0 < share < 1 else 0.0
    said = f"{keys.canary} of {total} keys came back from the canary, {share:.0%} are its share"
    figures = {"canary": keys.canary, "champion": keys.champion, "misrouted": keys.misrouted}
    return Guardrail("allocation", evidence, needed, evidence >= needed, said, figures)
