"""A round of faults for `cls serve` in a whole system: asked without pause, its versions changing, and everything around it failing."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from random import Random
from signal import SIGCONT, SIGSTOP
from threading import Event, Thread
from typing import Any

import httpx
from sqlalchemy import select
from sqlalchemy.engine import make_url

from cls.asking import place
from cls.checkpoints import pack, restore, unpack
from cls.demo.running import free_address
from cls.errors import CLSError, Unavailable
from cls.golden import Golden
from cls.layout import GOLDEN, PROFILE
from learners.checkpoint import Checkpoint
from storage.artifacts import manifest_digest
from storage.db import reading, transaction
from storage.home import Home
from storage.tables import promotions
from storage.versions import add_version, read_version
from tests.chaos.harness import STREAM, System, _log, eventually, running
from tests.chaos.serving import READY_SECONDS, Asked, Clients, predicted
from tests.chaos.test_registry_away import mlflow_server
from tests.chaos.test_rollouts import Users
from tests.chaos.test_serving import away, comes_back
from tests.chaos.truths import check_aliases, check_champion

FAULTS = (
    "serve killed",
    "serve stopped",
    "daemon killed",
    "daemon stopped",
    "database away",
    "serve killed while the database is away",
)
VARIANTS = 4  # versions beside the first
CLIENTS = 2
WORKER = {"lease_seconds": 15.0, "heartbeat_seconds": 1.0}  # no lease is to end by itself on a busy machine
UNLOGGED_SECONDS = (
    3.0  # before a kill: rows may still be on their way to the disk, or wait for a database that was away
)
GRACE_SECONDS = 0.5  # a client notices a fault a little later than it was over
EQUAL = 1e-3  # of predictions; those of the versions lie 10 apart


@dataclass
class Fault:
    """What was done, and from when to when somebody who asks may notice."""

    what: str
    begun: float
    over: float = float("inf")
    killed: float | None = None  # when the predictor was


@dataclass
class Round:
    """What came of a round."""

    faults: list[Fault] = field(default_factory=list)
    asked: Asked = field(default_factory=Asked)
    swaps: int = 0
    looks: int = 0  # that found a champion
    lost: int = 0  # rows that a killed predictor had answered, but not logged yet


class Outages:
    """Faults of a system, one after the other."""

    def __init__(self, system: System, database_url: str, random: Random) -> None:
        self._system = system
        self._away = partial(away, make_url(database_url).get_backend_name(), database_url)
        self._random = random
        self.faults: list[Fault] = []

    def strike(self, what: str) -> None:
        """Have something fail, and wait until it is there again."""
        fault = Fault(what, time.monotonic())
        self.faults.append(fault)
        match what.split():
            case ["serve", "killed"]:
                self._kill_serve(fault)
            case ["daemon", "killed"]:
                before = self._system.pid("daemon")
                eventually(lambda: self._system.signal("daemon"), 30.0, "the daemon to run")
                eventually(lambda: self._system.pid("daemon") not in (None, before), 30.0)
            case [name, "stopped"]:
                self._system.signal(name, SIGSTOP)
                time.sleep(self._random.uniform(0.3, 3.0))  # the stop, not a wait for anything
                self._system.signal(name, SIGCONT)
            case ["database", "away"]:
                with self._away():
                    time.sleep(self._random.uniform(0.5, 3.0))  # the outage
            case _:
                before = self._system.pid("serve")
                with self._away():
                    time.sleep(self._random.uniform(0.0, 1.0))
                    fault.killed = time.monotonic()
                    assert self._system.signal("serve")
                    time.sleep(self._random.uniform(0.5, 2.0))
                eventually(partial(comes_back, self._system, before), READY_SECONDS, "serve to come back")
        fault.over = time.monotonic()

    def _kill_serve(self, fault: Fault) -> None:
        before = self._system.pid("serve")
        fault.killed = time.monotonic()
        eventually(lambda: self._system.signal("serve"), READY_SECONDS, "serve to run")
        eventually(partial(comes_back, self._system, before), READY_SECONDS, "serve to come back")


class Swapper:
    """Asks the daemon for another champion again and again, and looks whether there is one."""

    def __init__(self, system: System, versions: Sequence[int], random: Random) -> None:
        self._system, self._versions, self._random = system, versions, random
        self._stop = Event()
        self.looks = 0
        self.faults: list[str] = []
        self._thread = Thread(target=self._swap, daemon=True)
        self._thread.start()

    def _swap(self) -> None:
        while not self._stop.wait(self._random.uniform(0.3, 1.2)):
            with suppress(Unavailable):
                if self._system.champion() is None:
                    self.faults.append("no champion")
                self.looks += 1
            with suppress(CLSError):  # the database may be away
                version = self._random.choice(self._versions)
                place(
                    self._system.engine,
                    STREAM,
                    "promote",
                    {"version": version},
                    actor="chaos",
                    origin="command line",
                )

    def close(self) -> None:
        """Stop asking."""
        self._stop.set()
        self._thread.join()


class Registry:
    """An MLflow server that comes and goes."""

    def __init__(self, folder: Path, address: str) -> None:
        self._folder, self._address = folder, address
        self._stack = ExitStack()

    def come(self) -> httpx.Client:
        """Start it."""
        self._folder.mkdir(exist_ok=True)
        return self._stack.enter_context(mlflow_server(self._folder, self._address))

    def go(self) -> None:
        """End it."""
        self._stack.close()


@contextmanager
def with_registry(
    folder: Path, database_url: str, changes: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[System, Registry]]:
    """Hold a whole system and the registry that it reports to, which is there."""
    address = free_address()
    registry = Registry(folder / "mlflow", address)
    top = {"mlflow_uri": f"http://{address}"}
    system = System(folder / "run", database_url, changes, WORKER, top)
    registry.come()
    try:
        with running(system):
            yield system, registry
    finally:
        registry.go()


def variant(home: Home, first: int, number: int) -> int:
    """Publish a version with other weights than the first, whose predictions lie far from those of all others."""
    with reading(home.engine) as connection:
        version = read_version(connection, STREAM, first)
    files = {name: home.artifacts.get(sha) for name, sha in version.files.items()}
    checkpoint = unpack(files)
    tensors = dict(checkpoint.tensors)
    for name, tensor in checkpoint.tensors.items():
        if not name.startswith(("model.numeric", "model.target")) and tensor.dtype.is_floating_point:
            tensors[name] = tensor * (1 + 0.2 * number)
    tensors["model.target_location"] = tensors["model.target_location"] + 10.0 * number
    made = replace(checkpoint, tensors=tensors)
    packed = pack(made, files[PROFILE])
    model = restore(made)
    golden = Golden.from_json(files[GOLDEN], model.schema)
    packed[GOLDEN] = replace(golden, expected=model.predict(golden.columns)).to_json()
    stored = {name: home.artifacts.put(data) for name, data in packed.items()}
    other = replace(
        version, number=0, digest=manifest_digest(stored), parent=first, job_id=None, files=stored
    )
    with transaction(home.engine) as connection:
        return add_version(connection, other)


def checkpoint_of(home: Home, number: int) -> Checkpoint:
    """Return a version as it was stored."""
    with reading(home.engine) as connection:
        version = read_version(connection, STREAM, number)
    return unpack({name: home.artifacts.get(sha) for name, sha in version.files.items()})


def serving_round(folder: Path, database_url: str, seed: int, seconds: float, result: Round) -> None:
    """Run a round, and check it; `result` tells what happened, also of a round that fails."""
    random = Random(seed)
    with with_registry(folder, database_url, {}) as (system, registry):
        Users(system, seed=seed).bootstrap()
        home = Home.open(system.config)
        try:
            made = [1, *(variant(home, 1, number) for number in range(1, VARIANTS + 1))]
            expected = {number: predicted(checkpoint_of(home, number)) for number in made}
            sent = len(_log(system, "events")["cls:key"])
            outages = Outages(system, database_url, random)
            result.faults = outages.faults
            swapper = Swapper(system, made, Random(seed + 1))
            clients = Clients(system, None, CLIENTS)
            result.asked = clients.asked
            try:
                client = _strike(outages, registry, random, seconds)
            finally:
                swapper.close()
                clients.stop()
            result.looks = swapper.looks
            system.settle(180.0)
            eventually(lambda: answered_by(system) == system.champion(), 30.0, "the champion to answer")
            result.swaps = len(system.rows(select(promotions.c.id))) - 1
            assert swapper.faults == []
            assert wrong_answers(result.asked, expected) == []
            assert unexplained(result.asked, result.faults) == []
            result.lost = check_log(system, result, sent)
            check_champion(system)
            check_aliases(system, client)
            assert {name for name, _ in system.exits} <= {"serve", "daemon", "worker-0"}
        finally:
            home.engine.dispose()


def _strike(outages: Outages, registry: Registry, random: Random, seconds: float) -> httpx.Client:
    """Let each kind of fault happen once in a random order, and random ones until the time is over; returns MLflow's client.

    MLflow goes with the first fault and is back after half of the time.
    """
    began, due, client = time.monotonic(), random.sample(FAULTS, len(FAULTS)), None
    registry.go()
    while due or client is None or time.monotonic() - began < seconds:
        if client is None and time.monotonic() - began > seconds / 2:
            client = registry.come()
        time.sleep(random.uniform(0.1, 1.0))  # until the next fault
        outages.strike(due.pop() if due else random.choice(FAULTS))
    return client


def answered_by(system: System) -> int | None:
    """Return the version that answers now."""
    with suppress(httpx.TransportError):
        answer = system.predict()
        if answer.status_code == 200:
            return int(answer.json()["version"])
    return None


def wrong_answers(asked: Asked, expected: Mapping[int, float]) -> list[str]:
    """Return answers that are not what the version that they name predicts, and those with another row's key."""
    wrong = [f"another key: {body}" for body in asked.wrong]
    for key, (version, prediction) in asked.answers.items():
        if version not in expected:
            wrong.append(f"{key}: by version {version}, which nobody promoted")
        elif not abs(prediction - expected[version]) <= EQUAL:
            wrong.append(
                f"{key}: {prediction} by version {version}, which predicts {expected[version]} ({expected})"
            )
    return wrong


