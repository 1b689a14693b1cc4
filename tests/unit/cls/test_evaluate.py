"""The gate: it covers, it is right as often as it says, it sees gate rows alone, and training sees none of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from cls.config import StreamConfig
from cls.domain import GateVerdict, JobInput, Labelled, Role
from cls.evaluate import Evaluated, assess, gate, likeness
from cls.ports import Events, Predictions
from cls.train import train
from detectors.columns import Columns
from detectors.profile import build_profile
from learners.models.base import Inputs, Model
from learners.rows import Rows
from learners.schema import Schema
from learners.training import FORWARD_PASS

AT = datetime(2013, 1, 1, tzinfo=UTC)
Floats = NDArray[np.float64]
JOB = JobInput(
    strategy="naive",
    label_from=0,
    label_to=8000,
    event_to=8000,
    parent=1,
    seed=7,
    threads=1,
    decided_at=AT,
    effective_at=AT,
    light=True,
    reason="a test",
)


def stream(task: str = "regression", **gate_settings: Any) -> StreamConfig:
    return StreamConfig.model_validate(
        {
            "task": task,
            "schema": {
                "numeric": ("mine", "theirs"),
                "key": "id",
                "event_time": "at",
                "target": "y",
                "classes": ("no", "yes") if task == "classification" else (),
            },
            "model": {"arguments": {"hidden": [4], "embedding_bins": 2}},
            "update": {"overrides": {"patience": 1, "epochs": 1.0}},
            "gate": {"fresh_rows": 8000, "margin": 0.1} | gate_settings,
        }
    )


class Reads(Model):
    """Predicts what a column says, or one number."""

    def __init__(self, column: str = "", value: float = 0.0, classes: int = 0) -> None:
        super().__init__()
        self.column, self.value, self.classes = column, value, classes
        self.schema = Schema(("mine", "theirs"), ())

    def predict(self, columns: Columns) -> Floats:
        rows = len(columns["mine"])
        value = np.asarray(columns[self.column]) if self.column else np.full(rows, self.value)
        if not self.classes:
            return np.asarray(value, np.float64)
        return np.eye(self.classes)[value.astype(np.int64)]

    @classmethod
    def fit_preprocessing(cls, config: Any, schema: Schema, train: Rows) -> Self:
        raise NotImplementedError

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Self:
        raise NotImplementedError

    def spec(self) -> dict[str, Any]:
        raise NotImplementedError

    def encode(self, columns: Columns) -> Inputs:
        raise NotImplementedError

    def encode_target(self, target: Floats) -> Tensor:
        raise NotImplementedError

    def grow(self, columns: Columns) -> None:
        raise NotImplementedError


MINE, THEIRS = Reads("mine"), Reads("theirs")


class RecordedLog:
    """A log of labelled rows in which only the rows of allowed roles hold finite values, and which notes what was asked for."""

    def __init__(self, mine: Floats, theirs: Floats, target: Floats, allowed: tuple[Role, ...] = ()) -> None:
        rows = len(target)
        self.role = np.array([Role.TRAIN] * 8 + [Role.TUNE, Role.GATE], np.int8)[np.arange(rows) % 10]
        usable = np.isin(self.role, allowed) if allowed else np.ones(rows, bool)
        self.mine, self.theirs = mine, theirs
        self.target = np.where(usable, target, np.nan)
        self.asked: list[tuple[int, int]] = []

    def labelled(self, stream: str, start: int, stop: int) -> Labelled:
        self.asked.append((start, stop))
        part = slice(start, stop)
        return Labelled(
            {"mine": self.mine[part], "theirs": self.theirs[part]},
            self.target[part],
            np.arange(len(self.target))[part],
            np.arange(len(self.target))[part],
            self.role[part],
        )

    def events(self, stream: str, start: int, stop: int) -> Events:
        raise AssertionError("neither training nor gate reads unlabelled events")

    def predictions(self, stream: str, start: int, stop: int) -> Predictions:
        raise AssertionError("neither training nor gate reads predictions")

    def labels(self, stream: str, start: int, stop: int) -> tuple[NDArray[np.int64], Floats]:
        raise AssertionError("neither training nor gate reads bare labels")


def log(rng: np.random.Generator, factor: float, rows: int = 8000, **options: Any) -> RecordedLog:
    """Return rows on which `mine` is wrong by `factor` times as much as `theirs`; errors depend on the hour."""
    target = rng.normal(100, 20, rows)
    difficulty = np.repeat(rng.gamma(20, 0.05, rows // 20 + 1), 20)[:rows]
    mine = target + factor * difficulty * rng.normal(0, 10, rows)
    return RecordedLog(mine, target + difficulty * rng.normal(0, 10, rows), target, **options)


def verdict(rng: np.random.Generator, factor: float, **settings: Any) -> Evaluated:
    return gate(JOB, "s", stream(**settings), log(rng, factor), MINE, THEIRS)


def test_a_fifth_worse_fails_a_fifth_better_passes_and_an_equal_one_seldom_fails() -> None:
    rng = np.random.default_rng(1)
    worse = [verdict(rng, 1.2).report.verdict for _ in range(40)]
    better = [verdict(rng, 0.8).report.verdict for _ in range(40)]
    equal = [verdict(rng, 1.0).report.verdict for _ in range(150)]
    assert worse.count(GateVerdict.FAIL) >= 38
    assert worse.count(GateVerdict.PASS) == 0
    assert better.count(GateVerdict.PASS) == 40
    assert equal.count(GateVerdict.FAIL) <= 10  # one side of 5%: 3.75 of 150 expected, P(more than 10) < 0.3%


def test_the_interval_covers_the_true_change_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    covered, total = 0, 200
    for _ in range(total):
        part = verdict(rng, 1.05).report.slices[0]
        assert part.lower is not None
        assert part.upper is not None
        covered += part.lower <= 0.05 <= part.upper
    assert covered >= 178  # 190 expected; four standard deviations


def test_the_answer_is_the_same_for_the_same_seed_and_scale_free() -> None:
    first, again = (verdict(np.random.default_rng(3), 1.0).report for _ in range(2))
    assert first == again
    rows = log(np.random.default_rng(3), 1.0)
    scaled = RecordedLog(1000 * rows.mine, 1000 * rows.theirs, 1000 * rows.target)
    part = gate(JOB, "s", stream(), scaled, MINE, THEIRS).report.slices[0]
    assert (part.lower, part.upper) == pytest.approx((first.slices[0].lower, first.slices[0].upper))


def test_the_gate_sees_gate_rows_alone_in_the_ranges_of_its_job() -> None:
    rows = log(np.random.default_rng(4), 0.9, allowed=(Role.GATE,))
    job = replace(JOB, label_from=7000, label_to=7900, retained=((0, 1000), (2000, 3500)))
    found = gate(job, "s", stream(fresh_rows=4000), rows, MINE, THEIRS)
    assert rows.asked == [(3900, 7900), (0, 1000), (2000, 3500)]
    assert [part.rows for part in found.report.slices] == [400, 100, 150]
    assert all(
        part.candidate_loss is not None and math.isfinite(part.candidate_loss) for part in found.report.slices
    )
    assert found.passes == pytest.approx(2 * 650 * FORWARD_PASS)


def test_training_sees_train_and_tune_rows_alone_up_to_its_as_of(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    target = rng.normal(size=2000)
    clean = RecordedLog(target, -target, target, allowed=(Role.TRAIN, Role.TUNE))
    job = replace(JOB, parent=None, label_from=200, label_to=1500)
    found = train(job, "s", stream(), clean, None, None, lambda _a, _b: None, {}, tmp_path)
    assert clean.asked == [(200, 1500)]
    assert found.train_rows == 1040

    altered = RecordedLog(target, -target, target)
    gated = altered.role == Role.GATE
    altered.target = np.where(gated, 1e9, altered.target)
    altered.mine = np.where(gated, -1e9, altered.mine)
    other = train(job, "s", stream(), altered, None, None, lambda _a, _b: None, {}, tmp_path)
    assert found.curve == other.curve
    assert all(
        torch.equal(tensor, other.checkpoint.tensors[name])
        for name, tensor in found.checkpoint.tensors.items()
    )

    tuned = RecordedLog(target, -target, np.where(clean.role == Role.TUNE, 3 * target, target))
    tuned_run = train(job, "s", stream(), tuned, None, None, lambda _a, _b: None, {}, tmp_path)
    assert [p["loss"] for p in tuned_run.curve][:1] == [p["loss"] for p in found.curve][:1]
    assert [p["tune"] for p in tuned_run.curve] != [p["tune"] for p in found.curve]


def test_forgetting_is_a_gate() -> None:
    rng = np.random.default_rng(6)
    rows = log(rng, 0.8)
    rows.mine[:2000] = rows.target[:2000] + 1.5 * (rows.theirs[:2000] - rows.target[:2000])
    job = replace(JOB, retained=((0, 2000),))
    forgotten = gate(job, "s", stream(fresh_rows=4000), rows, MINE, THEIRS)
    assert forgotten.report.verdict == GateVerdict.FAIL
    assert forgotten.report.slices[0].verdict == GateVerdict.PASS
    assert "retained:0-2000" in forgotten.report.reason
    assert forgotten.blocks(0.1)
    tolerated = gate(job, "s", stream(fresh_rows=4000, retained_margin=0.99), rows, MINE, THEIRS)
    assert tolerated.report.verdict == GateVerdict.PASS


def test_what_contradicts_an_old_regime_but_gains_more_on_the_new_one_must_prove_itself() -> None:
    rows = log(np.random.default_rng(6), 0.3)
    rows.mine[:2000] = rows.target[:2000] + 1.5 * (rows.theirs[:2000] - rows.target[:2000])
    job = replace(JOB, retained=((0, 2000),))
    contradicting = gate(job, "s", stream(fresh_rows=4000), rows, MINE, THEIRS)  # -70% now, +50% then
    assert contradicting.report.verdict == GateVerdict.INCONCLUSIVE
    assert contradicting.report.slices[1].verdict == GateVerdict.FAIL
    assert "gains more on fresh rows" in contradicting.report.reason
    assert not contradicting.blocks(0.1)
    assert not contradicting.tells()  # into the shadow, however light it is


def test_few_rows_or_none_do_not_tell() -> None:
    rows = log(np.random.default_rng(7), 0.5)
    few = gate(replace(JOB, label_to=300), "s", stream(), rows, MINE, THEIRS)  # 30 gate rows
    assert few.report.verdict == GateVerdict.INCONCLUSIVE
    assert not few.tells()
    assert not few.blocks(0.1)
    none = gate(replace(JOB, label_to=5, retained=((0, 3),)), "s", stream(), rows, MINE, THEIRS)
    assert [part.rows for part in none.report.slices] == [0, 0]
    assert (none.report.verdict, none.tells(), none.blocks(0.1)) == (GateVerdict.INCONCLUSIVE, False, False)
    bad = gate(replace(JOB, label_to=300), "s", stream(), log(np.random.default_rng(7), 1.5), MINE, THEIRS)
    assert bad.report.verdict == GateVerdict.INCONCLUSIVE
    assert bad.blocks(0.1)  # by its mean worse than the margin: it goes no further


def test_a_first_model_must_beat_the_best_constant() -> None:
    rng = np.random.default_rng(8)
    rows = log(rng, 1.0)
    job = replace(JOB, parent=None)
    good = gate(job, "s", stream(), rows, MINE, None)
    assert good.report.verdict == GateVerdict.PASS
    gated = rows.target[rows.role == Role.GATE]
    expected = float(np.abs(gated - np.median(gated)).mean())
    assert good.report.slices[0].champion_loss == pytest.approx(expected)
    assert gate(job, "s", stream(), rows, Reads(value=0.0), None).report.verdict == GateVerdict.FAIL
    classes = rng.integers(0, 2, 8000).astype(float)
    labelled = RecordedLog(classes, 1 - classes, classes)
    for column, said in (("mine", GateVerdict.PASS), ("theirs", GateVerdict.FAIL)):
        found = gate(job, "s", stream("classification"), labelled, Reads(column, classes=2), None)
        assert found.report.verdict == said


def test_a_perfect_champion_can_only_be_equalled_and_an_answer_of_nan_fails() -> None:
    target = np.random.default_rng(9).normal(size=8000)
    rows = RecordedLog(target + 1e-3, target, target)
    assert gate(JOB, "s", stream(), rows, MINE, THEIRS).report.verdict == GateVerdict.FAIL
    assert gate(JOB, "s", stream(), rows, THEIRS, THEIRS).report.verdict == GateVerdict.PASS
    lost = gate(JOB, "s", stream(), rows, Reads(value=math.nan), MINE)
    assert lost.report.verdict == GateVerdict.FAIL
    assert lost.blocks(0.1)


def test_an_assessment_is_the_mean_loss_of_each_version_since_the_onset() -> None:
    rows = log(np.random.default_rng(10), 2.0, rows=3000)
    job = replace(JOB, label_from=1000, label_to=3000, onset=2400)
    found = assess(job, "s", stream(), rows, {1: MINE, 4: THEIRS})
    assert rows.asked == [(1000, 3000)]
    held = rows.labelled("s", 0, 3000).role != Role.TRAIN  # what no version may ever learn
    since = np.flatnonzero(held)[np.flatnonzero(held) >= 2400]
    assert found.losses[1] == pytest.approx(float(np.abs(rows.mine[since] - rows.target[since]).mean()))
    assert found.losses[4] == pytest.approx(float(np.abs(rows.theirs[since] - rows.target[since]).mean()))
    middle = np.median(rows.target[since])
    assert found.constant == pytest.approx(float(np.abs(rows.target[since] - middle).mean()))
    assert found.rows == len(since)
    assert found.passes == pytest.approx(2 * len(since) * FORWARD_PASS)
    assert np.array_equal(
        cast(Floats, found.columns["mine"]), rows.mine[2400:3000]
    )  # of all roles: what they are like is no secret
    assert np.array_equal(found.time_us, np.arange(2400, 3000))
    assert assess(job, "s", stream(), rows, {1: MINE}, newest=50).rows == 50
    late = replace(job, onset=5000)  # no label since: the newest ones stand in
    assert assess(late, "s", stream(), rows, {1: MINE}, newest=100).rows == 100


def test_likeness_is_read_off_losses_and_profiles() -> None:
    rng = np.random.default_rng(11)
    rows = log(rng, 0.3, rows=3000)
    job = replace(JOB, label_from=1000, label_to=3000, onset=1000)
    found = assess(job, "s", stream(), rows, {1: MINE, 4: THEIRS})
    own = build_profile({"mine": rows.mine[:1000], "theirs": rows.theirs[:1000]})
    moved = build_profile({"mine": rows.mine[:1000] + 1e6, "theirs": rows.theirs[:1000]})
    accepted = {1: found.losses[1], 4: found.losses[1]}
    said = likeness(found, accepted, {1: own, 4: moved}, 4, 0.1)
    assert said is not None
    assert (said.kind, said.version) == ("recurring", 1)
    assert said.lost[1] == 0.0
    assert said.nats[1] < 0.02
    assert said.nats[4] > 0.3
    unknown = likeness(found, {1: None, 4: None}, {4: moved}, 4, 0.1)  # only the profile tells
    assert unknown is not None
    assert (unknown.kind, unknown.lost) == ("far", {})
    assert likeness(found, {}, {}, 4, 0.1) is None


def test_only_a_failed_or_a_doubtful_and_worse_candidate_is_blocked() -> None:
    def evaluated(said: GateVerdict, candidate: float, champion: float | None = 10.0) -> Evaluated:
        part = SimpleNamespace(champion_loss=champion, candidate_loss=candidate, upper=None)
        report: Any = SimpleNamespace(verdict=said, slices=(part,))
        return Evaluated(report, 0.0)

    assert evaluated(GateVerdict.FAIL, 1.0).blocks(0.1)
    assert not evaluated(GateVerdict.PASS, 99.0).blocks(0.1)
    assert evaluated(GateVerdict.INCONCLUSIVE, 11.1).blocks(0.1)
    assert not evaluated(GateVerdict.INCONCLUSIVE, 10.9).blocks(0.1)
    assert not evaluated(GateVerdict.INCONCLUSIVE, 99.0, None).blocks(0.1)
