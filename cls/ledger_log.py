"""The ledger in the log: each entry of a stream once it is committed, with all its ids."""

from __future__ import annotations

import structlog
from sqlalchemy import Engine

from storage.db import reading
from storage.streams import ledger_after, ledger_end

_log = structlog.get_logger("cls.ledger")
_IDS = {"job_id": "job", "version": "version", "episode_id": "episode", "decision": "decision"}


class LedgerLog:
    """Logs what is new in a stream's ledger.

    Parameters
    ----------
    engine
        The database.
    stream
        Its name; what is in its ledger already is not told again.
    """

    def __init__(self, engine: Engine, stream: str) -> None:
        self._engine = engine
        self._stream = stream
        with reading(engine) as connection:
            self._told = ledger_end(connection, stream)

    def tell(self) -> None:
        """Log the entries since the last call. Raises `Unavailable`."""
        with reading(self._engine) as connection:
            entries = ledger_after(connection, self._stream, self._told)
        for entry in entries:
            found = {name: getattr(entry, column) for column, name in _IDS.items()}
            ids = {name: value for name, value in found.items() if value is not None}
            _log.info(entry.kind, stream=self._stream, at=entry.at, reason=entry.reason, **ids)
            self._told = entry.id
