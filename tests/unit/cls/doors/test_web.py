"""What both doors share: room for large bodies, and one form of refusal."""

from __future__ import annotations

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from cls.doors.web import HELD_BODIES, INLINE_BYTES, Problem, Room, answer, http_app

LIMIT = 1 << 20
CHUNKED = [(b"transfer-encoding", b"chunked")]


def test_large_bodies_are_held_in_bounds_and_small_ones_always_pass() -> None:
    room = Room(LIMIT)
    held = [room.take(CHUNKED) for _ in range(HELD_BODIES)]
    for one in held:
        one.__enter__()
    with pytest.raises(Problem) as refused, room.take(CHUNKED):
        pass
    assert refused.value.status == 429
    with room.take([(b"content-length", b"%d" % INLINE_BYTES)]):
        pass
    held[0].__exit__(None, None, None)
    with room.take(CHUNKED):
        pass


def test_what_the_framework_refuses_looks_like_every_refusal() -> None:
    async def there(_request: Request) -> Response:
        return answer(200, {})

    client = TestClient(http_app([Route("/there", there)]))
    assert (client.get("/nowhere").status_code, client.get("/nowhere").json()) == (
        404,
        {"error": "Not Found"},
    )
    refused = client.post("/there")
    assert (refused.status_code, refused.json()) == (405, {"error": "Method Not Allowed"})
    assert "GET" in refused.headers["allow"]
