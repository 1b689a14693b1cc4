"""Health: what a rollout's evidence says about its version, as one of three verdicts. Pure.

With labels: an anytime-valid interval of the paired difference of losses, valid however often one looks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from cls.arms import Served, stage_name
from cls.config import RolloutConfig
from cls.domain import Json, Rollout, RolloutState
from detectors.anytime import Paired, interval


class Finding(StrEnum):
    """What is known about a version against its counterpart."""

    WORSE = "worse"
    NOT_WORSE = "not worse"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Allocation:
    """How keys of a canary's step came back: distinct ones by the version that answered first, and rows that the wrong one answered."""

    champion: int = 0
    canary: int = 0
    misrouted: int = 0


@dataclass(frozen=True)
class Health:
    """The state of a rollout's evidence."""

    finding: Finding
    reason: str
    rows: int  # labelled rows scored by both
    lower: float  # interval of the relative change of loss, version over counterpart
    upper: float
    answered: int = 0  # rows that `cls serve` answered in this stage, by either version
    measures: Json = field(default_factory=dict)  # for the ledger and for people


@dataclass(frozen=True)
class Interval:
    """The relative change of loss of a version over its counterpart on the same rows."""

    rows: int
    lower: float
    upper: float


def relative_loss(rollout: Rollout, alpha: float, tuning_n: int) -> Interval:
    """Return how a rollout's version compares with the other one so far; valid at every row at once with probability 1 - alpha."""
    paired = Paired(rollout.paired_n, rollout.paired_total, rollout.paired_squares)
    if paired.n >= tuning_n > 0 and paired.total_squares == 0:
        return Interval(paired.n, 0.0, 0.0)  # not one row on which the two differ
    lower, upper = interval(paired, alpha, max(tuning_n, 1))
    base = rollout.base_loss / paired.n if paired.n else 0.0
    if base <= 0:  # a counterpart without an error: anything above it is infinitely worse
        return Interval(paired.n, math.inf if lower > 0 else -math.inf, math.inf)
    return Interval(paired.n, lower / base, upper / base)


def judge(
    rollout: Rollout,
    served: Mapping[tuple[str, int], Served],
    allocation: Allocation,
    settings: RolloutConfig,
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
    """
    watching = rollout.state == RolloutState.WATCHING
    tuning = settings.watch_rows if watching else settings.shadow_rows
    seen = relative_loss(
        rollout, settings.false_alarm, tuning
    )  # each end of it is wrong with half the budget
    answered = sum(one.rows for (stage, _), one in served.items() if stage == _stage(rollout))
    measures: Json = {"rows": seen.rows, "loss_lower": seen.lower, "loss_upper": seen.upper}
    if rollout.state == RolloutState.CANARY:
        measures |= {"keys_champion": allocation.champion, "keys_canary": allocation.canary}
    counterpart = "its predecessor" if watching else "the champion"
    if seen.lower > (settings.watch_margin if watching else 0.0):
        reason = f"worse than {counterpart} on {seen.rows} rows ({_range(seen)})"
        return Health(Finding.WORSE, reason, seen.rows, seen.lower, seen.upper, answered, measures)
    likely = relative_loss(rollout, 1 - settings.confidence, tuning)
    wanted = {RolloutState.SHADOW: settings.shadow_rows, RolloutState.CANARY: settings.step_rows}.get(
        rollout.state, settings.watch_rows
    )
    fresh = seen.rows - rollout.step_n
    finding, reason = Finding.UNDECIDED, f"undecided after {seen.rows} rows ({_range(likely)})"
    if fresh >= wanted and (watching or likely.upper <= settings.margin):
        finding, reason = (
            Finding.NOT_WORSE,
            f"not worse than {counterpart} on {seen.rows} rows ({_range(likely)})",
        )
    return Health(finding, reason, seen.rows, likely.lower, likely.upper, answered, measures)


def _stage(rollout: Rollout) -> str:
    return stage_name(rollout.state, rollout.step)


def _range(seen: Interval) -> str:
    return f"loss {seen.lower:+.1%} to {seen.upper:+.1%}"
