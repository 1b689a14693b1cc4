"""Which panes the score detector is replayed on."""

import numpy as np

from cls.join import SERIES_OF_TESTS, _lately
from detectors.scores import ScoreDetector


def test_the_series_begins_anew_every_half_of_its_length_and_never_outgrows_it() -> None:
    panes = [(pane, 0.0) for pane in range(2500) if pane % 7]
    begins = []
    for stop in range(1, len(panes) + 1):
        found = _lately(panes[max(stop - 1000, 0) : stop], 1000)
        assert found[-1] == panes[stop - 1]
        assert len(found) >= min(stop, 500)
        assert len(found) <= 1000
        begins.append(found[0][0])
    assert set(begins) == {1, 500, 1000, 1500}
    assert begins == sorted(begins)


def test_a_rise_is_found_once_however_long_the_series_is_already() -> None:
    rng = np.random.default_rng(0)
    detector = ScoreDetector("kswin")
    seen = []
    for rise in (2110, 2150):
        loss = rng.normal(1, 0.1, rise + 25)
        loss[rise:] += 1
        panes = list(enumerate(loss.tolist()))
        alarms = 0
        for stop in range(rise + 1, rise + 26):
            series = _lately(panes[max(stop - 2000, 0) : stop], SERIES_OF_TESTS)
            alarms += detector.detect([value for _, value in series]).alarm
        seen.append(alarms)
    assert seen == [1, 1]
