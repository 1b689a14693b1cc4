"""Judge counts of predictions or labels against what a version's reference says of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from cls.detect import HISTORY
from cls.domain import Verdict
from detectors.detector import KLDetector
from detectors.loss import LossEstimate
from detectors.onset import onset
from detectors.profile import Profile

SUBJECTS = {"prediction": "the champion's predictions", "label": "labels"}


def judge_counts(
    subject: str,
    span: tuple[int, int, datetime, datetime],
    counts: NDArray[np.int64],
    reference: Profile,
    detector: KLDetector,
    history: Sequence[tuple[int, float]],
    losses: LossEstimate | None = None,
) -> Verdict:
    """Compare a window's counts with a reference.

    Parameters
    ----------
    subject
        "prediction" or "label": the verdict's detector.
    span
        First event position, one past the last, first and last event time.
    history
        (first position, nats) of earlier windows of the subject against the same reference, in order; they date the onset.
    losses
        What the window's mean loss was estimated to be.
    """
    start, stop, time_from, time_to = span
    drift = detector.compare(reference, counts)
    series = [*history[-HISTORY:], (start, drift.nats)]
    since = series[onset([nats for _, nats in series])][0] if drift.alarm else start
    summary = f"no drift of {SUBJECTS[subject]} beyond chance"
    if drift.alarm:
        summary = f"{SUBJECTS[subject]} moved by {drift.nats:.3f} nats since event {since}"
    return Verdict(
        subject,
        start,
        stop,
        time_from,
        time_to,
        drift.alarm,
        drift.p_value,
        drift.nats,
        None,
        since,
        drift,
        summary,
        losses,
    )
