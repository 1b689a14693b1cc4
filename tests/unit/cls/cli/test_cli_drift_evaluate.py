"""`cls drift evaluate`: the harness from the command line, on a file whose change is known."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from cls import drift_evaluation
from cls.cli.main import app
from cls.config import StreamConfig
from detectors.columns import Columns
from detectors.sequential import SequentialDetector

ROWS, CHANGE = 6000, 4000


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["drift", "evaluate", *arguments])


def results(*arguments: str, code: int = 0) -> dict[str, Any]:
    done = run(*arguments, "--json")
    assert done.exit_code == code, done.output
    document = json.loads(done.stdout)
    return {"document": document, **{found["detector"]: found for found in document["detectors"]}}


@pytest.fixture
def file(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    x = rng.normal(size=ROWS)
    x[CHANGE:] += 2
    letters = rng.choice(["a", "b", "c"], ROWS)
    path = tmp_path / "stream.parquet"
    parquet.write_table(pa.table({"x": x, "letter": letters, "y": rng.normal(size=ROWS)}), path)
    return str(path)


def test_ours_finds_the_change_soon_and_the_baselines_bound_it(file: str) -> None:
    found = results(file, "--changes", str(CHANGE), "--window-rows", "200")
    assert found["document"]["features"] == ["x", "letter"]
    assert found["document"]["left_out"] == [{"name": "y", "why": "target"}]
    assert found["document"]["reference_rows"] == ROWS // 5
    assert (found["kl"]["false_alarms"], found["kl"]["missed"], found["kl"]["delays"]) == (0, 0, [200])
    assert found["kl"]["alarm_rows"][0] == 4199
    assert found["always"]["mean_delay_rows"] == found["always"]["rows_between_false_alarms"] == 1
    assert (found["never"]["alarms"], found["never"]["missed"]) == (0, 1)
    assert found["never"]["mean_delay_rows"] is None
    assert found["adwin"]["missed"] == 0


def test_without_known_changes_alarms_are_counted_and_not_judged(file: str) -> None:
    found = results(file, "--detector", "kl", "--window-rows", "200")["kl"]
    assert found["alarms"] > 0
    assert found["alarms_per_10000"] > 0
    assert {found["false_alarms"], found["missed"], found["mean_delay_rows"]} == {None}


def test_where_nothing_changes_every_alarm_is_false(file: str) -> None:
    found = results(file, "--detector", "kl", "--changes", "none", "--window-rows", "200")["kl"]
    assert found["false_alarms"] == found["alarms"] > 0
    assert found["mean_delay_rows"] is None


def test_a_stream_of_the_configuration_says_features_and_thresholds(file: str, tmp_path: Path) -> None:
    config = tmp_path / "cls.toml"
    config.write_text(
        'home = "."\n[streams.s]\ntask = "regression"\n[streams.s.schema]\nnumeric = ["x"]\nkey = "id"\n'
        'event_time = "at"\ntarget = "y"\n[streams.s.detect]\nwindow_rows = 500\nreference_rows = 1000\nnats = 50.0\n'
    )
    done = CliRunner().invoke(
        app,
        ["--config", str(config), "drift", "evaluate", file, "--stream", "s", "--detector", "kl", "--json"],
    )
    document = json.loads(done.stdout)
    assert (document["features"], document["reference_rows"], document["window_rows"]) == (["x"], 1000, 500)
    assert document["detectors"][0]["alarms"] == 0, "a threshold of 50 nats is never reached"


@pytest.mark.parametrize(
    ("detect", "windows", "tolerance"),
    [(None, 1000, 0.005), ({"false_alarm_windows": 300, "tolerance": 0.02, "sequential": True}, 300, 0.02)],
)
def test_ours_have_the_same_budget_and_tolerance(
    monkeypatch: pytest.MonkeyPatch, detect: dict[str, Any] | None, windows: int, tolerance: float
) -> None:
    class Point:
        def __init__(self, name: str) -> None:
            self.name = name

        def load(self) -> Any:
            return lambda *_, detector=None, **__: detector

    names = ["kl", "kl-sliding", "sequential", "adwin"]
    monkeypatch.setattr(drift_evaluation, "entry_points", lambda **_: [Point(name) for name in names])
    schema = {"numeric": ("x",), "key": "id", "event_time": "at", "target": "y"}
    document = {"task": "regression", "schema": schema, "detect": detect}
    stream = None if detect is None else StreamConfig.model_validate(document)
    made: dict[str, Any] = {
        name: maker({}, window_rows=200) for name, maker in drift_evaluation.makers(names, stream).items()
    }
    assert made["kl"] == made["kl-sliding"]
    assert (made["kl"].false_alarm_windows, made["kl"].tolerance) == (windows, tolerance)
    assert made["sequential"] == SequentialDetector(windows * 200, tolerance)
    assert made["adwin"] is None


def test_people_get_a_table_that_says_what_is_not_known(file: str) -> None:
    shown = run(file, "--detector", "never", "--changes", f"{CHANGE}-5000").stdout
    assert f"known changes at rows {CHANGE}-5000" in shown
    assert ">= 1268" in shown  # 3,800 quiet rows by the rule of three


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--changes", "soon"], 2, "must be rows like"),
        (["--changes", "9000"], 2, "the change 9000-6000 lies outside"),
        (["--changes", "100"], 2, "in the reference"),
        (["--changes", "5000,5000"], 2, "two begin at row 5000"),
        (["--changes", "3000-5000,4000"], 2, "overlap at row 4000"),
        (["--changes", "5000-4000"], 2, "5000-4000"),
        (["--reference-rows", "6000"], 1, "are not more than"),
        (["--detector", "adwim"], 3, "did you mean 'adwin'"),
        (["--window-rows", "1"], 2, ""),
    ],
)
def test_faults_are_told(file: str, arguments: list[str], code: int, message: str) -> None:
    done = run(file, *arguments)
    assert done.exit_code == code
    assert message in done.stderr


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert "no such file" in run(str(tmp_path / "none.csv")).stderr


def test_a_detector_that_never_saw_a_window_is_not_said_to_be_quiet(file: str) -> None:
    arguments = ("--window-rows", "5000", "--detector", "kl", "--detector", "never")
    found = results(file, *arguments, code=1)
    assert "no whole window behind the reference: 4800 rows" in found["kl"]["could_not_look"]
    assert (found["kl"]["alarms"], found["kl"]["complete"]) == (None, False)
    assert (found["never"]["alarms"], found["never"]["could_not_look"]) == (0, None)
    told = run(file, *arguments)
    assert "kl: no whole window behind the reference" in told.stderr
    assert "kl: 0 alarms" not in told.stderr


def test_a_reference_of_few_rows_is_refused_whoever_asks_for_it(tmp_path: Path) -> None:
    path = tmp_path / "short.csv"
    path.write_text("x,y\n" + "".join(f"{row % 7},{row}\n" for row in range(400)))
    config = tmp_path / "cls.toml"
    config.write_text(
        'home = "."\n[streams.s]\ntask = "regression"\n[streams.s.schema]\nnumeric = ["x"]\nkey = "id"\n'
        'event_time = "at"\ntarget = "y"\n'
    )
    for arguments in ([], ["--stream", "s"]):
        command = ["--config", str(config), "drift", "evaluate", str(path), "--detector", "never", *arguments]
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 1, done.output
        assert "a reference of 80 of 400 rows is too short: at least 100" in done.stderr


def test_the_target_is_watched_where_a_file_has_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "one.csv"
    path.write_text("x\n" + "".join(f"{row % 7 / 2}\n" for row in range(2000)))
    found = results(str(path), "--detector", "never")
    assert (found["document"]["features"], found["document"]["left_out"]) == (["x"], [])


class Broken:
    """A detector of somebody else's that fails, or is stopped, at its third block."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.blocks = 0

    def __call__(self, reference: Columns, *, window_rows: int) -> "Broken":
        del reference, window_rows
        return self

    def update(self, columns: Columns) -> Sequence[int]:
        del columns
        self.blocks += 1
        if self.blocks == 3:
            raise self.error
        return [0]


@pytest.mark.parametrize(("error", "code"), [(ZeroDivisionError("by zero"), 1), (KeyboardInterrupt(), 130)])
def test_what_was_done_until_a_failure_or_ctrl_c_is_told(
    file: str, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    makers = {"always": drift_evaluation.makers(["always"], None)["always"], "theirs": Broken(error)}
    monkeypatch.setattr(drift_evaluation, "makers", lambda *_: makers)
    found = results(file, "--changes", str(CHANGE), code=code)
    assert found["always"]["complete"]
    assert not found["theirs"]["complete"]
    assert found["theirs"]["alarm_rows"] == [1200, 2200]
    assert found["theirs"]["seen"] == 3200
