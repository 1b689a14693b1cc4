"""Roll out: a candidate's way to users as a pure function of its state, its health and the stream's time.

waiting -> shadow -> canary ... -> watching -> done    a candidate that must first prove itself
waiting -> watching -> done                            a light update, or the first version
shadow, canary -> rejected                             worse, or undecided at the deadline
watching -> rolled_back                                worse than its predecessor

A pause and a missing approval hold a version back; nothing holds back the way home of a worse one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal

from cls.config import RolloutConfig
from cls.domain import Rollout, RolloutState
from cls.health import Finding, Health

Stage = Literal["canary", "champion"]


class Step(StrEnum):
    """What to do with a rollout."""

    STAY = "stay"
    SHADOW = "shadow"
    CANARY = "canary"
    PROMOTE = "promote"
    REJECT = "reject"
    ROLL_BACK = "roll_back"
    FINISH = "finish"


@dataclass(frozen=True)
class Next:
    """The next step and why; where it is to stay, what it waits for."""

    step: Step
    reason: str = ""
    canary_step: int = 0
    held: bool = False  # it waits for an operator


def next_step(
    rollout: Rollout,
    champion: int | None,
    now: datetime,
    settings: RolloutConfig,
    health: Health,
    *,
    watched: bool = False,
) -> Next:
    """Return the next step of a rollout.

    Parameters
    ----------
    champion
        The version that serves now.
    now
        Stream time.
    health
        What the evidence of the present stage says; looked at from the shadow on.
    watched
        Whether the champion is still watched: a row is compared with one other version, and a watch comes first. Light updates replace
        what is watched.
    """
    if rollout.state == RolloutState.WATCHING:
        return _watched(rollout, champion, now, settings, health)
    if champion != rollout.parent:
        return Next(Step.REJECT, f"made for version {rollout.parent}, but version {champion} serves now")
    if rollout.state == RolloutState.WAITING:
        return _waiting(rollout, now, settings, watched=watched)
    return _compared(rollout, now, settings, health)


def following(rollout: Rollout, settings: RolloutConfig, health: Health) -> tuple[Stage, int]:
    """Return the stage after the present one, and the step of the canary.

    Where no row since its shadow began had been asked for, there is nobody to answer step by step: its next stage is champion.
    """
    step = 0 if rollout.state != RolloutState.CANARY else rollout.step + 1
    staged = rollout.state == RolloutState.CANARY or health.answered > 0
    return ("canary", step) if staged and step < len(settings.canary_steps) else ("champion", 0)


def resumed(rollout: Rollout, now: datetime) -> Rollout:
    """Return a paused rollout that goes on, its times moved on by the pause."""
    assert rollout.paused_at is not None
    pause = now - rollout.paused_at
    return replace(
        rollout,
        paused_at=None,
        step_at=None if rollout.step_at is None else rollout.step_at + pause,
        deadline_at=None if rollout.deadline_at is None else rollout.deadline_at + pause,
    )


def _waiting(rollout: Rollout, now: datetime, settings: RolloutConfig, *, watched: bool) -> Next:
    if now < rollout.effective_at:
        return Next(Step.STAY)
    if rollout.parent is None:
        return Next(Step.PROMOTE, "the first version")
    if rollout.paused_at is not None:
        return Next(Step.STAY, "paused by an operator", held=True)
    if not rollout.light:
        if watched:
            return Next(Step.STAY, f"version {rollout.parent} is still watched")
        return Next(Step.SHADOW, "to be compared with the champion")
    held = _held(rollout, "champion", settings)
    if held and now >= rollout.effective_at + settings.deadline:
        return Next(Step.REJECT, "nobody approved it as champion by the deadline")
    return (
        Next(Step.STAY, held, held=True)
        if held
        else Next(Step.PROMOTE, "a light update that passed its gate")
    )


def _compared(rollout: Rollout, now: datetime, settings: RolloutConfig, health: Health) -> Next:
    if health.finding == Finding.WORSE:
        return Next(Step.REJECT, health.reason)
    if rollout.paused_at is not None:
        return Next(Step.STAY, "paused by an operator", held=True)
    stage, step = following(rollout, settings, health)
    held = _held(rollout, stage, settings)
    late = rollout.deadline_at is not None and now >= rollout.deadline_at
    ready = health.finding == Finding.NOT_WORSE and _over(rollout, now, settings.step_time)
    if ready and not held:
        if stage == "canary":
            return Next(Step.CANARY, health.reason, step)
        skipped = rollout.state == RolloutState.SHADOW and settings.canary_steps
        nobody = "; no canary, for nobody has asked since its shadow began" if skipped else ""
        return Next(Step.PROMOTE, health.reason + nobody)
    if late:
        why = (
            f"nobody approved it as {stage} by the deadline" if ready else f"at the deadline: {health.reason}"
        )
        return Next(Step.REJECT, why)
    return Next(Step.STAY, held, held=True) if ready else Next(Step.STAY, health.reason)


def _watched(
    rollout: Rollout, champion: int | None, now: datetime, settings: RolloutConfig, health: Health
) -> Next:
    if champion != rollout.version:
        return Next(Step.FINISH, "replaced by another version")
    if rollout.parent is None:
        return Next(Step.FINISH, "the first version has no predecessor to be compared with")
    if health.finding == Finding.WORSE:
        return Next(Step.ROLL_BACK, health.reason)
    if health.finding == Finding.NOT_WORSE and _over(rollout, now, settings.watch_time):
        return Next(Step.FINISH, f"watched: {health.reason}")
    if _over(rollout, now, max(settings.watch_time, settings.deadline)):
        return Next(Step.FINISH, f"watched up to the deadline: {health.reason}")
    return Next(Step.STAY, health.reason)


def _held(rollout: Rollout, stage: Stage, settings: RolloutConfig) -> str:
    """Return what a version waits for before its next stage; empty if for nobody.

    Whoever asks to approve canaries wants to be asked before anybody sees a version: where there is no canary, before it is champion.
    """
    first = rollout.state != RolloutState.CANARY  # nobody has seen it
    asked = settings.approval in (stage, "both") or (settings.approval == "canary" and first)
    if not asked or rollout.approved in ("champion", stage) or (stage == "canary" and not first):
        return ""
    return f"waits to be approved as {stage}: cls rollout approve {rollout.stream}"


def _over(rollout: Rollout, now: datetime, time: timedelta) -> bool:
    """Whether a stage has taken so much time."""
    return rollout.step_at is None or now >= rollout.step_at + time
