"""Every registered monitor keeps the harness's contract; ours and river's find what they should and no more."""

from importlib.metadata import entry_points

import numpy as np
import pytest

from detectors.columns import Categorical, Columns, concat
from detectors.detector import KLDetector
from detectors.evaluation import KnownChange, blocks_of, evaluate
from detectors.monitors import MonitorMaker, Sequential, Sliding, Tumbling
from detectors.monitors_river import adwin
from detectors.streams import Recipe, reference_of, stream_of

MAKERS: dict[str, MonitorMaker] = {point.name: point.load() for point in entry_points(group="cls.monitors")}
MIXED = Recipe("mean", 3.0, numeric=2, categorical=1)
WINDOW_ROWS = 100

every_monitor = pytest.mark.parametrize("maker", [pytest.param(m, id=name) for name, m in MAKERS.items()])


def alarms(maker: MonitorMaker, stream: Columns, block_rows: int) -> list[int]:
    monitor = maker(reference_of(MIXED, 1000, 1), window_rows=WINDOW_ROWS)
    found, rows = [], 0
    for block in blocks_of(stream, block_rows):
        found += [rows + row for row in monitor.update(block)]
        rows += block_rows
    return found


def test_ours_rivers_and_the_baselines_are_registered() -> None:
    assert {
        "kl",
        "kl-sliding",
        "sequential",
        "adwin",
        "page-hinkley",
        "kswin",
        "hddm-a",
        "hddm-w",
        "always",
        "never",
    } <= MAKERS.keys()


@every_monitor
def test_alarms_do_not_depend_on_how_the_stream_is_cut(maker: MonitorMaker) -> None:
    stream = stream_of(MIXED, 600, 2, onset=300)
    assert alarms(maker, stream, 600) == alarms(maker, stream, 7)


@every_monitor
def test_what_is_missing_unseen_or_gone_neither_breaks_nor_blinds(maker: MonitorMaker) -> None:
    broken: Columns = {
        "x0": np.resize([np.nan, np.inf, -np.inf], 50),
        "c0": Categorical.of([None, "new"] * 25),
    }
    monitor = maker(reference_of(MIXED, 1000, 1), window_rows=WINDOW_ROWS)
    assert all(0 <= row < 50 for row in monitor.update(broken))
    assert list(monitor.update({})) == []
    monitor.update(stream_of(MIXED, 500, 3, onset=None))
    if maker is not MAKERS["never"]:
        assert monitor.update(stream_of(MIXED, 1000, 4, onset=0)), "three standard deviations"


@pytest.mark.parametrize("maker", [Tumbling, Sliding, Sequential, adwin])
def test_a_shift_is_found_soon_and_only_after_it_came(maker: MonitorMaker) -> None:
    recipe = Recipe("mean", 2.0, numeric=3)
    found = evaluate(
        lambda reference: maker(reference, window_rows=200),
        reference_of(recipe, 2000, 5),
        stream_of(recipe, 4000, 6, onset=2000),
        [KnownChange(2000)],
    )
    assert found.false_alarms == 0
    assert found.mean_delay_rows is not None
    assert found.mean_delay_rows <= 200


def test_tumbling_windows_alarm_as_often_as_the_detector_was_asked_to() -> None:
    recipe = Recipe(numeric=3)
    found = sum(
        evaluate(
            lambda reference: Tumbling(
                reference, window_rows=100, detector=KLDetector(false_alarm_windows=20)
            ),
            reference_of(recipe, 2000, seed),
            stream_of(recipe, 10_000, 1000 + seed, onset=None),
            [],
        ).alarms
        for seed in range(20)
    )
    assert 60 <= found <= 145  # of 2,000 windows, 100 expected


def test_a_renamed_category_moves_rivers_monitors_too() -> None:
    recipe = Recipe("category", 1.0, numeric=1, categorical=2)
    reference = reference_of(recipe, 2000, 7)
    stream = concat([stream_of(recipe, 1000, 8, onset=None), stream_of(recipe, 1000, 9, onset=0)])
    found = evaluate(adwin, reference, stream, [KnownChange(1000)])
    assert (found.false_alarms, found.missed) == (0, 0)
