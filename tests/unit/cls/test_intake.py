"""The HTTP inbox: acknowledged only when durable, once per producer and sequence, every refusal with its reason."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from cls.config import Config
from cls.doors.web import Limits
from cls.errors import Unavailable
from cls.intake import intake_app
from storage.db import open_database
from storage.inbox import Inbox, InboxSource
from storage.tables import metadata

CONFIG = {
    "streams": {
        "flights": {
            "task": "regression",
            "schema": {
                "numeric": ["distance"],
                "categorical": ["carrier"],
                "key": "id",
                "event_time": "at",
                "target": "minutes",
            },
        }
    }
}
ROW = {"id": "a", "at": "2013-01-01T00:00:00Z", "distance": 100, "carrier": "UA"}
EVENTS = "/v1/streams/flights/events"
LABELS = "/v1/streams/flights/labels"


@dataclass
class Door:
    client: TestClient
    engine: Engine
    inbox: Inbox
    root: Path
    woken: list[str]

    def stored(self) -> list[tuple[str, list[dict[str, Any]]]]:
        source, token, found = InboxSource(self.engine, self.root, "flights"), "", []
        while (batch := source.read(token)) is not None:
            found.append((batch.kind, batch.table.to_pylist()))
            token = batch.token
        return found


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    engine = open_database(f"sqlite:///{tmp_path / 'cls.db'}")
    metadata.create_all(engine)
    inbox = Inbox(engine, tmp_path / "inbox")
    woken: list[str] = []
    config = Config.model_validate(CONFIG, by_alias=True, by_name=False)
    app = intake_app(config, inbox, engine, woken.append, limits=Limits(body_bytes=20_000, rows=100))
    with TestClient(app, base_url="http://localhost:8710") as client:
        yield Door(client, engine, inbox, tmp_path / "inbox", woken)
    inbox.close()
    engine.dispose()


def arrow(table: pa.Table, *, file: bool) -> bytes:
    sink = io.BytesIO()
    with (pa.ipc.new_file if file else pa.ipc.new_stream)(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (json.dumps(ROW), "application/json"),
        (json.dumps([ROW]), "application/json; charset=utf-8"),
        (json.dumps({"events": [ROW]}), "application/json"),
        (json.dumps(ROW) + "\n\n", "application/x-ndjson"),
        (arrow(pa.Table.from_pylist([ROW]), file=False), "application/vnd.apache.arrow.stream"),
        (arrow(pa.Table.from_pylist([ROW]), file=True), "application/vnd.apache.arrow.file"),
    ],
)
def test_every_way_to_write_a_row_stores_the_same_row(
    door: Door, body: str | bytes, content_type: str
) -> None:
    answer = door.client.post(EVENTS, content=body, headers={"Content-Type": content_type})
    assert answer.status_code == 202, answer.text
    assert (answer.json()["rows"], answer.json()["idempotent"]) == (1, False)
    assert door.stored() == [("events", [ROW])]
    assert door.woken == ["flights"]


def test_a_repeated_request_counts_once_and_says_so(door: Door) -> None:
    headers = {"X-CLS-Producer": "feeder", "X-CLS-Sequence": "7"}
    answers = [door.client.post(EVENTS, json=[ROW], headers=headers).json() for _ in range(3)]
    assert [answer["duplicate"] for answer in answers] == [False, True, True]
    assert {(answer["producer"], answer["sequence"], answer["idempotent"]) for answer in answers} == {
        ("feeder", 7, True)
    }
    assert len(door.stored()) == 1
    assert door.woken == ["flights"]


def test_without_a_sequence_every_request_counts(door: Door) -> None:
    producers = {door.client.post(EVENTS, json=ROW).json()["producer"] for _ in range(3)}
    assert len(producers) == len(door.stored()) == 3


def test_a_number_used_for_something_else_is_refused_and_not_swallowed(door: Door) -> None:
    headers = {"X-CLS-Producer": "feeder", "X-CLS-Sequence": "0"}
    assert door.client.post(EVENTS, json=ROW, headers=headers).status_code == 202
    answer = door.client.post(LABELS, json={"id": "a", "minutes": 5}, headers=headers)
    assert answer.status_code == 409
    assert "need a number of their own" in answer.json()["error"]


def test_types_that_do_not_go_together_become_text_and_numbers_stay_numbers(door: Door) -> None:
    rows = [
        ROW,
        ROW | {"id": 2, "distance": "far"},
        ROW | {"id": "c", "distance": 2.5, "extra": {"deep": [1]}},
    ]
    assert door.client.post(EVENTS, json=rows).status_code == 202
    assert door.client.post(EVENTS, json=[ROW | {"distance": 1}, ROW | {"distance": 2.5}]).status_code == 202
    (_, mixed), (_, numbers) = door.stored()
    assert [row["id"] for row in mixed] == ["a", "2", "c"]
    assert [row["distance"] for row in mixed] == ["100", "far", "2.5"]
    assert [row["distance"] for row in numbers] == [1.0, 2.5]


def test_deep_records_are_text_before_they_can_do_harm(door: Door) -> None:
    deep = "[" * 490 + "]" * 490
    body = f'[{{"id": "a", "at": 1, "distance": {deep}}}, {{"id": "b", "at": 2, "distance": 1}}]'
    assert door.client.post(EVENTS, content=body).status_code == 202
    assert [row["distance"] for row in door.stored()[0][1]] == [deep, "1"]
    deeper = body.replace(deep, "[" * 900 + "]" * 900)
    refused = door.client.post(EVENTS, content=deeper)
    assert (refused.status_code, "deeper than 500 levels" in refused.text) == (400, True)


def test_nan_and_infinities_get_in_so_that_ingest_can_judge_them(door: Door) -> None:
    body = b'[{"id": "a", "at": 1, "distance": NaN}, {"id": "b", "at": 2, "distance": Infinity}]'
    answer = door.client.post(EVENTS, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 202
    assert door.stored()[0][1][1]["distance"] == float("inf")


@pytest.mark.parametrize(
    ("body", "content_type", "where"),
    [
        (b'[{"id": 1},\n {"id" 2}]', "application/json", "line 2, column 8"),
        (b'{"id": "a"}\n{"id": \n', "application/x-ndjson", "line 2: not JSON: column"),
        (b'{"id": 1}\n[2]\n', "application/x-ndjson", "line 2: not a JSON object but a list"),
        (b'[{"id": 1}, 2]', "application/json", "row 1 is not a JSON object"),
        (b'{"id": "\xff"}', "application/json", "line 1, column 9: not UTF-8"),
        (b"[" * 100_00, "application/json", "not JSON"),
        (b'{"id": "\\ud800"}', "application/json", "half a surrogate pair"),
        (b"nonsense", "application/vnd.apache.arrow.stream", "not Arrow IPC"),
        (b"ARROW1\0\0nonsense", "application/vnd.apache.arrow.file", "not Arrow IPC"),
        (b"", "application/json", "line 1, column 1"),
    ],
)
def test_a_malformed_body_is_refused_with_its_place(
    door: Door, body: bytes, content_type: str, where: str
) -> None:
    answer = door.client.post(EVENTS, content=body, headers={"Content-Type": content_type})
    assert answer.status_code == 400
    assert where in answer.json()["error"]
    assert door.stored() == []


def test_damaged_arrow_never_gets_in(door: Door) -> None:
    table = pa.table({"id": ["a", "b"], "at": [1, 2], "s": ["long enough text", "x"]})
    data = bytearray(arrow(table, file=False))
    for place in range(0, len(data), 3):
        damaged = bytes(data[:place]) + bytes([data[place] ^ 0xFF]) + bytes(data[place + 1 :])
        answer = door.client.post(
            EVENTS, content=damaged, headers={"Content-Type": "application/vnd.apache.arrow.stream"}
        )
        assert answer.status_code in (202, 400, 413, 422)


def test_too_much_is_refused_whether_declared_or_not(door: Door) -> None:
    assert door.client.post(EVENTS, json=[ROW | {"pad": "x" * 20_000}]).status_code == 413
    chunks = (b" " * 5_000 for _ in range(10))
    assert door.client.post(EVENTS, content=chunks).status_code == 413
    assert door.client.post(EVENTS, json=[{"id": i} for i in range(101)]).status_code == 413
    assert door.stored() == []


def test_unknown_names_types_and_half_a_sender_are_refused(door: Door) -> None:
    client = door.client
    unknown = client.post("/v1/streams/trains/events", json=ROW)
    assert (unknown.status_code, unknown.json()["known"]) == (404, ["flights"])
    assert client.post("/v1/streams/flights/rumours", json=ROW).status_code == 404
    assert client.post(EVENTS, content=b"<a/>", headers={"Content-Type": "text/xml"}).status_code == 415
    assert client.post(EVENTS, content=b"x", headers={"Content-Encoding": "gzip"}).status_code == 415
    for headers in (
        {"X-CLS-Producer": "p"},
        {"X-CLS-Sequence": "1"},
        {"X-CLS-Producer": "p", "X-CLS-Sequence": "-1"},
        {"X-CLS-Producer": "p", "X-CLS-Sequence": "9" * 20},
        {"X-CLS-Producer": "p" * 201, "X-CLS-Sequence": "1"},
    ):
        assert client.post(EVENTS, json=ROW, headers=headers).status_code == 400


@pytest.mark.parametrize(
    ("url", "row", "field"),
    [
        (EVENTS, {"at": 1, "distance": 1}, "id"),
        (EVENTS, {"id": None, "at": 1}, "id"),
        (EVENTS, {"id": "a", "distance": 1}, "at"),
        (LABELS, {"id": "a"}, "minutes"),
    ],
)
def test_a_request_in_which_no_row_can_be_used_names_the_field(
    door: Door, url: str, row: dict[str, Any], field: str
) -> None:
    answer = door.client.post(url, json=[row, row])
    assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert door.stored() == []


def test_one_usable_row_is_enough(door: Door) -> None:
    assert door.client.post(EVENTS, json=[{"distance": 1}, ROW]).status_code == 202


def test_a_store_that_refuses_is_told_and_nothing_is_acknowledged(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise Unavailable("the disk is full", delay=10.0)

    monkeypatch.setattr(door.inbox, "put", full)
    answer = door.client.post(EVENTS, json=ROW)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10")
    assert door.woken == []


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8710", 200),
        ("127.0.0.1", 200),
        ("[::1]:8710", 200),
        ("10.1.2.3:8710", 200),
        ("evil.example:8710", 421),
        ("localhost.evil.example", 421),
        ("daemon:8710", 421),
    ],
)
def test_only_hosts_that_nobody_else_can_name_are_answered(door: Door, host: str, status: int) -> None:
    assert door.client.get("/healthz", headers={"Host": host}).status_code == status


def test_a_stream_tells_how_far_it_is(door: Door) -> None:
    for _ in range(3):
        door.client.post(EVENTS, json=ROW)
    assert door.client.get("/v1/streams/flights").json() == {
        "stream": "flights",
        "inbox_waiting": 3,
        "events": 0,
        "labels": 0,
        "scored": 0,
        "watched": 0,
        "joined": 0,
        "watermark": None,
        "champion": None,
        "live_jobs": 0,
        "unhandled_jobs": 0,
        "rollouts_waiting": [],
    }
    assert door.client.get("/v1/streams").json() == {"streams": [{"stream": "flights", "task": "regression"}]}
