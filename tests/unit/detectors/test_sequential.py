"""The e-detector: fair bets at any state, the run length that was asked for, and a state that is all there is."""

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import signal, special

from detectors.columns import Categorical, Column, take
from detectors.experts import MIXED, Bank, Memory, bank_of, largest_mean, memory_of
from detectors.profile import Profile, build_profile
from detectors.sequential import SequentialDetector, SequentialRunner, State, assign
from detectors.sequential_kernel import watch

LIMITS = (1 / 100, 0.5, 0.999, 1e300)  # odds, share of the joint bet, keep, threshold


def table(rng: np.random.Generator, rows: int) -> dict[str, Column]:
    holed = rng.normal(size=rows)
    holed[rng.random(rows) < 0.05] = np.nan
    letters = rng.choice(4, p=[0.5, 0.3, 0.15, 0.05], size=rows).astype(np.int32) - 1
    return {
        "normal": rng.normal(size=rows),
        "holed": holed,
        "count": rng.poisson(3, size=rows).astype(np.float64),
        "constant": np.full(rows, 4.0),
        "letter": Categorical(letters, ("a", "b", "c")),
    }


def normal(rng: np.random.Generator, rows: int, features: int = 3, shift: float = 0.0) -> dict[str, Column]:
    columns: dict[str, Column] = {f"x{i}": rng.normal(size=rows) for i in range(features)}
    columns["x0"] = np.asarray(columns["x0"]) + shift
    return columns


def copied(memory: Memory) -> Memory:
    return Memory(*(array.copy() for array in memory))


def after(profile: Profile, tolerance: float, rows: int, seed: int) -> tuple[Bank, Memory]:
    """A state in the middle of a drifting stream."""
    rng = np.random.default_rng(seed)
    bank = bank_of(profile, tolerance)
    memory = memory_of(bank)
    columns = table(rng, rows)
    columns["normal"] = np.asarray(columns["normal"]) + 0.3
    watch(assign(profile, columns), 0, memory, bank, *LIMITS)
    return bank, memory


@pytest.mark.parametrize("rows", [0, 1, 50, 3000])
def test_every_bet_is_fair_given_the_rows_so_far(rows: int) -> None:
    profile = build_profile(table(np.random.default_rng(1), 400))
    bank, memory = after(profile, 0.0, rows, seed=rows)
    for f, feature in enumerate(profile.features):
        mean_X = np.zeros(bank.weight_FX.shape[1])
        for k in range(feature.size):
            bin_F = np.zeros(len(profile.features), dtype=np.intp)
            bin_F[f] = k
            then = copied(memory)
            watch(bin_F[None], 0, then, bank, *LIMITS)
            p = memory.counts_FK[f, k] / memory.counts_FK[f].sum()
            mean_X += p * then.wealth_FX[f] / (memory.wealth_FX[f] + 1) / LIMITS[2]
        assert np.allclose(mean_X, 1.0, rtol=1e-9)


def test_the_joint_bet_is_fair_however_features_depend_on_each_other_and_never_below_zero() -> None:
    rng = np.random.default_rng(2)
    column = rng.normal(size=300)
    profile = build_profile(dict.fromkeys("abcdefgh", column), bins=4)
    bank, memory = bank_of(profile, 0.0), memory_of(bank_of(profile, 0.0))
    shifted = rng.normal(1.0, size=30)
    watch(assign(profile, dict.fromkeys("abcdefgh", shifted)), 0, memory, bank, *LIMITS)
    assert memory.joint[1] > 1000  # it learned that all of them have moved

    def joint(bin_F: NDArray[np.intp]) -> float:
        then = copied(memory)
        watch(bin_F[None], 0, then, bank, *LIMITS)
        return float(then.joint[1] / (memory.joint[1] + 1) / LIMITS[2])

    p_K = memory.counts_FK[0] / memory.counts_FK[0].sum()
    bets = [joint(np.full(8, k)) for k in range(5)]
    assert p_K @ bets == pytest.approx(1.0, rel=1e-9)
    assert min(bets + [joint(rng.integers(0, 5, size=8)) for _ in range(200)]) >= 0
    # With equal margins, half of the features in reverse order are another dependence.
    memory.counts_FK[:, :4] = memory.counts_FK[:, :4].mean()
    memory.tilted_FJ[:] = np.einsum("fkj,fk->fj", bank.table_FKJ, memory.counts_FK)
    p_K = memory.counts_FK[0] / memory.counts_FK[0].sum()
    bets = [joint(np.repeat([k, 3 - k if k < 4 else 4], 4)) for k in range(5)]
    assert p_K @ bets == pytest.approx(1.0, rel=1e-9)


