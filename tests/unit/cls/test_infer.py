"""Inferring a stream's schema: the proposal is right on ordinary files and says why."""

import gzip
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from cls.config import load_config
from cls.errors import BadData
from cls.infer import InferredStream, infer_schema
from cls.infer_read import read_sample
from cls.settings.check import check_config

N = 400
START = datetime(2013, 1, 1, tzinfo=UTC)


def flights(**changes: Any) -> pa.Table:
    """A table in the manner of the flights: N rows, one every ten minutes."""
    rng = np.random.default_rng(0)
    at = [START + timedelta(minutes=10 * i) for i in range(N)]
    columns: dict[str, Any] = {
        "flight_id": [f"f{i}" for i in range(N)],
        "scheduled_at": at,
        "distance": rng.normal(1000, 200, N),
        "seats": rng.integers(50, 400, N),
        "month": rng.integers(1, 13, N),
        "carrier": rng.choice(["AA", "UA", "B6"], N),
        "weekend": rng.random(N) < 0.3,
        "remark": [f"text {i}" for i in range(N)],
        "empty": pa.nulls(N, pa.float64()),
        "constant": np.ones(N),
        "gates": [[1, 2]] * N,
        "landed_at": [time + timedelta(hours=2) for time in at],
        "air_time": rng.normal(150, 20, N),
    }
    columns |= changes
    return pa.table({name: values for name, values in columns.items() if values is not None})


def infer(folder: Path, table: pa.Table) -> InferredStream:
    path = folder / "data.parquet"
    parquet.write_table(table, path)
    return infer_schema(path)


def test_every_column_finds_its_place(tmp_path: Path) -> None:
    found = infer(tmp_path, flights())
    assert found.numeric == ("distance", "seats")
    assert found.categorical == ("month", "carrier")
    assert (found.boolean, found.timestamp, found.text, found.embedding) == (("weekend",), (), (), {})
    assert (found.key, found.event_time, found.label_time) == ("flight_id", "scheduled_at", "landed_at")
    assert (found.target, found.task, found.classes) == ("air_time", "regression", ())
    assert set(found.reasons) == set(flights().column_names)
    assert "whole numbers, but only 12 different ones" in found.reasons["month"]
    for left_out in ("remark", "empty", "constant", "gates"):
        assert found.reasons[left_out].startswith("left out")


