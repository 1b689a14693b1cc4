"""Evaluate: candidate against champion on fresh gate rows and on those of earlier regimes, with intervals.

The loss of a slice is compared as the relative change of its mean, candidate over champion, with a circular block bootstrap over
time. A slice passes if the interval lies below its margin, fails if all of it lies above (zero for fresh rows: significantly worse is
never good enough), and is inconclusive otherwise. Forgetting is a gate, not a chart. Where an earlier regime contradicts the new one,
no candidate can fit both: one that gains more on fresh rows than it loses on each retained slice is not stopped, but must prove itself
in the shadow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cls.config import GateConfig, StreamConfig
from cls.domain import GateReport, GateVerdict, JobInput, Role, SliceReport
from cls.errors import BadData
from cls.ports import SampleLog
from cls.season import season_of, with_season
from cls.train import as_rows, of_role
from detectors.bootstrap import block_bootstrap_mean
from detectors.columns import Columns, take
from detectors.profile import Profile
from learners.evaluate import losses
from learners.models.base import Model
from learners.rows import Rows
from learners.similarity import Similarity, Stored, divergence, judge
from learners.training import FORWARD_PASS

BLOCKS = 20  # of the bootstrap


@dataclass(frozen=True)
class Evaluated:
    """A gate report and what it cost."""

    report: GateReport
    passes: float

    @property
    def loss(self) -> float | None:
        """The candidate's mean loss on fresh gate rows."""
        return self.report.slices[0].candidate_loss

    def blocks(self, margin: float) -> bool:
        """Whether the candidate goes no further: it failed, or is inconclusive and by its mean worse than the margin.

        What is only inconclusive goes on: a light update is watched, any other must prove itself in the shadow.
        """
        fresh = self.report.slices[0]
        worse = False
        if fresh.champion_loss is not None and fresh.candidate_loss is not None:
            worse = fresh.candidate_loss > (1 + margin) * fresh.champion_loss
        return self.report.verdict == GateVerdict.FAIL or (self.report.verdict != GateVerdict.PASS and worse)

    def tells(self) -> bool:
        """Whether it may go to champion at once: there were enough fresh rows for an interval, and no slice failed."""
        told = self.report.slices[0].upper is not None or self.report.verdict == GateVerdict.PASS
        return told and not any(part.verdict == GateVerdict.FAIL for part in self.report.slices)


def gate(
    job: JobInput,
    stream_name: str,
    stream: StreamConfig,
    log: SampleLog,
    candidate: Model,
    champion: Model | None,
) -> Evaluated:
    """Put a candidate through the gate."""
    settings = stream.gate
    fresh_from = max(job.label_to - settings.fresh_rows, 0)
    named = [("fresh", fresh_from, job.label_to, 0.0, settings.margin)]
    named += [
        (f"retained:{a}-{b}", a, b, settings.retained_margin, settings.retained_margin)
        for a, b in job.retained
    ]
    slices, passes = [], 0.0
    for name, start, stop, tolerated, margin in named:
        rows = of_role(log.labelled(stream_name, start, stop), Role.GATE)
        if len(rows) == 0:
            slices.append(SliceReport(name, 0, None, None, None, None, GateVerdict.INCONCLUSIVE))
            continue
        mine = losses(candidate, rows)
        theirs = losses(champion, rows) if champion is not None else _constant_losses(stream, rows)
        passes += len(rows) * FORWARD_PASS * (1 if champion is None else 2)
        slices.append(_compare(name, mine, theirs, settings, tolerated, margin, job.seed))
    return Evaluated(_verdict(slices), passes)


def _constant_losses(stream: StreamConfig, rows: Rows) -> NDArray[np.float64]:
    """Return the losses of the best constant: what a first model must beat."""
    if stream.task == "regression":
        return np.asarray(np.abs(rows.target - np.median(rows.target)), np.float64)
    values, counts = np.unique(rows.target, return_counts=True)
    return np.asarray(rows.target != values[counts.argmax()], np.float64)


