"""`cls drift` and `cls drift show`: what was stored is what is told, in 80 columns, and a missing piece is said, not hidden."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine

from cls.cli.drift_bars import columns, limit_row
from cls.config import DetectConfig
from cls.domain import Batch, JobKind, Verdict
from cls.jobs import Bench, NoControl, run
from detectors.columns import Categorical, Columns
from detectors.verdict import PairDrift
from storage import drift, log, queue, streams, versions
from storage.artifacts import DiskArtifacts
from storage.db import transaction
from storage.segments import DiskSegments
from tests.unit.cls.cli.conftest import T0, Cli
from tests.unit.cls.drift_scene import Scene, make_scene


def flights(rows: int, rng: np.random.Generator) -> Columns:
    return {
        "distance": rng.normal(1000, 100, rows),
        "carrier": Categorical(rng.integers(0, 3, rows).astype(np.int32), ("UA", "AA", "DL")),
    }


def later_flights(rows: int, rng: np.random.Generator) -> Columns:
    columns = flights(rows, rng)
    carrier = columns["carrier"]
    assert isinstance(carrier, Categorical)
    return {
        "distance": rng.normal(1080, 100, rows),
        "carrier": replace(carrier, vocabulary=("UA", "American", "DL")),
    }


class Drifted:
    """A stream in the database and on disk whose last four windows alarmed."""

    def __init__(self, state: Engine, cli: Cli, settings: DetectConfig | None = None) -> None:
        self.scene: Scene = make_scene(flights, later_flights, settings=settings)
        self.engine = state
        home = cli.config.parent / "home"
        store = DiskSegments(home / "segments")
        self.artifacts = DiskArtifacts(home / "artifacts")
        self.log = log.Log(state, store, {"flights": ("distance", "carrier")})
        self.reference = self.artifacts.put(self.scene.artifacts.get(self.scene.promotions[0].reference))
        rows = self.scene.log.rows
        batch = Batch(
            self.scene.log.columns,
            [f"k{i}" for i in range(rows)],
            np.arange(rows, dtype=np.int64),
            np.zeros(rows, np.int8),
            np.full(rows, np.nan),
            np.zeros(rows, np.int64),
        )
        segment = log.write_events(store, "flights", 0, batch)
        with transaction(state) as connection:
            streams.ensure_stream(connection, "flights")
            log.record_segment(connection, segment)
            options: dict[str, Any] = {"since": 0, "reference": self.reference, "at": T0, "reason": "first"}
            self.promotion = versions.promote(connection, "flights", 1, expected=None, **options).promotion
        self.ids = [self.add(verdict) for verdict in self.scene.found]
        self.last = self.ids[-1]

    def add(self, verdict: Verdict) -> int:
        with transaction(self.engine) as connection:
            return drift.add_verdict(connection, "flights", self.promotion, verdict)


@pytest.fixture
def drifted(state: Engine, cli: Cli) -> Drifted:
    return Drifted(state, cli)


def facts(result: Any) -> str:
    """Return what was printed, without line breaks; it must have ended well and fit 80 columns."""
    assert result.exit_code == 0, result.output
    assert max(map(len, result.stdout.splitlines())) <= 80
    return " ".join(result.stdout.split())


def test_a_verdict_tells_what_since_when_and_how_sure(cli: Cli, drifted: Drifted) -> None:
    told = facts(cli("drift", "show", str(drifted.last)))
    assert "flights: drift of inputs since event 4,000 (alarm on events 5,500 to 6,000)" in told
    assert "500 rows against the 3,000 of the reference of version 1" in told
    assert "p < 1e-12, budget 1 in 1,000 windows" in told
    assert "alarms !!!!" in told
    assert "began ^" in told
    last = drifted.scene.found[-1]
    assert last.diagnosis is not None
    assert last.drift is not None
    for sentence in last.diagnosis.evidence:
        assert sentence in told
    for feature in last.drift.features:
        assert f"{feature.name} {feature.share:.0%}" in told
    assert "unseen: American" in told


def test_bars_are_drawn_of_the_whole_histogram_of_the_windows_rows(cli: Cli, drifted: Drifted) -> None:
    shown = cli.json("drift", "show", str(drifted.last))
    profile = drifted.scene.profile
    counts = profile.count(drifted.scene.log.events("", 5500, 6000).columns)
    for bins, before, now in zip(
        profile.features, profile.split(profile.counts), profile.split(counts), strict=True
    ):
        found = next(one for one in shown["histograms"] if one["name"] == bins.name)
        bars = {bar["label"]: (bar["reference_share"], bar["current_share"]) for bar in found["bins"]}
        told = zip(bins.labels(), before / 3000, now / 500, strict=True)
        assert bars == {label: (pytest.approx(p), pytest.approx(q)) for label, p, q in told}
    printed = cli("drift", "show", str(drifted.last)).stdout
    unseen = next(bar for one in shown["histograms"] for bar in one["bins"] if bar["label"] == "unseen")
    assert re.search(rf"unseen +reference +0\.0% *\n +window +█+ +{unseen['current_share']:.1%}", printed)


def test_json_is_complete(cli: Cli, drifted: Drifted) -> None:
    shown = cli.json("drift", "show", str(drifted.last))
    assert shown["drift"] == drifted.scene.verdicts[-1].drift
    assert shown["diagnosis"] == drifted.scene.verdicts[-1].diagnosis
    assert shown["version"] == 1
    assert [point["nats"] for point in shown["series"]] == [row.nats for row in drifted.scene.verdicts]
    assert [point["alarm"] for point in shown["series"]] == [False] * 8 + [True] * 4
    assert shown["episode"] is shown["report"] is shown["histograms_error"] is None


def test_the_series_ends_with_the_window_that_is_shown(cli: Cli, drifted: Drifted) -> None:
    told = facts(cli("drift", "show", str(drifted.ids[5])))
    assert "no drift of inputs beyond chance, events 2,500 to 3,000" in told
    assert "last 6 windows" in told
    assert "alarms" not in told


def test_a_report_is_found_from_its_alarm(cli: Cli, drifted: Drifted, job_input: Any) -> None:
    alarm = drifted.scene.found[8]
    with transaction(drifted.engine) as connection:
        episode = drift.open_episode(connection, "flights", drifted.ids[8], alarm, T0)
        settings = cli.json("config", "show")["streams"]["flights"]
        made = job_input(event_to=6000, onset=4000, episode=episode, strategy="report", settings=settings)
        job_id = queue.enqueue(connection, "flights", JobKind.REPORT, made, priority=-1000)
    assert f"Report: job {job_id} is queued" in facts(cli("drift", "show", str(drifted.last)))
    with transaction(drifted.engine) as connection:
        job = queue.claim(connection, "reporter@here:1", timedelta(seconds=60))
    assert job is not None
    outcome = run(job, Bench(drifted.engine, drifted.log, drifted.artifacts, {}), NoControl())
    assert set(outcome.result["files"]) == {"drift.png", "features.png", "features.json", "evidently.html"}
    assert "error" not in outcome.result
    with transaction(drifted.engine) as connection:
        queue.succeed(connection, job, outcome.result, charged_seconds=0.0, passes=0.0)
    told = facts(cli("drift", "show", str(drifted.last)))
    assert f"Episode {episode}: open" in told
    assert "Report: drift.png, evidently.html, features.json, features.png" in told
    assert f"in MLflow's run report-{job_id} of experiment cls/flights" in told
    assert cli.json("drift", "show", str(drifted.ids[9]))["report"]["job_id"] == job_id
    assert cli.json("drift", "show", str(drifted.ids[7]))["report"] is None  # before the alarm


def test_a_fixed_threshold_is_told_with_the_alarms_that_it_implies(cli: Cli, state: Engine) -> None:
    drifted = Drifted(state, cli, DetectConfig(nats=0.05))
    told = facts(cli("drift", "show", str(drifted.last)))
    assert "fixed threshold 0.05 nats of any: implies false alarms in" in told
    assert "excess nats of the feature that moved most, last 12 windows" in told


def test_a_reference_that_is_too_small_is_told(cli: Cli, drifted: Drifted) -> None:
    last = drifted.scene.found[-1]
    assert last.drift is not None
    needy = replace(last, start=9000, drift=replace(last.drift, rows_needed=4096))
    told = facts(cli("drift", "show", str(drifted.add(needy))))
    assert "the reference has 3,000 rows and needs 4,096" in told
    assert "Only the bins that the verdict names: its rows are no longer in the log" in told


def test_a_reference_that_is_gone_leaves_the_bins_of_the_verdict(cli: Cli, drifted: Drifted) -> None:
    home = cli.config.parent / "home" / "artifacts"
    (home / drifted.reference[:2] / drifted.reference).unlink()
    told = facts(cli("drift", "show", str(drifted.last)))
    assert "Only the bins that the verdict names: artifact" in told
    assert "unseen" in told


def test_a_verdict_on_errors_has_no_distance_and_says_what_it_has(cli: Cli, drifted: Drifted) -> None:
    last = drifted.scene.found[-1]
    score = replace(
        last, detector="score", p_value=None, nats=None, drift=None, diagnosis=None, summary="the error rose"
    )
    told = facts(cli("drift", "show", str(drifted.add(score))))
    assert "drift of errors since event 4,000" in told
    assert "the error rose" in told


def test_the_list_fits_80_columns(cli: Cli, drifted: Drifted, monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    def narrow() -> Console:
        return Console(width=80, highlight=False)

    monkeypatch.setattr("cls.cli.output.console", narrow)
    monkeypatch.setattr("cls.cli.drift_list.console", narrow)
    lines = cli("drift").stdout.rstrip().splitlines()
    assert max(map(len, lines)) <= 80
    begun = [line for line in lines if re.match(r" *\d+ +flights +kl +2013-01-\d\d 23:00", line)]
    assert len(begun) == len(drifted.ids)
    assert len(lines) <= len(begun) + 4 + 3  # an alarm has two lines at most, all others one; and the heading
    assert sum("a fault of the" in line for line in lines) == 4  # the rest stands in the second line
    assert "flights" not in "".join(cli("drift", "flights").stdout.splitlines()[1:])  # which stream is known


def test_a_pipe_gets_whole_summaries(cli: Cli, drifted: Drifted) -> None:
    assert drifted.scene.verdicts[-1].summary in cli("drift", "--limit", "1").stdout


def test_features_that_moved_together_are_told_and_drawn(cli: Cli, drifted: Drifted) -> None:
    cell = ("distance < 900 and carrier = UA", 0.1, 0.3)
    pair = PairDrift("distance", "carrier", 0.25, 0.2, 1e-9, (cell,))
    last = drifted.scene.found[-1]
    assert last.drift is not None
    both = replace(last, start=5400, drift=replace(last.drift, pairs=(pair,)))
    printed = cli("drift", "show", str(drifted.add(both)))
    assert pair.sentence() in facts(printed)
    assert "0.2 nats, p = 1e-09" in facts(printed)
    assert re.search(r"distance < .+ reference +▒+ +10\.0%\n +window +█+ +30\.0%", printed.stdout)


def test_an_unknown_verdict_is_a_clear_error(cli: Cli, drifted: Drifted) -> None:
    result = cli("drift", "show", "9999")
    assert result.exit_code == 3
    assert result.stderr.strip() == "cls: no verdict 9999: `cls drift` lists them"


def test_columns_are_as_high_as_their_values_and_the_threshold_lies_between() -> None:
    assert columns([0.0, 1.0, 2.0, None], 2, top=2.0) == ["  █ ", "▁██ "]
    assert columns([0.0, 4.0], 4, top=4.0, limit=2.5) == [" █", "┄█", " █", "▁█"]
    assert limit_row(2.5, 4, top=4.0) == 2
    assert columns([0.0, 0.0], 1, top=0.0) == ["▁▁"]
