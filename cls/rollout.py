"""Roll out: a candidate's way to users as a pure function of its state, its health and the stream's time.

waiting -> shadow -> watching -> done          a candidate that must first prove itself on labelled rows
waiting -> watching -> done                    a light update, or the first version
shadow -> rejected                             worse, or undecided at the deadline
watching -> rolled_back                        worse than its predecessor
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from cls.config import RolloutConfig
from cls.domain import Rollout, RolloutState
from detectors.anytime import Paired, interval


class Step(StrEnum):
    """What to do with a rollout."""

    STAY = "stay"
    SHADOW = "shadow"
    PROMOTE = "promote"
    REJECT = "reject"
    ROLL_BACK = "roll_back"
    FINISH = "finish"


@dataclass(frozen=True)
class Next:
    """The next step and why."""

    step: Step
    reason: str = ""


@dataclass(frozen=True)
class Health:
    """The relative loss of a version against its counterpart on the same rows, with an anytime-valid interval."""

    rows: int
    lower: float
    upper: float


def health(rollout: Rollout, confidence: float, tuning_n: int) -> Health:
    """Return how a rollout's version compares with the other one so far."""
    paired = Paired(rollout.paired_n, rollout.paired_total, rollout.paired_squares)
    if paired.n >= tuning_n > 0 and paired.total_squares == 0:
        return Health(paired.n, 0.0, 0.0)  # not one row on which the two differ
    lower, upper = interval(paired, 1 - confidence, max(tuning_n, 1))
    base = rollout.base_loss / paired.n if paired.n else 0.0
    if base <= 0:  # a counterpart without an error: anything above it is infinitely worse
        return Health(paired.n, math.inf if lower > 0 else -math.inf, math.inf)
    return Health(paired.n, lower / base, upper / base)


def next_step(rollout: Rollout, champion: int | None, now: datetime, settings: RolloutConfig) -> Next:
    """Return the next step of a rollout at a stream time."""
    if rollout.state == RolloutState.WATCHING:
        return _watched(rollout, champion, settings)
    if champion != rollout.parent:
        return Next(Step.REJECT, f"made for version {rollout.parent}, but version {champion} serves now")
    if rollout.state == RolloutState.WAITING:
        if now < rollout.effective_at:
            return Next(Step.STAY)
        if rollout.parent is None:
            return Next(Step.PROMOTE, "the first version")
        if rollout.light:
            return Next(Step.PROMOTE, "a light update that passed its gate")
        return Next(Step.SHADOW, "to be compared on labelled rows")
    return _shadowed(rollout, now, settings)


def _shadowed(rollout: Rollout, now: datetime, settings: RolloutConfig) -> Next:
    seen = health(rollout, settings.confidence, settings.shadow_rows)
    if seen.lower > 0:
        return Next(Step.REJECT, f"worse than the champion on {seen.rows} rows ({_range(seen)})")
    if seen.rows >= settings.shadow_rows and seen.upper <= settings.margin:
        return Next(Step.PROMOTE, f"not worse than the champion on {seen.rows} rows ({_range(seen)})")
    if rollout.started_at is not None and now >= rollout.started_at + settings.deadline:
        return Next(Step.REJECT, f"undecided at the deadline after {seen.rows} rows ({_range(seen)})")
    return Next(Step.STAY)


def _watched(rollout: Rollout, champion: int | None, settings: RolloutConfig) -> Next:
    if champion != rollout.version:
        return Next(Step.FINISH, "replaced by another version")
    if rollout.parent is None:
        return Next(Step.FINISH, "the first version has no predecessor to be compared with")
    seen = health(rollout, settings.confidence, settings.watch_rows)
    if seen.lower > settings.watch_margin:
        return Next(Step.ROLL_BACK, f"worse than its predecessor on {seen.rows} rows ({_range(seen)})")
    if seen.rows >= settings.watch_rows:
        return Next(Step.FINISH, f"watched over {seen.rows} rows ({_range(seen)})")
    return Next(Step.STAY)


def _range(seen: Health) -> str:
    return f"loss {seen.lower:+.1%} to {seen.upper:+.1%}"
