"""Guardrails and health: what sends a version back without labels, within one budget, and what does not."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from cls.arms import BEFORE, LATENCY_US, Served, count_outputs
from cls.config import RolloutConfig
from cls.domain import Rollout, RolloutState
from cls.guardrails import KINDS, Allocation, Guardrail, guardrails, slow_batches, slow_threshold, stages_of
from cls.health import Finding, judge
from detectors.anytime import Paired, excess
from detectors.evidence import rate_evidence

AT = datetime(2013, 1, 1, tzinfo=UTC)
SETTINGS = RolloutConfig()
UNLABELLED = RolloutConfig(evidence="guardrails")
OLD, NEW = 1, 2
SHADOW = Rollout(1, "s", NEW, OLD, RolloutState.SHADOW, False, AT, AT, 0, 0.0, 0.0, 0.0, None, slow_us=4525)
CANARY = replace(SHADOW, state=RolloutState.CANARY, share=0.05)
WATCHING = replace(SHADOW, state=RolloutState.WATCHING)
KEYS = Allocation()


def sums(
    rows: int, *, errors: int = 0, nonfinite: int = 0, slow: int = 0, centre: float = 16.0, seed: int = 0
) -> Served:
    """Return the sums of requests of one row each: a millisecond, or twenty if slow."""
    random = np.random.default_rng(seed)
    latency = np.zeros(len(LATENCY_US) + 1, np.int64)
    latency[np.searchsorted(LATENCY_US, 1000)] = rows - slow
    latency[np.searchsorted(LATENCY_US, 20_000)] = slow
    bins = np.clip(random.normal(centre, 3, rows), 0, 31).astype(int)
    return Served(rows, rows, errors, nonfinite, latency, np.bincount(bins, minlength=32))


def found(
    rollout: Rollout, served: dict[tuple[str, int], Served], keys: Allocation = KEYS
) -> dict[str, Guardrail]:
    return {guard.name: guard for guard in guardrails(rollout, served, keys, SETTINGS)}


def breached(rollout: Rollout, served: dict[tuple[str, int], Served], keys: Allocation = KEYS) -> list[str]:
    return [name for name, guard in found(rollout, served, keys).items() if guard.breached]


def beside(stage: str, mine: Served, theirs: Served) -> dict[tuple[str, int], Served]:
    return {(stage, NEW): mine, (stage, OLD): theirs}


def test_each_stage_has_its_guardrails() -> None:
    assert set(found(SHADOW, beside("shadow", sums(500), sums(500)))) == {"errors", "nonfinite", "drift"}
    canary = found(CANARY, beside("canary-0", sums(50), sums(950)))
    assert set(canary) == {"errors", "nonfinite", "slow", "drift", "allocation"}
    assert len(canary) == KINDS
    watched = {("champion", NEW): sums(1000), (BEFORE, OLD): sums(10_000)}
    assert set(found(WATCHING, watched)) == {"errors", "nonfinite", "slow"}
    assert found(replace(CANARY, state=RolloutState.WAITING), {}) == {}
    assert found(replace(WATCHING, parent=None), watched) == {}


def test_a_version_like_the_champion_breaches_nothing() -> None:
    assert breached(SHADOW, beside("shadow", sums(5000, errors=5), sums(5000, errors=5, seed=1))) == []
    keys = Allocation(950, 50)
    served = beside("canary-0", sums(500, errors=1, slow=2), sums(9500, errors=9, slow=40, seed=1))
    assert breached(CANARY, served, keys) == []
    watched = {
        ("champion", NEW): sums(5000, errors=5, slow=20),
        (BEFORE, OLD): sums(50_000, errors=50, slow=200),
    }
    assert breached(WATCHING, watched) == []


@pytest.mark.parametrize(
    ("fault", "name"), [({"errors": 6}, "errors"), ({"nonfinite": 6}, "nonfinite"), ({"slow": 10}, "slow")]
)
def test_a_few_faults_of_a_small_canary_beside_a_flawless_champion(fault: dict[str, int], name: str) -> None:
    assert breached(CANARY, beside("canary-0", sums(50, **fault), sums(950))) == [name]
    assert breached(CANARY, beside("canary-0", sums(50), sums(950, **fault))) == []


def test_a_version_that_cannot_even_be_loaded_has_no_rows_but_errors() -> None:
    served = beside("canary-0", Served(errors=6, batches=6), sums(1000))
    assert breached(CANARY, served) == ["errors"]
    assert breached(SHADOW, beside("shadow", Served(errors=40, batches=40), sums(1000))) == ["errors"]
    assert breached(CANARY, beside("canary-0", Served(errors=3, batches=3), sums(1000))) == ["errors"]
    assert breached(CANARY, beside("canary-0", Served(errors=5, batches=5), sums(100))) == ["errors"]
    # Nobody asks: the champion was loaded each time, too.
    for mine in (Served(errors=30, batches=30), Served(errors=100_000)):
        assert breached(CANARY, {("canary-0", NEW): mine}) == ["errors"]
        assert breached(SHADOW, {("shadow", NEW): mine}) == ["errors"]
    assert breached(CANARY, {("canary-0", NEW): Served(errors=5, batches=5)}) == []
    # Batches of a hundred rows that a shadow answers by what is no number.
    silent = Served(300, 3, 0, 300), Served(300, 3)
    assert breached(SHADOW, beside("shadow", *silent)) == ["nonfinite"]


@pytest.mark.parametrize("groups", [5, 20])
def test_few_heavy_keys_in_a_canary_are_no_drift_of_equal_versions(groups: int) -> None:
    # Which keys a canary answers says where their predictions lie; so both versions are counted on the same rows.
    random = np.random.default_rng(0)
    canary = replace(CANARY, share=0.25)
    for _ in range(50):
        centre = random.normal(0, 1, groups)
        value = centre[random.integers(0, groups, 5000)] + random.normal(0, 0.3, (2, 5000))
        mine, theirs, moved = (
            Served(outputs=count_outputs(one, 0, 1, 32, classes=False)) for one in (*value, value[0] + 1)
        )
        assert breached(canary, beside("canary-0", mine, theirs)) == []
        assert breached(canary, beside("canary-0", moved, theirs)) == ["drift"]


def test_what_befalls_both_is_no_fault_of_the_version() -> None:
    assert breached(SHADOW, beside("shadow", sums(500, errors=100), sums(500, errors=100))) == []
    assert breached(CANARY, beside("canary-0", sums(500, slow=250), sums(9500, slow=4750))) == []


def test_errors_are_compared_per_row_and_per_batch() -> None:
    # The canary's batches hold one row, the champion's twenty; every fifth batch fails, whatever it holds.
    one = Served(500, 500, 100)
    twenty = Served(9500, 475, 95)
    assert breached(CANARY, beside("canary-0", one, twenty)) == []
    # Every two hundredth row is poison to both.
    assert breached(CANARY, beside("canary-0", Served(500, 500, 3), Served(9500, 475, 47))) == []


def test_evidence_goes_on_from_stage_to_stage() -> None:
    almost = beside("canary-0", sums(200, errors=3), sums(3800))
    assert breached(replace(CANARY, slow_us=None), almost) == []
    later = replace(CANARY, step=1, share=0.25)
    more = beside("canary-1", sums(200, errors=5), sums(600))
    assert breached(later, more) == []
    both = found(later, almost | more)["errors"]
    assert both.breached
    assert both.said == "8 errors in 400 batches, the champion's 0 in 4400"
    # A flawless shadow excuses nothing.
    flawless = beside("shadow", sums(100_000), sums(100_000))
    served = beside("canary-0", sums(50, errors=6), sums(950))
    assert breached(CANARY, flawless | served) == ["errors"]


def test_a_predecessor_s_rates_count_at_the_upper_end_of_what_its_rows_leave_open() -> None:
    new = sums(1000, nonfinite=10)
    assert breached(WATCHING, {("champion", NEW): new, (BEFORE, OLD): sums(50_000)}) == ["nonfinite"]
    assert breached(WATCHING, {("champion", NEW): new, (BEFORE, OLD): sums(100)}) == []  # too few to say
    assert breached(WATCHING, {("champion", NEW): new}) == []
    assert breached(WATCHING, {("champion", NEW): new, (BEFORE, OLD): sums(50_000, nonfinite=500)}) == []
    # In its shadow it answered nobody: what it did there says nothing about the watch.
    served = {
        ("champion", NEW): new,
        (BEFORE, OLD): sums(50_000),
        ("shadow", OLD): sums(50_000, nonfinite=500),
        ("asked", OLD): Served(rows=50_000),
    }
    assert "nonfinite" in breached(WATCHING, served)
    assert found(WATCHING, served)["nonfinite"].figures["other"] == [0, 50_000]
    light = replace(WATCHING, light=True, slow_us=None)
    assert breached(light, {("champion", NEW): new, (BEFORE, OLD): sums(50_000)}) == ["nonfinite"]


def test_predictions_must_be_evidently_and_far_apart() -> None:
    far = beside("shadow", sums(500, centre=20), sums(500, seed=1))
    assert breached(SHADOW, far) == ["drift"]
    barely = beside("shadow", sums(50_000, centre=16.5), sums(50_000, seed=1))
    drift = found(SHADOW, barely)["drift"]
    assert drift.evidence > drift.needed
    assert not drift.breached
    few = beside("shadow", sums(4, centre=20), sums(4, seed=1))
    assert breached(SHADOW, few) == []


def test_keys_that_do_not_come_back_in_their_shares() -> None:
    served = beside("canary-0", sums(50), sums(1950, seed=1))
    assert breached(CANARY, served, Allocation(1950, 50)) == ["allocation"]
    guard = found(CANARY, served, Allocation(1900, 100, misrouted=30))["allocation"]
    assert not guard.breached
    assert guard.figures == {"canary": 100, "champion": 1900, "misrouted": 30}


def test_a_threshold_needs_batches_and_lies_a_margin_beyond_p99() -> None:
    random = np.random.default_rng(0)
    took = 1000 * np.exp(0.5 * random.normal(size=20_000))
    latency = np.bincount(np.searchsorted(LATENCY_US, took), minlength=len(LATENCY_US) + 1)
    one = Served(latency=latency)
    found = slow_threshold({(BEFORE, OLD): one}, OLD, 0.5)
    assert found is not None
    assert found == pytest.approx(1.5 * np.quantile(took, 0.99), rel=0.12)
    assert slow_batches(latency, found) == (took > found).sum()  # an edge of the bins: exact
    assert slow_threshold({("champion", OLD): one}, OLD, 0.5) == found
    assert slow_threshold({("shadow", OLD): one, (BEFORE, 7): one}, OLD, 0.5) is None
    few = Served(latency=latency // 200)
    assert slow_threshold({(BEFORE, OLD): few}, OLD, 0.5) is None
    overflow = np.zeros(len(LATENCY_US) + 1, np.int64)
    overflow[-1] = 500
    assert slow_threshold({(BEFORE, OLD): Served(latency=overflow)}, OLD, 0.5) == LATENCY_US[-1]


def test_a_stage_has_its_weight_of_the_evidence() -> None:
    served = beside("shadow", Served(1000, 100, 0, 12), Served(1000, 100))
    one = rate_evidence(12, 0, 1000, 1000, SETTINGS.error_ratio)
    assert found(SHADOW, served)["nonfinite"].evidence == pytest.approx(one - math.log(4))
    # Stages in which nothing happened multiply by one: a sum of four equal products, each with a quarter's weight.
    watched = {("champion", NEW): Served(1000, 1000, 0, 12), (BEFORE, OLD): Served(50_000, 50_000)}
    alone = found(replace(WATCHING, light=True), watched)["nonfinite"].evidence
    assert found(WATCHING, watched)["nonfinite"].evidence == pytest.approx(alone)


def test_labels_have_half_of_the_budget_and_each_of_two_comparisons_half_of_that() -> None:
    def alarms(rollout: Rollout, alpha: float) -> bool:
        """Whether differences that just reach the bound at `alpha` send it back, and a little less does not."""
        tuning = SETTINGS.watch_rows if rollout.state == RolloutState.WATCHING else SETTINGS.shadow_rows

        def judged(total: float) -> bool:
            one = replace(rollout, paired_n=1000, paired_total=total, paired_squares=1000.0, base_loss=1000.0)
            return judge(one, {}, KEYS, settings).finding == Finding.WORSE

        settings = RolloutConfig(watch_margin=0.0)
        edge = -1000 * excess(Paired(1000, 0.0, 1000.0), alpha, tuning)
        return judged(edge + 0.01) and not judged(edge - 0.01)

    assert alarms(SHADOW, SETTINGS.false_alarm / 4)
    assert alarms(CANARY, SETTINGS.false_alarm / 4)
    assert alarms(WATCHING, SETTINGS.false_alarm / 4)
    assert alarms(replace(WATCHING, light=True), SETTINGS.false_alarm / 2)  # one comparison only


def test_the_parts_of_the_budget_add_up() -> None:
    stages = stages_of(CANARY, SETTINGS)
    assert stages == 4
    assert stages_of(replace(CANARY, light=True), SETTINGS) == 1
    guard = found(CANARY, beside("canary-0", sums(50), sums(950)))
    alpha = SETTINGS.false_alarm / 2 / KINDS
    assert guard["allocation"].needed == pytest.approx(math.log(stages / alpha))  # one weight of `stages`
    assert guard["errors"].needed == pytest.approx(
        -math.log(0.8 * alpha)
    )  # a fifth for the predecessor's bound


def test_equal_versions_seldom_breach_a_guardrail_looking_often() -> None:
    # At the edge of what counts as as good, with a budget of 40%: half of it is the guardrails', a fifth of that each one's.
    settings = RolloutConfig(false_alarm=0.4, error_ratio=1.0)
    random = np.random.default_rng(3)
    alarms = 0
    for _ in range(100):
        served: dict[tuple[str, int], Served] = {(BEFORE, OLD): Served(10_000, 10_000, 0, 200)}
        over = False
        for stage, share, looks in (("shadow", 0.5, 5), ("canary-0", 0.05, 20), ("canary-1", 0.25, 8)):
            step = int(stage[-1]) if stage != "shadow" else 0
            state = RolloutState.SHADOW if stage == "shadow" else RolloutState.CANARY
            for _ in range(looks):
                mine = 100 if stage == "shadow" else int(random.binomial(200, share))
                for version, rows in ((NEW, mine), (OLD, 100 if stage == "shadow" else 200 - mine)):
                    gain = Served(rows, rows, 0, int(random.binomial(rows, 0.02)))
                    served[stage, version] = served.get((stage, version), Served()) + gain
                guards = guardrails(
                    replace(SHADOW, state=state, step=step, share=share), served, KEYS, settings
                )
                over |= any(guard.breached for guard in guards if guard.name == "nonfinite")
        alarms += over
    assert alarms / 100 <= 0.4 / 2 / KINDS


def test_a_breach_comes_first_and_names_the_numbers() -> None:
    served = beside("canary-0", sums(50, errors=6), sums(950))
    health = judge(CANARY, served, Allocation(950, 50), SETTINGS)
    assert health.finding == Finding.WORSE
    assert health.reason == "guardrail errors: 6 errors in 50 batches, the champion's 0 in 950"
    assert health.answered == 1000
    assert health.measures["errors"]["breached"] is True


def test_measures_are_json_whatever_is_known() -> None:
    for rollout in (SHADOW, CANARY, WATCHING, replace(WATCHING, parent=None)):
        for served in ({}, beside("canary-0", sums(50), sums(950))):
            health = judge(rollout, served, KEYS, SETTINGS)
            assert json.loads(json.dumps(health.measures, allow_nan=False)) == health.measures


@pytest.mark.parametrize(
    ("rollout", "stage", "wanted"),
    [(SHADOW, "shadow", 500), (CANARY, "canary-0", 200), (WATCHING, "champion", 1000)],
)
def test_guardrails_alone_let_a_version_go_on_after_enough_rows_of_its_own(
    rollout: Rollout, stage: str, wanted: int
) -> None:
    def finding(rows: int, settings: RolloutConfig) -> Finding:
        served = beside(stage, sums(rows), sums(20_000, seed=1))
        if rollout.state == RolloutState.WATCHING:
            served = {(stage, NEW): sums(rows), (BEFORE, OLD): sums(20_000)}
        return judge(rollout, served, KEYS, settings).finding

    assert finding(wanted - 1, UNLABELLED) == Finding.UNDECIDED
    assert finding(wanted, UNLABELLED) == Finding.NOT_WORSE
    assert finding(wanted, SETTINGS) == Finding.UNDECIDED  # labels promote, and there are none


def test_labels_that_come_after_all_count_against_a_version_that_guardrails_would_let_go() -> None:
    worse = replace(SHADOW, paired_n=1000, paired_total=300.0, paired_squares=1000.0, base_loss=1000.0)
    served = beside("shadow", sums(1000), sums(1000, seed=1))
    health = judge(worse, served, KEYS, UNLABELLED)
    assert health.finding == Finding.WORSE
    assert health.reason.startswith("worse than the champion on 1000 rows (loss at least +")


def test_a_shadow_is_answered_by_the_champion_alone() -> None:
    served = beside("shadow", sums(500), sums(500)) | {("champion", OLD): sums(300)}
    assert judge(SHADOW, served, KEYS, SETTINGS).answered == 300
    assert judge(SHADOW, served | {("asked", OLD): Served(rows=400)}, KEYS, SETTINGS).answered == 400
    assert judge(SHADOW, beside("shadow", sums(500), sums(500)), KEYS, SETTINGS).answered == 0
