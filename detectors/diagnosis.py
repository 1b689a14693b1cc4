"""Diagnosis: what an alarm means. A fault of the data, harmless drift or harmful drift, with the evidence in words.

It runs on alarms alone, so it may look at the window's raw rows. Only features that moved beyond chance are suspected; each is looked at in
the rows that moved. A fault must leave a mark that the world does not (see `numeric_faults`, `category_faults`, `row_faults`). What is left is
drift, and a loss model says whether it harms: only where its interval lies clearly on one side of the reference's loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from detectors.bins import Bins, CategoricalBins, NumericBins
from detectors.category_faults import category_fault
from detectors.columns import Categorical, Column, Columns, rows_of, take
from detectors.fault import ENOUGH, Case, Fault, Reference, number, percent
from detectors.look import Look
from detectors.loss import LossEstimate
from detectors.numeric_faults import numeric_fault
from detectors.profile import Profile
from detectors.row_faults import repeated_rows, swapped
from detectors.segment import LEAST_ROWS, moved_rows
from detectors.unit_faults import unit_hint
from detectors.verdict import Drift, FeatureDrift
from detectors.words import moved_sentence

Kind = Literal["quality", "harmful", "harmless", "unclear"]

SUSPECT = 0.01  # chance that a feature that did not move is looked at, all features together
FAR = 0.5  # nats from which a feature is looked at though its own dependence may have carried it there
VANISHED = 0.4  # of the rows newly missing: nobody's habits change so fast
CHANCY = frozenset(
    ("filled", "clipped", "partly converted")
)  # faults that rest on an alarm, being told by shares
MARGIN = 0.05  # rise of the mean loss, as a share, that is no harm
TOP = 3  # features named in a sentence


@dataclass(frozen=True)
class FeatureFinding:
    """What happened to one feature."""

    name: str
    share: float  # of the window's excess nats
    p_value: float
    start: int  # rows of the window that moved
    stop: int
    fault: str | None  # kind of fault, None for drift
    sentence: str  # for people
    bins: tuple[tuple[str, float, float], ...]  # (label, reference share, current share), largest part first
    effect: tuple[float, float, float] | None = None  # on the mean loss, in its units: estimate, low, high
    hint: str | None = None  # of a fault that cannot be told from drift


@dataclass(frozen=True)
class Diagnosis:
    """What an alarm means."""

    kind: Kind
    evidence: tuple[str, ...]  # sentences, the most telling first
    features: tuple[FeatureFinding, ...]  # those that moved: faults first, then by share
    loss: LossEstimate | None  # of the window

    @property
    def summary(self) -> str:
        """One sentence for people."""
        head = {
            "quality": "a fault of the data",
            "harmful": "harmful drift",
            "harmless": "harmless drift",
            "unclear": "drift",
        }[self.kind]
        return f"{head}: {'; '.join(self.evidence[:TOP])}"

    @property
    def fault(self) -> str | None:
        """What is wrong with the data; None if nothing is known to be."""
        if self.kind != "quality":
            return None
        faults = [finding.sentence for finding in self.features if finding.fault is not None]
        return "; ".join(faults[:TOP] or self.evidence[:1])

    @property
    def evident(self) -> bool:
        """Whether there is a fault that shows by itself, even in a window that did not alarm."""
        return any(finding.fault is not None and finding.fault not in CHANCY for finding in self.features)

    def to_json(self) -> dict[str, Any]:
        """Write plain JSON types, which `from_json` reads back exactly."""
        features = [
            asdict(finding)
            | {"bins": [list(top) for top in finding.bins], "effect": finding.effect and list(finding.effect)}
            for finding in self.features
        ]
        loss = None if self.loss is None else self.loss.to_json()
        return {"kind": self.kind, "evidence": list(self.evidence), "features": features, "loss": loss}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Diagnosis:
        """Read what `to_json` wrote."""
        features = tuple(
            FeatureFinding(
                **{
                    **finding,
                    "bins": tuple((str(a), float(b), float(c)) for a, b, c in finding["bins"]),
                    "effect": None if finding["effect"] is None else tuple(finding["effect"]),
                }
            )
            for finding in document["features"]
        )
        loss = None if document["loss"] is None else LossEstimate.from_json(document["loss"])
        return cls(document["kind"], tuple(document["evidence"]), features, loss)


def diagnose(
    profile: Profile, drift: Drift, window: Columns, losses: LossEstimate | None = None
) -> Diagnosis:
    """Say what an alarm means.

    Parameters
    ----------
    profile
        The reference.
    drift
        The verdict on the window.
    window
        Its rows, in stream order. A feature that is not among them is missing in every row; one of another type is a fault.
    losses
        Estimate of the window's mean loss; without one, drift is neither harmful nor harmless but unclear.
    """
    expected_K, _ = profile.expected(profile.count(_typed(profile, window)))  # of the window's own seasons
    references = {
        bins.name: Case(
            bins,
            np.round(part).astype(np.int64),
            np.zeros(0),
            values.mean,
            missing.mean,
            drift.alarm,
            not drift.rows_needed,
        )
        for bins, part, values, missing in zip(
            profile.features,
            profile.split(expected_K),
            profile.dispersion,
            profile.missing_dispersion,
            strict=True,
        )
    }
    repeated = repeated_rows(_known(profile, window), _numeric_references(profile))
    if repeated and repeated[1].size >= LEAST_ROWS:  # the rest is told from the rows as they first came
        window = take(window, repeated[1])
    findings, cases = [], []
    for moved in _suspects(drift):
        if moved.name not in references:
            continue
        reference, column = references[moved.name], window.get(moved.name)
        if column is None or _mistyped(reference.bins, column):
            findings.append(_broken(moved, rows_of(window), column))
            continue
        rows = moved_rows(reference.bins.assign(column), reference.reference)
        case = replace(reference, column=_cut(column, rows))
        cases.append(case)
        findings.append(_finding(case, moved, rows, rows_of(window)))
    findings = _with_swaps(findings, swapped(cases))
    faults = [finding.sentence for finding in findings if finding.fault]
    faults = [repeated[0].sentence, *faults] if repeated else faults
    moves = [finding.sentence for finding in findings if not finding.fault]
    if losses is not None:
        effects = {name: (change, low, high) for name, change, low, high in losses.effects}
        findings = [replace(finding, effect=effects.get(finding.name)) for finding in findings]
    findings.sort(key=lambda finding: finding.fault is None)
    if faults:  # what a model makes of broken values is nobody's guess
        return Diagnosis("quality", (*faults, *moves), tuple(findings), losses)
    loss = () if losses is None else (_loss_sentence(losses, findings),)
    return Diagnosis(_harm(losses, findings), (*loss, *moves), tuple(findings), losses)


def _typed(profile: Profile, window: Columns) -> Columns:
    """Columns of the type that they had in the reference."""
    bins = {feature.name: feature for feature in profile.features}
    return {
        name: column
        for name, column in window.items()
        if name not in bins or not _mistyped(bins[name], column)
    }


def worth_a_look(drift: Drift) -> bool:
    """Whether a window may hold a fault: it alarmed, or a feature lies far from the reference, though it may wander that far by itself."""
    return drift.alarm or any(feature.nats >= FAR for feature in drift.features)


def _suspects(drift: Drift) -> list[FeatureDrift]:
    """Features that moved beyond chance, or far; if none did by itself, the first."""
    limit = SUSPECT / max(len(drift.features), 1)
    found = [feature for feature in drift.features if feature.p_value <= limit or feature.nats >= FAR]
    return found or list(drift.features[:1])


def _mistyped(bins: Bins, column: Column) -> bool:
    return isinstance(column, Categorical) == isinstance(bins, NumericBins)


def _broken(moved: FeatureDrift, rows: int, column: Column | None) -> FeatureFinding:
    if column is None:
        kind, text = (
            "missing",
            f"column {moved.name!r} is missing in 100% of the rows: the window has no such column",
        )
    else:
        now = "text" if isinstance(column, Categorical) else "numbers"
        kind, text = "type", f"column {moved.name!r} holds {now}; the reference did not"
    return FeatureFinding(moved.name, moved.share, moved.p_value, 0, rows, kind, text, moved.top_bins)


def _finding(case: Case, moved: FeatureDrift, rows: slice, window_rows: int) -> FeatureFinding:
    fault = _missing(case)
    if fault is None and isinstance(case.bins, NumericBins):
        fault = numeric_fault(case)
    elif fault is None and isinstance(case.bins, CategoricalBins) and (case.alarm or case.sound):
        fault = category_fault(case)
    sentence = moved_sentence(case) if fault is None else fault.sentence
    hint = _hint(case) if fault is None else None
    if hint is not None:
        sentence += f", {hint}"
    if rows.start:
        sentence += f" (since row {rows.start} of the window's {window_rows})"
    elif rows.stop < window_rows:
        sentence += f" (up to row {rows.stop} of the window's {window_rows})"
    kind = None if fault is None else fault.kind
    return FeatureFinding(
        moved.name,
        moved.share,
        moved.p_value,
        rows.start,
        rows.stop,
        kind,
        sentence,
        moved.top_bins,
        hint=hint,
    )


def _hint(case: Case) -> str | None:
    return unit_hint(Look.at(case)) if isinstance(case.bins, NumericBins) and case.finite.size else None


def _missing(case: Case) -> Fault | None:
    before, now = case.missing
    if now - before <= VANISHED:
        return None
    if not case.alarm and not (case.sound and len(case.column) / case.missing_effect >= ENOUGH):
        return None  # gaps come in bursts
    text = f"column {case.name!r} is missing in {percent(now)} of the rows (before: {percent(before)})"
    return Fault("missing", case.name, now, text)


def _with_swaps(findings: list[FeatureFinding], cycles: Sequence[tuple[str, ...]]) -> list[FeatureFinding]:
    holds = {name: cycle[(i + 1) % len(cycle)] for cycle in cycles for i, name in enumerate(cycle)}
    return [
        replace(
            finding,
            fault="swapped",
            sentence=f"column {finding.name!r} holds the values of {holds[finding.name]!r}: columns swapped?",
        )
        if finding.name in holds and finding.fault not in ("missing", "stuck")
        else finding
        for finding in findings
    ]


def _known(profile: Profile, window: Columns) -> dict[str, Column]:
    return {feature.name: window[feature.name] for feature in profile.features if feature.name in window}


def _numeric_references(profile: Profile) -> dict[str, Reference]:
    return {
        feature.name: Reference.of(feature, counts_K)
        for feature, counts_K in zip(profile.features, profile.split(profile.counts), strict=True)
        if isinstance(feature, NumericBins)
    }


def _cut(column: Column, rows: slice) -> Column:
    return take({"": column}, rows)[""]


def _harm(losses: LossEstimate | None, findings: Sequence[FeatureFinding]) -> Kind:
    """Say whether drift harms, by the mean loss of the window and by what the features that moved did to it.

    The interval of the mean has the luck of the window's rows in it, that of the effects has not. Effects are added with
    their intervals, as if their errors went together.
    """
    if losses is None or not np.isfinite([losses.low, losses.high, losses.base]).all():
        return "unclear"
    margin = MARGIN * losses.base
    effects = [finding.effect for finding in findings if finding.effect is not None]
    low, high = sum(effect[1] for effect in effects), sum(effect[2] for effect in effects)
    if losses.low > losses.base + margin or (effects and low > margin):
        return "harmful"
    hinted = any(
        finding.hint is not None for finding in findings
    )  # what broken values cost is nobody's guess
    if not hinted and (losses.high < losses.base + margin or (effects and high < margin)):
        return "harmless"
    return "unclear"


def _loss_sentence(losses: LossEstimate, findings: Sequence[FeatureFinding]) -> str:
    text = (
        f"the mean loss is estimated at {number(losses.mean)} ({number(losses.low)} to {number(losses.high)})"
        f" against {number(losses.base)} on the reference"
    )
    moved = {finding.name for finding in findings}
    sure = [
        (name, change)
        for name, change, low, high in losses.effects
        if name in moved and (low > 0 or high < 0)
    ]
    parts = [f"{change:+.3g} by {name!r}" for name, change in sure[:TOP]]
    return f"{text}, {', '.join(parts)}" if parts else text
