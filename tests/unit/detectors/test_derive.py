"""Derived columns: fixed for ever, each row by itself, and a change of the raw column shows in them."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.columns import Categorical, Columns
from detectors.derivation import KINDS, Derivation
from detectors.derive import (
    BUCKETS,
    NO_TIME,
    derive_boolean,
    derive_embedding,
    derive_text,
    derive_timestamp,
    directions,
)
from detectors.detector import KLDetector

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST, LAST = (datetime(year, 1, 1, tzinfo=UTC).replace(tzinfo=None) for year in (1700, 8999))
TEXT = Derivation("text", "t")


def strings(column: object) -> list[str | None]:
    assert isinstance(column, Categorical)
    return [None if code < 0 else column.vocabulary[code] for code in column.codes]


def numbers(column: object) -> list[float]:
    assert isinstance(column, np.ndarray)
    return list(column.tolist())


def test_the_declared_names_are_those_that_are_derived() -> None:
    columns = {
        "boolean": derive_boolean(Derivation("boolean", "n"), [True]),
        "timestamp": derive_timestamp(Derivation("timestamp", "n"), np.zeros(1, np.int64)),
        "text": derive_text(Derivation("text", "n"), ["a"]),
        "embedding": derive_embedding(Derivation("embedding", "n", 5), np.zeros((1, 5))),
    }
    for kind in KINDS:
        declared = Derivation(kind, "n", 5)
        found = columns[kind]
        assert tuple(found) == declared.names
        assert (
            tuple(n for n, column in found.items() if isinstance(column, Categorical)) == declared.categorical
        )
    assert len(set().union(*columns.values())) == sum(map(len, columns.values()))


def test_booleans_are_two_categories_and_missing() -> None:
    found = derive_boolean(Derivation("boolean", "b"), [True, None, False])
    assert strings(found["b"]) == ["true", None, "false"]


@given(
    st.lists(
        st.datetimes(FIRST, LAST, timezones=st.just(UTC)) | st.none(),
        min_size=1,
    )
)
def test_hour_and_weekday_are_those_of_the_calendar_in_utc(times: list[datetime | None]) -> None:
    time_us = [NO_TIME if t is None else (t - EPOCH) // timedelta(microseconds=1) for t in times]
    found = derive_timestamp(Derivation("timestamp", "at"), np.array(time_us, np.int64))
    assert strings(found["at.hour"]) == [None if t is None else f"{t:%H}" for t in times]
    assert strings(found["at.weekday"]) == [None if t is None else f"{t:%a}" for t in times]


def test_statistics_of_a_text_by_hand() -> None:
    texts = ["The cat, the CAT: no. 12!", "", "?!", None, "naïve Größe"]
    found = derive_text(TEXT, texts)
    assert numbers(found["t.length"]) == pytest.approx([25, 0, 2, np.nan, 11], nan_ok=True)
    assert numbers(found["t.words"]) == pytest.approx([6, 0, 0, np.nan, 2], nan_ok=True)
    assert numbers(found["t.variety"]) == pytest.approx([4 / 6, np.nan, np.nan, np.nan, 1], nan_ok=True)
    assert numbers(found["t.digits"]) == pytest.approx([2 / 25, np.nan, 0, np.nan, 0], nan_ok=True)
    words = strings(found["t.word"])
    assert words[1:4] == ["none", "none", None]
    assert words[0] == strings(derive_text(TEXT, ["THE"])["t.word"])[0]  # the first of the longest


def test_buckets_of_words_never_change() -> None:
    found = derive_text(TEXT, ["flight delayed", "Fußball", "123 456", "日本語"])
    assert strings(found["t.word"]) == ["word 23", "word 14", "none", "word 05"]


@given(st.lists(st.text(max_size=30), min_size=2, max_size=8), st.data())
def test_a_text_is_derived_by_itself_and_always_finite_or_missing(
    texts: list[str], data: st.DataObject
) -> None:
    whole = derive_text(TEXT, texts)
    row = data.draw(st.integers(0, len(texts) - 1))
    alone = derive_text(TEXT, [texts[row]])
    for name in TEXT.numeric:
        assert numbers(alone[name]) == pytest.approx([numbers(whole[name])[row]], nan_ok=True)
        assert not np.isinf(numbers(whole[name])).any()
    assert strings(alone["t.word"]) == [strings(whole["t.word"])[row]]


def sentences(rng: np.random.Generator, words: list[str], rows: int) -> list[str]:
    """Sentences in which eight of ten words say nothing about the topic."""
    small = ["the", "a", "of", "to", "is", "in", "it", "was"]
    return [" ".join([*rng.choice(small, 8), *rng.choice(words, 2, replace=False)]) for _ in range(rows)]


def test_a_change_of_topic_shows_in_the_word_though_size_and_make_up_stay() -> None:
    rng = np.random.default_rng(0)
    sport = ["striker", "stadium", "referee", "penalty", "manager", "transfer", "defender", "champion"]
    money = ["revenue", "invoice", "lenders", "mergers", "dollars", "interest", "exchange", "stockist"]
    detector = KLDetector()

    def columns(words: list[str], rows: int) -> Columns:
        return derive_text(TEXT, sentences(rng, words, rows))

    profile = detector.profile(columns(sport, 10_000))
    same = detector.compare(profile, profile.count(columns(sport, 500)))
    assert not same.alarm
    moved = detector.compare(profile, profile.count(columns(sport[:-2] + money[-2:], 500)))
    assert moved.alarm
    assert moved.features[0].name == "t.word"
    assert moved.features[0].share > 0.9
    assert detector.top == BUCKETS  # each bucket has a bin of its own by default


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 384])
def test_directions_are_orthonormal(length: int) -> None:
    q_Dk = directions(length)
    assert q_Dk.shape == (length, min(length, 8))
    assert q_Dk.T @ q_Dk == pytest.approx(np.eye(min(length, 8)), abs=1e-12)


def test_directions_never_change() -> None:
    """Known answers: another numpy or LAPACK must give the same, or stored references would see drift."""
    known = [-0.9879877840655458, -0.10187885656338541, -0.1161931027324325]
    assert directions(3)[0] == pytest.approx(known, abs=1e-9)
    assert np.sum(directions(384)) == pytest.approx(2.555060926533664, abs=1e-9)


@given(st.integers(1, 20), st.integers(0, 99))
def test_projection_keeps_the_norm_where_it_keeps_all_directions_and_never_exceeds_it(
    length: int, seed: int
) -> None:
    column = Derivation("embedding", "v", length)
    vectors_ND = np.random.default_rng(seed).normal(size=(5, length))
    found = derive_embedding(column, vectors_ND)
    norm = numbers(found["v.norm"])
    assert norm == pytest.approx(np.linalg.norm(vectors_ND, axis=1))
    along = np.sqrt(sum(np.asarray(found[name]) ** 2 for name in column.names[:-1]))
    assert (along <= np.array(norm) * (1 + 1e-12)).all()
    if length <= 8:
        assert along == pytest.approx(norm)


def test_a_missing_vector_is_missing_in_every_column_and_a_wrong_length_is_refused() -> None:
    column = Derivation("embedding", "v", 10)
    vectors_ND = np.ones((3, 10))
    vectors_ND[1] = np.nan
    for derived in derive_embedding(column, vectors_ND).values():
        assert np.isnan(numbers(derived)).tolist() == [False, True, False]
    with pytest.raises(ValueError, match="length 10"):
        derive_embedding(column, np.ones((3, 9)))
    with pytest.raises(ValueError, match="needs a length"):
        Derivation("embedding", "v")
