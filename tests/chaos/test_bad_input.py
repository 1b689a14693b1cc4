"""What is wrong with what comes in is told to the sender or kept with its reason; everything else is taken in."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import select

from cls.demo.feed import ARROW
from cls.demo.running import run_cli
from cls.domain import Json
from storage.tables import dead_letters
from tests.chaos.harness import STREAM, System, eventually, facts, running

AT = "2020-01-01T00:00:00Z"
LATER = "2020-01-05T00:00:00Z"
PARTS: list[tuple[str, Any]] = [
    ("a-empty.parquet", b""),
    ("b-header.csv", b"id,at,a,b,c,kind\n"),
    ("c-good.ndjson", b'{"id": "n1", "at": "2020-01-01T00:00:00Z", "a": 1}\nnot json\n{"id": "n2", "at": "2020-01-01T00:00:00Z", "a": 2}\n'),
    ("d-truncated.parquet", None),
    ("e-wrong.parquet", b"this is not Parquet at all, whatever its name says"),
    ("f-good.csv", b"id,at,a,b,c,kind\nf1,2020-01-01T00:00:00Z,1,2,3,north\n"),
]  # fmt: skip


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, sqlite_template: str) -> Iterator[System]:
    """Return a running daemon, nothing else, that also watches a directory."""
    folder = tmp_path_factory.mktemp("input")
    (folder / "cls.db").write_bytes(Path(sqlite_template).read_bytes())
    (folder / "watched").mkdir()
    source = {"kind": "file", "path": str(folder / "watched")}
    with running(System(folder, f"sqlite:///{folder / 'cls.db'}", {"source": source}), "daemon") as system:
        yield system


def post(system: System, kind: str, body: Any, content_type: str = "application/json") -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return system.client.post(
        f"/v1/streams/{STREAM}/{kind}", content=content, headers={"Content-Type": content_type}
    )


def taken(system: System, kind: str, body: Any) -> None:
    """Post something that is taken, and wait until it was digested."""
    answer = (
        post(system, kind, body) if not isinstance(body, pa.Table) else post(system, kind, arrow(body), ARROW)
    )
    assert answer.status_code == 202, answer.text
    system.settle()


def arrow(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def letters(system: System, word: str) -> list[Any]:
    """Return the dead letters whose record names something."""
    found = system.rows(select(dead_letters).order_by(dead_letters.c.id))
    return [row for row in found if word in json.dumps(row.record)]


def reason(system: System, key: str) -> str:
    [letter] = letters(system, f'"{key}"')
    return str(letter.reason)


def event(key: str, **values: Any) -> Json:
    return {"id": key, "at": AT, "a": 1.0, "b": 2.0, "c": 3.0, "kind": "north"} | values


def known(system: System) -> list[str]:
    return list(facts(system)["events"].get("cls:key", []))


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b'{"id": "x", ', "application/json", 400),
        (b"", "application/json", 400),
        (b"[1, 2]", "application/json", 400),
        (b"null", "application/json", 400),
        (b'{"id": "x"}\nnot json\n', "application/x-ndjson", 400),
        (b"ARROW1 and then nothing", ARROW, 400),
        (arrow(pa.table({"id": ["x"] * 100}))[:-300], ARROW, 400),
        (b"id,at\nx,y\n", "text/csv", 415),
        (b'[{"at": "2020-01-01T00:00:00Z", "a": 1}]', "application/json", 422),
        (b'[{"id": "x", "a": 1}]', "application/json", 422),
        (b"[]", "application/json", 202),
    ],
)
def test_a_request_that_cannot_be_used_is_refused_at_the_door(
    daemon: System, body: bytes, content_type: str, status: int
) -> None:
    before = len(known(daemon)), len(daemon.rows(select(dead_letters.c.id)))
    answer = post(daemon, "events", body, content_type)
    assert answer.status_code == status, answer.text
    if status != 202:
        assert answer.json()["error"]
    daemon.settle()
    assert (len(known(daemon)), len(daemon.rows(select(dead_letters.c.id)))) == before


@pytest.mark.chaos
def test_an_unknown_stream_or_kind_is_named(daemon: System) -> None:
    answer = daemon.client.post("/v1/streams/tyde/events", json=event("x"))
    assert (answer.status_code, STREAM in answer.text) == (404, True)
    assert daemon.client.post(f"/v1/streams/{STREAM}/evnts", json=event("x")).status_code == 404


@pytest.mark.chaos
def test_bad_records_are_kept_with_their_reason_and_good_ones_beside_them_are_taken(daemon: System) -> None:
    future = (datetime.now(UTC) + timedelta(days=30)).isoformat()
    rows = [
        event("good"),
        event("word", a="a word"),
        event("text", a=" 1.5 "),
        event("future", at=future),
        event("timeless", at="yesterday"),
        event("good", a=5.0),
        event("unseen", kind="a kind that nobody has seen"),
        {"id": "sparse", "at": AT, "b": 2.0},
        event("early", at="2019-12-31T00:00:00Z"),
        event("k" * 300),
        event("last", at="2020-01-02T00:00:00Z"),
    ]
    taken(daemon, "events", rows)
    assert [key for key in known(daemon) if key in {row["id"] for row in rows}] == [
        "good", "text", "unseen", "sparse", "early", "last",
    ]  # fmt: skip
    assert "not a number" in reason(daemon, "word")
    assert "future" in reason(daemon, "future")
    assert "not a time" in reason(daemon, "timeless")
    assert "in the log already" in reason(daemon, "good")
    assert "longer than" in reason(daemon, "k" * 300)
    taken(daemon, "events", [event("last", a=9.0)])
    assert "in the log already" in reason(daemon, "last")


@pytest.mark.chaos
def test_numbers_that_are_none(daemon: System) -> None:
    table = pa.table(
        {
            "id": ["nan", "inf", "minus", "fine"],
            "at": [AT] * 4,
            "a": [np.nan, np.inf, 1.0, 1.0],
            "b": [1.0, 1.0, -np.inf, 1.0],
            "kind": [None, "north", "north", "north"],
        }
    )
    taken(daemon, "events", table)
    assert [key for key in known(daemon) if key in {"nan", "inf", "minus", "fine"}] == ["nan", "fine"]
    assert "infinite" in reason(daemon, "inf")
    assert "infinite" in reason(daemon, "minus")


@pytest.mark.chaos
def test_rows_without_any_feature_are_no_events(daemon: System) -> None:
    taken(daemon, "events", [{"id": "bare", "at": AT, "other": 1}])
    assert "bare" not in known(daemon)
    assert "none of the features" in reason(daemon, "bare")


@pytest.mark.chaos
def test_labels_that_fit_nothing_and_their_replay(daemon: System) -> None:
    taken(daemon, "events", [event("labelled")])
    rows: list[Json] = [
        {"id": "labelled", "y": 1.0, "known": AT},
        {"id": "labelled", "y": 2.0, "known": AT},
        {"id": "wordy", "y": "much"},
        {"id": "empty", "y": None},
        {"id": "orphan", "y": 3.0, "known": AT},
    ]
    before = len(facts(daemon)["labels"].get("cls:position", []))
    taken(daemon, "labels", rows)
    assert "has a label already" in reason(daemon, "labelled")
    assert "not a number" in reason(daemon, "wordy")
    assert "missing" in reason(daemon, "empty")
    assert letters(daemon, '"orphan"') == []  # it may still come

    taken(daemon, "events", [event("much later", at=LATER)])
    [letter] = letters(daemon, '"orphan"')
    assert letter.kind == "labels"
    assert "no event with this key came within" in letter.reason

    taken(daemon, "events", [event("orphan")])
    [sent] = run_cli(daemon.path, "dead-letters", "replay", STREAM, "--id", str(letter.id))
    assert sent["outcome"] == "sent"
    daemon.settle()
    found = facts(daemon)["labels"]
    assert len(found["cls:position"]) == before + 2
    assert found["cls:value"][-1] == 3.0
    assert known(daemon)[found["cls:position"][-1]] == "orphan"
    waiting = {row["id"] for row in run_cli(daemon.path, "dead-letters", "list", STREAM, "--limit", "1000")}
    assert letter.id not in waiting
    [again] = run_cli(daemon.path, "dead-letters", "replay", STREAM, "--id", str(letter.id))
    assert "already" in again["outcome"]


@pytest.mark.chaos
def test_files_that_are_empty_truncated_or_something_else(daemon: System, tmp_path: Path) -> None:
    whole = tmp_path / "whole.parquet"
    pq.write_table(
        pa.table({"id": [f"p{i}" for i in range(1000)], "at": [AT] * 1000, "a": np.arange(1000.0)}), whole
    )
    watched = daemon.folder / "watched"
    for name, data in PARTS:
        (watched / name).write_bytes(whole.read_bytes()[:-500] if data is None else data)
    eventually(lambda: "f1" in known(daemon), what="the last file")
    assert [key for key in known(daemon) if key in {"n1", "n2", "f1"}] == ["n1", "n2", "f1"]
    for name in ("d-truncated.parquet", "e-wrong.parquet"):
        [letter] = letters(daemon, name)
        assert letter.kind == "source"
        assert name in letter.reason
    [line] = letters(daemon, "c-good.ndjson")
    assert "line 2" in line.reason
    assert not [row for row in daemon.rows(select(dead_letters)) if "a-empty" in str(row.record)]
    assert daemon.exits == []
