"""The durable inbox: a synced Arrow file, then one group-committed row (producer, sequence), then the acknowledgement.

A producer numbers its requests; the same (producer, sequence) is taken once however often it is sent. The inbox is a source like any
other: its token is the id of the last row read.
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

import pyarrow as pa
from sqlalchemy import Connection, Engine, Insert, bindparam, func, select, text

from cls.errors import CLSError, Corrupt, Unavailable
from cls.ports import RawBatch
from storage.db import database_now, reading, transaction, upsert
from storage.segments import digest, write_synced
from storage.statements import per_dialect
from storage.tables import inbox

_LOCK = 7_401_001  # PostgreSQL: ids must become visible in order

_SERIAL = text("SELECT pg_advisory_xact_lock(:key)")
_AFTER = (inbox.c.stream == bindparam("stream"), inbox.c.id > bindparam("after"))
_NEXT = select(inbox).where(*_AFTER).order_by(inbox.c.id).limit(1)
_WAITING = select(func.count()).select_from(inbox).where(*_AFTER)
_LAST_SEQUENCE = select(func.max(inbox.c.sequence)).where(
    inbox.c.stream == bindparam("stream"), inbox.c.producer == bindparam("producer")
)


@per_dialect
def _take(connection: Connection) -> Insert:
    statement = upsert(connection, inbox).values(received_at=database_now(connection))
    return statement.on_conflict_do_nothing(index_elements=["stream", "producer", "sequence"])


@dataclass(frozen=True)
class Receipt:
    """What the sender gets back once its records are durable."""

    sequence: int
    rows: int
    duplicate: bool


@dataclass(frozen=True)
class Item:
    """One request, its file already synced."""

    stream: str
    producer: str
    sequence: int
    kind: str
    rows: int
    path: str
    sha256: str


class Inbox:
    """Takes requests from many threads and commits them in groups from one.

    Parameters
    ----------
    engine
        The database.
    root
        Directory of the Arrow files.
    """

    def __init__(self, engine: Engine, root: Path) -> None:
        self._engine = engine
        self._root = root
        self._queue: SimpleQueue[tuple[Item, Future[Receipt]] | None] = SimpleQueue()
        self._thread = Thread(target=self._commit_groups, name="inbox", daemon=True)
        self._thread.start()

    def put(self, stream: str, producer: str, sequence: int, kind: str, table: pa.Table) -> Receipt:
        """Store one request durably.

        Raises
        ------
        Unavailable
            If the disk or the database refuses; nothing was acknowledged, send it again.
        """
        sink = io.BytesIO()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        data = sink.getvalue()
        path = f"{stream}/{uuid.uuid4().hex}.arrow"
        write_synced(self._root / path, data)
        future: Future[Receipt] = Future()
        self._queue.put((Item(stream, producer, sequence, kind, table.num_rows, path, digest(data)), future))
        return future.result(timeout=60)

    def close(self) -> None:
        """Commit what is waiting and stop."""
        self._queue.put(None)
        self._thread.join()

    def _commit_groups(self) -> None:
        closing = False
        while not closing:
            first = self._queue.get()
            group = [] if first is None else [first]
            closing = first is None
            while len(group) < 256:
                try:
                    more = self._queue.get_nowait()
                except Empty:
                    break
                if more is None:
                    closing = True
                else:
                    group.append(more)
            if group:
                self._commit(group)

    def _commit(self, group: Sequence[tuple[Item, Future[Receipt]]]) -> None:
        try:
            with transaction(self._engine) as connection:
                receipts = record(connection, [item for item, _ in group])
        except Exception as error:  # noqa: BLE001 - whatever it was, the senders must hear of it
            for _, future in group:
                future.set_exception(error if isinstance(error, CLSError) else Unavailable(f"inbox: {error}"))
        else:
            for (_, future), receipt in zip(group, receipts, strict=True):
                future.set_result(receipt)


def record(connection: Connection, items: Sequence[Item]) -> list[Receipt]:
    """Insert rows in order, those already known excepted."""
    if connection.dialect.name == "postgresql":
        connection.execute(_SERIAL, {"key": _LOCK})
    receipts = []
    for item in items:
        duplicate = connection.execute(_take(connection), dict(item.__dict__)).rowcount == 0
        receipts.append(Receipt(item.sequence, item.rows, duplicate))
    return receipts


class InboxSource:
    """Reads the inbox of one stream in the order in which it was acknowledged."""

    def __init__(self, engine: Engine, root: Path, stream: str) -> None:
        self._engine = engine
        self._root = root
        self._stream = stream

    def read(self, token: str) -> RawBatch | None:
        """Return the request after row id `token` (empty: from the start), or None."""
        after = int(token or 0)
        with reading(self._engine) as connection:
            row = connection.execute(_NEXT, {"stream": self._stream, "after": after}).first()
        if row is None:
            return None
        try:
            data = (self._root / row.path).read_bytes()
        except FileNotFoundError as error:
            raise Corrupt(
                f"inbox file {row.path} is missing under {self._root}: restore it from a backup"
            ) from error
        except OSError as error:
            raise Unavailable(f"inbox file {row.path}: {error}") from error
        if digest(data) != row.sha256:
            raise Corrupt(f"inbox file {row.path} does not match its hash")
        with pa.ipc.open_file(io.BytesIO(data)) as reader:
            table = reader.read_all()
        return RawBatch(row.kind, table, str(row.id), f"{row.producer}#{row.sequence}")


def last_sequence(connection: Connection, stream: str, producer: str) -> int | None:
    """Return the highest sequence a producer has had acknowledged, so that it can go on after a restart."""
    return connection.execute(_LAST_SEQUENCE, {"stream": stream, "producer": producer}).scalar()


def waiting(connection: Connection, stream: str, token: str) -> int:
    """Count the requests that ingest has not read yet."""
    return int(connection.execute(_WAITING, {"stream": stream, "after": int(token or 0)}).scalar_one())


def forget_files(engine: Engine, root: Path, stream: str, token: str) -> int:
    """Delete the Arrow files of requests that ingest has committed; their rows stay, for idempotence. Returns how many."""
    with reading(engine) as connection:
        query = select(inbox.c.path).where(inbox.c.stream == stream, inbox.c.id <= int(token or 0))
        done = {path for (path,) in connection.execute(query)}
    removed = 0
    for path in (root / stream).glob("*.arrow"):
        if path.relative_to(root).as_posix() in done:
            path.unlink(missing_ok=True)
            removed += 1
    return removed
