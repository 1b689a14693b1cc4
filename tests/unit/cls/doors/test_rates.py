"""Rates: in any span no more than burst and rate together allow, whoever else asks, in bounded memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cls.doors.rates import Rates


@given(st.floats(0.5, 50.0), st.lists(st.floats(0.0, 1.0), max_size=300))
def test_no_span_of_time_has_more_than_burst_and_rate_allow(rate: float, pauses: list[float]) -> None:
    rates, now, passed = Rates(rate), 0.0, []
    for pause in pauses:
        now += pause
        if rates.wait("a", now) == 0.0:
            passed.append(now)
    for i, start in enumerate(passed):
        for j in range(i, len(passed)):
            assert j - i + 1 <= max(1.0, rate) + (passed[j] - start) * rate + 1e-6


@pytest.mark.parametrize("rate", [0.25, 3.0])
def test_who_waits_as_told_is_let_in(rate: float) -> None:
    rates, now = Rates(rate), 0.0
    for _ in range(20):
        wait = rates.wait("a", now)
        if wait:
            now += wait + 1e-9
            assert rates.wait("a", now) == 0.0


def test_one_sender_does_not_use_up_what_another_has() -> None:
    rates = Rates(2.0)
    assert [rates.wait("a", 0.0) == 0.0 for _ in range(4)] == [True, True, False, False]
    assert rates.wait("b", 0.0) == 0.0


def test_very_many_senders_take_bounded_memory_and_the_busy_one_stays_known() -> None:
    rates = Rates(1.0, senders=100)
    rates.wait("busy", 0.0)
    for number in range(20_000):
        rates.wait(f"sender {number}", 0.0)
        assert rates.wait("busy", 0.0) > 0.0
    assert len(rates) == 100
