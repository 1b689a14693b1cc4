"""Verdicts in words: the headline, and what its alarm is worth."""

from __future__ import annotations

from detectors.verdict import Drift

SUBJECTS = {
    "kl": "inputs",
    "sequential": "inputs",
    "prediction": "predictions",
    "label": "labels",
    "score": "errors",
}
KINDS = {
    "quality": "a fault of the data",
    "harmful": "harmful drift",
    "harmless": "harmless drift",
    "unclear": "drift, harm unclear",
}
SURE = 1e-12  # p-values below say no more


def is_calibrated(drift: Drift) -> bool:
    """Whether alarms keep a budget of false alarms; else they are raised at a fixed number of nats."""
    return drift.threshold == drift.false_alarm_rate


def headline(stream: str, detector: str, start: int, stop: int, onset: int, *, alarm: bool) -> str:
    """Say in one line what was judged and what was found."""
    subject = SUBJECTS.get(detector, detector)
    if not alarm:
        return f"{stream}: no drift of {subject} beyond chance, events {start:,} to {stop:,}"
    return f"{stream}: drift of {subject} since event {onset:,} (alarm on events {start:,} to {stop:,})"


def probability(p_value: float) -> str:
    """Write a p-value as far as it can be trusted."""
    return f"p < {SURE:.0e}" if p_value < SURE else f"p = {p_value:.2g}"


def one_in(rate: float) -> str:
    """Write a share of windows as people count."""
    if rate <= 0 or 1 / rate > 1e9:
        return "fewer than 1 in a billion windows"
    return f"1 in {1 / rate:,.0f} windows" if rate <= 0.1 else f"{rate:.0%} of windows"


def percent(share: float) -> str:
    """Write a share so that a small one is not nothing."""
    return "< 1%" if 0 < share < 0.005 else f"{share:.0%}"


def chance_sentence(drift: Drift) -> str:
    """Say how likely chance is, and how often it raises an alarm when nothing has moved."""
    chance = probability(drift.p_value)
    if is_calibrated(drift):
        return f"{chance}, budget {one_in(drift.false_alarm_rate)}"
    excess = [(feature.excess_nats, feature.name) for feature in drift.features]
    largest = max(excess + [(pair.excess_nats, pair.name) for pair in drift.pairs], default=None)
    moved = "" if largest is None else f"{largest[1]} by {largest[0]:.3g} nats, "
    implied = f"implies false alarms in {one_in(drift.false_alarm_rate)}"
    return f"{moved}fixed threshold {drift.threshold:g} nats of any: {implied} ({chance})"


def rows_sentence(drift: Drift) -> str | None:
    """Say that the reference is too small for its budget, None where it is not."""
    if not drift.rows_needed:
        return None
    return (
        f"the reference has {drift.reference_rows:,} rows and needs {drift.rows_needed:,}:"
        " its rows depend on each other, and the budget may not hold"
    )
