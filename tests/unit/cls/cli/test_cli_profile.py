"""`cls drift profile`: the parts of a reference merge into the whole, and what moved is on top."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet
from sqlalchemy import Engine

from cls.cli.drift_profile_tables import By
from cls.columns.file_columns import Wanted, read_columns
from cls.domain import Batch, Role
from cls.infer import infer_schema
from cls.times import to_us
from detectors.columns import Categorical
from detectors.divergences import DIVERGENCES
from detectors.profile import Profile, build_profile
from storage import log
from storage.db import transaction
from storage.segments import DiskSegments
from tests.unit.cls.cli.conftest import T0, Cli

HOUR_US = 3_600_000_000


def flights(rows: int, seed: int = 0, *, shift: float = 0.0) -> pa.Table:
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "id": [f"k{seed}-{i}" for i in range(rows)],
            "at": pa.array((to_us(T0) + np.arange(rows) * HOUR_US).tolist(), pa.timestamp("us", tz="UTC")),
            "distance": pa.array(
                np.round(rng.normal(1000 + shift, 100, rows) * 2) / 2, mask=rng.random(rows) < 0.05
            ),
            "carrier": rng.choice(["AA", "UA", "B6"], rows),
            "weekend": rng.random(rows) < 0.3,
            "air_time": np.round(rng.normal(150, 20, rows)) / 2,
        }
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    parquet.write_table(flights(2000), tmp_path / "all.parquet")
    for part in range(2):
        parquet.write_table(flights(2000).slice(1000 * part, 1000), tmp_path / f"part{part}.parquet")
    parquet.write_table(flights(500, 1, shift=80), tmp_path / "moved.parquet")
    return tmp_path


def read(path: Path) -> Profile:
    return Profile.from_json(json.loads(path.read_text()))


def test_a_file_is_profiled_in_its_inferred_types_without_key_and_time(cli: Cli, data: Path) -> None:
    shown = cli.json("drift", "profile", "build", str(data / "all.parquet"), "--out", str(data / "p.json"))
    assert shown["rows"] == 2000
    features = {feature["name"]: feature for feature in shown["features"]}
    assert {name: feature["kind"] for name, feature in features.items()} == {
        "distance": "numeric", "carrier": "categorical", "weekend": "categorical", "air_time": "numeric",
    }  # fmt: skip
    assert shown["left_out"] == [{"name": "id", "why": "key"}, {"name": "at", "why": "event time"}]
    assert features["carrier"]["bins"] == 5
    assert features["carrier"]["missing_share"] == 0
    assert features["distance"]["missing_share"] == pytest.approx(0.05, abs=0.02)
    assert features["distance"]["design_effect"] >= 1
    assert set(features["weekend"]["counts"]) == {"true", "false", "unseen", "missing"}
    path = data / "all.parquet"
    columns = read_columns(path, Wanted.of(infer_schema(path, target_too=True)), print)
    assert read(data / "p.json").to_json() == build_profile(columns).to_json()


def test_the_formats_of_a_file_give_the_same_profile(cli: Cli, data: Path) -> None:
    table = flights(2000)
    csv.write_csv(table, data / "all.csv")
    rows = [row | {"at": row["at"].isoformat()} for row in table.to_pylist()]
    (data / "all.ndjson").write_text("\n".join(map(json.dumps, rows)))
    for suffix in ("parquet", "csv", "ndjson"):
        found = cli("drift", "profile", "build", str(data / f"all.{suffix}"), "--out", str(data / suffix))
        assert found.exit_code == 0, found.output
    assert (data / "csv").read_bytes() == (data / "parquet").read_bytes() == (data / "ndjson").read_bytes()


def test_partitions_in_the_same_bins_merge_to_the_counts_of_the_whole(cli: Cli, data: Path) -> None:
    whole, first, second, both = (str(data / f"{name}.json") for name in ("whole", "first", "second", "both"))
    cli.json("drift", "profile", "build", str(data / "all.parquet"), "--out", whole)
    for name, part in ((first, 0), (second, 1)):
        cli.json(
            "drift", "profile", "build", str(data / f"part{part}.parquet"), "--like", whole, "--out", name
        )
    merged = cli.json("drift", "profile", "merge", first, second, "--out", both)
    counted = {f["name"]: f["counts"] for f in cli.json("drift", "profile", "show", whole)["features"]}
    assert merged["rows"] == 2000
    assert {feature["name"]: feature["counts"] for feature in merged["features"]} == counted
    assert read(Path(both)).counts.tolist() == read(Path(whole)).counts.tolist()


def test_profiles_in_other_bins_are_refused_with_the_feature_and_the_way_out(cli: Cli, data: Path) -> None:
    first, second = str(data / "first.json"), str(data / "second.json")
    for name, part in ((first, 0), (second, 1)):
        cli.json("drift", "profile", "build", str(data / f"part{part}.parquet"), "--out", name)
    for command in (("merge", first, second, "--out", str(data / "x")), ("compare", first, second)):
        refused = cli("drift", "profile", *command)
        assert refused.exit_code == 1
        assert "feature 'distance': other bins" in refused.stderr
        assert f"--like {first}" in refused.stderr
    assert not (data / "x").exists()


def test_a_comparison_has_every_divergence_and_what_moved_comes_first(cli: Cli, data: Path) -> None:
    reference, moved = str(data / "p.json"), str(data / "moved.json")
    cli.json("drift", "profile", "build", str(data / "all.parquet"), "--out", reference)
    found = cli.json("drift", "profile", "compare", reference, str(data / "moved.parquet"))
    assert (found["reference_rows"], found["current_rows"], found["by"]) == (2000, 500, "kl")
    assert found["features"][0]["name"] == "distance"
    assert set(found["features"][0]["values"]) == set(DIVERGENCES)
    for feature in found["features"]:
        for name, value in feature["values"].items():
            parts = [bin_["parts"].get(name) for bin_ in feature["bins"]]
            assert (value is None) == (parts[0] is None)
            assert value is None or value == pytest.approx(sum(parts))

    cli.json("drift", "profile", "build", str(data / "moved.parquet"), "--like", reference, "--out", moved)
    assert [one["name"] for one in found["left_out"]] == ["id", "at"]
    assert cli.json("drift", "profile", "compare", reference, moved) == found | {"left_out": []}
    people = cli("drift", "profile", "compare", reference, moved, "--by", "wasserstein")
    assert people.exit_code == 0
    assert "500 rows of" in people.stdout
    assert people.stdout.index("distance") < people.stdout.index("carrier")
    assert "█" in people.stdout


def test_every_divergence_can_be_sorted_by() -> None:
    assert [str(name) for name in By] == list(DIVERGENCES)


def test_a_feature_that_a_file_lacks_counts_as_missing_and_is_named(cli: Cli, data: Path) -> None:
    reference = str(data / "p.json")
    cli.json("drift", "profile", "build", str(data / "all.parquet"), "--out", reference)
    parquet.write_table(flights(500).drop_columns(["carrier"]), data / "less.parquet")
    found = cli("drift", "profile", "compare", reference, str(data / "less.parquet"), "--json")
    assert "has no feature 'carrier': it counts as missing" in found.stderr
    first = json.loads(found.stdout)["features"][0]
    assert first["name"] == "carrier"
    assert first["values"]["total_variation"] > 0.99


def test_a_schema_gives_types_and_bins_and_bad_values_are_told(cli: Cli, data: Path) -> None:
    rows = [{"distance": str(i), "carrier": "UA"} for i in range(99)] + [{"distance": "far", "carrier": None}]
    (data / "rows.ndjson").write_text("\n".join(map(json.dumps, rows)) + "\nnot json\n")
    found = cli(
        "drift", "profile", "build", str(data / "rows.ndjson"), "--stream", "flights", "--out", str(data / "p.json"),
        "--json",
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    assert "1 rows count as missing there: feature 'distance' is not a number" in found.stderr
    assert "not json" in found.stderr.lower()
    shown = json.loads(found.stdout)
    assert shown["rows"] == 100
    assert {feature["name"]: feature["missing_share"] for feature in shown["features"]} == {
        "distance": 0.01, "carrier": 0.01,
    }  # fmt: skip


def test_typed_columns_of_a_file_are_profiled_by_what_is_derived(cli: Cli, data: Path) -> None:
    rng = np.random.default_rng(5)
    texts = [f"{' '.join(rng.choice(['late', 'because', 'of', 'fog'], 6))} {i}" for i in range(500)]
    table = flights(500).append_column("note", pa.array(texts))
    parquet.write_table(
        table.append_column("v", pa.array(rng.normal(size=(500, 9)).tolist())), data / "t.parquet"
    )
    shown = cli.json("drift", "profile", "build", str(data / "t.parquet"), "--out", str(data / "p.json"))
    names = {feature["name"] for feature in shown["features"]}
    assert {"note.length", "note.word", "v.0", "v.norm", "weekend"} <= names
    found = cli.json("drift", "profile", "compare", str(data / "p.json"), str(data / "t.parquet"))
    assert {feature["values"]["kl"] for feature in found["features"]} == {0.0}


NUMBERS = [f"{row % 90 / 4}" for row in range(2000)]


@pytest.mark.parametrize(
    ("name", "lines", "features"),
    [
        ("one", ["x", *NUMBERS], {"x"}),
        ("two", ["id,x", *(f"{row},{value}" for row, value in enumerate(NUMBERS))], {"x"}),
        ("named", ["x,label", *(f"{value},{row % 2}" for row, value in enumerate(NUMBERS))], {"x", "label"}),
    ],
)
def test_what_looks_like_a_target_is_a_column_like_any_other(
    cli: Cli, tmp_path: Path, name: str, lines: list[str], features: set[str]
) -> None:
    path, out = tmp_path / f"{name}.csv", str(tmp_path / "p.json")
    path.write_text("\n".join(lines) + "\n")
    shown = cli.json("drift", "profile", "build", str(path), "--out", out)
    assert {feature["name"] for feature in shown["features"]} == features
    found = cli.json("drift", "profile", "compare", out, str(path))
    assert {feature["values"]["kl"] for feature in found["features"]} == {0.0}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["a;b;c", *(f"{v};{v};{n}" for n, v in enumerate(NUMBERS))],
            "called 'a;b;c': is the separator ';'?",
        ),
        (["a\tb", *(f"{n}\t{v}" for n, v in enumerate(NUMBERS))], "is the separator a tab?"),
        (["a", *(["1"] * 50)], "no feature is left: 'a': it holds one value only"),
        (["id", *(f"k{n}" for n in range(50))], "no feature is left: 'id' was taken as key"),
    ],
)
@pytest.mark.parametrize("command", [("profile", "build"), ("evaluate",)])
def test_a_file_without_a_feature_is_not_said_to_hold_no_rows(
    cli: Cli, tmp_path: Path, command: tuple[str, ...], lines: list[str], message: str
) -> None:
    (tmp_path / "f.csv").write_text("\n".join(lines) + "\n")
    out = ("--out", str(tmp_path / "p.json")) if "build" in command else ()
    refused = cli("drift", *command, str(tmp_path / "f.csv"), *out)
    assert refused.exit_code == 1
    assert message in refused.stderr


def test_columns_that_are_left_out_are_named_with_the_reason(cli: Cli, data: Path) -> None:
    table = flights(500).append_column("year", pa.array([2013] * 500))
    parquet.write_table(table, data / "y.parquet")
    out = ("--out", str(data / "p.json"))
    told = cli("drift", "profile", "build", str(data / "y.parquet"), *out).stderr
    expected = "left out: id (key), at (event time), year (it holds one value only); see `cls stream infer`\n"
    assert expected in told
    told = cli("drift", "profile", "build", str(data / "y.parquet"), "--stream", "flights", *out).stderr
    assert "weekend (not in the schema)" in told


def test_data_in_place_of_a_profile_is_told_from_a_broken_profile(cli: Cli, data: Path) -> None:
    csv.write_csv(flights(50), data / "mix.csv")
    for name in ("all.parquet", "mix.csv"):
        for command in [("show", str(data / name)), ("compare", str(data / name), str(data / "all.parquet"))]:
            refused = cli("drift", "profile", *command)
            assert refused.exit_code == 1
            assert f"{name}: holds data, not a profile: build one with" in refused.stderr
    misplaced: list[tuple[str, ...]] = [
        ("build", str(data / "all.parquet"), "--out", str(data)),
        ("show", str(data)),
    ]
    for arguments in misplaced:
        refused = cli("drift", "profile", *arguments)
        assert refused.exit_code == 1
        assert f"{data}: is a directory" in refused.stderr


def test_shares_are_shown_as_counted_and_none_has_no_bar(cli: Cli, data: Path) -> None:
    reference = str(data / "p.json")
    cli.json("drift", "profile", "build", str(data / "all.parquet"), "--out", reference)
    table = flights(500, 1).set_column(3, "carrier", pa.array(["AA"] * 500))
    parquet.write_table(table, data / "aa.parquet")
    found = cli.json("drift", "profile", "compare", reference, str(data / "aa.parquet"))
    bins = {one["label"]: one for one in found["features"][0]["bins"]}
    assert found["features"][0]["name"] == "carrier"
    assert [bins[label]["current_share"] for label in ("AA", "B6", "missing")] == [1.0, 0.0, 0.0]
    shown = cli("drift", "profile", "compare", reference, str(data / "aa.parquet")).stdout
    none = [line for line in shown.splitlines() if line.rstrip().endswith(" 0.0%")]
    assert none
    assert not any("█" in line or "▒" in line for line in none)


def test_a_profile_that_is_merged_with_itself_is_named(cli: Cli, data: Path) -> None:
    one, both = str(data / "one.json"), str(data / "both.json")
    cli.json("drift", "profile", "build", str(data / "all.parquet"), "--out", one)
    merged = cli("drift", "profile", "merge", one, str(data / "." / "one.json"), "--out", both)
    assert merged.exit_code == 0
    assert "one.json is given twice: its rows count twice" in merged.stderr
    assert read(Path(both)).rows == 4000


@pytest.fixture
def logged(full: Engine, cli: Cli) -> Engine:
    """The stream `flights` with 300 more events, an hour apart, and labels of the first 200."""
    store = DiskSegments(cli.config.parent / "home" / "segments")
    rng = np.random.default_rng(3)
    roles = np.where(np.arange(300) % 10 == 9, Role.GATE, Role.TRAIN).astype(np.int8)
    batch = Batch(
        {
            "distance": rng.normal(1000, 100, 300),
            "carrier": Categorical.of(rng.choice(["a", "b"], 300).tolist()),
        },
        [f"more{i}" for i in range(300)],
        to_us(T0) + np.arange(300, dtype=np.int64) * HOUR_US,
        roles,
        np.full(300, np.nan),
        np.zeros(300, np.int64),
    )
    events = log.write_events(store, "flights", 50, batch)
    position = np.arange(50, 250, dtype=np.int64)
    labels = log.write_labels(store, "flights", 0, position, rng.normal(size=200), np.full(200, to_us(T0)))
    with transaction(full) as connection:
        log.record_segment(connection, events)
        log.record_segment(connection, labels)
    return full


@pytest.mark.parametrize(
    ("bounds", "rows"),
    [
        ((), 350),
        (("--from", "50"), 300),
        (("--from", "60", "--to", "100"), 40),
        (("--from", "2013-01-02", "--to", "2013-01-03T00:00:00Z"), 24),
        (("--from", "2013-01-02T01:00+01:00", "--to", "80"), 6),
        (("--version", "1"), 90),
        (("--version", "2"), 180),
    ],
)
def test_a_profile_of_a_stream_covers_what_was_asked_for(
    cli: Cli, logged: Engine, bounds: tuple[str, ...], rows: int, tmp_path: Path
) -> None:
    shown = cli.json(
        "drift", "profile", "build", "--stream", "flights", *bounds, "--out", str(tmp_path / "p.json")
    )
    assert shown["rows"] == rows
    assert {feature["name"] for feature in shown["features"]} == {"distance", "carrier"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("build",), 2, "name a FILE, or the --stream"),
        (("build", "a.csv", "--from", "1"), 2, "--from reads a stream's log, not a FILE"),
        (("build", "--stream", "flights", "--version", "1", "--to", "9"), 2, "leave --to out"),
        (("build", "--stream", "flight"), 3, "did you mean 'flights'"),
        (("build", "--stream", "flights", "--version", "9"), 3, "no version 9"),
        (("build", "--stream", "flights", "--from", "soon"), 1, "'soon' is neither an event position"),
        (("build", "--stream", "flights", "--from", "2031-01-01"), 3, "no events there; it has 350 in all"),
        (("build", "absent.csv", "--stream", "flights"), 3, "absent.csv: there is no such file"),
        (("build", "cls.toml", "--stream", "flights"), 1, "its suffix tells no known format"),
        (("build", "none.csv", "--stream", "flights"), 1, "none of the features, such as 'distance'"),
        (("build", "header.csv", "--stream", "flights"), 1, "holds no rows"),
        (("merge", "other.json"), 2, "name two profiles or more"),
        (("merge", "other.json", "absent.json"), 1, "other.json: is no profile"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_said_with_the_way_out(
    cli: Cli,
    logged: Engine,
    arguments: tuple[str, ...],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("none.csv").write_text("distanz,b\n1,2\n")
    Path("header.csv").write_text("distance,carrier\n")
    Path("other.json").write_text('{"format": 99, "features": [], "rows": 1}')
    result: Any = cli("drift", "profile", *arguments, "--out", "p.json")
    assert (result.exit_code, message in result.stderr) == (code, True), result.output
    assert not Path("p.json").exists()