def twin(bin_NF: NDArray[np.intp], bank: Bank, profile: Profile) -> tuple[NDArray[np.float64], float]:
    """Wealth of experts and of the joint bet after independent rows, from the definitions."""
    odds, _, keep, _ = LIMITS
    urn_FK = bank.counts_FK.copy()
    recent_FGK = np.stack([urn_FK / urn_FK.sum(axis=1, keepdims=True)] * bank.rate_FG.shape[1], axis=1)
    wealth_FX, joint = np.zeros_like(bank.weight_FX), 0.0
    for bin_F in bin_NF:
        risk = moved = slowed = 0.0
        gains: list[float] = []
        for f, k in enumerate(bin_F):
            p_K = urn_FK[f] / urn_FK[f].sum()
            tilts_KJ = bank.table_FKJ[f] / np.maximum(p_K @ bank.table_FKJ[f], bank.floor_FJ[f])
            spikes_KP = np.tile(1 - bank.share_P, (p_K.size, 1))
            for s, b in enumerate(bank.bin_FP[f]):
                spikes_KP[b, s] += bank.share_P[s] / max(p_K[b], bank.floor_FP[f, s])
            inside = slice(profile.features[f].size)
            ratio_KG = MIXED + (1 - MIXED) * (recent_FGK[f, :, inside] / p_K[inside]).T
            variance_G = p_K[inside] @ (ratio_KG - 1) ** 2
            ratio_KG = ratio_KG / (1 + np.sqrt(bank.tolerated * variance_G))
            ratio_X = np.concatenate((tilts_KJ[k], spikes_KP[k], ratio_KG[k]))
            least_G = MIXED / (1 + np.sqrt(bank.tolerated * variance_G))
            least_X = np.concatenate((tilts_KJ[inside].min(axis=0), 1 - bank.share_P, least_G))
            ratio_X = ratio_X ** bank.exponent_FX[f]
            least_X = 1 / (1 + bank.exponent_FX[f] * (1 / least_X - 1))
            stake_X = bank.weight_FX[f] * (wealth_FX[f] + 1)
            held = stake_X.sum()
            effect = stake_X @ (1 / bank.exponent_FX[f]) / held
            likely = odds * held / effect / (1 + odds * held / effect)
            gains.append(likely * (stake_X @ ratio_X / held - 1))
            risk += likely * (1 - stake_X @ least_X / held)
            moved, slowed = moved + likely, slowed + likely * effect
            wealth_FX[f] = (wealth_FX[f] + 1) * ratio_X * keep
            urn_FK[f, k] += 1
            recent_FGK[f] *= 1 - bank.rate_FG[f, :, None]
            recent_FGK[f, :, k] += bank.rate_FG[f]
        gain_F = np.array(gains) / max(risk, 1)
        together = max(gain_F.sum() ** 2 - (gain_F**2).sum(), 0)
        joint = (joint + 1) * (1 + gain_F.sum()) * np.exp(-(slowed / moved - 1) / 2 * together) * keep
    return wealth_FX, joint


