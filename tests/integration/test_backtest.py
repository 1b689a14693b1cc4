"""Backtest: the same result for the same seed, nothing seen before it landed, the old champion serving until an update's time."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cls.backtest import BacktestResult, run_backtest
from cls.config import Config, StreamConfig
from cls.errors import BadData, Permanent
from cls.recording import GRAIN, Recording, next_edge, read_recording

START = datetime(2013, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
ROWS = 1500
MEASURED = {"cpu_seconds", "seconds"}


def config(**changes: dict[str, Any]) -> Config:
    values: dict[str, Any] = {
        "task": "regression",
        "schema": {
            "numeric": ["x"],
            "categorical": ["c"],
            "key": "id",
            "event_time": "at",
            "target": "y",
            "label_time": "landed",
        },
        "model": {"arguments": {"hidden": [8], "embedding_bins": 4}},
        "detect": {
            "window_rows": 60,
            "reference_rows": 300,
            "bins": 4,
            "score_pane_rows": 20,
            "report": False,
        },
        "update": {
            "cadence": "every",
            "every_rows": 200,
            "bootstrap_rows": 200,
            "cooldown": "1h",
            "latency": "8h",
            "overrides": {"epochs": 6.0, "learning_rate": 0.01, "ewc_lambda": 0.001, "recency_rows": 200.0},
            "bootstrap_overrides": {"epochs": 15.0, "learning_rate": 0.01},
            "device_seconds_per_1k_passes": 1.0,
            "budget_device_seconds_per_day": 1e6,
        },
        "gate": {"min_rows": 5, "fresh_rows": 400, "retained_slices": 0, "margin": 0.5},
        "rollout": {"watch_rows": 100},
    }
    for name, change in changes.items():
        values[name] = values.get(name, {}) | change
    return Config(home=Path("/nowhere"), streams={"s": StreamConfig.model_validate(values)})


def recording(seed: int = 0) -> pa.Table:
    """Return ten events an hour whose regime turns after half of them; labels land three to six hours later."""
    rng = np.random.default_rng(seed)
    x = rng.normal(np.where(np.arange(ROWS) < ROWS // 2, 0.0, 1.5), 1)
    slope = np.where(np.arange(ROWS) < ROWS // 2, 2.0, -1.0)
    at = [START + i * HOUR / 10 for i in range(ROWS)]
    landed = [t + (3 + 3 * float(u)) * HOUR for t, u in zip(at, rng.random(ROWS), strict=True)]
    stamp = pa.timestamp("us", tz="UTC")
    return pa.table(
        {
            "id": [f"k{i}" for i in range(ROWS)],
            "at": pa.array(at, stamp),
            "x": x,
            "c": rng.choice(["a", "b"], ROWS).tolist(),
            "y": slope * x + rng.normal(0, 0.2, ROWS) + 5,
            "landed": pa.array(landed, stamp),
        }
    )


TABLE = recording()


@pytest.fixture(scope="module")
def result() -> BacktestResult:
    return run_backtest(config(), "s", TABLE)


def plain(result: BacktestResult) -> dict[str, Any]:
    return {name: value for name, value in result.to_json().items() if name not in MEASURED}


def test_the_loop_goes_round_and_learns(result: BacktestResult) -> None:
    assert (result.rows, result.labels) == (ROWS, ROWS)
    assert len(result.promotions) >= 4
    assert result.alarms >= 1
    late = result.prequential.position >= ROWS - 250
    turn = (result.prequential.position >= ROWS // 2) & (result.prequential.position < ROWS // 2 + 60)
    assert result.prequential.loss[late].mean() < 0.6 * result.prequential.loss[turn].mean()
    assert result.passes > 0
    assert result.charged_seconds == pytest.approx(result.passes / 1000)


def test_two_runs_are_equal_but_for_measured_times(result: BacktestResult) -> None:
    again = run_backtest(config(), "s", TABLE)
    assert plain(again) == plain(result)
    for name in ("time_us", "loss", "version", "position"):
        assert np.array_equal(getattr(again.prequential, name), getattr(result.prequential, name))
    other = run_backtest(config(update={"seed": 1}), "s", TABLE)
    assert other.mean_loss != result.mean_loss


@pytest.mark.parametrize("budget", [1.0, 3.0])
def test_the_continuous_cadence_spends_what_its_budget_earns(budget: float) -> None:
    policy = {"cadence": "continuous", "min_rows": 60, "budget_device_seconds_per_day": budget}
    done = run_backtest(config(update=policy, gate={"margin": 0.99, "confidence": 0.9999}), "s", TABLE)
    _first, *later = done.updates
    days = (done.prequential.time_us[-1] - done.prequential.time_us[0]) / 86_400_000_000
    assert len(later) >= 4
    # About what was earned meanwhile (the first update, whose price nobody knows, at full effort), not the seven days' worth in the bucket.
    assert 0.5 * budget * days < done.charged_seconds < 1.4 * budget * days
    # An equal price for each label: no update gets much more than its share.
    prices = [update["charged_seconds"] / update["train_rows"] for update in later[1:]]
    assert max(prices) < 2 * min(prices)


def test_what_lands_later_changes_nothing_before(result: BacktestResult) -> None:
    """A leak test: every label that lands after a moment is replaced, and everything until then stays as it was."""
    moment = START + 90 * HOUR
    landed = np.array(TABLE.column("landed").to_pylist())
    target = TABLE.column("y").to_numpy().copy()
    later = landed > moment
    assert 300 < later.sum() < 900
    target[later] = np.random.default_rng(9).permutation(target[later]) + 100
    leaked = run_backtest(config(), "s", TABLE.set_column(4, "y", pa.array(target)))

    def until(values: list[dict[str, Any]], times: list[dict[str, Any]]) -> list[dict[str, Any]]:
        before = sum(datetime.fromisoformat(value["at"]) <= moment for value in times)
        return values[:before]

    assert 1 < len(until(result.updates, result.updates)) < len(result.updates)
    assert until(result.updates, result.updates) == until(leaked.updates, leaked.updates)
    assert until(result.promotions, result.promotions) == until(leaked.promotions, leaked.promotions)
    # Rows that were served before then: the same version, and the same loss where the label is the same.
    served = int((np.array(TABLE.column("at").to_pylist()) <= moment - 6 * HOUR).sum())
    first, second = result.prequential, leaked.prequential
    mine, theirs = first.position < served, second.position < served
    assert np.array_equal(first.version[mine], second.version[theirs])
    same = ~later[first.position[mine]]
    assert np.array_equal(first.loss[mine][same], second.loss[theirs][same])
    assert plain(leaked) != plain(result)


def test_the_old_champion_serves_until_an_update_is_effective(result: BacktestResult) -> None:
    decided = {row["version"]: datetime.fromisoformat(row["at"]) for row in result.updates if row["version"]}
    at = TABLE.column("at").to_pylist()
    promoted = [row for row in result.promotions if row["version"] in decided]
    assert len(promoted) >= 4
    for row in promoted:
        effective = decided[row["version"]] + 8 * HOUR
        assert datetime.fromisoformat(row["at"]) >= effective
        assert row["since"] == ROWS or at[row["since"]] >= effective
    since = [(row["since"], row["version"]) for row in result.promotions]
    for position, version in zip(result.prequential.position, result.prequential.version, strict=True):
        assert version == [number for start, number in since if start <= position][-1]


def test_a_longer_latency_serves_the_stale_champion_longer(result: BacktestResult) -> None:
    late = run_backtest(config(update={"latency": "24h"}), "s", TABLE)
    assert late.promotions[0]["since"] >= result.promotions[0]["since"] + 150
    assert late.mean_loss > result.mean_loss


def test_every_labelled_row_that_was_served_counts_once(result: BacktestResult) -> None:
    position = result.prequential.position
    assert len(np.unique(position)) == len(position)
    assert position.tolist() == list(range(result.promotions[0]["since"], ROWS))
    assert np.isfinite(result.prequential.loss).all()
    assert result.mean_loss == pytest.approx(float(result.prequential.loss.mean()))
    assert set(result.by_month) == {"2013-01"}


def test_a_policy_that_never_updates_keeps_its_first_model() -> None:
    frozen = run_backtest(
        config(update={"cadence": "never", "bootstrap_rows": 5000}),
        "s",
        TABLE,
        bootstrap_at=START + 40 * HOUR,
    )
    assert {row["version"] for row in frozen.promotions} == {1}
    assert len(frozen.updates) == 1
    assert frozen.passes == frozen.charged_seconds == 0
    assert frozen.bootstrap_passes > 0


# -- replay -----------------------------------------------------------------------------------------------------------

STEP = 6 * HOUR


def test_a_first_model_that_cannot_be_trained_ends_the_backtest_with_the_reason() -> None:
    with pytest.raises(Permanent, match="memory_bytes: 3 is less than one row"):
        run_backtest(config(update={"overrides": {"memory_bytes": 3}}), "s", TABLE)


def played(table: pa.Table) -> list[tuple[datetime, pa.Table, pa.Table]]:
    recording = Recording(table, config().streams["s"])
    now, found = recording.start, []
    while now < recording.end:
        now = next_edge(now, STEP, ())
        found.append((now, *recording.until(now)))
    return found


def test_a_replay_hands_out_every_event_and_label_once_at_its_time_and_no_target() -> None:
    shuffled = TABLE.take(pa.array(np.random.default_rng(1).permutation(ROWS)))
    landed = dict(zip(TABLE.column("id").to_pylist(), TABLE.column("landed").to_pylist(), strict=True))
    keys: list[str] = []
    labels: list[str] = []
    for now, events, known in played(shuffled):
        assert {"y", "landed"}.isdisjoint(events.column_names)
        assert all(now - STEP <= time < now for time in events.column("at").to_pylist())
        times = dict(zip(known["id"].to_pylist(), known["label_time"].to_pylist(), strict=True))
        assert all(now - STEP <= time < now and landed[key] == time for key, time in times.items())
        keys += events.column("id").to_pylist()
        labels += times
    assert keys == TABLE.column("id").to_pylist()  # in order of time
    assert sorted(labels) == sorted(keys)


def test_the_next_look_is_never_now_nor_before_and_follows_what_takes_effect() -> None:
    assert next_edge(START, STEP, ()) == START + STEP
    assert next_edge(START - HOUR, STEP, ()) == START
    effective = START + 2 * HOUR
    assert next_edge(START, STEP, [effective]) == effective + GRAIN
    assert next_edge(effective + GRAIN, STEP, [effective]) == START + STEP  # it has been looked at


def test_rows_without_a_target_are_events_without_a_label() -> None:
    target = pa.array([None if i % 3 == 0 else float("nan") if i % 3 == 1 else 1.0 for i in range(ROWS)])
    found = played(TABLE.set_column(4, "y", target))
    assert sum(events.num_rows for _, events, _ in found) == ROWS
    assert sum(labels.num_rows for _, _, labels in found) == ROWS // 3


def test_a_missing_label_time_is_the_events_own_as_in_ingest() -> None:
    landed = TABLE.column("landed").to_pylist()
    landed[7] = None
    found = played(TABLE.set_column(5, "landed", pa.array(landed, pa.timestamp("us", tz="UTC"))))
    assert sum(labels.num_rows for _, _, labels in found) == ROWS


def test_one_missing_event_time_does_not_end_the_replay() -> None:
    at = TABLE.column("at").to_pylist()
    at[7] = None
    found = played(TABLE.set_column(1, "at", pa.array(at, pa.timestamp("us", tz="UTC"))))
    assert sum(events.num_rows for _, events, _ in found) >= ROWS - 1


def test_epoch_seconds_are_the_same_times_as_in_ingest() -> None:
    seconds = [time.timestamp() for time in TABLE.column("at").to_pylist()]
    found = Recording(TABLE.set_column(1, "at", pa.array(seconds)), config().streams["s"])
    assert found.start == START


def test_times_as_text_without_a_zone_are_utc_as_in_ingest() -> None:
    texts = [time.strftime("%Y-%m-%dT%H:%M:%S") for time in TABLE.column("at").to_pylist()]
    found = Recording(TABLE.set_column(1, "at", pa.array(texts)), config().streams["s"])
    assert found.start == START


def test_an_absent_column_is_named() -> None:
    with pytest.raises(BadData, match="no column 'landed'"):
        Recording(TABLE.drop_columns(["landed"]), config().streams["s"])


def test_a_recording_without_any_label_is_told_so_or_played() -> None:
    unlabelled = TABLE.slice(0, 50).set_column(4, "y", pa.nulls(50, pa.float64()))
    with contextlib.suppress(BadData):
        assert run_backtest(config(), "s", unlabelled).labels == 0


# -- recordings -------------------------------------------------------------------------------------------------------


def test_a_recording_reads_the_same_from_every_kind_of_file(tmp_path: Path) -> None:
    import pyarrow.csv

    part = TABLE.slice(0, 5).select(["id", "x", "c"])
    pq.write_table(part, tmp_path / "a.parquet")
    pyarrow.csv.write_csv(part, tmp_path / "a.CSV")
    lines = "\n".join(str(row).replace("'", '"') for row in part.to_pylist())
    (tmp_path / "a.ndjson").write_text(lines)
    found = [read_recording(tmp_path / name) for name in ("a.parquet", "a.CSV", "a.ndjson")]
    assert all(table.to_pydict() == part.to_pydict() for table in found)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.txt", b"x", "unknown kind of file"),
        ("a.parquet", b"PAR1 cut off", "cannot be read"),
        ("a.csv", b"", "cannot be read"),
        ("a.ndjson", b"{", "cannot be read"),
        ("a.csv", b"id,x\n", "no rows"),
        ("absent.parquet", None, "cannot be read"),
    ],
)
def test_a_bad_recording_is_named_with_its_fault(
    tmp_path: Path, name: str, data: bytes | None, reason: str
) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(BadData, match=reason) as caught:
        read_recording(tmp_path / name)
    assert name in str(caught.value)
