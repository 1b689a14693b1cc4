"""Credits: keys count for the arm that they belong to, once, whoever answered."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from cls.credits import EMPTY, Credits, credits_of
from cls.domain import Rollout, RolloutState
from cls.serving.routing import SLOTS, in_canary, place

NOW = datetime(2013, 1, 1, tzinfo=UTC)
CANARY = Rollout(7, "s", 5, 4, RolloutState.CANARY, False, NOW, NOW, 0, 0.0, 0.0, 0.0, None, share=0.25)


def bits(bitmap: bytes) -> int:
    return int.from_bytes(bitmap, "little").bit_count()


def answered(keys: list[str], share: float = 0.25) -> np.ndarray:
    return np.array([5 if in_canary(7, key, share) else 4 for key in keys])


def counted(*gains: Credits) -> tuple[int, int]:
    champion, canary = EMPTY, EMPTY
    for gain in gains:
        champion, canary = gain.added(champion, canary)
    return bits(champion), bits(canary)


def test_each_key_counts_once_for_its_arm() -> None:
    keys = [f"k{i}" for i in range(400)]
    gain = credits_of(CANARY, keys, np.zeros(400), answered(keys))
    champion, canary = counted(gain)
    slots = {place(7, key)[1] for key in keys}
    assert champion + canary == len(slots)
    assert canary == pytest.approx(100, abs=30)
    assert gain.misrouted == 0
    assert counted(gain, gain) == (champion, canary)
    again = credits_of(CANARY, keys * 3, np.zeros(1200), answered(keys * 3))
    assert counted(again) == (champion, canary)


def test_halves_add_up_to_the_whole_in_either_order() -> None:
    keys = [f"k{i}" for i in range(300)]
    whole = credits_of(CANARY, keys, np.zeros(300), answered(keys))
    parts = [credits_of(CANARY, part, np.zeros(150), answered(part)) for part in (keys[:150], keys[150:])]
    assert counted(*parts) == counted(whole)


def test_rows_without_a_prediction_or_of_another_version_count_for_nobody() -> None:
    keys = ["a", "b", "c"]
    gain = credits_of(CANARY, keys, np.array([np.nan, 1.0, np.nan]), np.array([5, 3, 4]))
    assert counted(gain) == (0, 0)
    assert gain.misrouted == 0


def test_rows_of_a_replica_that_lags_are_misrouted_and_count_for_the_arm_of_their_key() -> None:
    keys = [f"k{i}" for i in range(400)]
    late = answered(keys, share=0.05)  # the step before
    gain = credits_of(CANARY, keys, np.zeros(400), late)
    assert gain.misrouted == sum(in_canary(7, key, 0.25) and not in_canary(7, key, 0.05) for key in keys) > 0
    assert counted(gain) == counted(credits_of(CANARY, keys, np.zeros(400), answered(keys)))


def test_slots_that_run_out_keep_the_share() -> None:
    keys = [f"k{i}" for i in range(3 * SLOTS)]
    gain = credits_of(replace(CANARY, share=0.05), keys, np.zeros(len(keys)), answered(keys, 0.05))
    champion, canary = counted(gain)
    assert champion + canary > 0.9 * SLOTS
    assert canary / (champion + canary) == pytest.approx(0.05, abs=0.004)