@pytest.mark.parametrize(("tolerance", "dependent"), [(0.0, False), (0.02, False), (0.0, True)])
def test_the_kernel_equals_the_definitions(tolerance: float, dependent: bool) -> None:
    rng = np.random.default_rng(3)
    reference = table(rng, 2000)
    if dependent:
        reference["normal"] = np.convolve(rng.normal(size=2009), np.ones(10) / np.sqrt(10), "valid")
    profile = build_profile(reference)
    bank = bank_of(profile, tolerance)
    assert (bank.exponent_FX[0, 0] < 0.5) == dependent
    memory = memory_of(bank)
    columns = table(rng, 1200)
    columns["normal"] = np.asarray(columns["normal"]) * 1.3
    bin_NF = assign(profile, columns)
    assert watch(bin_NF, 0, memory, bank, *LIMITS) == -1
    wealth_FX, joint = twin(bin_NF, bank, profile)
    assert np.allclose(memory.wealth_FX, wealth_FX, rtol=1e-8)
    assert memory.joint[1] == pytest.approx(joint, rel=1e-8)


@pytest.mark.parametrize("reference_rows", [300, 3000])
def test_mean_run_length_is_at_least_the_request_for_finite_references(reference_rows: int) -> None:
    rng = np.random.default_rng(4)
    detector = SequentialDetector(run_length=500)
    lengths = []
    for _ in range(80):
        profile = build_profile(normal(rng, reference_rows))
        _, changes = detector.advance(profile, detector.start(profile), normal(rng, 3000))
        lengths.append(changes[0].row + 1 if changes else 3000)  # at least
    assert np.mean(lengths) > 500


def test_run_length_holds_where_features_are_copies_of_each_other() -> None:
    rng = np.random.default_rng(5)
    detector = SequentialDetector(run_length=500)
    lengths = []
    for _ in range(60):
        reference, stream = rng.gamma(0.5, size=1000), rng.gamma(0.5, size=3000)
        profile = build_profile(dict.fromkeys("abcde", reference))
        _, changes = detector.advance(profile, detector.start(profile), dict.fromkeys("abcde", stream))
        lengths.append(changes[0].row + 1 if changes else 3000)
    assert np.mean(lengths) > 500


def test_finds_half_a_standard_deviation_and_says_where_and_when() -> None:
    rng = np.random.default_rng(6)
    detector = SequentialDetector(run_length=20_000)
    delays, errors = [], []
    profile = build_profile(normal(rng, 20_000, features=10))
    for _ in range(20):
        state, changes = detector.advance(profile, detector.start(profile), normal(rng, 1000, features=10))
        _, changes = detector.advance(profile, state, normal(rng, 1000, features=10, shift=0.5))
        change = changes[0]
        assert change.feature == "x0"
        assert change.evidence >= 20_000
        delays.append(change.row - 1000)
        errors.append(abs(change.onset_row - 1000))
    assert np.mean(delays) < 120
    assert np.median(errors) < 20


def test_five_moved_features_are_found_sooner_than_one() -> None:
    rng = np.random.default_rng(7)
    detector = SequentialDetector(run_length=20_000)
    profile = build_profile(normal(rng, 20_000, features=20))
    delays: dict[int, list[int]] = {1: [], 5: []}
    for moved, _ in product((1, 5), range(8)):
        state, _ = detector.advance(profile, detector.start(profile), normal(rng, 1000, features=20))
        columns = normal(rng, 3000, features=20)
        columns |= {f"x{i}": np.asarray(columns[f"x{i}"]) + 0.2 for i in range(moved)}
        _, changes = detector.advance(profile, state, columns)
        delays[moved].append(changes[0].row - 1000)
    assert np.mean(delays[5]) < 0.6 * np.mean(delays[1])


def test_restored_state_and_any_cut_into_blocks_equal_the_uninterrupted_run() -> None:
    rng = np.random.default_rng(8)
    profile = build_profile(table(rng, 500))
    detector = SequentialDetector(run_length=50)
    columns = table(rng, 3000)
    whole, changes = detector.advance(profile, detector.start(profile), columns)
    assert changes
    found = []
    state = detector.start(profile)
    for start, stop in [(0, 1), (1, 1), (1, 700), (700, 2999), (2999, 3000)]:
        state = State.from_json(json.loads(json.dumps(state.to_json())))
        state, more = detector.advance(profile, state, take(columns, slice(start, stop)))
        found += more
    assert found == changes
    assert state.to_json() == whole.to_json()
    runner = SequentialRunner(detector, profile)
    bin_NF = assign(profile, columns)
    assert [change for row in range(3000) for change in runner.update(bin_NF[row : row + 1])] == changes


