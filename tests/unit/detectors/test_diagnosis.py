"""Diagnosis: a broken column is a fault with its name, a moved one is drift, and harm is what the loss's interval says."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import lfilter

from detectors.columns import Categorical, Column, Columns, concat, take
from detectors.detector import KLDetector
from detectors.diagnosis import CHANCY, Diagnosis, diagnose, worth_a_look
from detectors.loss import LossEstimate
from detectors.profile import Profile

Numbers = NDArray[np.float64]
Change = Callable[[Column], Column]

DETECTOR = KLDetector()


def columns(rng: np.random.Generator, rows: int) -> dict[str, Column]:
    cities = rng.choice(["Paris", "London", "Rome", "Oslo"], rows, p=[0.4, 0.3, 0.2, 0.1])
    return {
        "distance": rng.lognormal(3, 0.4, rows),
        "price": np.round(rng.lognormal(2, 1, rows), 2),
        "temperature": rng.normal(15, 8, rows),
        "score": rng.normal(0, 1, rows),
        "age": rng.integers(18, 80, rows).astype(float),
        "visits": rng.poisson(3, rows).astype(float),
        "rain": np.where(rng.random(rows) < 0.7, 0.0, rng.exponential(3, rows)),
        "city": Categorical.of(cities.tolist()),
        "plan": Categorical.of(rng.choice(["a", "b"], rows, p=[0.8, 0.2]).tolist()),
    }


RNG = np.random.default_rng(20)
PROFILE = DETECTOR.profile(columns(RNG, 20_000))
CLEAN = columns(RNG, 3000)


def look(window: Columns, losses: LossEstimate | None = None, profile: Profile = PROFILE) -> Diagnosis:
    return diagnose(profile, DETECTOR.compare(profile, profile.count(window)), window, losses)


def with_column(name: str, change: Callable[[Numbers], Numbers], window: Columns = CLEAN) -> Columns:
    column = window[name]
    assert not isinstance(column, Categorical)
    return {**window, name: change(column)}


def with_cities(change: Callable[[str], str], window: Columns = CLEAN) -> Columns:
    column = window["city"]
    assert isinstance(column, Categorical)
    return {**window, "city": Categorical.of([change(column.vocabulary[code]) for code in column.codes])}


def some(share: float, change: Callable[[Numbers], Numbers | float]) -> Callable[[Numbers], Numbers]:
    return lambda x: np.where(np.random.default_rng(1).random(x.size) < share, change(x), x)


FAULTS: list[tuple[str, str, Callable[[Numbers], Numbers], str]] = [
    ("temperature", "stuck", lambda x: np.full_like(x, 3.25), "is 3.25 in 100%"),
    ("age", "stuck", lambda x: np.full_like(x, 40), "is 40 in 100%"),
    ("temperature", "missing", some(0.5, lambda x: np.nan), "of the rows (before: 0%)"),
    ("distance", "rescaled", lambda x: 1000 * x, "1000 times what it was"),
    ("distance", "rescaled", lambda x: x / 60, "1/60 of what it was"),
    ("distance", "rescaled", lambda x: 1.609344 * x, "1.609 times what it was: miles to kilometres"),
    ("age", "rescaled", lambda x: 2.54 * x, "inches to centimetres"),
    ("distance", "rescaled", lambda x: 17 * x, "times what it was"),
    ("temperature", "units", lambda x: 1.8 * x + 32, "Celsius to Fahrenheit"),
    ("temperature", "units", lambda x: x + 273.15, "is what it was +273.15: Celsius to kelvin"),
    ("price", "flipped", lambda x: -x, "changed its sign"),
    ("distance", "partly converted", some(0.3, lambda x: 1000 * x), "1000 times what it was in 3"),
    ("price", "partly converted", some(0.3, lambda x: -x), "-1 times what it was in 3"),
    ("score", "rounded", np.round, "multiples of 1"),
    ("price", "rounded", np.floor, "multiples of 1"),
    ("distance", "clipped", lambda x: np.minimum(x, 30), "cut off at 30"),
    ("age", "clipped", lambda x: np.maximum(x, 30), "cut off at 30"),
    ("temperature", "placeholder", some(0.08, lambda x: -999), "exactly -999 in 8"),
    ("temperature", "filled", some(0.15, lambda x: 15.02), "exactly 15.02"),
    ("distance", "filled", some(0.1, lambda x: 0), "exactly 0"),
    ("age", "filled", some(0.1, lambda x: -1), "exactly -1"),
]


@pytest.mark.parametrize(("name", "kind", "change", "words"), FAULTS)
def test_a_broken_number_is_a_fault_with_its_name(
    name: str, kind: str, change: Callable[[Numbers], Numbers], words: str
) -> None:
    found = look(with_column(name, change))
    assert (found.kind, found.features[0].name, found.features[0].fault) == ("quality", name, kind)
    assert words in found.summary
    assert repr(name) in str(found.fault)
    assert found.evident == (kind not in CHANCY)


CATEGORIES: list[tuple[str, Callable[[str], str], str]] = [
    ("renamed", lambda city: {"London": "Londinium"}.get(city, city), "'London' is now 'Londinium'"),
    ("spelt anew", str.upper, "'Paris' is now 'PARIS'"),
    ("spelt anew", lambda city: {"Rome": " rome"}.get(city, city), "'Rome' is now ' rome'"),
    ("renamed", lambda city: str(len(city) * 7 + ord(city[0])), "'Paris' is now '115'"),
    ("stuck", lambda _: "Oslo", "'Oslo' in 100% of the rows (before: 10%)"),
    ("filled", lambda city: {"Rome": "N/A"}.get(city, city), "'N/A'"),
]


@pytest.mark.parametrize(("kind", "change", "words"), CATEGORIES)
def test_a_broken_category_is_a_fault_with_its_name(
    kind: str, change: Callable[[str], str], words: str
) -> None:
    found = look(with_cities(change))
    assert (found.kind, found.features[0].name, found.features[0].fault) == ("quality", "city", kind)
    assert words in found.summary


DRIFTS: list[tuple[str, Callable[[Numbers], Numbers]]] = [
    *[("score", lambda x, d=d: x + d) for d in (-2.0, -1.0, -0.5, 0.5, 1.0, 2.0, 4.0)],
    *[("temperature", lambda x, d=d: x + d) for d in (-16.0, 8.0, 16.0, 32.0)],
    *[("score", lambda x, s=s: x * s) for s in (1.5**0.5, 0.7, 2.0)],
    *[("price", lambda x, s=s: np.round(x * s, 2)) for s in (0.8, 1.15, 1.2, 1.4)],
    ("age", lambda x: x + 10),
    ("visits", lambda x: np.random.default_rng(0).poisson(1.5, x.size).astype(float)),
    ("rain", some(0.3, lambda x: 0)),
    ("temperature", some(0.3, lambda x: np.nan)),
    ("score", some(0.5, lambda x: x + 3)),
]


@pytest.mark.parametrize(("name", "change"), DRIFTS)
def test_what_the_world_does_to_a_number_stays_drift(name: str, change: Callable[[Numbers], Numbers]) -> None:
    found = look(with_column(name, change))
    assert found.kind == "unclear"
    assert found.fault is None
    assert [finding.name for finding in found.features] == [name]
    assert repr(name) in found.evidence[0]


def test_a_new_category_beside_the_old_ones_and_one_that_goes_are_drift() -> None:
    rng = np.random.default_rng(3)
    new = look(with_cities(lambda city: "Madrid" if rng.random() < 0.25 else city))
    gone = look(with_cities(lambda city: "Paris" if city == "Oslo" else city))
    popular = look(with_cities(lambda city: "Rome" if rng.random() < 0.3 else city))
    assert [found.kind for found in (new, gone, popular)] == ["unclear"] * 3
    assert new.evidence[0] == "'city': the share of 'unseen' rose from 0% to 26%"


def test_a_window_of_the_reference_shows_no_fault_whoever_is_suspected() -> None:
    rng = np.random.default_rng(4)
    suspects = 0
    for _ in range(40):
        window = columns(rng, 700)
        drift = DETECTOR.compare(PROFILE, PROFILE.count(window))
        for feature in drift.features:  # each one as if it had moved
            alone = type(drift)(**{**vars(drift), "features": (feature,)})
            assert diagnose(PROFILE, alone, window).kind == "unclear", feature.name
            suspects += 1
    assert suspects == 360


def test_columns_that_changed_places_are_told_from_two_that_moved() -> None:
    swapped = {**CLEAN, "distance": CLEAN["temperature"], "temperature": CLEAN["distance"]}
    found = look(swapped)
    assert {finding.name: finding.fault for finding in found.features} == {
        "distance": "swapped",
        "temperature": "swapped",
    }
    assert "column 'distance' holds the values of 'temperature'" in found.summary
    copied = look({**CLEAN, "distance": CLEAN["temperature"]})  # nobody took its place: no exchange
    assert [finding.fault for finding in copied.features] != ["swapped"]


def test_repeated_rows_are_seen_where_the_reference_did_not_repeat_itself() -> None:
    found = look(take(CLEAN, np.repeat(np.arange(300), 10)))
    assert found.kind == "quality"
    assert "90% of the rows repeat another row" in found.evidence[0]
    broken = take(with_column("distance", lambda x: 60 * x), np.repeat(np.arange(300), 10))
    assert {finding.fault for finding in look(broken).features} == {"rescaled", None}
    ages = with_column("age", lambda x: x + 10, {"age": CLEAN["age"]})  # ages repeat by nature
    assert look(ages, profile=DETECTOR.profile({"age": CLEAN["age"]})).kind == "unclear"


def test_a_fault_that_begins_or_ends_within_the_window_is_found_in_its_rows() -> None:
    broken = with_column("distance", lambda x: 1.609344 * x)
    begun = look(concat([take(CLEAN, slice(0, 1200)), take(broken, slice(1200, 3000))]))
    ended = look(concat([take(broken, slice(0, 1800)), take(CLEAN, slice(1800, 3000))]))
    assert [found.features[0].fault for found in (begun, ended)] == ["rescaled"] * 2
    assert abs(begun.features[0].start - 1200) < 150
    assert abs(ended.features[0].stop - 1800) < 150
    assert f"since row {begun.features[0].start} of the window's 3000" in begun.summary


def test_a_column_that_changes_slowly_is_not_stuck() -> None:
    rng = np.random.default_rng(5)
    months = np.repeat(rng.integers(1, 13, 200), 500).astype(float)
    profile = DETECTOR.profile({"month": months, "x": rng.normal(size=months.size)})
    window: Columns = {"month": np.full(500, 3.0), "x": rng.normal(1, 1, 500)}
    found = look(window, profile=profile)
    assert {finding.name: finding.fault for finding in found.features} == {"month": None, "x": None}


SLOW: list[tuple[Callable[[Numbers], Numbers], float, int]] = [
    (np.exp, 0.95, 200),
    (lambda z: np.exp(1.5 * z), 0.95, 100),
    (np.exp, 0.97, 500),
    (np.square, 0.95, 100),
]


def slow(
    rng: np.random.Generator, rows: int, shape: Callable[[Numbers], Numbers], memory: float
) -> dict[str, Column]:
    noise = rng.normal(size=(rows + 500, 10))
    values = shape(lfilter([np.sqrt(1 - memory**2)], [1, -memory], noise, axis=0)[500:])
    return {f"x{i}": values[:, i].copy() for i in range(10)}


@pytest.mark.parametrize(("shape", "memory", "rows"), SLOW)
def test_the_lows_and_highs_of_slow_columns_are_no_faults(
    shape: Callable[[Numbers], Numbers], memory: float, rows: int
) -> None:
    """Faults that show by themselves are outside the budget of false alarms, so there must be none to speak of."""
    rng, detector = np.random.default_rng(1), KLDetector(false_alarm_windows=1000)
    faults = looks = 0
    for _ in range(2):
        profile = detector.profile(slow(rng, 10_000, shape, memory))
        later = slow(rng, 100 * rows, shape, memory)
        for first in range(0, 100 * rows, rows):
            window = take(later, slice(first, first + rows))
            drift = detector.compare(profile, profile.count(window))
            if worth_a_look(drift):
                looks += 1
                faults += diagnose(profile, drift, window).evident
    assert looks >= 10
    assert faults == 0


@pytest.mark.parametrize(("factor", "told"), [(1000.0, True), (0.001, True), (12.0, False)])
def test_a_slow_column_without_an_alarm_is_rescaled_only_by_what_no_low_or_high_reaches(
    factor: float, told: bool
) -> None:
    rng = np.random.default_rng(6)
    profile = DETECTOR.profile(slow(rng, 40_000, np.exp, 0.95))
    window = slow(rng, 400, np.exp, 0.95)
    window["x3"] = factor * np.asarray(window["x3"])
    drift = DETECTOR.compare(profile, profile.count(window))
    quiet = replace(drift, alarm=False)
    assert diagnose(profile, quiet, window).evident == told
    assert not diagnose(profile, replace(quiet, rows_needed=99_999), window).evident
    found = diagnose(profile, drift, window)
    assert drift.alarm
    assert (found.features[0].name, found.features[0].fault) == ("x3", "rescaled")


def test_gaps_that_come_in_bursts_are_no_fault_without_an_alarm() -> None:
    rng = np.random.default_rng(7)
    gone_N = np.repeat(rng.random(100) < 0.1, 200)
    x = rng.normal(size=gone_N.size)
    profile = DETECTOR.profile({"x": np.where(gone_N, np.nan, x)})
    window: Columns = {"x": np.where(np.arange(300) < 200, np.nan, x[:300])}
    drift = DETECTOR.compare(profile, profile.count(window))
    assert not drift.alarm
    assert worth_a_look(drift)
    assert not diagnose(profile, replace(drift, rows_needed=0), window).evident


@pytest.mark.parametrize(("factor", "times"), [(1.609344, "1."), (1 / 2.54, "1/2.")])
def test_growth_that_may_be_other_units_is_not_called_harmless(factor: float, times: str) -> None:
    rng = np.random.default_rng(8)
    profile = DETECTOR.profile({"wide": rng.lognormal(3, 1, 20_000)})
    cheap = LossEstimate(1.0, 0.99, 1.01, 1.0, (("wide", 0.0, -0.01, 0.01),))
    grown = look({"wide": factor * rng.lognormal(3, 1, 150)}, cheap, profile)
    assert (grown.kind, grown.fault) == ("unclear", None)
    assert f"about {times}" in grown.summary
    assert "what it was: growth, or other units?" in grown.summary
    assert Diagnosis.from_json(grown.to_json()) == grown
    clear = look({"wide": 1.42 * rng.lognormal(3, 1, 20_000)}, cheap, profile)  # the factor of no units
    assert (clear.kind, clear.features[0].hint) == ("harmless", None)
    harmful = LossEstimate(2.0, 1.9, 2.1, 1.0, ())
    assert look({"wide": factor * rng.lognormal(3, 1, 150)}, harmful, profile).kind == "harmful"


def test_a_column_that_is_gone_or_of_another_type_is_a_fault() -> None:
    window = {name: column for name, column in CLEAN.items() if name != "score"}
    drift = DETECTOR.compare(PROFILE, PROFILE.count(window))
    assert diagnose(PROFILE, drift, window).features[0].fault == "missing"
    text = {**window, "score": Categorical.of(["high"] * 3000)}
    found = diagnose(PROFILE, drift, text)
    assert found.features[0].fault == "type"
    assert found.evidence[0] == "column 'score' holds text; the reference did not"


@pytest.mark.parametrize(
    ("interval", "effect", "kind"),
    [
        ((1.2, 1.4), (-0.1, 0.7), "harmful"),  # whatever did it
        ((0.9, 1.4), (0.1, 0.5), "harmful"),  # the feature that moved did it
        ((0.9, 1.02), (-0.1, 0.7), "harmless"),
        ((0.9, 1.4), (-0.02, 0.03), "harmless"),  # the rest is the luck of the window's rows
        ((0.9, 1.4), (-0.1, 0.7), "unclear"),
    ],
)
def test_drift_harms_if_the_interval_of_the_loss_or_of_the_effect_says_so(
    interval: tuple[float, float], effect: tuple[float, float], kind: str
) -> None:
    known = ("score", 0.3, *effect)
    losses = LossEstimate(1.1, *interval, 1.0, (known, ("age", 0.5, 0.4, 0.6)))
    found = look(with_column("score", lambda x: x + 1), losses)
    assert found.kind == kind
    assert found.features[0].effect == known[1:]
    assert ("+0.3 by 'score'" in found.evidence[0]) == (effect[0] > 0)
    assert "age" not in found.evidence[0]  # it did not move
    assert look(with_column("score", np.round), losses).kind == "quality"  # whatever it costs


def test_a_diagnosis_survives_its_document() -> None:
    losses = LossEstimate(1.0, 0.9, 1.1, 1.0, (("score", 0.3, 0.2, 0.4),))
    for found in (look(with_column("score", np.round)), look(with_column("score", lambda x: x + 1), losses)):
        assert Diagnosis.from_json(found.to_json()) == found
