"""Detect: windows and score panes to verdicts. Distance is not decision: nats are for reading, the calibrated p-value decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from math import log2

from cls.config import DetectConfig
from cls.domain import Champion, Verdict, Window
from cls.season import COLUMNS
from detectors.detector import Drift, KLDetector
from detectors.onset import onset
from detectors.overlap import looks_of
from detectors.profile import Profile
from detectors.scores import ScoreDetector

MONTH = timedelta(days=30)
GRID = 4  # budgets of time per doubling
HISTORY = 50  # windows that the search for the onset looks back over


def kl_detector(settings: DetectConfig, span: timedelta | None = None) -> KLDetector:
    """Return the configured detector, with its share of the budget.

    Parameters
    ----------
    span
        Stream time that the window to be judged covers, if the budget is one of time: each window may spend its part of the month.
    """
    windows = float(settings.false_alarm_windows)
    if settings.false_alarms_per_month is not None and span is not None:
        windows = MONTH / max(span, timedelta(seconds=1)) / settings.false_alarms_per_month
        windows = max(
            2 ** (round(GRID * log2(windows)) / GRID), 2.0
        )  # a level that is asked for again is known already
    return KLDetector(
        settings.bins,
        settings.categories,
        windows * settings.watches,
        settings.nats,
        settings.tolerance,
    )


def input_detector(
    settings: DetectConfig, span: timedelta | None = None, reference: Profile | None = None
) -> KLDetector:
    """Return the detector of inputs: these may have seasons, pairs, and windows that overlap.

    Parameters
    ----------
    span
        See `kl_detector`.
    reference
        Against which windows that overlap are judged: they share the level of one that does not by how many independent looks they are worth.
    """
    detector = kl_detector(settings, span)
    if reference is not None and settings.slide_rows is not None:
        rate = 1 / detector.false_alarm_windows
        looks = looks_of(reference, settings.window_rows, settings.slide_rows, rate)
        detector = replace(detector, false_alarm_windows=detector.false_alarm_windows * looks)
    return replace(detector, season=COLUMNS.get(settings.season), pairs=settings.pairs)


def judge_window(
    window: Window,
    reference: Profile,
    baseline: Profile,
    settings: DetectConfig,
    history: Sequence[tuple[int, float]],
) -> Verdict:
    """Compare a closed window with the champion's reference and, for the record, with the stream's first one.

    Parameters
    ----------
    history
        (first position, nats) of earlier windows against the same reference, in order; they date the onset.
    """
    detector = input_detector(settings, window.time_to - window.time_from, reference)
    drift = detector.compare(reference, window.counts)
    cumulative = detector.compare(baseline, window.baseline_counts)
    series = [*history[-HISTORY:], (window.start, drift.nats)]
    since = series[onset([nats for _, nats in series])][0] if drift.alarm else window.start
    return Verdict(
        "kl",
        window.start,
        window.stop,
        window.time_from,
        window.time_to,
        drift.alarm,
        drift.p_value,
        drift.nats,
        cumulative.nats,
        since,
        drift,
        _sentence(drift, since),
    )


def judge_scores(
    panes: Sequence[tuple[int, float]], champion: Champion, settings: DetectConfig, now: datetime
) -> Verdict | None:
    """Say whether the champion's error has risen.

    Parameters
    ----------
    panes
        (pane number, mean loss) of the covered panes since the promotion, in order.
    now
        Stream time.

    Returns
    -------
    A verdict on the last pane if it completes the evidence of a rise, else None.
    """
    if settings.score_method == "none" or not panes:
        return None
    detector = ScoreDetector(settings.score_method, settings.score_delta)
    change = detector.detect([loss for _, loss in panes])
    if not change.alarm or change.onset is None:
        return None
    size = settings.score_pane_rows
    start = champion.since + panes[-1][0] * size
    return Verdict(
        "score",
        start,
        start + size,
        now,
        now,
        alarm=True,
        p_value=None,
        nats=None,
        baseline_nats=None,
        onset=champion.since + panes[change.onset][0] * size,
        drift=None,
        summary=f"the champion's error rose from {change.before:.4g} to {change.after:.4g}",
    )


def _sentence(drift: Drift, since: int) -> str:
    if not drift.alarm:
        if drift.rows_needed:
            return f"no drift beyond chance, as far as {drift.reference_rows} reference rows tell: it takes {drift.rows_needed}"
        return "no drift beyond chance"
    moved = [f"{f.name} ({f.share:.0%})" for f in drift.features[:3] if f.share > 0]
    return f"{', '.join(moved)} moved by {drift.nats:.3f} nats in all since event {since}"
