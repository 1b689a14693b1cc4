"""Batches of many requests: equal to one by one, and what is wrong with one harms no other. The models are fakes, the rest is real."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from numpy.typing import NDArray

from cls.arms import LATENCY_US
from cls.columns.features import FeatureReader
from cls.config import Config
from cls.metrics.serve import ServeMetrics
from cls.serving.follow import Route
from cls.serving.parts import path_of
from cls.serving.predict import predict_app
from cls.serving.prediction_log import Answered
from cls.serving.routing import in_canary
from cls.serving.stuck import Hung, Stuck
from cls.serving.tally import Tally
from detectors.columns import Columns, rows_of
from learners.schema import Schema

Answer = tuple[int, dict[str, str], Any]
REGRESSION = Schema(("x",), ("c",))


class Fake:
    """A version that predicts x plus its offset; `during` runs before each batch."""

    stream, target_location, target_scale, runtime = "s", 0.0, 1.0, None

    def __init__(
        self, version: int, offset: float = 0.0, during: Callable[[Columns], Any] = lambda _: None
    ) -> None:
        self.version, self.offset, self.during = version, offset, during
        self.schema = REGRESSION
        self.batches: list[int] = []
        self.threads: set[int] = set()

    def predict(self, columns: Columns) -> NDArray[np.float64]:
        self.batches.append(rows_of(columns))
        self.threads.add(threading.get_ident())
        self.during(columns)
        x = columns["x"]
        assert isinstance(x, np.ndarray)
        return x + self.offset


class World:
    """The application with what it needs, asked as an ASGI server does."""

    def __init__(
        self,
        champion: Fake,
        challenger: Fake | None = None,
        share: float = 0.5,
        metrics: ServeMetrics | None = None,
        **serve: Any,
    ) -> None:
        columns = {"numeric": ["x"], "categorical": ["c"], "key": "id", "event_time": "at", "target": "y"}
        streams = {"s": {"task": "regression", "schema": columns}}
        serve = {"deadline_ms": 60_000} | serve
        config = Config.model_validate({"serve": serve, "streams": streams}, by_alias=True, by_name=False)
        self.found: Any = Route(champion, challenger, share, 7, "canary-0")  # type: ignore[arg-type]
        self.offered: list[Answered] = []
        self.tally = Tally()
        follower: Any = self
        self.stuck, self.ready = Stuck(), True
        metrics = metrics or ServeMetrics(["s"])
        self.app = predict_app(config, follower, self, tally=self.tally, metrics=metrics, stuck=self.stuck)

    def route(self, _stream: str) -> Any:
        return self.found

    def state(self) -> dict[str, Any]:
        return {"s": {"serving": self.found.champion.version}}

    def offer(self, _stream: str, rows: Answered) -> bool:
        self.offered.append(rows)
        return True

    async def ask(self, body: Any, stream: str = "s") -> Answer:
        data, sent = body if isinstance(body, bytes) else orjson.dumps(body), list[Any]()

        async def receive() -> Any:
            return {"type": "http.request", "body": data, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": f"/v1/streams/{stream}/predict",
            "query_string": b"",
            "client": ("127.0.0.1", 1),
            "headers": [
                (b"host", b"localhost"),
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(data)),
            ],
        }
        await self.app(scope, receive, send)
        headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], headers, orjson.loads(sent[1]["body"])

    def served(self, version: int) -> Any:
        return next(
            sums.served() for arm, sums in self.tally._sums.items() if arm == ("s", 7, "canary-0", version)
        )


def together(*asked: Coroutine[Any, Any, Answer]) -> list[Answer]:
    async def run() -> list[Answer]:
        return list(await asyncio.gather(*asked))

    return asyncio.run(run())


def row(i: int, **changes: Any) -> dict[str, Any]:
    return {"id": f"k{i}", "at": "2013-01-01T00:00:00Z", "x": i / 7, "c": "u"} | changes


def predictions(answer: Answer) -> list[float]:
    return [one["prediction"] for one in answer[2]["predictions"]]


def test_what_arrives_together_is_predicted_together_and_equals_one_by_one() -> None:
    fake = Fake(1, 0.5)
    world = World(fake, batch_rows=64)
    bodies: list[Any] = [
        row(0),
        *([row(i), row(i + 1), row(i + 2)] for i in range(1, 40)),
        {"rows": [row(99)]},
    ]
    answers = together(*(world.ask(body) for body in bodies))
    assert {status for status, _, _ in answers} == {200}
    assert max(fake.batches) > 3
    assert max(fake.batches) <= 64
    for body, answer in zip(bodies, answers, strict=True):
        rows = body if isinstance(body, list) else body.get("rows", [body])
        assert predictions(answer) == [one["x"] + 0.5 for one in rows]
        assert [one["key"] for one in answer[2]["predictions"]] == [one["id"] for one in rows]
        assert answer[2]["logged"] == len(rows)
    assert sum(map(len, world.offered)) == sum(fake.batches) == 1 + 39 * 3 + 1


def test_a_bad_row_fails_its_own_request_alone_and_is_numbered_within_it() -> None:
    world = World(Fake(1))
    bad = [[row(1), row(2, x="far")], row(3, x={"deep": 1}), [{"x": 1}], [row(4), row(5), row(6, x="inf")]]
    good = [row(i) for i in range(10, 20)]
    answers = together(*(world.ask(body) for pair in zip(bad, good, strict=False) for body in pair))
    assert [answer[0] for answer in answers] == [422, 200] * 4
    faults = [(answer[2]["field"], answer[2]["row"]) for answer in answers[::2]]
    assert faults == [("x", 1), ("x", 0), ("c", None), ("x", 2)]
    assert [predictions(answer) for answer in answers[1::2]] == [[i / 7] for i in range(10, 14)]
    assert sum(map(len, world.offered)) == 4


def test_a_refusal_names_every_fault_with_its_place_and_the_canary_s_rows_among_them() -> None:
    world = World(Fake(1), Fake(2))
    rows = [row(i) for i in range(100)]
    mine = [in_canary(7, one["id"], 0.5) for one in rows]
    bad = sorted((mine.index(True), mine.index(False)))
    for number in bad:
        rows[number]["x"] = "far"
    single, wrapped, listed, good = together(
        world.ask(row(0, x=[1])), world.ask({"rows": rows}), world.ask(rows), world.ask(row(1))
    )
    assert good[0] == 200
    assert single[2]["errors"] == [
        {
            "path": "$.x",
            "row": 0,
            "field": "x",
            "error": "feature 'x' is not a number",
            "found": "[1]",
            "fix": "send a number, or null where it is missing",
        }
    ]
    for answer, start in ((wrapped, "$.rows"), (listed, "$")):
        assert (answer[0], answer[2]["row"], answer[2]["more"]) == (422, bad[0], 0)
        assert [one["path"] for one in answer[2]["errors"]] == [f"{start}[{number}].x" for number in bad]
    assert path_of("$[{}]", None, 'the "x"') == '$[*]["the \\"x\\""]'


def test_a_large_request_goes_in_pieces_and_lets_a_small_one_pass() -> None:
    fake = Fake(1, during=lambda _: time.sleep(0.01))
    world = World(fake, batch_rows=50)
    ends: dict[str, float] = {}

    async def timed(name: str, body: Any, pause: float = 0.0) -> Answer:
        await asyncio.sleep(pause)
        answer = await world.ask(body)
        ends[name] = time.monotonic()
        return answer

    large, small = together(timed("large", [row(i) for i in range(1000)]), timed("small", row(5), 0.08))
    assert predictions(large) == [i / 7 for i in range(1000)]
    assert predictions(small) == [5 / 7]
    assert max(fake.batches) <= 50
    assert ends["small"] < ends["large"]
    assert len(world.offered) == 2  # a request that was split is logged once, when it is complete


def test_a_full_queue_is_refused_and_what_waits_too_long_is_not_predicted() -> None:
    world = World(Fake(1, during=lambda _: time.sleep(0.7)), batch_rows=1, queue_rows=3, deadline_ms=1000)

    async def later(i: int) -> Answer:
        await asyncio.sleep(0.02 * i)
        return await world.ask(row(i))

    answers = together(*(later(i) for i in range(8)))
    statuses = [status for status, _, _ in answers]
    assert statuses[0] == 200
    assert statuses[1:4] == [200, 503, 503]
    assert 429 in statuses[4:]
    assert all(int(headers["retry-after"]) >= 1 for status, headers, _ in answers if status != 200)


def test_large_bodies_are_held_up_to_a_bound_and_small_requests_pass() -> None:
    world = World(Fake(1, during=lambda _: time.sleep(0.05)), body_bytes=100_000)
    large = [row(i, note="x" * 80_000) for i in range(12)]
    answers = together(*(world.ask(body) for body in large), world.ask(row(1)))
    statuses = [status for status, _, _ in answers]
    assert statuses[-1] == 200
    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= 4 + 1


def test_quick_versions_run_on_the_loop_and_slow_ones_do_not_block_it() -> None:
    quick, slow = Fake(1), Fake(1, during=lambda _: time.sleep(0.02))

    async def run(fake: Fake) -> float:
        world, longest, done = World(fake), 0.0, asyncio.Event()

        async def beat() -> None:
            nonlocal longest
            while not done.is_set():
                before = time.monotonic()
                await asyncio.sleep(0.001)
                longest = max(longest, time.monotonic() - before)

        beats = asyncio.create_task(beat())
        for i in range(30):
            await world.ask(row(i))
        done.set()
        await beats
        return longest

    asyncio.run(run(quick))
    assert threading.get_ident() in quick.threads
    asyncio.run(run(slow))
    assert threading.get_ident() not in slow.threads


@pytest.mark.parametrize("field", ["x", "c"])
def test_a_value_nested_deeply_fails_its_own_request_alone_and_is_no_fault_of_the_model(field: str) -> None:
    world = World(Fake(1))
    deep = orjson.dumps(row(1, **{field: "deep"})).replace(b'"deep"', b"[" * 1_000 + b"]" * 1_000)
    before, refused, after = together(world.ask(row(0)), world.ask(deep), world.ask(row(2)))
    assert (before[0], refused[0], after[0]) == (200, 400, 200)
    assert world.served(1).errors == 0


def test_rows_that_nobody_can_read_are_no_fault_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    world, reading = World(Fake(1)), FeatureReader.columns

    def columns(self: FeatureReader, records: Sequence[Mapping[str, Any]]) -> Columns:
        if any(record["x"] == 13 for record in records):
            raise RecursionError
        return reading(self, records)

    monkeypatch.setattr(FeatureReader, "columns", columns)
    before, refused, after = together(world.ask(row(0)), world.ask(row(1, x=13)), world.ask(row(2)))
    assert (before[0], refused[0], after[0]) == (200, 422, 200)
    assert world.served(1).errors == 0


def test_with_a_delay_rows_wait_for_each_other_and_a_full_batch_waits_no_longer() -> None:
    fake = Fake(1)
    world = World(fake, batch_delay_ms=500, batch_rows=8)

    async def later(i: int) -> Answer:
        await asyncio.sleep(0.005 * i)
        return await world.ask(row(i))

    began = time.monotonic()
    together(*(later(i) for i in range(4)))
    assert fake.batches == [4]
    assert time.monotonic() - began >= 0.49
    world = World(fake, batch_delay_ms=1000, batch_rows=8)
    began = time.monotonic()
    together(*(world.ask(row(i)) for i in range(8)))
    assert fake.batches == [4, 8]
    assert time.monotonic() - began < 0.9


def test_a_champion_that_raises_fails_its_batch_alone_and_says_nothing_of_its_inside() -> None:
    def during(columns: Columns) -> None:
        if np.any(columns["x"] == 13.0):
            raise RuntimeError("secret path /home/x")

    world = World(Fake(1, during=during), batch_rows=1)
    answers = together(world.ask(row(1)), world.ask(row(2, x=13.0)), world.ask(row(3)))
    assert [status for status, _, _ in answers] == [200, 500, 200]
    assert answers[1][2] == {"error": "version 1 of stream 's' failed on these rows"}
    served = world.served(1)
    assert (served.rows, served.batches, served.errors) == (2, 3, 1)


def test_a_champion_that_predicts_no_number_says_so() -> None:
    world = World(Fake(1, during=lambda _: None))
    world.found.champion.predict = lambda columns: np.where(columns["x"] > 1, np.nan, columns["x"])
    good, bad = together(world.ask(row(0)), world.ask([row(1), row(20)]))
    assert good[0] == 200
    assert (bad[0], bad[2]["row"], bad[2]["version"]) == (500, 1, 1)
    assert world.served(1).nonfinite == 1
    assert [len(one) for one in world.offered] == [1]


def test_keys_stay_with_their_version_and_rows_without_one_with_the_champion() -> None:
    world = World(Fake(1), Fake(2, 100.0), share=0.3)
    rows = [row(i) for i in range(400)]
    (status, _, one), *singles = together(
        world.ask(rows), *(world.ask(r) for r in rows), world.ask({"x": 1, "c": "u"})
    )
    assert status == 200
    versions = [answer["version"] for answer in one["predictions"]]
    assert versions == [2 if in_canary(7, r["id"], 0.3) else 1 for r in rows]
    assert versions == [answer["predictions"][0]["version"] for _, _, answer in singles[:-1]]
    assert 0.2 < versions.count(2) / 400 < 0.4
    assert one["version"] == 1
    expected = [r["x"] + (100.0 if v == 2 else 0.0) for r, v in zip(rows, versions, strict=True)]
    assert [answer["prediction"] for answer in one["predictions"]] == pytest.approx(expected)
    assert singles[-1][2]["predictions"][0]["version"] == 1
    logged = {v: sum(len(rows) for rows in world.offered if rows.version == v) for v in (1, 2)}
    assert logged == {1: 2 * versions.count(1), 2: 2 * versions.count(2)}
    assert world.served(2).rows == 2 * versions.count(2)


@pytest.mark.parametrize(
    "fault", ["raises", "predicts NaN", "predicts another shape", "reads what nobody sends"]
)
def test_a_canary_that_fails_hurts_nobody_and_is_counted(fault: str) -> None:
    canary = Fake(2)
    if fault == "raises":
        canary.during = lambda _: 1 / 0
    elif fault == "predicts NaN":
        canary.offset = np.nan
    elif fault == "predicts another shape":
        canary.predict = lambda columns: np.zeros(rows_of(columns) + 1)  # type: ignore[method-assign]
    else:
        canary.schema = Schema(("x", "z"), ("c",))
    world = World(Fake(1), canary, share=0.5, batch_rows=100)
    rows = [row(i) for i in range(250)]
    large, *singles = together(world.ask(rows), *(world.ask(r) for r in rows[:20]))
    assert predictions(large) == pytest.approx([r["x"] for r in rows])
    assert {answer[0] for answer in singles} == {200}
    assert {one["version"] for one in large[2]["predictions"]} == {1}
    assert {rows.version for rows in world.offered} == {1}
    assert sum(map(len, world.offered)) == large[2]["logged"] + 20 == 270
    served = world.served(2)
    if fault == "predicts NaN":
        assert served.nonfinite == served.rows > 100
    else:
        assert served.errors > 0
    assert world.served(1).errors == world.served(1).nonfinite == 0


def test_a_batch_keeps_its_version_while_the_route_changes() -> None:
    old, new = Fake(1, 1.0, during=lambda _: time.sleep(0.1)), Fake(2, 2.0)
    world = World(old)

    async def swap() -> Answer:
        await asyncio.sleep(0.05)
        world.found = Route(new)  # type: ignore[arg-type]  # a fake model
        return await world.ask(row(0))

    before, after = together(world.ask(row(0)), swap())
    assert (before[2]["version"], predictions(before)) == (1, [1.0])
    assert (after[2]["version"], predictions(after)) == (2, [2.0])


def keys_of(*, canary: bool) -> list[int]:
    return [i for i in range(400) if in_canary(7, f"k{i}", 0.5) is canary]


def test_a_canary_that_fails_while_it_is_promoted_leaves_nobody_without_an_answer() -> None:
    begun, go = threading.Event(), threading.Event()

    def during(_: Columns) -> None:
        begun.set()
        go.wait(60)
        raise RuntimeError("no")

    canary = Fake(2, during=during)
    world = World(Fake(1), canary)

    async def run() -> tuple[Answer, Answer]:
        first = asyncio.ensure_future(world.ask(row(keys_of(canary=True)[0])))
        await asyncio.to_thread(begun.wait)
        world.found = Route(canary, None, 0.0, 7, "champion")  # type: ignore[arg-type]  # a fake model
        second = asyncio.ensure_future(world.ask(row(3)))
        await asyncio.sleep(0.05)
        canary.during = lambda _: None
        go.set()
        return await asyncio.wait_for(first, 30), await asyncio.wait_for(second, 30)

    before, after = asyncio.run(run())
    assert (before[0], before[2]["predictions"][0]["version"]) == (200, 1)
    assert (after[0], after[2]["predictions"][0]["version"]) == (200, 2)


def test_a_canary_that_hangs_costs_nobody_an_answer_and_is_counted() -> None:
    go = threading.Event()
    world = World(Fake(1), Fake(2, during=lambda _: go.wait(60)), deadline_ms=200)

    async def run() -> list[Answer]:
        asked = []
        for i in keys_of(canary=True)[:20]:
            asked.append(asyncio.ensure_future(world.ask(row(i))))
            await asyncio.sleep(0.02)
        found = list(await asyncio.wait_for(asyncio.gather(*asked), 30))
        go.set()
        return found

    answers = asyncio.run(run())
    assert {(a[0], a[2]["predictions"][0]["version"]) for a in answers} == {(200, 1)}
    assert world.served(2).errors > 3


def test_a_champion_that_hangs_answers_by_its_deadline_takes_nothing_more_and_says_so_until_it_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cls.serving.batcher._UNKNOWN_SECONDS", 0.05)
    go = threading.Event()
    world = World(Fake(1, during=lambda _: go.wait(20)), deadline_ms=200)

    async def get(path: str) -> tuple[int, Any]:
        transport = httpx.ASGITransport(world.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            answer = await client.get(path)
        return answer.status_code, answer.json()

    async def run() -> None:
        first, second = asyncio.ensure_future(world.ask(row(1))), asyncio.ensure_future(later())
        status, headers, body = await asyncio.wait_for(first, 5)
        assert (status, headers["retry-after"]) == (504, "1")
        assert "version 1 of stream 's' takes longer than 200 ms" in body["error"]
        assert (await asyncio.wait_for(second, 5))[0] in (503, 504)  # it waited
        many = await asyncio.wait_for(asyncio.gather(*(world.ask(row(i)) for i in range(50))), 5)
        assert {answer[0] for answer in many} == {503}
        assert (await get("/healthz"))[0] == 200
        status, body = await get("/readyz")
        assert (status, body["ready"], body["streams"]["s"]["stuck_seconds"] > 0) == (503, False, True)
        world.stuck.look(2)
        world.stuck.look(2)
        with pytest.raises(Hung, match="version 1 of stream 's' hangs"):
            world.stuck.look(1)
        hung, world.found = world.found, Route(Fake(2), rollout=8)  # type: ignore[arg-type]  # rolled back
        assert (await world.ask(row(1)))[0] == 200
        assert (await get("/readyz"))[0] == 200
        world.found = hung
        go.set()
        while (await world.ask(row(1)))[0] != 200:
            await asyncio.sleep(0.01)
        assert (await get("/readyz"))[0] == 200

    async def later() -> Answer:
        await asyncio.sleep(0.1)
        return await world.ask(row(2))

    asyncio.run(run())
    assert world.served(1).errors == 1


def test_a_canary_that_hangs_and_is_promoted_is_said_to_hang_and_goes_on_when_it_ends() -> None:
    go = threading.Event()
    canary = Fake(2, during=lambda _: go.wait(20))
    world = World(Fake(1), canary, share=1.0, deadline_ms=100)

    async def run() -> None:
        assert (await world.ask(row(1)))[2]["predictions"][0]["version"] == 1
        world.stuck.look(0)
        world.found = Route(canary, None, 0.0, 7, "champion")  # type: ignore[arg-type]  # a fake model
        assert (await world.ask(row(1)))[0] == 503
        assert world.stuck.seconds()["s"] > 0
        with pytest.raises(Hung, match="version 2 of stream 's' hangs"):
            world.stuck.look(0)
        go.set()
        while (await world.ask(row(1)))[0] != 200:
            await asyncio.sleep(0.01)
        assert world.stuck.seconds() == {}

    asyncio.run(asyncio.wait_for(run(), 20))


def test_a_canary_that_hangs_while_it_is_promoted_is_said_to_hang() -> None:
    begun, go = threading.Event(), threading.Event()

    def hang(_: Columns) -> None:
        begun.set()
        go.wait(20)

    canary = Fake(2, during=hang)
    world = World(Fake(1), canary, share=1.0, deadline_ms=100)

    async def run() -> None:
        first = asyncio.ensure_future(world.ask(row(1)))
        await asyncio.to_thread(begun.wait)
        world.found = Route(canary, None, 0.0, 7, "champion")  # type: ignore[arg-type]  # a fake model
        second = asyncio.ensure_future(world.ask(row(2)))
        assert (await first)[2]["predictions"][0]["version"] == 1
        await second
        while not world.stuck.seconds():
            await asyncio.sleep(0.01)
        go.set()

    asyncio.run(asyncio.wait_for(run(), 20))


def test_the_end_of_an_old_champion_s_batch_does_not_say_that_the_new_one_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cls.serving.batcher._UNKNOWN_SECONDS", 0.05)
    old_goes, new_goes = threading.Event(), threading.Event()
    old, new = Fake(1, during=lambda _: old_goes.wait(20)), Fake(2, during=lambda _: new_goes.wait(20))
    world = World(old, deadline_ms=100)

    async def run() -> None:
        assert (await world.ask(row(1)))[0] == 504
        world.found = Route(new, rollout=8)  # type: ignore[arg-type]  # a fake model
        assert (await world.ask(row(1)))[0] == 504
        while not world.stuck.seconds():
            await asyncio.sleep(0.01)
        old_goes.set()
        await asyncio.sleep(0.1)
        assert world.stuck.seconds()
        with pytest.raises(Hung, match="version 2"):
            world.stuck.look(0)
        new_goes.set()
        while world.stuck.seconds():
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(run(), 20))


def test_a_champion_that_is_late_but_ends_refuses_no_later_request() -> None:
    pauses = iter([0.3, 0.3, 0.0])
    world = World(Fake(1, during=lambda _: time.sleep(next(pauses))), deadline_ms=100, batch_rows=1)

    async def later() -> Answer:
        await asyncio.sleep(0.23)  # the first batch is late by now
        return await world.ask(row(2))

    async def run() -> list[Answer]:
        found = list(await asyncio.gather(world.ask(row(1)), later()))
        assert world.stuck.seconds() == {}
        await asyncio.sleep(0.3)
        return [*found, await world.ask(row(3))]

    late, slow, quick = asyncio.run(run())
    assert [late[0], slow[0], quick[0]] == [504, 504, 200]
    assert world.served(1).errors == 2


def test_a_canary_that_turns_slow_blocks_the_loop_but_once() -> None:
    canary, inline = Fake(2), list[int]()
    world = World(Fake(1), canary)

    async def run() -> None:
        keys, here = keys_of(canary=True), threading.get_ident()
        for i in keys[:20]:
            await world.ask(row(i))

        def slow(_: Columns) -> None:
            inline.append(threading.get_ident() == here)
            time.sleep(0.03)

        canary.during = slow
        for i in keys[:20]:
            await world.ask(row(i))

    asyncio.run(run())
    assert len(inline) == 20
    assert sum(inline) <= 1  # not even once where a busy machine made it look slow before


@pytest.mark.parametrize("fatal", [RuntimeError, SystemExit])
def test_a_canary_that_fails_in_the_second_piece_is_asked_no_third(fatal: type[BaseException]) -> None:
    canary = Fake(2, 100.0)

    def during(_: Columns) -> None:
        if len(canary.batches) == 2:
            raise fatal("no")

    canary.during = during
    world = World(Fake(1), canary, batch_rows=10, queue_rows=100)
    rows = [row(i) for i in keys_of(canary=True)[:95]]
    (answer,) = together(world.ask(rows))
    assert predictions(answer) == pytest.approx([r["x"] for r in rows])
    assert canary.batches == [10, 10]
    assert together(world.ask(rows[0]))[0][0] == 200
    assert len(canary.batches) == 3


def test_a_large_request_that_fails_midway_leaves_its_room_to_others() -> None:
    fake = Fake(1, during=lambda _: 1 / (len(fake.batches) - 2))
    world = World(fake, batch_rows=10, queue_rows=100)

    async def run() -> list[Answer]:
        failed = await world.ask([row(i) for i in range(95)])
        return [failed, *await asyncio.gather(*(world.ask(row(i)) for i in range(30)))]

    assert [answer[0] for answer in asyncio.run(run())] == [500, *[200] * 30]


def test_latency_is_that_of_the_oldest_row() -> None:
    world = World(Fake(1), batch_delay_ms=200)

    async def later() -> Answer:
        await asyncio.sleep(0.15)
        return await world.ask(row(1))

    together(world.ask(row(0)), later())
    (place,) = np.flatnonzero(world.served(1).latency)
    assert LATENCY_US[place] >= 200_000
