"""Decide: whether an update is worth its cost. A pure function of what is known; every answer carries its reason.

Order of precedence: an update on its way, no champion yet, a person's request, the schedule, an episode of drift, the cadence.
Reasons are stable texts (numbers go to the ledger's details), so that an unchanged answer is recorded once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from cls.config import StreamConfig, UpdateConfig
from cls.domain import Decision, Defer, Episode, EpisodeState, Json, Skip, Update
from learners.recipes import known

PRIORITY = {"critical": 300, "high": 200, "normal": 100, "low": 0}
OVERHEAD = 3.0  # a continuous update waits until its labels have earned this many times its fixed price
LEAST_EFFORT, MOST_EFFORT = 0.2, 3.0  # epochs of a continuous update, as a multiple of the recipe's
_WORDS = {  # of a recipe that adapts
    "near": "near what the champion knows: a light update",
    "far": "far from what the champion knows: more effort",
    "recurring": "version {version} knows most of the new regime: learning starts from it",
}
HARM = 1.05  # a champion that loses at most 5% more than when it was accepted is not harmed


@dataclass(frozen=True)
class Request:
    """Somebody's or the schedule's wish for an update."""

    kind: str  # "manual" or "schedule"
    strategy: str | None = None  # None: the configured recipe
    full: bool = False


@dataclass(frozen=True)
class Situation:
    """Everything a decision may depend on."""

    now: datetime  # stream time
    champion: int | None
    expected_loss: float | None  # of the champion on its gate rows when it was accepted
    labels: int  # landed so far
    new_labels: int  # landed since the champion learned
    drifted_labels: int  # of events since the onset of the open episode
    drifted_events: int  # predicted since the onset of the open episode
    last_update: datetime | None  # stream time of the last decision to update
    on_its_way: bool  # an update job or rollout is live
    assessing: bool  # an assess job is live
    allowance: float  # device-seconds that the budget has left
    fixed_price: float  # device-seconds of an update whatever its size, by the last one; 0 before the first
    label_price: float  # device-seconds per new label at full effort
    tried_labels: int  # labels that there were at the last decision to update
    labels_per_day: float  # of stream time, of late; 0 where that is not known
    episode: Episode | None
    fault: str | None = None  # what is wrong with the data of the episode's window
    undiagnosed: bool = (
        False  # the episode began row by row, and no window has closed since that would show a fault
    )
    request: Request | None = None
    shadow: int | None = None  # version that is scored beside the champion, before it may serve

    @property
    def untried_labels(self) -> int:
        """Labels that landed since the last decision to update."""
        return self.labels - self.tried_labels

    def to_json(self) -> Json:
        """Return the numbers behind a decision, for the ledger."""
        plain: dict[str, Any] = {
            name: getattr(self, name)
            for name in (
                "champion",
                "expected_loss",
                "labels",
                "new_labels",
                "tried_labels",
                "drifted_labels",
                "drifted_events",
                "allowance",
                "fixed_price",
                "label_price",
                "labels_per_day",
                "fault",
            )
        }
        return plain | {"assessment": self.episode.assessment if self.episode else None}


def decide(situation: Situation, stream: StreamConfig) -> Decision:
    """Return what to do now."""
    if situation.on_its_way:
        return Defer("an update is on its way" + _shadowed(situation.shadow))
    if situation.champion is None:
        return _bootstrap(situation, stream)
    if situation.request is not None:
        return _requested(situation, situation.request, stream)
    drifted = situation.episode is not None and situation.episode.state == EpisodeState.OPEN
    if situation.fault is not None:
        return Skip(f"a fault of the data, not drift: {situation.fault}")
    if drifted and situation.undiagnosed and stream.update.cadence in ("never", "drift"):
        return Defer("drift; waits for a window that tells it from a fault of the data")
    if stream.update.cadence == "never":
        reason = "the policy never updates"
        return _rebase(situation, stream, reason) if drifted else Skip(reason)
    if situation.episode is not None and drifted and stream.update.cadence == "drift":
        return _drifted(situation, situation.episode, stream)
    return _cadence(situation, stream)


def _shadowed(version: int | None) -> str:
    if version is None:
        return ""
    return (
        f": version {version} is in the shadow of the champion; `cls models promote` with {version} ends that"
    )


def _bootstrap(situation: Situation, stream: StreamConfig) -> Decision:
    requested = situation.request is not None and situation.request.kind == "manual"
    if situation.labels == 0:
        return Defer("there are no labels yet")
    if not requested and situation.labels < stream.update.bootstrap_rows:
        return Defer(f"the first model waits for {stream.update.bootstrap_rows} labels")
    wait = None if requested else _cooling(situation, stream.update)
    return wait or _update(stream, "the first model", full=True)


def _requested(situation: Situation, request: Request, stream: StreamConfig) -> Decision:
    if request.kind == "schedule" and (wait := _too_dear(situation, stream.update)):
        return wait
    if situation.new_labels == 0 and not request.full:
        return Skip("there is nothing new to learn from")
    reason = "asked for by an operator" if request.kind == "manual" else "scheduled"
    return _update(stream, reason, recipe=request.strategy, full=request.full)


def _drifted(situation: Situation, episode: Episode, stream: StreamConfig) -> Decision:
    policy = stream.update
    if situation.drifted_labels < policy.min_rows:
        return Defer(f"drift; waits for {policy.min_rows} labels from after its onset")
    if episode.assessment is None:
        return Defer("drift; its harm is being assessed", assess=not situation.assessing)
    if "failed" in episode.assessment:
        return _wait(situation, policy) or _update(stream, "drift whose harm could not be assessed")
    losses = {int(version): loss for version, loss in episode.assessment["losses"].items()}
    likeness = _likeness(episode.assessment, stream)
    current = losses.get(situation.champion or 0)
    if current is None:
        return Defer("drift; its harm is being assessed", assess=not situation.assessing)
    others = {version: loss for version, loss in losses.items() if version != situation.champion}
    if others:
        best = min(others, key=lambda version: (others[version], version))
        better = others[best] < (1 - policy.redeploy_margin) * current
        if better and (likeness is None or _fits(best, others[best], episode.assessment)):
            update = _update(stream, f"version {best} fits the new regime as it is", recipe="redeploy")
            return _wait(situation, policy) or replace(update, redeploy_version=best)
    harmed = situation.expected_loss is None or current > HARM * situation.expected_loss
    if not harmed and episode.detector != "score":
        return _rebase(situation, stream, "harmless drift: the champion's loss has not suffered")
    if likeness is None:
        return _wait(situation, policy) or _update(stream, "harmful drift")
    update = _update(stream, f"harmful drift; {_WORDS[likeness['kind']].format(**likeness)}")
    wait = _wait(situation, policy, episode.assessment["effort"])
    return wait or replace(update, base=likeness["version"])


def _likeness(assessment: Json, stream: StreamConfig) -> Json | None:
    """Return how like an earlier regime the new one is, where the recipe adapts to it and that is known."""
    recipe, overrides = known().get(stream.update.recipe), stream.update.overrides
    adapts, fresh = (
        overrides.get(field, recipe is not None and getattr(recipe, field)) for field in ("adapt", "fresh")
    )
    found: Json | None = assessment.get("similarity")
    return found if adapts and not fresh else None


def _fits(version: int, loss: float, assessment: Json) -> bool:
    """Whether a version is as good on the new regime as it was on its own, so that there is nothing to learn."""
    accepted = assessment["accepted"].get(str(version))
    return accepted is None or loss <= HARM * accepted


def _rebase(situation: Situation, stream: StreamConfig, reason: str) -> Decision:
    """Move the reference to the new regime, once a window's worth of rows shows it and none of the old one need fill it up."""
    rows = stream.detect.window_rows
    if situation.drifted_events < rows:
        return Defer(f"drift; the reference waits for {rows} rows from after its onset")
    return Skip(reason, rebase=True)


