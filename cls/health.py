"""Health: what a rollout's evidence says about its version, as one of three findings. Pure.

With labels: paired losses on the same rows. Without: guardrails (`cls.guardrails`). Both are anytime-valid: looked at as often as one
likes, all of it together sends a version that is as good as its counterpart back with a probability of at most `rollout.false_alarm` over
the whole rollout. Half of that is for guardrails, half for losses: a quarter for the comparison that begins in the shadow and goes on
through all steps of the canary, a quarter for the watch.

Rows whose differences of loss depend on those of their neighbours count for less: dependence over about ten rows is made up for, over more
rows in part, and then the budget does not hold (`detectors.dependence` says by how much). What lasts longer is how the version is by now:
one that is worse for a season is sent back in it. Where versions take turns, `rollout.step_time` and `rollout.watch_time` make each stage
last as long as a turn; they do not keep a worse one.

To go on is another question, with another error: a version that is worse by more than `rollout.margin` seems not to be with a probability
of (1 - `rollout.confidence`) / 2 a stage.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from cls.arms import ASKED, LIVE, Served, stage_name
from cls.config import RolloutConfig
from cls.domain import Json, Rollout, RolloutState
from cls.guardrails import Allocation, Guardrail, guardrails, slow_threshold
from detectors.anytime import Paired, excess, interval

__all__ = ["Allocation", "Finding", "Health", "Interval", "judge", "relative_loss", "slow_threshold"]


class Finding(StrEnum):
    """What is known about a version against its counterpart."""

    WORSE = "worse"
    NOT_WORSE = "not worse"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Health:
    """The state of a rollout's evidence."""

    finding: Finding
    reason: str
    rows: int  # labelled rows scored by both
    lower: float  # interval of the relative change of loss, version over counterpart
    upper: float
    answered: int = 0  # rows of this stage that somebody asked for, whichever version answered
    measures: Json = field(default_factory=dict)  # for the ledger and for people


@dataclass(frozen=True)
class Interval:
    """The relative change of loss of a version over its counterpart on the same rows."""

    rows: int
    lower: float
    upper: float

    def __str__(self) -> str:
        if not math.isfinite(self.lower) or not math.isfinite(self.upper):
            return "loss not comparable yet"
        return f"loss {self.lower:+.1%} to {self.upper:+.1%}"


def relative_loss(rollout: Rollout, alpha: float, tuning_n: int) -> Interval:
    """Return how a rollout's version compares with the other one so far; valid at every row at once with probability 1 - alpha."""
    paired = _paired(rollout)
    if paired.n >= tuning_n > 0 and paired.total_squares == 0:
        return Interval(paired.n, 0.0, 0.0)  # not one row on which the two differ
    lower, upper = interval(paired, alpha, max(tuning_n, 1))
    return Interval(paired.n, _relative(rollout, lower), _relative(rollout, upper))


def judge(
    rollout: Rollout,
    served: Mapping[tuple[str, int], Served],
    allocation: Allocation,
    settings: RolloutConfig,
    unloadable: str = "",
) -> Health:
    """Return what the evidence says.

    Parameters
    ----------
    rollout
        With the paired losses.
    served
        What both versions did, by (stage, version).
    allocation
        Of the current step of a canary.
    settings
        Margins, and the probability of a false alarm.
    unloadable
        Why the version is too damaged to be loaded: no statistical question.
    """
    watching = rollout.state == RolloutState.WATCHING
    counterpart = "its predecessor" if watching else "the champion"
    tuning = settings.watch_rows if watching else settings.shadow_rows
    alpha = (
        settings.false_alarm / 2 / (1 if rollout.light else 2)
    )  # comparisons: before it is champion, and after
    harm = _relative(rollout, excess(_paired(rollout), alpha, max(tuning, 1)))
    likely = relative_loss(rollout, 1 - settings.confidence, tuning)
    guards = guardrails(rollout, served, allocation, settings)
    answered = _answered(rollout, served)
    measures = _measures(likely, harm, guards)

    def health(finding: Finding, reason: str) -> Health:
        return Health(finding, reason, likely.rows, likely.lower, likely.upper, answered, measures)

    if unloadable:
        return health(Finding.WORSE, f"cannot be loaded: {unloadable}")
    breached = [guard for guard in guards if guard.breached]
    if breached:
        worst = max(breached, key=lambda guard: guard.evidence - guard.needed)
        return health(Finding.WORSE, f"guardrail {worst.name}: {worst.said}")
    if harm > (settings.watch_margin if watching else 0.0):
        return health(
            Finding.WORSE,
            f"worse than {counterpart} on {likely.rows} rows (loss at least {harm:+.1%}; {likely})",
        )
    wanted = {RolloutState.SHADOW: settings.shadow_rows, RolloutState.CANARY: settings.step_rows}.get(
        rollout.state, settings.watch_rows
    )
    if settings.evidence == "guardrails":
        rows = served.get((stage_name(rollout.state, rollout.step), rollout.version), Served()).rows
        if rows >= wanted:
            return health(Finding.NOT_WORSE, f"no guardrail says otherwise on {rows} rows")
        return health(Finding.UNDECIDED, f"undecided after {rows} of {wanted} rows without an alarm")
    if likely.rows - rollout.step_n >= wanted and (watching or likely.upper <= settings.margin):
        return health(Finding.NOT_WORSE, f"not worse than {counterpart} on {likely.rows} rows ({likely})")
    fresh = likely.rows - rollout.step_n
    bound = "" if watching else f", {settings.margin:+.0%} are allowed"
    whole = f", {likely.rows} in all" if rollout.step_n else ""
    return health(
        Finding.UNDECIDED, f"{fresh} of {wanted} labelled rows of this stage{whole} ({likely}{bound})"
    )


def _paired(rollout: Rollout) -> Paired:
    return Paired(rollout.paired_n, rollout.paired_total, rollout.paired_squares, rollout.paired_dependence)


def _relative(rollout: Rollout, difference: float) -> float:
    """Return a mean difference of losses over the counterpart's mean loss."""
    base = rollout.base_loss / rollout.paired_n if rollout.paired_n else 0.0
    if base > 0:
        return difference / base
    return 0.0 if difference == 0 else math.copysign(math.inf, difference)


def _answered(rollout: Rollout, served: Mapping[tuple[str, int], Served]) -> int:
    """Return how many rows were asked for: answers are counted at once, rows in the log (also of others' servers) once they are scored."""

    def rows(name: str) -> int:
        return sum(one.rows for (stage, _), one in served.items() if stage == name)

    if rollout.state == RolloutState.SHADOW:
        return max(rows(LIVE), rows(ASKED))
    return rows(stage_name(rollout.state, rollout.step))


def _measures(likely: Interval, harm: float, guards: list[Guardrail]) -> Json:
    """Return the numbers as JSON, which knows no infinity."""
    ends = {"loss_lower": likely.lower, "loss_upper": likely.upper, "loss_excess": harm}
    measures: Json = {"rows": likely.rows} | {name: _finite(value) for name, value in ends.items()}
    for guard in guards:
        evidence = {"evidence": _finite(guard.evidence), "needed": guard.needed, "breached": guard.breached}
        measures[guard.name] = evidence | guard.figures
    return measures


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
