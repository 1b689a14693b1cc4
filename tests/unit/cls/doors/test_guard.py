"""The guard: who gets through to the application, and what the others are told."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import create_engine
from structlog.testing import capture_logs

from cls.config import Config
from cls.doors.addresses import sender_of
from cls.doors.callers import STRANGER, TOKEN
from cls.doors.guard import Guard, scope_of
from cls.doors.token_book import TokenBook
from cls.doors.tokens import SCOPES, Fresh, Token, implied, make

LOOPBACK, OUTSIDE = "127.0.0.1:8710", "0.0.0.0:8710"
PREDICT = "/v1/streams/flights/predict"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: Any


class Book(TokenBook):
    """A book that was filled by hand."""

    def __init__(self) -> None:
        super().__init__(create_engine("sqlite://"))

    def add(self, *scopes: str, expires: float = math.inf) -> Fresh:
        fresh = make()
        self._tokens[fresh.id] = Token(fresh.id, "test", fresh.hash, implied(scopes), expires)
        return fresh


class Door:
    """An application behind a guard, which answers 200 and remembers the token."""

    def __init__(self, listening: str, **http: Any) -> None:
        self.book = Book()
        self.now = 0.0
        config = Config.model_validate({"http": {"ingest": listening, **http}})
        self.guard = Guard(self._app, config.http, listening, self.book, lambda: self.now, {"flights"})
        self.token: Token | None = None
        self.stranger: bool | None = None

    async def _app(self, scope: Any, _receive: Any, send: Any) -> None:
        self.token, self.stranger = scope.get(TOKEN), scope.get(STRANGER)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-app", b"1")]})
        await send({"type": "http.response.body", "body": b"{}"})

    def __call__(
        self,
        path: str = "/v1/streams",
        method: str = "GET",
        *,
        host: str = LOOPBACK,
        client: str = "10.0.0.1",
        scheme: str = "http",
        token: str | Fresh | None = None,
        more: Sequence[tuple[bytes, bytes]] = (),
        **headers: str,
    ) -> Answer:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            return {"type": "http.request"}

        pairs = [(b"host", host.encode("latin-1"))]
        if token is not None:
            text = token.text if isinstance(token, Fresh) else token
            pairs.append((b"authorization", b"Bearer " + text.encode("latin-1", "replace")))
        pairs += [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        pairs += more
        scope = {"type": "http", "method": method, "path": path, "scheme": scheme, "client": (client, 1)}
        asyncio.run(self.guard(scope | {"headers": pairs}, receive, send))
        start = sent[0]
        body = b"".join(message.get("body", b"") for message in sent[1:])
        found = {name.decode(): value.decode() for name, value in start["headers"]}
        return Answer(start["status"], found, json.loads(body) if body else None)


# -- hosts and origins ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "loopback", "outside"),
    [
        ("localhost:8710", 200, 200),
        ("127.0.0.1", 200, 200),
        ("[::1]:8710", 200, 200),
        ("10.1.2.3:8710", 200, 200),
        ("a.localhost", 200, 200),
        ("CLS.Example.org:443", 200, 200),  # configured
        ("daemon:8710", 421, 200),  # a container's name
        ("evil.example:8710", 421, 421),
        ("localhost.evil.example", 421, 421),
        ("127.0.0.1.evil.example", 421, 421),
        ("evil.example:127.0.0.1", 421, 421),
        ("", 421, 421),
        (":8710", 421, 421),
        ("\x00", 421, 421),
        ("caf\xe9.example", 421, 421),
    ],
)
def test_only_hosts_that_nobody_else_can_name_are_answered(host: str, loopback: int, outside: int) -> None:
    for listening, status in ((LOOPBACK, loopback), (OUTSIDE, outside)):
        door = Door(listening, hosts=["cls.example.org"])
        assert [door("/healthz", host=host).status for _ in range(2)] == [status] * 2


def test_a_second_host_is_none() -> None:
    door = Door(LOOPBACK)
    assert door("/healthz").status == 200
    assert door("/healthz", more=[(b"host", LOOPBACK.encode())]).status == 421


@pytest.mark.parametrize(
    ("origin", "scheme", "status"),
    [
        ("http://127.0.0.1:8710", "http", 200),  # a page of ours
        ("https://127.0.0.1:8710", "http", 200),  # behind a proxy with TLS
        ("https://127.0.0.1:8710", "https", 200),
        ("http://127.0.0.1:8710", "https", 403),
        ("https://ops.example.org", "http", 200),  # configured
        ("HTTPS://OPS.example.org", "http", 200),
        ("http://ops.example.org", "http", 403),
        ("https://ops.example.org:8443", "http", 403),
        ("https://ops.example.org.evil.example", "http", 403),
        ("http://127.0.0.1:8711", "http", 403),  # another program of this machine
        ("http://localhost:8710", "http", 403),
        ("null", "http", 403),
        ("", "http", 403),
        ("file://", "http", 403),
    ],
)
def test_pages_of_other_origins_may_not_call(origin: str, scheme: str, status: int) -> None:
    door = Door(LOOPBACK, origins=["https://ops.example.org"])
    answer = door("/v1/streams/flights/train", "POST", origin=origin, scheme=scheme)
    assert answer.status == status
    if status == 200:
        assert answer.headers["access-control-allow-origin"] == origin
        assert answer.headers["vary"] == "Origin"
        assert answer.headers["x-app"] == "1"
    else:
        assert "access-control-allow-origin" not in answer.headers


def test_only_known_origins_get_their_preflight_answered_and_it_needs_no_token() -> None:
    door = Door(OUTSIDE, origins=["https://ops.example.org"])
    yes = door(PREDICT, "OPTIONS", origin="https://ops.example.org", access_control_request_method="POST")
    assert (yes.status, yes.body) == (204, None)
    assert yes.headers["access-control-allow-origin"] == "https://ops.example.org"
    assert "authorization" in yes.headers["access-control-allow-headers"]
    no = door(PREDICT, "OPTIONS", origin="https://evil.example", access_control_request_method="POST")
    assert no.status == 403
    assert not any(name.startswith("access-control") for name in no.headers)


def test_a_page_can_read_why_it_was_refused() -> None:
    answer = Door(OUTSIDE, origins=["https://ops.example.org"])(origin="https://ops.example.org")
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (401, "https://ops.example.org")


# -- tokens -----------------------------------------------------------------------------------------------------------


def spoilt(text: str) -> list[str]:
    return [
        "",
        "cls_",
        text[:-1],
        text + "A",
        text[:-1] + ("A" if text[-1] != "A" else "B"),
        text.swapcase(),
        make().text,  # well-formed, and nobody's
        text.split("_")[0] + "_" + make().id + "_" + text.split("_")[2],  # the secret of another id
        "A" * 100_000,
        "\xe9" * 58,
        f"{text},{text}",
    ]


@pytest.mark.parametrize("listening", [LOOPBACK, OUTSIDE])
def test_a_token_that_is_not_whole_is_refused_everywhere_in_the_same_words(listening: str) -> None:
    door = Door(listening)
    good = door.book.add("admin")
    assert door(token=good).status == 200
    answers = [door(token=text) for text in spoilt(good.text)]
    answers.append(door(token=door.book.add("admin", expires=time.time() - 1)))
    assert {answer.status for answer in answers} == {401}
    assert len({answer.body["error"] for answer in answers}) == 1
    assert {answer.headers["www-authenticate"] for answer in answers} == {
        'Bearer realm="cls", error="invalid_token"'
    }


@pytest.mark.parametrize(
    ("listening", "required", "status"),
    [(LOOPBACK, False, 200), (LOOPBACK, True, 401), (OUTSIDE, False, 401), (OUTSIDE, True, 401)],
)
def test_without_a_token_only_the_loopback_answers(listening: str, required: bool, status: int) -> None:
    door = Door(listening, require_tokens=required)
    for path, method in (("/v1/streams", "GET"), (PREDICT, "POST"), ("/metrics", "GET"), ("/nothing", "PUT")):
        answer = door(path, method)
        assert answer.status == status
        if status == 401:
            assert answer.headers["www-authenticate"] == 'Bearer realm="cls"'
    assert door("/v1/streams", authorization="Basic dXNlcjpwdw==").status == status  # a proxy's, not ours


@pytest.mark.parametrize(("listening", "openapi"), [(LOOPBACK, 200), (OUTSIDE, 401)])
def test_supervisors_need_no_token(listening: str, openapi: int) -> None:
    door = Door(listening, require_tokens=True)
    assert [(door(path).status, door.stranger) for path in ("/healthz", "/readyz")] == [(200, True)] * 2
    assert [door(path).status for path in ("/healthz/", "//healthz", "/healthz/x", "/HEALTHZ")] == [401] * 4
    assert door("/openapi.json").status == openapi


def test_on_an_open_door_nobody_is_a_stranger() -> None:
    door = Door(LOOPBACK)
    assert (door("/readyz").status, door.stranger) == (200, False)


def test_a_token_in_the_address_is_not_read() -> None:
    door = Door(OUTSIDE)
    good = door.book.add("admin")
    assert door(f"/v1/streams?token={good.text}").status == 401


def test_two_tokens_at_once_are_none() -> None:
    door = Door(OUTSIDE)
    good = door.book.add("admin")
    assert door(token=good, authorization=f"Bearer {good.text}").status == 401


@pytest.mark.parametrize("scheme", ["bearer", "BEARER"])
def test_the_name_of_the_scheme_has_no_case(scheme: str) -> None:
    door = Door(OUTSIDE)
    good = door.book.add("read")
    assert door(authorization=f"{scheme}  {good.text} ").status == 200
    assert door.token is not None
    assert door.token.id == good.id


NEEDED = [
    ("POST", "/v1/streams/flights/events", "ingest"),
    ("POST", "/v1/streams/flights/labels", "ingest"),
    ("POST", "/v1/streams/flights/predict", "predict"),
    ("GET", "/v1/streams/flights", "read"),
    ("HEAD", "/v1/streams/flights", "read"),
    ("GET", "/v1/streams", "read"),
    ("GET", "/v1/streams/flights/rollouts", "read"),
    ("GET", "/v1/streams/flights/requests/1", "read"),
    ("GET", "/v1/streams/audit", "read"),  # a stream of that name
    ("GET", "/v1/ledger", "read"),
    ("GET", "/metrics", "read"),
    ("GET", "/openapi.json", "read"),
    *(
        ("POST", f"/v1/streams/flights/{action}", "operate")
        for action in ("train", "rollback", "promote", "pause", "resume", "approve", "abort")
    ),
    ("GET", "/v1/audit", "admin"),
    ("HEAD", "/v1/audit", "admin"),
    # what is not in the table is for nobody but admins
    ("POST", "/v1/streams/flights/rumours", "admin"),
    ("POST", "/v1/streams/flights/train/", "admin"),
    ("POST", "/v1/streams/a/b/train", "admin"),
    ("POST", "/v1/streams", "admin"),
    ("POST", "/predict", "admin"),
    ("PUT", "/v1/streams/flights/predict", "admin"),
    ("DELETE", "/v1/streams/flights", "admin"),
]


@pytest.mark.parametrize(("method", "path", "needed"), NEEDED)
def test_each_scope_opens_its_own_and_nothing_else(method: str, path: str, needed: str) -> None:
    assert scope_of(method, path) == needed
    door = Door(OUTSIDE)
    for scope in SCOPES:
        answer = door(path, method, token=door.book.add(scope))
        allowed = scope in (needed, "admin") or (scope, needed) == ("operate", "read")
        assert answer.status == (200 if allowed else 403), scope
        if not allowed:
            assert f"'{needed}'" in answer.body["error"]
            assert f'scope="{needed}"' in answer.headers["www-authenticate"]


def test_a_scope_that_is_missing_is_missing_on_the_loopback_too() -> None:
    door = Door(LOOPBACK)
    assert door(PREDICT, "POST", token=door.book.add("read")).status == 403


def test_a_guard_without_a_book_knows_no_token() -> None:
    config = Config.model_validate({})
    door = Door(OUTSIDE)
    good = door.book.add("admin")
    door.guard = Guard(door._app, config.http, OUTSIDE, None)
    assert door(token=good).status == 401


@pytest.mark.parametrize("header", ["Forwarded", "X-Forwarded-For", "X-Real-IP"])
def test_a_proxy_before_a_door_that_needs_no_tokens_is_refused(header: str) -> None:
    more = [(header.lower().encode(), b"203.0.113.9")]
    answer = Door(LOOPBACK)(more=more)
    assert answer.status == 403
    assert "require_tokens" in answer.body["error"]
    assert Door(LOOPBACK)("/readyz", more=more).status == 403  # it would tell strangers why
    guarded = Door(LOOPBACK, require_tokens=True)
    assert guarded(more=more).status == 401
    assert guarded(more=more, token=guarded.book.add("read")).status == 200


@pytest.mark.parametrize(
    ("path", "stream", "action"),
    [
        ("/v1/streams/flights/train", "flights", "train"),
        ("/v1/streams/x\0/train", None, "train"),
        ("/v1/streams/flights/\0", "flights", "other"),
        ("/v1/streams/flights/train/", None, "other"),
        ("/\0" * 3, None, "other"),
    ],
)
def test_what_a_caller_made_up_gets_into_no_table(path: str, stream: str | None, action: str) -> None:
    door = Door(OUTSIDE)
    assert door(path, "POST", token=door.book.add("ingest")).status == 403
    (one,) = door.book._refusals
    assert (one.stream, one.action) == (stream, action)


def test_tokens_that_are_wrong_are_logged_once_a_minute_for_each_address() -> None:
    door = Door(OUTSIDE)
    with capture_logs() as said:
        for client in ("10.0.0.1", "10.0.0.1", "10.0.0.2"):
            door(token=make(), client=client)
        door.now += 61
        door(client="10.0.0.1")
    assert [event["origin"] for event in said] == ["10.0.0.1", "10.0.0.2", "10.0.0.1"]


# -- rates ------------------------------------------------------------------------------------------------------------


def test_each_token_and_each_address_has_its_own_rate() -> None:
    door = Door(LOOPBACK, requests_per_second=2.0)
    one, other = door.book.add("read"), door.book.add("read")
    assert [door(token=one).status for _ in range(3)] == [200, 200, 429]
    assert door(token=one, client="10.0.0.2").status == 429  # wherever it comes from
    assert door(token=other).status == 200
    assert [door(client="10.0.0.3").status for _ in range(3)] == [200, 200, 429]
    answer = door(client="10.0.0.3")
    assert answer.headers["retry-after"] == "1"
    door.now += 1.0
    assert door(client="10.0.0.3").status == 200


def test_guessing_is_held_up_by_the_rate_of_the_address() -> None:
    door = Door(OUTSIDE, requests_per_second=5.0)
    assert [door(token=make()).status for _ in range(8)] == [401] * 5 + [429] * 3
    assert door(token=door.book.add("read")).status == 200  # others at the same address go on


def test_an_ipv6_network_is_one_sender() -> None:
    door = Door(LOOPBACK, requests_per_second=1.0)
    assert [door(client=f"2001:db8:0:1::{n:x}").status for n in range(1, 4)] == [200, 429, 429]
    assert door(client="2001:db8:0:2::1").status == 200
    assert {door(client=f"2001:db8::{n:x}:1:2:3").status for n in range(1, 50)} == {
        200,
        429,
    }  # short for 2001:db8:0:0:n:1:2:3
    assert sender_of("2001:db8::7:1:2:3") == sender_of("2001:db8::8")
    assert [door(client=f"::ffff:10.0.0.{n}").status for n in (8, 9, 9)] == [200, 200, 429]
    assert door(client="10.0.0.9").status == 429  # the same one


def test_health_is_told_at_any_rate() -> None:
    door = Door(LOOPBACK, requests_per_second=1.0)
    assert {door("/healthz").status for _ in range(20)} == {200}


# -- the rest ---------------------------------------------------------------------------------------------------------


def test_websockets_are_closed_and_the_lifespan_passes() -> None:
    door, sent, seen = Door(LOOPBACK), [], []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        seen.append(scope["type"])

    door.guard._app = app
    asyncio.run(door.guard({"type": "websocket"}, None, send))  # type: ignore[arg-type]
    asyncio.run(door.guard({"type": "lifespan"}, None, send))  # type: ignore[arg-type]
    assert (sent, seen) == (["websocket.close"], ["lifespan"])


def test_what_strangers_send_is_remembered_in_bounds() -> None:
    door = Door(LOOPBACK)
    for number in range(1200):
        door("/healthz", host=f"h{number}.example")
        door("/healthz", origin=f"https://h{number}.example")
    assert len(door.guard._hosts._seen) <= 1000
    assert len(door.guard._origins._seen) <= 1000


def test_a_request_costs_a_few_microseconds() -> None:
    door = Door(OUTSIDE, requests_per_second=1e9)
    good = door.book.add("predict")

    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        return

    door.guard._app = app
    headers = [(b"host", b"127.0.0.1"), *((b"x-%d" % i, b"y") for i in range(6))]
    headers.append((b"authorization", b"Bearer " + good.text.encode()))
    scope = {"type": "http", "method": "POST", "path": PREDICT, "client": ("10.0.0.1", 1), "headers": headers}

    async def run(number: int) -> float:
        began = time.process_time()
        for _ in range(number):
            await door.guard(scope, None, None)  # type: ignore[arg-type]
        return (time.process_time() - began) / number

    best = min(asyncio.run(run(2000)) for _ in range(10))
    assert best < 30e-6  # measured: 4 us; a busy machine may need more
