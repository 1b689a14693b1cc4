"""Decide: a table of situations and what follows, and what must hold in every situation."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cls.config import StreamConfig
from cls.decide import HARM, OVERHEAD, PRIORITY, Request, Situation, decide
from cls.domain import Decision, Defer, Episode, EpisodeState, Skip, Update

NOW = datetime(2013, 6, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
POLICY: dict[str, Any] = {
    "min_rows": 100,
    "cooldown": timedelta(hours=6),
    "bootstrap_rows": 500,
    "budget_device_seconds_per_day": 24.0,
    "redeploy_margin": 0.1,
}


def stream(light: bool = True, priority: str = "normal", **policy: Any) -> StreamConfig:
    return StreamConfig.model_validate(
        {
            "task": "regression",
            "priority": priority,
            "schema": {"numeric": ("x",), "key": "id", "event_time": "at", "target": "y"},
            "update": POLICY | policy,
            "rollout": {"light": light},
        }
    )


def episode(
    detector: str = "kl", losses: dict[int, float] | None = None, state: EpisodeState = EpisodeState.OPEN
) -> Episode:
    assessment = None if losses is None else {"losses": {str(v): loss for v, loss in losses.items()}}
    return Episode(7, "s", state, detector, 900, NOW - HOUR, 3, assessment)


QUIET = Situation(
    now=NOW,
    champion=2,
    expected_loss=10.0,
    labels=2000,
    new_labels=400,
    tried_labels=1600,
    labels_per_day=0.0,
    drifted_labels=300,
    drifted_events=1000,
    last_update=NOW - timedelta(days=2),
    on_its_way=False,
    assessing=False,
    allowance=50.0,
    fixed_price=1.0,
    label_price=0.01,  # times 400 labels, and the fixed price: 5 device-seconds
    episode=None,
)
EARLY = replace(QUIET, champion=None, tried_labels=0)
HARMFUL = replace(QUIET, episode=episode(losses={1: 30.0, 2: 20.0}))
HARMLESS = replace(QUIET, episode=episode(losses={1: 30.0, 2: 10.0}))
MANUAL = Request("manual")


@pytest.mark.parametrize(
    ("situation", "policy", "expected", "reason"),
    [
        (QUIET, {}, Skip, "no drift"),
        (replace(HARMFUL, on_its_way=True), {}, Defer, "on its way"),
        (replace(EARLY, labels=0), {}, Defer, "no labels yet"),
        (replace(EARLY, labels=499), {}, Defer, "waits for 500"),
        (replace(EARLY, labels=500), {}, Update, "first model"),
        (replace(EARLY, labels=1, request=MANUAL), {}, Update, "first model"),
        (replace(EARLY, labels=0, request=MANUAL), {}, Defer, "no labels yet"),
        (replace(EARLY, labels=500), {"cadence": "never"}, Update, "first model"),
        (replace(HARMFUL, undiagnosed=True), {}, Defer, "waits for a window"),
        (replace(HARMLESS, undiagnosed=True), {"cadence": "never"}, Defer, "waits for a window"),
        (
            replace(HARMLESS, undiagnosed=True, fault="x broke"),
            {"cadence": "never"},
            Skip,
            "a fault of the data",
        ),
        (replace(QUIET, episode=episode(), drifted_labels=99), {}, Defer, "waits for 100 labels"),
        (replace(QUIET, episode=episode()), {}, Defer, "being assessed"),
        (
            replace(QUIET, episode=episode(losses={1: 5.0})),
            {},
            Defer,
            "being assessed",
        ),  # of an older champion
        (HARMLESS, {}, Skip, "harmless"),
        (replace(HARMLESS, episode=episode("score", {1: 30.0, 2: 10.0})), {}, Update, "harmful"),
        (replace(HARMLESS, expected_loss=None), {}, Update, "harmful"),
        (replace(QUIET, episode=episode(losses={1: 99.0, 2: 10.0 * HARM})), {}, Skip, "harmless"),
        (HARMFUL, {}, Update, "harmful"),
        (replace(HARMFUL, fault="column 'x' is missing"), {}, Skip, "fault of the data"),
        (replace(HARMFUL, fault="column 'x' is missing", drifted_labels=0), {}, Skip, "fault of the data"),
        (replace(HARMFUL, last_update=NOW - 5 * HOUR), {}, Defer, "cool-down"),
        (replace(HARMFUL, last_update=NOW - 6 * HOUR), {}, Update, "harmful"),
        (replace(HARMFUL, last_update=None), {}, Update, "harmful"),
        (replace(HARMFUL, allowance=4.9), {}, Defer, "budget"),
        (replace(HARMFUL, allowance=5.0), {}, Update, "harmful"),
        (replace(HARMFUL, allowance=-1.0, fixed_price=0.0, label_price=0.0), {}, Defer, "budget"),
        (replace(HARMFUL, allowance=0.1, fixed_price=0.0, label_price=0.0), {}, Update, "harmful"),
        (replace(QUIET, episode=episode(losses={1: 10.0, 2: 20.0})), {}, Update, "version 1 fits"),
        (replace(QUIET, episode=episode(losses={1: 18.1, 2: 20.0})), {}, Update, "harmful"),
        (replace(HARMFUL, episode=replace(episode(), state=EpisodeState.DECIDED)), {}, Skip, "no drift"),
        (QUIET, {"cadence": "every", "every_rows": 401}, Skip, "not due"),
        (QUIET, {"cadence": "every", "every_rows": 400}, Update, "fixed cadence"),
        (QUIET, {"cadence": "every", "every": timedelta(days=2)}, Update, "fixed cadence"),
        (QUIET, {"cadence": "every", "every": timedelta(days=3)}, Skip, "not due"),
        (replace(QUIET, new_labels=0), {"cadence": "every", "every": timedelta(days=2)}, Skip, "not due"),
        (replace(QUIET, last_update=None), {"cadence": "every", "every": timedelta(days=9)}, Update, "fixed"),
        (replace(QUIET, allowance=0.0), {"cadence": "every", "every_rows": 1}, Defer, "budget"),
        (QUIET, {"cadence": "continuous"}, Update, "new labels"),
        (replace(QUIET, tried_labels=1901), {"cadence": "continuous"}, Skip, "not due"),
        (replace(QUIET, last_update=NOW), {"cadence": "continuous"}, Defer, "cool-down"),
        (replace(QUIET, allowance=0.0), {"cadence": "continuous"}, Defer, "budget"),
        (HARMFUL, {"cadence": "never"}, Skip, "never updates"),
        (replace(HARMFUL, drifted_events=999), {"cadence": "never"}, Defer, "waits for 1000 rows"),
        (replace(QUIET, drifted_events=0), {"cadence": "never"}, Skip, "never updates"),
        (replace(HARMLESS, drifted_events=999), {}, Defer, "waits for 1000 rows"),
        (replace(HARMFUL, drifted_events=999), {}, Update, "harmful"),
        (replace(QUIET, request=MANUAL), {"cadence": "never"}, Update, "operator"),
        (replace(HARMFUL, request=MANUAL, fault="f"), {}, Update, "operator"),
        (replace(QUIET, request=MANUAL, allowance=-9.0, last_update=NOW), {}, Update, "operator"),
        (replace(QUIET, request=MANUAL, on_its_way=True), {}, Defer, "on its way"),
        (
            replace(QUIET, request=MANUAL, on_its_way=True, shadow=3),
            {},
            Defer,
            "version 3 is in the shadow of the champion; `cls models promote` with 3 ends that",
        ),
        (replace(QUIET, request=MANUAL, new_labels=0), {}, Skip, "nothing new"),
        (replace(QUIET, request=Request("manual", full=True), new_labels=0), {}, Update, "operator"),
        (replace(QUIET, request=Request("schedule")), {}, Update, "scheduled"),
        (replace(QUIET, request=Request("schedule"), allowance=0.0), {}, Defer, "budget"),
        (replace(QUIET, request=Request("schedule"), new_labels=0), {}, Skip, "nothing new"),
    ],
)
def test_what_follows_from_a_situation(
    situation: Situation, policy: dict[str, Any], expected: type[Decision], reason: str
) -> None:
    decision = decide(situation, stream(**policy))
    assert type(decision) is expected
    assert reason in decision.reason


def test_only_harmless_drift_moves_the_reference() -> None:
    assert decide(HARMLESS, stream()) == Skip(
        "harmless drift: the champion's loss has not suffered", rebase=True
    )
    for situation in (QUIET, replace(HARMFUL, fault="f"), replace(QUIET, request=MANUAL, new_labels=0)):
        decision = decide(situation, stream())
        assert isinstance(decision, Skip)
        assert not decision.rebase


def test_a_fault_of_the_data_never_becomes_the_reference() -> None:
    decision = decide(replace(HARMFUL, fault="column 'x' is missing"), stream(cadence="never"))
    assert isinstance(decision, Skip)
    assert not decision.rebase


def test_an_assessment_is_asked_for_once() -> None:
    wanting = replace(QUIET, episode=episode())
    assert decide(wanting, stream()) == Defer("drift; its harm is being assessed", assess=True)
    assert decide(replace(wanting, assessing=True), stream()) == Defer("drift; its harm is being assessed")


def test_redeployment_names_the_best_version_ties_going_to_the_oldest() -> None:
    decision = decide(replace(QUIET, episode=episode(losses={1: 9.0, 2: 20.0, 3: 8.0, 4: 8.0})), stream())
    assert isinstance(decision, Update)
    assert (decision.strategy, decision.redeploy_version, decision.light) == ("redeploy", 3, True)


def test_an_update_carries_recipe_priority_and_weight() -> None:
    for name, priority in PRIORITY.items():
        decision = decide(HARMFUL, stream(priority=name))
        assert isinstance(decision, Update)
        assert (decision.strategy, decision.priority, decision.light) == ("ewc+replay", priority, True)
    heavy = decide(HARMFUL, stream(light=False))
    fresh = decide(HARMFUL, stream(recipe="retrain"))
    asked = decide(replace(QUIET, request=Request("manual", "retrain")), stream())
    first = decide(EARLY, stream())
    assert isinstance(heavy, Update)
    assert not heavy.light
    for decision in (fresh, asked, first):  # from all labels, and never to champion unwatched
        assert isinstance(decision, Update)
        assert decision.full
        assert not decision.light


def test_a_deferral_says_until_when_and_by_then_it_is_over() -> None:
    cooling = decide(replace(HARMFUL, last_update=NOW - HOUR), stream())
    assert isinstance(cooling, Defer)
    assert cooling.until == NOW + 5 * HOUR
    spent = decide(replace(HARMFUL, allowance=-1.0), stream())
    assert isinstance(spent, Defer)
    assert spent.until == NOW + 6 * HOUR  # 6 device-seconds short at 24 a day
    assert isinstance(decide(replace(HARMFUL, now=spent.until, allowance=-1.0 + 6.0), stream()), Update)


CADENCES: list[dict[str, Any]] = [
    {"cadence": "drift"},
    {"cadence": "every", "every_rows": 50},
    {"cadence": "every", "every": timedelta(hours=2)},
    {"cadence": "continuous"},
    {"cadence": "never"},
]
losses = st.dictionaries(st.integers(1, 4), st.floats(0.1, 100), min_size=1)
episodes = st.none() | st.builds(
    episode, st.sampled_from(["kl", "score"]), st.none() | losses, st.sampled_from(EpisodeState)
)
requests = st.none() | st.builds(
    Request, st.sampled_from(["manual", "schedule"]), st.none() | st.just("replay"), st.booleans()
)
situations = st.builds(
    Situation,
    now=st.just(NOW),
    champion=st.none() | st.integers(1, 4),
    expected_loss=st.none() | st.floats(0.1, 100),
    labels=st.integers(0, 5000),
    new_labels=st.integers(0, 2000),
    drifted_labels=st.integers(0, 500),
    drifted_events=st.integers(0, 2000),
    last_update=st.none() | st.integers(0, 20).map(lambda h: NOW - h * HOUR),
    on_its_way=st.booleans(),
    assessing=st.booleans(),
    allowance=st.floats(-50, 200),
    fixed_price=st.just(0.0) | st.floats(0, 5),
    label_price=st.just(0.0) | st.floats(0, 0.1),
    episode=episodes,
    fault=st.none() | st.just("column 'x' is missing"),
    request=requests,
    tried_labels=st.integers(0, 5000),
    labels_per_day=st.just(0.0) | st.floats(1, 5000),
)


@given(situations, st.sampled_from(CADENCES))
def test_never_a_second_update_while_one_is_on_its_way(situation: Situation, policy: dict[str, Any]) -> None:
    decision = decide(replace(situation, on_its_way=True), stream(**policy))
    assert type(decision) is Defer
    assert not decision.assess


@given(situations, st.sampled_from(CADENCES))
def test_the_policy_never_overdraws_the_budget_or_the_cool_down(
    situation: Situation, policy: dict[str, Any]
) -> None:
    decision = decide(replace(situation, request=None, on_its_way=False, champion=2), stream(**policy))
    if not isinstance(decision, Update) or decision.strategy == "redeploy":  # for that see below
        return
    full = 24.0 * stream().update.budget_burst_days
    fixed, learning = (
        min(situation.fixed_price, full / OVERHEAD),
        min(situation.label_price * situation.new_labels, full),
    )
    assert situation.allowance >= min(fixed + learning * decision.effort, full) * (1 - 1e-9)
    assert 0.2 <= decision.effort <= 3
    assert situation.last_update is None or NOW - situation.last_update >= timedelta(hours=6)


BUSY = replace(QUIET, allowance=20.0, fixed_price=1.0, label_price=0.01, labels_per_day=1200.0)


def continuous(**changes: Any) -> Decision:
    return decide(replace(BUSY, **changes), stream(cadence="continuous"))


def test_a_label_gets_the_same_attention_at_whatever_hour_it_came() -> None:
    # 1,200 labels a day and 24 device-seconds: 0.02 a label. After 400: 8 earned, 1 of them fixed, 7 buy 1.75 times the recipe's epochs.
    decision = continuous()
    assert isinstance(decision, Update)
    assert decision.effort == pytest.approx(1.75)
    assert continuous(last_update=NOW - 9 * HOUR) == decision == continuous(allowance=100.0)


def test_an_update_waits_until_its_fixed_price_is_a_small_part_of_what_was_earned() -> None:
    assert isinstance(continuous(tried_labels=2000 - 149), Skip)  # 2.98 earned, 3 times the fixed price is 3
    assert isinstance(continuous(tried_labels=2000 - 151), Update)
    assert isinstance(continuous(tried_labels=2000 - 151, fixed_price=1.1), Skip)
    assert isinstance(continuous(tried_labels=2000 - 151, labels_per_day=1300.0), Skip)


def test_a_rejected_update_is_not_paid_for_twice() -> None:
    again = continuous(new_labels=800)  # 400 that were offered before, and 400 new ones
    assert isinstance(again, Update)
    assert again.effort == pytest.approx(7 / 8)


def test_what_is_in_the_bucket_bounds_the_effort() -> None:
    poor = continuous(allowance=3.0)
    assert isinstance(poor, Update)
    assert poor.effort == pytest.approx(0.5)
    broke = continuous(allowance=1.7)
    assert isinstance(broke, Defer)
    assert broke.until == NOW + timedelta(days=0.1 / 24)


def alike(kind: str, distance: float, **known: Any) -> Episode:
    """An episode whose assessment tells how like earlier regimes the new one is."""
    similarity = {"kind": kind, "distance": distance, "version": known.get("version")}
    losses, accepted = known.get("losses", {1: 30.0, 2: 20.0}), known.get("accepted", {1: 10.0, 2: 10.0})
    assessment = {
        "losses": {str(version): loss for version, loss in losses.items()},
        "accepted": {str(version): loss for version, loss in accepted.items()},
        "similarity": similarity,
        "effort": 4 ** (distance - 0.5),
    }
    return Episode(7, "s", EpisodeState.OPEN, "kl", 900, NOW - HOUR, 3, assessment)


@pytest.mark.parametrize(
    ("known", "reason", "redeploy", "base"),
    [
        (alike("near", 0.2), "near what the champion knows", None, None),
        (alike("far", 0.8), "far from what the champion knows", None, None),
        (alike("recurring", 0.2, version=1, losses={1: 12.0, 2: 20.0}), "version 1 knows most", None, 1),
        (alike("recurring", 0.0, version=1, losses={1: 10.4, 2: 20.0}), "version 1 fits", 1, None),
        (
            alike("far", 0.8, losses={1: 12.0, 2: 20.0}, accepted={2: 10.0}),
            "version 1 fits",  # nobody knows what it lost when it was accepted
            1,
            None,
        ),
        (alike("far", 0.9, losses={1: 17.0, 2: 20.0}), "far from", None, None),  # less bad is no fit
    ],
)
def test_a_recipe_that_adapts_goes_by_likeness(
    known: Episode, reason: str, redeploy: int | None, base: int | None
) -> None:
    situation = replace(QUIET, episode=known)
    for policy in ({"recipe": "auto"}, {"overrides": {"adapt": True}}):
        decision = decide(situation, stream(**policy))
        assert isinstance(decision, Update)
        assert reason in decision.reason
        assert (decision.redeploy_version, decision.base) == (redeploy, base)
    assert situation.to_json()["assessment"]["similarity"] == known.assessment["similarity"]  # type: ignore[index]


@pytest.mark.parametrize(
    "policy",
    [{}, {"recipe": "auto", "overrides": {"adapt": False}}, {"recipe": "auto", "overrides": {"fresh": True}}],
)
def test_other_recipes_go_on_as_if_likeness_were_not_known(policy: dict[str, Any]) -> None:
    better = replace(QUIET, episode=alike("recurring", 0.2, version=1, losses={1: 12.0, 2: 20.0}))
    decision = decide(better, stream(**policy))
    assert isinstance(decision, Update)
    assert (decision.redeploy_version, decision.base) == (1, None)
    far = decide(replace(QUIET, episode=alike("far", 0.8)), stream(**policy))
    assert far == decide(HARMFUL, stream(**policy))


def test_more_effort_must_be_affordable_and_less_is_sooner() -> None:
    # a fixed price of 1 and 0.01 for each of 400 labels: 5 device-seconds, 9 with twice the epochs, 3 with half of them
    for distance, price in ((0.0, 3.0), (0.5, 5.0), (1.0, 9.0)):
        kind = "near" if distance < 0.5 else "far"
        situation = replace(QUIET, episode=alike(kind, distance), allowance=price)
        assert isinstance(decide(situation, stream(recipe="auto")), Update)
        assert isinstance(decide(replace(situation, allowance=price - 0.1), stream(recipe="auto")), Defer)


@pytest.mark.parametrize("change", [{"last_update": NOW}, {"allowance": -1.0}], ids=["cool-down", "budget"])
def test_a_redeployment_waits_like_any_other_update(change: dict[str, Any]) -> None:
    situation = replace(QUIET, episode=episode(losses={1: 10.0, 2: 20.0}))
    assert isinstance(decide(situation, stream()), Update)
    assert isinstance(decide(replace(situation, **change), stream()), Defer)


@pytest.mark.parametrize("policy", CADENCES[:4])
def test_a_full_budget_lets_an_update_through_however_much_has_gathered(policy: dict[str, Any]) -> None:
    full = 24.0 * stream().update.budget_burst_days
    gathered = replace(
        HARMFUL, new_labels=50_000, allowance=full
    )  # 501 device-seconds at the last price, 168 in the bucket
    assert isinstance(decide(gathered, stream(**policy)), Update)


@given(situations, st.sampled_from(CADENCES))
def test_what_is_decided_is_sound(situation: Situation, policy: dict[str, Any]) -> None:
    settings = stream(**policy)
    decision = decide(situation, settings)
    assert decision.reason
    assert decision == decide(situation, settings)  # pure
    if isinstance(decision, Update):
        assert decision.redeploy_version is None or decision.redeploy_version != situation.champion
        assert (decision.strategy == "redeploy") == (decision.redeploy_version is not None)
        assert not (decision.full and decision.light)
        assert situation.champion is not None or situation.labels > 0
        if policy["cadence"] == "never" and situation.champion is not None:
            assert situation.request is not None
    elif isinstance(decision, Defer):
        assert decision.until is None or decision.until >= situation.now
        assert not (decision.assess and situation.assessing)
    else:
        assert not decision.rebase or situation.episode is not None
    if situation.fault and situation.request is None and policy["cadence"] == "drift":
        open_ = situation.episode is not None and situation.episode.state == EpisodeState.OPEN
        if open_ and situation.champion is not None and not situation.on_its_way:
            assert type(decision) is Skip


@pytest.mark.parametrize("policy", CADENCES)
@pytest.mark.parametrize("state", [EpisodeState.OPEN, EpisodeState.DECIDED])
def test_no_cadence_learns_from_broken_data(policy: dict[str, Any], state: EpisodeState) -> None:
    broken = replace(QUIET, episode=episode(state=state), fault="column 'x' is missing", new_labels=2000)
    decision = decide(broken, stream(**policy))
    assert isinstance(decision, Skip)
    assert not decision.rebase


def test_a_schedule_does_not_begin_before_the_labels_of_the_first_model_are_there() -> None:
    early = replace(EARLY, labels=10, request=Request("schedule"))
    assert isinstance(decide(early, stream()), Defer)
    assert isinstance(decide(replace(early, request=MANUAL), stream()), Update)