def _cadence(situation: Situation, stream: StreamConfig) -> Decision:
    policy = stream.update
    if policy.cadence == "every":
        rows_due = policy.every_rows is not None and situation.untried_labels >= policy.every_rows
        since = situation.last_update
        time_due = policy.every is not None and (since is None or situation.now - since >= policy.every)
        if not (rows_due or (time_due and situation.new_labels > 0)):
            return Skip("the next update is not due")
        return _wait(situation, policy) or _update(stream, "due by the fixed cadence")
    if policy.cadence == "continuous":
        return _continuous(situation, stream)
    return Skip("no drift")


def _continuous(situation: Situation, stream: StreamConfig) -> Decision:
    """Update as often as the budget makes it worth while, with the effort that it then allows.

    While a label lands, the budget earns a label's share of a day. Labels gather until what they earned is a multiple of the price that an
    update has whatever its size; the rest buys epochs. So every label gets the same attention, at whatever hour it came.
    """
    policy = stream.update
    fixed = min(situation.fixed_price, _full(policy) / OVERHEAD)
    learning = min(situation.label_price * situation.new_labels, _full(policy))
    worth = max(OVERHEAD * fixed, fixed + LEAST_EFFORT * learning)
    earned = max(OVERHEAD * fixed, fixed + learning)
    if situation.labels_per_day:
        days = situation.untried_labels / situation.labels_per_day
        earned = min(days * policy.budget_device_seconds_per_day, _full(policy))
    if situation.untried_labels < policy.min_rows or earned < worth:
        return Skip("the next update is not due")
    least = max(fixed + LEAST_EFFORT * learning, 1e-9)
    if situation.allowance < least:
        return _until_affordable(situation, policy, least - situation.allowance)
    effort = (min(earned, situation.allowance) - fixed) / learning if learning else 1.0
    wait = _cooling(situation, policy)
    return wait or _update(stream, "new labels, and the budget allows it", effort=min(effort, MOST_EFFORT))