def test_the_order_of_features_does_not_matter() -> None:
    rng = np.random.default_rng(9)
    detector = SequentialDetector(run_length=50)
    reference, columns = table(rng, 500), table(rng, 3000)
    found = []
    for names in (list(reference), list(reference)[::-1]):
        profile = build_profile({name: reference[name] for name in names})
        found.append(detector.advance(profile, detector.start(profile), columns)[1])
    assert found[0]
    assert [(c.row, c.onset_row, c.feature) for c in found[0]] == [
        (c.row, c.onset_row, c.feature) for c in found[1]
    ]


def test_missing_rows_alarm_and_do_not_blind() -> None:
    rng = np.random.default_rng(10)
    profile = build_profile(normal(rng, 5000))
    detector = SequentialDetector(run_length=10_000)
    state, changes = detector.advance(profile, detector.start(profile), {"x1": rng.normal(size=40)})
    assert changes
    assert changes[0].row < 5
    state, _ = detector.advance(profile, state, normal(rng, 500))
    _, changes = detector.advance(profile, state, normal(rng, 200, shift=1.0))
    assert changes[0].feature == "x0"


@pytest.mark.parametrize(
    "stream",
    [
        {"x": np.full(500, np.nan), "s": Categorical.of([None] * 500)},
        {"x": np.repeat([1e308, -1e308], 250), "s": Categorical.of(["new"] * 500)},
        {"x": np.zeros(500), "s": Categorical.of(["a"] * 500)},
        {},
        {"other": np.zeros(500)},
    ],
)
@pytest.mark.parametrize("rows", [0, 1, 1000])
def test_finite_for_every_input(rows: int, stream: dict[str, Column]) -> None:
    rng = np.random.default_rng(11)
    profile = build_profile(
        {"x": rng.normal(size=rows), "s": Categorical.of(["a", "b"] * (rows // 2) + ["a"] * (rows % 2))}
    )
    for tolerance in (0.0, 0.1):
        detector = SequentialDetector(run_length=100, tolerance=tolerance)
        state, changes = detector.advance(profile, detector.start(profile), stream)
        assert all(np.isfinite(array).all() for array in state.memory)
        assert all(np.isfinite(change.evidence) and change.onset_row <= change.row for change in changes)


def test_silence_alone_never_alarms() -> None:
    detector = SequentialDetector(run_length=500)
    for reference in ({}, {"x": np.full(1000, 4.0)}, {"x": np.full(1000, np.nan)}):
        profile = build_profile(reference)
        stream = {name: np.repeat(column[:1], 50_000) for name, column in reference.items()}
        state = State.from_json(detector.start(profile).to_json())
        _, changes = detector.advance(profile, state, stream)
        assert not changes


def test_run_length_holds_under_tolerated_drift_however_long_it_lasts() -> None:
    # A shift of a standard deviations is a^2 / 2 nats.
    rng = np.random.default_rng(12)
    profile = build_profile(normal(rng, 100_000))
    strict, tolerant = SequentialDetector(1000), SequentialDetector(1000, tolerance=0.02)

    def alarms(detector: SequentialDetector, rows: int, shift: float) -> int:
        return len(detector.advance(profile, detector.start(profile), normal(rng, rows, shift=shift))[1])

    assert alarms(tolerant, 100_000, 0.1) == 0
    assert alarms(tolerant, 100_000, 0.2) <= 100_000 / 1000
    assert alarms(strict, 100_000, 0.2) > 2 * 100_000 / 1000
    assert alarms(tolerant, 2000, 0.5) > 2000 / 1000


def test_largest_mean_is_reached_on_the_rim_of_the_ball() -> None:
    rng = np.random.default_rng(13)
    p_K, values_JK = rng.dirichlet(np.ones(6)), rng.normal(size=(3, 6))
    largest_J = largest_mean(values_JK, p_K, 0.05)
    q_SK = rng.dirichlet(np.ones(6) * 2, size=100_000)
    t_S = rng.random((100_000, 1)) ** 2
    q_SK = t_S * q_SK + (1 - t_S) * p_K
    inside = special.rel_entr(q_SK, p_K).sum(axis=1) <= 0.05
    assert (largest_J >= (q_SK[inside] @ values_JK.T).max(axis=0)).all()
    assert (
        largest_J <= p_K @ values_JK.T + np.sqrt(2 * 0.05) * np.ptp(values_JK, axis=1) / 2 + 1e-9
    ).all()  # Pinsker
    assert np.allclose(largest_mean(values_JK, p_K, 1e3), values_JK.max(axis=1))
    assert np.allclose(largest_mean(values_JK, p_K, 1e-12), p_K @ values_JK.T, atol=1e-4)


def test_options_states_and_bins_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="run_length"):
        SequentialDetector(run_length=1)
    with pytest.raises(ValueError, match="tolerance"):
        SequentialDetector(tolerance=-1)
    rng = np.random.default_rng(14)
    one, two = build_profile(normal(rng, 100, 1)), build_profile(normal(rng, 100, 2))
    detector = SequentialDetector()
    with pytest.raises(ValueError, match="profile"):
        detector.advance(two, detector.start(one), normal(rng, 1, 2))
    with pytest.raises(ValueError, match="bins"):
        SequentialRunner(detector, one).update(np.full((1, 1), one.features[0].size))
    with pytest.raises(ValueError, match="format"):
        State.from_json({"format": 0})


def autoregressive(rng: np.random.Generator, rows: int, correlation: float) -> NDArray[np.float64]:
    noise = rng.normal(size=rows + 200) * np.sqrt(1 - correlation**2)
    return np.asarray(signal.lfilter([1.0], [1.0, -correlation], noise))[200:]


@pytest.mark.parametrize(("reference_rows", "correlation"), [(1000, 0.5), (10_000, 0.9)])
def test_autocorrelated_streams_keep_at_least_half_of_the_run_length(
    reference_rows: int, correlation: float
) -> None:
    rng = np.random.default_rng(15)
    detector = SequentialDetector(run_length=1000)
    alarms = rows = 0
    for _ in range(12):
        profile = build_profile({f"x{i}": autoregressive(rng, reference_rows, correlation) for i in range(5)})
        stream: dict[str, Column] = {f"x{i}": autoregressive(rng, 5000, correlation) for i in range(5)}
        alarms += len(detector.advance(profile, detector.start(profile), stream)[1])
        rows += 5000
    assert alarms <= 2 * rows / 1000


def test_a_reference_shorter_than_its_memory_calls_for_is_reported() -> None:
    rng = np.random.default_rng(16)
    detector = SequentialDetector()
    assert detector.unsupported(build_profile(normal(rng, 300))) is None
    slow = build_profile({"x": autoregressive(rng, 1000, 0.98)})
    assert str(slow.rows_needed) in str(detector.unsupported(slow))
    hours = Categorical.of([str(row % 24) for row in range(1000)])
    assert "seasons" in str(
        detector.unsupported(build_profile(normal(rng, 1000) | {"hour": hours}, season="hour"))
    )


def test_a_bin_that_hardly_ever_occurs_has_finite_odds() -> None:
    constant = build_profile({"x": np.full(1000, 4.0)})
    profile = replace(constant, counts=constant.counts * 10**7, rows=10**10)
    detector = SequentialDetector()
    state, changes = detector.advance(profile, detector.start(profile), {"x": np.array([5.0, 3.0, 4.0])})
    assert [change.row for change in changes] == [0, 1]
    assert all(np.isfinite(array).all() for array in state.memory)