def _compare(
    name: str,
    candidate: NDArray[np.float64],
    champion: NDArray[np.float64],
    settings: GateConfig,
    tolerated: float,
    margin: float,
    seed: int,
) -> SliceReport:
    rows, base, mean = len(candidate), float(champion.mean()), float(candidate.mean())
    if not np.isfinite(candidate).all():
        return SliceReport(name, rows, base, None, None, None, GateVerdict.FAIL)
    if rows < settings.min_rows:
        return SliceReport(name, rows, base, mean, None, None, GateVerdict.INCONCLUSIVE)
    if base == 0:  # a champion without an error can only be equalled
        verdict = GateVerdict.PASS if mean == 0 else GateVerdict.FAIL
        return SliceReport(name, rows, base, mean, None, None, verdict)
    lower, _, upper = block_bootstrap_mean(
        candidate - champion, block=max(rows // BLOCKS, 1), alpha=1 - settings.confidence, seed=seed
    )
    lower, upper = lower / base, upper / base
    if upper <= margin:
        verdict = GateVerdict.PASS
    elif lower > tolerated:
        verdict = GateVerdict.FAIL
    else:
        verdict = GateVerdict.INCONCLUSIVE
    return SliceReport(name, rows, base, mean, lower, upper, verdict)


def _verdict(slices: Sequence[SliceReport]) -> GateReport:
    fresh, retained = slices[0], slices[1:]
    failed = [part for part in slices if part.verdict == GateVerdict.FAIL]
    if failed:
        verdict, reason = GateVerdict.FAIL, f"worse than allowed on {', '.join(part.name for part in failed)}"
        if all(_outweighed(part, fresh) for part in failed):
            verdict, reason = GateVerdict.INCONCLUSIVE, f"{reason}, but it gains more on fresh rows"
    elif fresh.verdict == GateVerdict.PASS:
        verdict, reason = (
            GateVerdict.PASS,
            f"not worse on {fresh.rows} fresh and {sum(s.rows for s in retained)} retained rows",
        )
    else:
        verdict, reason = GateVerdict.INCONCLUSIVE, f"{fresh.rows} fresh rows do not tell"
    return GateReport(verdict, reason, tuple(slices))


def _outweighed(forgotten: SliceReport, fresh: SliceReport) -> bool:
    """Whether a candidate surely gains on fresh rows, and more than it loses on the rows of an earlier regime."""
    if fresh.upper is None or fresh.upper >= 0:
        return False
    return _change(fresh) + _change(forgotten) < 0


def _change(part: SliceReport) -> float:
    """Return by how much the candidate's loss is higher than the champion's; infinite where that is not known."""
    if part.champion_loss is None or part.candidate_loss is None:
        return np.inf
    return part.candidate_loss - part.champion_loss


@dataclass(frozen=True, eq=False)
class Assessed:
    """What stored versions lose on the rows of a new regime, and what these rows are like."""

    losses: dict[int, float]  # mean by version
    constant: float  # mean loss of the best constant
    rows: int  # that all these are means of
    columns: Columns  # features of the new rows, whatever their role
    time_us: NDArray[np.int64]  # their event times
    passes: float  # sample passes it took


def assess(
    job: JobInput,
    stream_name: str,
    stream: StreamConfig,
    log: SampleLog,
    models: Mapping[int, Model],
    newest: int = 1000,
) -> Assessed:
    """Compare stored versions on tune and gate rows from after a drift's onset: none of them has learned any of these."""
    labelled = log.labelled(stream_name, job.label_from, job.label_to)
    held, since = labelled.role != Role.TRAIN, labelled.position >= (job.onset or 0)
    if not (held & since).any():
        since = np.ones_like(held)
    rows = as_rows(labelled).take(np.flatnonzero(held & since)[-newest:])
    if len(rows) == 0:
        raise BadData("there are no tune or gate rows to assess versions on")
    found = {number: float(losses(model, rows).mean()) for number, model in models.items()}
    constant = float(_constant_losses(stream, rows).mean())
    new = np.flatnonzero(since)[-stream.detect.reference_rows :]
    return Assessed(
        found,
        constant,
        len(rows),
        take(labelled.columns, new),
        np.asarray(labelled.time_us)[new],
        len(rows) * len(models) * FORWARD_PASS,
    )


def likeness(
    assessed: Assessed,
    accepted: Mapping[int, float | None],
    references: Mapping[int, Profile],
    parent: int | None,
    margin: float,
) -> Similarity | None:
    """Return how like an earlier regime the assessed rows are, by the losses of versions and by their references' profiles.

    Parameters
    ----------
    accepted
        What each version lost on its gate rows when it was accepted.
    references
        Profiles of the inputs that versions were fitted to, of those that have one.
    parent
        The champion.
    margin
        See `learners.similarity.judge`.
    """
    rows = len(assessed.time_us)
    nats = {
        number: divergence(
            profile, profile.count(with_season(assessed.columns, assessed.time_us, season_of(profile))), rows
        )
        for number, profile in references.items()
    }
    stored = {
        number: Stored(loss, accepted.get(number), nats.get(number))
        for number, loss in assessed.losses.items()
    }
    return judge(stored, parent, assessed.constant, margin=margin)