def _wait(situation: Situation, policy: UpdateConfig, effort: float = 1.0) -> Defer | None:
    """Return why an update that is wanted must wait."""
    return _cooling(situation, policy) or _too_dear(situation, policy, effort)


def _cooling(situation: Situation, policy: UpdateConfig) -> Defer | None:
    last = situation.last_update
    if last is not None and situation.untried_labels <= 0:
        return Defer("an update is wanted; the last attempt had all labels that there are")
    if last is not None and situation.now - last < policy.cooldown:
        return Defer("an update is wanted; the cool-down runs", until=last + policy.cooldown)
    return None


def _full(policy: UpdateConfig) -> float:
    """Return the device-seconds that the full budget holds.

    No estimate is above it: labels go on coming while an update waits, and it must not become unaffordable for ever.
    """
    return policy.budget_device_seconds_per_day * policy.budget_burst_days


def _too_dear(situation: Situation, policy: UpdateConfig, effort: float = 1.0) -> Defer | None:
    cost = min(situation.fixed_price + situation.label_price * effort * situation.new_labels, _full(policy))
    if situation.allowance >= max(cost, 1e-9):
        return None
    return _until_affordable(situation, policy, cost - situation.allowance)


def _until_affordable(situation: Situation, policy: UpdateConfig, missing: float) -> Defer:
    until = situation.now + timedelta(days=max(missing, 0.0) / policy.budget_device_seconds_per_day)
    return Defer("an update is wanted; the budget is spent", until=until)


def _update(
    stream: StreamConfig, reason: str, *, recipe: str | None = None, full: bool = False, effort: float = 1.0
) -> Update:
    strategy = recipe or stream.update.recipe
    full = full or (strategy in known() and known()[strategy].fresh)
    return Update(
        strategy,
        reason,
        stream.rollout.light and not full,
        PRIORITY[stream.priority],
        full=full,
        effort=effort,
    )
