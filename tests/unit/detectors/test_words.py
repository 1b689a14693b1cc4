"""Words: what moved is told by what reads differently before and now."""

import numpy as np
import pytest

from detectors.columns import Columns
from detectors.detector import KLDetector
from detectors.diagnosis import diagnose

RNG = np.random.default_rng(0)


def told(reference: np.ndarray, window: np.ndarray) -> str:
    detector = KLDetector()
    profile = detector.profile({"x": reference})
    columns: Columns = {"x": window}
    drift = detector.compare(profile, profile.count(columns))
    assert drift.alarm
    return diagnose(profile, drift, columns).features[0].sentence


@pytest.mark.parametrize(
    ("reference", "window", "words"),
    [
        (RNG.normal(5, 1, 5000), RNG.normal(6, 1, 800), "the median went from 4.9"),
        (RNG.normal(1e8, 1, 5000), RNG.normal(1e8, 2, 800), "the spread went to 1.9"),
        (RNG.poisson(2, 5000).astype(float), RNG.poisson(2.3, 2000).astype(float), "the share of"),
    ],
)
def test_a_median_that_reads_the_same_is_not_told_as_moved(
    reference: np.ndarray, window: np.ndarray, words: str
) -> None:
    assert words in told(reference, window)
