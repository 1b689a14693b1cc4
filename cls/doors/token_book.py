"""The tokens as a process that answers HTTP knows them: a copy in memory, renewed every few seconds.

It works on while the database is away. What it learns late is a revocation, by as much as the time between two renewals; that a token
expires it knows by the clock.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Lock

from sqlalchemy import Engine

from cls.doors.addresses import is_loopback
from cls.doors.tokens import Token, check, parse
from cls.errors import Temporary
from cls.logging import get_logger
from cls.settings.faults import ConfigError, Fault
from storage.audit import record
from storage.db import read_clock, reading, transaction
from storage.tokens import note_uses, usable_tokens

REFRESH_SECONDS = 2.0  # between two renewals: how long a revoked token may still work
_REFUSALS = 1000  # kept between two renewals, at most: the newest; the others are counted
_log = get_logger(__name__)


@dataclass(frozen=True)
class Refusal:
    """An operator's action for which a token had no right."""

    token: Token
    origin: str  # address of the client
    action: str
    stream: str | None
    needed: str  # scope


class TokenBook:
    """Knows which tokens are valid.

    Parameters
    ----------
    engine
        The database.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._tokens: dict[str, Token] = {}
        self._skew = 0.0  # seconds by which the database's clock is ahead of this machine's
        self._used: dict[str, int] = {}  # id -> minute since the epoch of its last use
        self._noted: dict[str, int] = {}  # id -> minute that the database knows of
        self._lock = Lock()  # over the refusals
        self._refusals: deque[Refusal] = deque(maxlen=_REFUSALS)
        self._lost = 0  # refusals that there was no room for

    def check(self, text: bytes) -> Token | None:
        """Return the valid token that a text is, None if it is none; unknown ids take as long as wrong secrets."""
        parts = parse(text)
        if parts is None:
            return None
        now = time.time() + self._skew
        token = self._tokens.get(parts[0])
        if not check(token, parts[1], now) or token is None:
            return None
        self._used[token.id] = int(now // 60)
        return token

    def refused(self, refusal: Refusal) -> None:
        """Keep, for the audit, that a token had no right to an action; written at the next renewal."""
        self._keep([refusal])

    @property
    def any_valid(self) -> bool:
        """Whether there is a token that has not expired."""
        now = time.time() + self._skew
        return any(now < token.expires for token in self._tokens.values())

    def refresh(self) -> None:
        """Renew the copy, and write when tokens were last used and what was refused.

        Raises
        ------
        Unavailable
            If the database is away: the old copy stays.
        """
        with reading(self._engine) as connection:
            tokens = {token.id: token for token in usable_tokens(connection)}
            self._skew = read_clock(connection).timestamp() - time.time()
        self._tokens = tokens
        self._write()

    def _write(self) -> None:
        used = {name: minute for name, minute in self._used.copy().items() if self._noted.get(name) != minute}
        with self._lock:
            refusals, lost = list(self._refusals), self._lost
            self._refusals.clear()
            self._lost = 0
        if not used and not refusals:
            return
        try:
            with transaction(self._engine) as connection:
                if lost:
                    record(
                        connection,
                        actor="tokens",
                        origin="http",
                        action="other",
                        stream=None,
                        arguments={"requests": lost},
                        outcome=f"refused: {lost} more for want of a scope, too many to be told one by one",
                    )
                note_uses(connection, {name: datetime.fromtimestamp(m * 60, UTC) for name, m in used.items()})
                for one in refusals:
                    record(
                        connection,
                        actor=f"token:{one.token.id} {one.token.name}",
                        origin=one.origin,
                        action=one.action,
                        stream=one.stream,
                        arguments={},
                        outcome=f"refused: needs the scope {one.needed}",
                    )
        except Temporary:
            with self._lock:
                newer, self._lost = list(self._refusals), self._lost + lost
                self._refusals.clear()
            self._keep(refusals + newer)
            raise
        except Exception:  # noqa: BLE001 - a row that the database will never take must not stop the renewals
            _log.exception("refusals are not in the audit", number=len(refusals) + lost)
        self._noted |= used

    def _keep(self, refusals: list[Refusal]) -> None:
        with self._lock:
            self._lost += max(0, len(self._refusals) + len(refusals) - _REFUSALS)
            self._refusals.extend(refusals)


def refuse_unguarded(field: str, address: str, book: TokenBook) -> None:
    """Refuse to listen where others reach us before there is a token that they would need.

    Parameters
    ----------
    field
        Name of the address in `cls.toml`, as "http.ingest".
    address
        host:port.
    book
        Renewed just now.

    Raises
    ------
    ConfigError
        Naming the field and the way out: starting again cannot help.
    """
    if is_loopback(address) or book.any_valid:
        return
    raise ConfigError(
        [
            Fault(
                field,
                None,
                f"{address} can be reached from other machines, and there is no valid token: make one with "
                "`cls token create NAME --scope SCOPE`, or listen on 127.0.0.1",
            )
        ]
    )