@pytest.mark.parametrize(
    ("values", "task", "classes"),
    [
        (["late", "early"] * (N // 2), "classification", ("early", "late")),
        ([True, False] * (N // 2), "classification", ("false", "true")),
        ([0, 1, 2, 3] * (N // 4), "classification", ("0", "1", "2", "3")),
        (list(range(N)), "regression", ()),
        ([0.5, 1.5] * (N // 2), "regression", ()),
    ],
)
def test_task_follows_the_target(
    tmp_path: Path, values: list[Any], task: str, classes: tuple[str, ...]
) -> None:
    found = infer(tmp_path, flights(air_time=None, label=values, last=np.arange(N) * 0.5))
    assert (found.target, found.task, found.classes) == ("label", task, classes)
    assert "last" in found.numeric


def test_typed_columns_are_proposed_with_their_reasons(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    words = ["late", "because", "of", "fog", "and", "snow"]
    typed = {
        "remark": [f"{' '.join(rng.choice(words, 6))} {i}" for i in range(N)],
        "route": rng.normal(size=(N, 12)).tolist(),
        "stops": rng.integers(0, 9, (N, 12)).tolist(),  # lists of codes, not of coordinates
        "uneven": [rng.normal(size=1 + i % 3).tolist() for i in range(N)],
        "booked": [START - timedelta(days=i) for i in range(N)],
        "settled_at": [START + timedelta(days=99)] * (N - 1) + [None],
    }
    found = infer(tmp_path, flights(**typed))
    assert (found.text, found.embedding, found.boolean) == (("remark",), {"route": 12}, ("weekend",))
    assert found.timestamp == ("booked",)
    assert found.reasons["route"] == "embedding: lists of 12 numbers"
    assert found.reasons["remark"].startswith("text: 400 different strings of 7.0 words")
    for left_out in ("stops", "uneven", "settled_at"):
        assert found.reasons[left_out].startswith("left out"), left_out
    config = tmp_path / "cls.toml"
    config.write_text(found.to_toml("flights"))
    assert check_config(config) == []
    columns = load_config(config).streams["flights"].columns
    assert (columns.text, columns.embedding, columns.timestamp) == (found.text, found.embedding, ("booked",))


def test_event_time_is_the_one_that_goes_forward(tmp_path: Path) -> None:
    shuffled = np.random.default_rng(1).permutation(flights()["scheduled_at"].to_pylist())
    found = infer(tmp_path, flights(landed_at=None, aaa_time=list(shuffled)))
    assert found.event_time == "scheduled_at"
    assert found.timestamp == ("aaa_time",)
    assert found.reasons["aaa_time"].startswith("timestamp: hour and weekday")


def test_what_is_not_found_is_said_and_then_refused(tmp_path: Path) -> None:
    found = infer(tmp_path, flights(flight_id=None, remark=None, scheduled_at=None, landed_at=None))
    assert (found.key, found.event_time) == ("", "")
    assert {"key", "event_time"} <= set(found.reasons)
    config = tmp_path / "cls.toml"
    config.write_text(found.to_toml("flights"))
    assert {fault.place.rpartition(".")[2] for fault in check_config(config)} == {"key", "event_time"}


def test_proposal_is_a_valid_configuration(tmp_path: Path) -> None:
    found = infer(tmp_path, flights(**{'odd "name"': np.arange(N) * 0.1, "label": ["a", "b"] * (N // 2)}))
    config = tmp_path / "cls.toml"
    config.write_text(found.to_toml("flights"))
    assert check_config(config) == []
    stream = load_config(config).streams["flights"]
    assert (stream.columns.numeric, stream.columns.categorical) == (found.numeric, found.categorical)
    assert (stream.columns.classes, stream.source.path) == (("a", "b"), found.path)


def test_formats_agree(tmp_path: Path) -> None:
    table = flights(gates=None, empty=None, remark=[f"one of {i} remarks" for i in range(N)])
    vectors = np.random.default_rng(3).normal(size=(N, 5)).tolist()
    parquet.write_table(table.append_column("v", pa.array(vectors)), tmp_path / "a.parquet")
    csv.write_csv(table.append_column("v", pa.array(map(json.dumps, vectors))), tmp_path / "a.csv")
    rows = [
        {k: v.isoformat() if isinstance(v, datetime) else v for k, v in row.items()}
        for row in table.append_column("v", pa.array(vectors)).to_pylist()
    ]
    text = "\n".join(map(json.dumps, rows))
    (tmp_path / "a.ndjson").write_text(text)
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.write(text)
    found = [infer_schema(tmp_path / name) for name in ("a.parquet", "a.csv", "a.ndjson", "a.jsonl.gz")]
    assert (
        len({(f.numeric, f.categorical, f.key, f.event_time, f.label_time, f.target, f.task) for f in found})
        == 1
    )
    assert {(f.boolean, f.timestamp, f.text, *f.embedding.items()) for f in found} == {
        (("weekend",), (), ("remark",), ("v", 5))
    }


def test_directory_is_judged_by_its_first_file(tmp_path: Path) -> None:
    (tmp_path / "README.txt").write_text("no data")
    csv.write_csv(flights(gates=None).slice(0, 100), tmp_path / "b.csv")
    csv.write_csv(flights(gates=None), tmp_path / "a.csv")
    assert infer_schema(tmp_path).rows == N


def test_only_the_beginning_is_read(tmp_path: Path) -> None:
    parquet.write_table(flights(), tmp_path / "a.parquet", row_group_size=50)
    assert read_sample(tmp_path / "a.parquet", rows=120).num_rows == 120


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("absent.csv", None),
        ("a.xlsx", b"x"),
        ("empty.csv", b""),
        ("header.csv", b"a,b\n"),
        ("torn.parquet", b"PAR1 and then nothing"),
        ("bad.ndjson", b'{"a": 1}\nnot json'),
        ("twice.csv", b"a,b,a\n1,2,3\n"),
        ("latin.csv", "größe,b\n1,2\n".encode("latin-1")),
    ],
)
def test_unreadable_data_is_bad_data(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BadData, match=name):
        infer_schema(tmp_path / name)


def test_directory_without_data_is_bad_data(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="no Parquet, CSV or NDJSON"):
        infer_schema(tmp_path)
