"""Who answers a stream: swapped at once, kept while it may be needed, and never taken from those who serve."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from sqlalchemy import Engine, update

from cls.checkpoints import pack
from cls.config import ServeConfig
from cls.domain import ModelVersion, RolloutState
from cls.errors import Corrupt, Unavailable
from cls.golden import make_golden
from cls.layout import GOLDEN, MODEL
from cls.serving import follow
from cls.serving.follow import Follower, Route
from cls.serving.models import ModelCache
from cls.times import EPOCH
from detectors.columns import Categorical, Columns
from learners.checkpoint import Checkpoint, prefixed
from learners.models.base import Model
from learners.models.tabular import TabularNetwork
from learners.rows import Rows
from learners.schema import Schema
from storage.artifacts import MemoryArtifacts, manifest_digest
from storage.db import open_database, transaction
from storage.schema import upgrade
from storage.streams import ensure_stream
from storage.tables import rollouts
from storage.versions import add_rollout, add_version, champion, promote

COLUMNS: Columns = {"x": np.linspace(-1, 1, 9), "c": Categorical.of(["u", "v", None] * 3)}


def model_of(level: float) -> Model:
    """Return a model whose predictions tell which one it is."""
    rows = Rows(COLUMNS, np.linspace(-1, 1, 9), np.arange(9))
    model = TabularNetwork.fit_preprocessing({"hidden": [4]}, Schema(("x",), ("c",)), rows).eval()
    model.target_location.fill_(level)
    return model


class Artifacts(MemoryArtifacts):
    """A store that can be slow, or gone."""

    def __init__(self) -> None:
        super().__init__()
        self.away: type[Exception] | None = None
        self.slow: dict[str, threading.Event] = {}
        self.asked: list[str] = []

    def get(self, sha256: str) -> bytes:
        self.asked.append(sha256)
        if self.away is not None:
            raise self.away("the store is gone")
        if sha256 in self.slow:
            self.slow[sha256].wait(60)
        return super().get(sha256)


@dataclass
class Scene:
    engine: Engine
    runtime: Literal["eager", "auto"] = "eager"
    artifacts: Artifacts = field(default_factory=Artifacts)
    errors: list[tuple[Any, ...]] = field(default_factory=list)
    files: dict[tuple[str, int], dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        models = ModelCache(self.engine, self.artifacts, {}, 1)
        settings = ServeConfig(runtime=self.runtime)
        self.follower = Follower(("a", "b"), self.engine, models, self._on_error, settings)

    def _on_error(self, *what: Any) -> None:
        self.errors.append(what)

    def publish(self, level: float, stream: str = "a", golden: Model | None = None) -> int:
        model = model_of(level)
        packed = pack(Checkpoint(model.spec(), prefixed("model", model.state_dict()), {}))
        packed[GOLDEN] = make_golden(golden or model, COLUMNS, 0).to_json()
        files = {name: self.artifacts.put(data) for name, data in packed.items()}
        version = ModelVersion(
            stream, 0, manifest_digest(files), None, None, "s", 0, 0, 0, {}, {}, EPOCH, files
        )
        with transaction(self.engine) as connection:
            number = add_version(connection, version)
        self.files[stream, number] = files
        return number

    def promote(self, version: int, stream: str = "a") -> None:
        with transaction(self.engine) as connection:
            now = champion(connection, stream)
            expected = None if now is None else now.version
            promote(
                connection, stream, version, expected=expected, since=0, reference="r", at=None, reason="t"
            )

    def roll(self, version: int, parent: int, state: RolloutState, step: int = 0, share: float = 0.0) -> int:
        with transaction(self.engine) as connection:
            number = add_rollout(
                connection, "a", version, parent=parent, light=False, effective_at=EPOCH, episode=None
            )
        self.move(number, state, step, share)
        return number

    def move(self, rollout: int, state: RolloutState, step: int = 0, share: float = 0.0) -> None:
        with transaction(self.engine) as connection:
            values = {"state": state, "step": step, "share": share}
            connection.execute(update(rollouts).where(rollouts.c.id == rollout).values(**values))

    def route(self, stream: str = "a") -> Route:
        route = self.follower.route(stream)
        assert route is not None
        return route

    def damage(self, version: int) -> bytes:
        sha256 = self.files["a", version][MODEL]
        return self.artifacts._data.pop(sha256)


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(follow, "PATIENCE_SECONDS", 20.0)  # a busy machine
    engine = open_database(f"sqlite:///{tmp_path}/cls.db")
    upgrade(engine)
    with transaction(engine) as connection:
        for name in ("a", "b"):
            ensure_stream(connection, name)
    yield Scene(engine)
    engine.dispose()


def told(route: Route) -> tuple[Any, ...]:
    challenger = None if route.challenger is None else route.challenger.version
    return route.champion.version, challenger, route.share, route.rollout, route.stage


def test_before_a_champion_there_is_no_route_and_then_its_predictions(scene: Scene) -> None:
    ready = [scene.follower.ready]
    scene.follower.poll()
    assert [*ready, scene.follower.ready] == [False, True]
    assert scene.follower.route("a") is None
    assert scene.follower.route("nobody") is None
    first = scene.publish(100.0)
    scene.promote(first)
    scene.follower.poll()
    assert told(scene.route()) == (first, None, 0.0, 0, "champion")
    model = scene.route().champion
    assert abs(model.predict(COLUMNS).mean() - 100) < 5
    assert (model.target_location, model.target_scale) == (100.0, model.model.target_scale.item())


def test_the_stages_of_a_rollout(scene: Scene) -> None:
    first, second = scene.publish(100.0), scene.publish(200.0)
    scene.promote(first)
    rollout = scene.roll(second, first, RolloutState.WAITING)
    seen = []
    for state, step, share in (
        (RolloutState.WAITING, 0, 0.0),
        (RolloutState.SHADOW, 0, 0.0),
        (RolloutState.CANARY, 0, 0.05),
        (RolloutState.CANARY, 1, 0.25),
    ):
        scene.move(rollout, state, step, share)
        scene.follower.poll()
        seen.append(told(scene.route()))
    assert seen == [
        (first, None, 0.0, 0, "champion"),
        (first, None, 0.0, rollout, "champion"),
        (first, second, 0.05, rollout, "canary-0"),
        (first, second, 0.25, rollout, "canary-1"),
    ]
    scene.promote(second)
    scene.move(rollout, RolloutState.WATCHING)
    scene.follower.poll()
    assert told(scene.route()) == (second, None, 0.0, rollout, "champion")
    scene.move(rollout, RolloutState.DONE)
    scene.follower.poll()
    assert told(scene.route()) == (second, None, 0.0, 0, "champion")


def test_a_candidate_that_began_to_load_in_shadow_is_waited_for_as_a_canary(scene: Scene) -> None:
    first, second = scene.publish(100.0), scene.publish(200.0)
    scene.promote(first)
    arrived = scene.artifacts.slow[scene.files["a", second][MODEL]] = threading.Event()
    rollout = scene.roll(second, first, RolloutState.SHADOW)
    scene.follower.poll()
    scene.move(rollout, RolloutState.CANARY, 0, 0.05)
    threading.Timer(0.1, arrived.set).start()
    scene.follower.poll()
    assert told(scene.route()) == (first, second, 0.05, rollout, "canary-0")


def test_a_canary_of_another_champion_answers_nobody(scene: Scene) -> None:
    first, second, third = scene.publish(1.0), scene.publish(2.0), scene.publish(3.0)
    scene.promote(first)
    scene.roll(third, first, RolloutState.CANARY, 0, 0.5)
    scene.promote(second)
    scene.follower.poll()
    assert told(scene.route()) == (second, None, 0.0, 0, "champion")


def test_going_back_loads_nothing_and_needs_no_store(scene: Scene) -> None:
    first, second = scene.publish(100.0), scene.publish(200.0)
    scene.promote(first)
    scene.follower.poll()
    scene.promote(second)
    scene.follower.poll()
    assert scene.route().champion.version == second
    before = len(scene.artifacts.asked)
    scene.artifacts.away = Corrupt
    scene.artifacts._data.clear()
    scene.promote(first)
    scene.follower.poll()
    assert scene.route().champion.version == first
    assert len(scene.artifacts.asked) == before
    assert abs(scene.route().champion.predict(COLUMNS).mean() - 100) < 5


def test_after_a_restart_predecessor_and_candidate_are_resident_before_they_are_needed(scene: Scene) -> None:
    first, second, third = (scene.publish(100.0 * i) for i in (1, 2, 3))
    scene.promote(first)
    scene.promote(second)
    rollout = scene.roll(third, second, RolloutState.SHADOW)
    scene.follower.poll()
    until(lambda: {("a", v) for v in (first, second, third)} == scene.follower._resident.keys(), scene)
    scene.artifacts.away = Corrupt
    scene.move(rollout, RolloutState.CANARY, 0, 0.5)
    scene.follower.poll()
    assert told(scene.route())[:2] == (second, third)
    scene.promote(third)
    scene.move(rollout, RolloutState.WATCHING)
    scene.follower.poll()
    assert told(scene.route())[:2] == (third, None)
    scene.promote(second)
    scene.move(rollout, RolloutState.ROLLED_BACK)
    scene.follower.poll()
    assert told(scene.route()) == (second, None, 0.0, 0, "champion")
    assert scene.errors == []


def test_no_other_stream_and_no_scorer_takes_away_what_serves(scene: Scene) -> None:
    first, second, other = scene.publish(1.0), scene.publish(2.0), scene.publish(3.0, "b")
    scene.promote(first)
    scene.promote(other, "b")
    scene.promote(second)
    scene.follower.poll()
    until(lambda: len(scene.follower._resident) == 3, scene)
    for stream, version in (("b", other), ("a", first), ("a", second)):
        scene.follower._models.get(stream, version)  # of a cache that keeps one
    before = len(scene.artifacts.asked)
    scene.promote(first)
    scene.follower.poll()
    assert scene.route().champion.version == first
    assert scene.route("b").champion.version == other
    assert len(scene.artifacts.asked) == before


def test_what_is_no_longer_wanted_leaves_memory(scene: Scene) -> None:
    for level in range(1, 9):
        scene.promote(scene.publish(float(level)))
        scene.follower.poll()
    scene.follower.poll()
    assert len(scene.follower._resident) == 2


def until(condition: Callable[[], bool], scene: Scene, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        scene.follower.poll()
        time.sleep(0.01)


def test_a_slow_artifact_holds_back_neither_its_stream_nor_another(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "PATIENCE_SECONDS", 0.05)
    first, slow, third, other = (
        scene.publish(1.0),
        scene.publish(2.0),
        scene.publish(3.0),
        scene.publish(4.0, "b"),
    )
    scene.promote(first)
    until(lambda: scene.follower.route("a") is not None, scene)
    arrived = scene.artifacts.slow[scene.files["a", slow][MODEL]] = threading.Event()
    scene.promote(slow)
    scene.follower.poll()
    assert scene.follower.state()["a"] == {"serving": first, "champion": slow}
    scene.promote(other, "b")
    until(lambda: scene.follower.route("b") is not None, scene)  # long before the slow one would arrive
    scene.promote(third)  # overtakes
    until(lambda: scene.route().champion.version == third, scene)
    arrived.set()
    scene.promote(slow)
    until(lambda: scene.route().champion.version == slow, scene)


def test_a_version_that_cannot_be_loaded_is_counted_at_each_try_logged_once_and_taken_when_it_is_mended(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[str] = []
    monkeypatch.setattr(follow._log, "error", lambda event, **_: logged.append(event), raising=False)
    monkeypatch.setattr(follow, "RETRY_SECONDS", 0.05)
    first, second = scene.publish(100.0), scene.publish(200.0)
    scene.promote(first)
    rollout = scene.roll(second, first, RolloutState.CANARY, 1, 0.5)
    data = scene.damage(second)
    until(lambda: len(scene.errors) >= 3, scene)
    assert {*scene.errors} == {("a", rollout, "canary-1", second)}
    assert logged == ["version refused"]
    assert told(scene.route()) == (first, None, 0.0, rollout, "canary-1")
    assert scene.follower.state()["a"] == {
        "serving": first,
        "champion": first,
        "canary": second,
        "share": 0.0,
    }
    scene.artifacts.put(data)
    until(lambda: scene.route().challenger is not None, scene)
    assert told(scene.route()) == (first, second, 0.5, rollout, "canary-1")


def test_a_store_that_does_not_answer_is_no_fault_of_the_version(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "RETRY_SECONDS", 0.05)
    first, second = scene.publish(1.0), scene.publish(2.0)
    scene.promote(first)
    scene.follower.poll()
    scene.artifacts.away = Unavailable
    scene.promote(second)
    for _ in range(5):
        scene.follower.poll()
        time.sleep(0.03)
    assert scene.errors == []
    assert scene.route().champion.version == first
    scene.artifacts.away = None
    until(lambda: scene.route().champion.version == second, scene)


def test_a_champion_that_predicts_something_else_than_where_it_was_made_is_refused(scene: Scene) -> None:
    first, second = scene.publish(1.0), scene.publish(2.0, golden=model_of(2.5))
    scene.promote(first)
    scene.follower.poll()
    scene.promote(second)
    scene.follower.poll()
    assert scene.route().champion.version == first
    assert scene.errors == [("a", 0, "champion", second)]
    why, _ = scene.follower._refused["a", second]
    assert f"stream a, version {second}: golden.json: row " in why
    assert "expected" in why


def test_while_the_database_is_away_what_serves_goes_on(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = scene.publish(1.0)
    scene.promote(first)
    scene.follower.poll()
    before = scene.route()

    def away(*_: Any) -> None:
        raise Unavailable("no database")

    monkeypatch.setattr(follow, "reading", away)
    with pytest.raises(Unavailable):
        scene.follower.poll()
    assert scene.route() is before
    assert scene.follower.ready


def test_readers_never_see_half_a_swap(scene: Scene) -> None:
    levels = {scene.publish(100.0 * i): 100.0 * i for i in (1, 2)}
    first, second = levels
    scene.promote(first)
    scene.follower.poll()
    stop, wrong = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            route = scene.route()
            mean = route.champion.predict(COLUMNS).mean()
            if abs(mean - levels[route.champion.version]) > 5:
                wrong.append((route.champion.version, mean))

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for i in range(20):
        scene.promote(second if i % 2 == 0 else first)
        scene.follower.poll()
    stop.set()
    for reader in readers:
        reader.join()
    assert wrong == []


def test_a_faster_runtime_takes_over_beside_what_serves(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[int] = []
    from cls.serving.runtime import Choice

    def choose(model: Model, *_: Any) -> Choice:
        chosen.append(1)
        return Choice("onnx", model, {"onnx": {1: 2.0}})

    monkeypatch.setattr(follow, "choose", choose)
    scene = Scene(scene.engine, "auto")
    scene.promote(scene.publish(100.0))
    scene.follower.poll()
    until(lambda: scene.route().champion.runtime is not None, scene)
    told = {"runtime": "onnx", "microseconds": {"onnx": {"1": 2.0}}}
    assert scene.follower.state()["a"] == {"serving": 1, "champion": 1} | told
    assert abs(scene.route().champion.predict(COLUMNS).mean() - 100) < 5
    for _ in range(3):
        scene.follower.poll()
    assert chosen == [1]