def unexplained(asked: Asked, faults: Sequence[Fault]) -> list[str]:
    """Return what clients met that no fault explains: only a killed predictor hangs up, and only then may it refuse."""
    kills = [(fault.killed, fault.over + GRACE_SECONDS) for fault in faults if fault.killed is not None]
    wrong = []
    for began, over, what in asked.troubles:
        beside = any(began <= end and over >= killed for killed, end in kills)
        honest = not what[0].isdigit() or what.startswith(("429", "503"))
        if not (beside and honest):
            wrong.append(what)
    return wrong


def check_log(system: System, result: Round, sent: int) -> int:
    """Check that every answered row is logged once, as it was answered; returns how many rows kills took with them."""
    events, scored = _log(system, "events"), _log(system, "predictions")
    keys = events["cls:key"]
    twice = [key for key, number in Counter(keys).items() if number > 1]
    assert not twice, f"logged twice: {twice[:5]}"
    position = {key: at for at, key in enumerate(keys)}
    assert len(scored["cls:version"]) == len(keys)
    strange = keys[sent:]
    unknown = [key for key in strange if key not in result.asked.answers]
    # a kill may leave clients without the answer to a row that is logged: one for each client
    kills = sum(fault.killed is not None for fault in result.faults)
    assert len(unknown) <= CLIENTS * max(kills, 1), f"logged, but never answered: {unknown[:5]}"
    for key, (version, prediction) in result.asked.answers.items():
        at = position.get(key)
        if at is not None:
            logged = (scored["cls:version"][at], scored["cls:prediction"][at])
            assert logged[0] == version, f"{key}: answered by {version}, logged {logged}"
            assert abs(logged[1] - prediction) <= EQUAL, f"{key}: answered {prediction}, logged {logged}"
    lost = [moment for key, moment in result.asked.kept.items() if key not in position]
    windows = [
        (fault.begun - UNLOGGED_SECONDS, fault.killed + GRACE_SECONDS)
        for fault in result.faults
        if fault.killed is not None
    ]
    for moment in lost:
        assert any(begin <= moment <= end for begin, end in windows), "a row is lost without a kill"
    return len(lost)
