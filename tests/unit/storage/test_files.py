"""The file source: deterministic batches, nothing unfinished, malformed parts set aside with their reason."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from cls.ports import RawBatch
from storage import file_readers
from storage.files import FileSource
from storage.pieces import Reader


def drain(source: FileSource, token: str = "") -> list[RawBatch]:
    batches = []
    while (batch := source.read(token)) is not None:
        batches.append(batch)
        token = batch.token
    return batches


def rows(batches: list[RawBatch]) -> list[dict[str, Any]]:
    return [row for batch in batches if batch.table is not None for row in batch.table.to_pylist()]


def source(path: Path, **settings: Any) -> FileSource:
    return FileSource(path, **{"settle_seconds": 0.0, "batch_rows": 100, **settings})


def write(path: Path, format_: str, values: list[int]) -> Path:
    if format_ == "parquet":
        parquet.write_table(pa.table({"x": values}), path, row_group_size=70)
    elif format_ == "csv":
        path.write_text("x\n" + "".join(f"{value}\n" for value in values))
    else:
        path.write_text("".join(json.dumps({"x": value}) + "\n" for value in values))
    return path


@pytest.mark.parametrize("format_", ["parquet", "csv", "ndjson"])
def test_every_row_once_in_order_in_batches_of_the_asked_size(tmp_path: Path, format_: str) -> None:
    write(tmp_path / f"b.{format_}", format_, list(range(250, 300)))
    write(tmp_path / f"a.{format_}", format_, list(range(250)))
    batches = drain(source(tmp_path))
    assert [batch.table.num_rows for batch in batches] == [100, 100, 50, 50]
    assert [int(row["x"]) for row in rows(batches)] == list(range(300))
    assert {batch.kind for batch in batches} == {"events"}


@pytest.mark.parametrize("format_", ["parquet", "csv", "ndjson"])
def test_a_token_gives_the_same_batch_in_every_life(tmp_path: Path, format_: str) -> None:
    path = write(tmp_path / f"a.{format_}", format_, list(range(1000)))
    if format_ != "parquet":
        lines = path.read_bytes().splitlines(keepends=True)
        for bad in (3, 150, 151, 420, 998):
            lines[bad] = b'{"x": \n' if format_ == "ndjson" else b"1,2,3\n"
        path.write_bytes(b"".join(lines))
    batches = drain(source(tmp_path))
    tokens = ["", *(batch.token for batch in batches)]
    for token, batch in zip(tokens, batches, strict=False):
        again = source(tmp_path).read(token)
        assert again is not None
        assert (again.token, again.fault, again.origin) == (batch.token, batch.fault, batch.origin)
        assert (again.table is None) == (batch.table is None)
        assert again.table is None or again.table.equals(batch.table)
    assert source(tmp_path).read(tokens[-1]) is None


def test_a_malformed_ndjson_line_is_set_aside_and_its_neighbours_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(b'{"x": 1}\n\n{"x": \n[1, 2]\n{"x": 2}\n{"x": "\xff"}\n{"x": NaN}\n')
    batches = drain(source(path))
    assert [row["x"] for row in rows(batches)][:2] == [1, 2]
    faults = [batch for batch in batches if batch.fault]
    assert [fault.details["line"] for fault in faults if fault.details] == [3, 6]
    assert faults[0].details == {
        "file": "a.ndjson",
        "line": 3,
        "last_line": 4,
        "lines": 2,
        "text": '{"x": \n[1, 2]',
    }
    assert "not UTF-8" in faults[1].fault
    assert rows(batches)[2]["x"] != rows(batches)[2]["x"]  # NaN is a value; ingest judges it


def test_a_malformed_csv_line_is_set_aside_and_its_neighbours_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'k,v\n1,a\n2\n3,"x\ny"\n4,"open\n5,\xff\n6,\n7,""\n8,5" wide\n')
    batches = drain(source(path))
    assert rows(batches) == [
        {"k": "1", "v": "a"},
        {"k": "3", "v": "x\ny"},
        {"k": "6", "v": None},
        {"k": "7", "v": ""},
        {"k": "8", "v": '5" wide'},
    ]
    faults = [batch for batch in batches if batch.fault]
    assert faults[0].details == {"file": "a.csv", "line": 3, "text": "2"}
    assert "has 1 fields where the header has 2" in faults[0].fault
    assert faults[1].details is not None
    assert (faults[1].details["line"], faults[1].details["last_line"]) == (6, 7)


def test_mixed_types_are_no_fault_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_text('{"x": 1, "t": "2013-01-01"}\n{"x": "n/a", "t": "2013-01-02"}\n{"x": 2.0, "t": "soon"}\n')
    (batch,) = drain(source(path))
    assert batch.table.column("x").to_pylist() == ["1", "n/a", "2"]
    assert batch.table.column("t").to_pylist() == ["2013-01-01", "2013-01-02", "soon"]


def test_what_looks_like_a_time_stays_text(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_text('{"x": 1, "t": "2013-01-01"}\n')
    (batch,) = drain(source(path))
    assert batch.table.to_pylist() == [{"x": 1, "t": "2013-01-01"}]


def test_an_unreadable_parquet_file_is_one_fault_and_the_next_file_is_read(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.parquet", "parquet", list(range(500))).read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole[:-20])
    damaged = bytearray(whole)
    damaged[100:400] = bytes(300)
    (tmp_path / "b.parquet").write_bytes(bytes(damaged))
    write(tmp_path / "c.parquet", "parquet", [7])
    batches = drain(source(tmp_path))
    faults = [batch.fault for batch in batches if batch.fault]
    assert [fault.split(":")[0] for fault in faults] == ["file a.parquet", "file b.parquet"]
    assert rows(batches)[-1] == {"x": 7}


@pytest.mark.parametrize("name", ["a.csv", "a.ndjson", "a.parquet"])
def test_an_empty_file_is_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    write(tmp_path / "b.csv", "csv", [1])
    assert rows(drain(source(tmp_path))) == [{"x": "1"}]


def test_a_csv_file_with_a_header_alone_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y\n")
    assert drain(source(tmp_path)) == []


def test_unfinished_names_are_never_taken_and_unknown_ones_are_a_fault(tmp_path: Path) -> None:
    for name in (".a.csv", "a.csv.part", "a.csv.tmp", "a.csv.TMP"):
        write(tmp_path / name, "csv", [1])
    assert drain(source(tmp_path)) == []
    (tmp_path / "notes").write_text("hello")
    (batch,) = drain(source(tmp_path))
    assert "unknown suffix" in batch.fault


def test_a_file_is_taken_only_once_it_rests(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "csv", [1])
    later = [0.0]
    growing = FileSource(tmp_path, settle_seconds=300, wall_seconds=lambda: time.time() + later[0])
    assert growing.read("") is None
    with path.open("a") as file:
        file.write("2\n")
    assert growing.read("") is None
    later[0] = 301
    assert len(rows(drain(growing))) == 2


def test_a_directory_that_grows_is_followed_and_so_is_its_newest_file(tmp_path: Path) -> None:
    first = write(tmp_path / "a.csv", "csv", [1, 2])
    growing = source(tmp_path)
    (batch,) = drain(growing)
    assert growing.read(batch.token) is None
    with first.open("a") as file:
        file.write("3\n")
    (more,) = drain(growing, batch.token)
    write(tmp_path / "b.ndjson", "ndjson", [4])
    (last,) = drain(growing, more.token)
    assert [int(row["x"]) for row in rows([batch, more, last])] == [1, 2, 3, 4]


def test_compressed_text_is_read_and_a_truncated_one_is_a_fault(tmp_path: Path) -> None:
    data = gzip.compress("".join(f'{{"x": {i}, "y": "{i * 7919}"}}\n' for i in range(5000)).encode())
    (tmp_path / "a.ndjson.gz").write_bytes(data)
    (tmp_path / "b.ndjson.gz").write_bytes(data[: len(data) // 2])
    write(tmp_path / "c.csv", "csv", [9])
    batches = drain(source(tmp_path, batch_rows=1000))
    assert [row["x"] for row in rows(batches)][:5000] == list(range(5000))
    assert sum(bool(batch.fault) for batch in batches) == 1
    assert rows(batches)[-1] == {"x": "9"}


def test_a_line_without_end_is_a_fault_and_not_the_end_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.line_readers.LINE_BYTES", 1000)
    path = tmp_path / "a.ndjson"
    path.write_text('{"x": 1}\n{"x": "' + "y" * 5000 + '"}\n{"x": 2}\n')
    batches = drain(source(path))
    assert rows(batches) == [{"x": 1}, {"x": 2}]
    assert "line 2: is too long" in next(batch.fault for batch in batches if batch.fault)


def test_a_big_file_is_not_read_again_for_every_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []

    def counting(reader: Callable[[Path], Reader]) -> Callable[[Path], Reader]:
        def open_(path: Path) -> Reader:
            opened.append(path)
            return reader(path)

        return open_

    for name, reader in dict(file_readers.FORMATS).items():
        monkeypatch.setitem(file_readers.FORMATS, name, counting(reader))
    for format_ in ("csv", "parquet"):
        write(tmp_path / f"a.{format_}", format_, list(range(1000)))
    drain(source(tmp_path, batch_rows=10))
    assert len(opened) == 2
