"""What stands before both HTTP doors: Host, Origin, token, scope and rate are looked at before anything reads a body.

    421  a Host header that a page from elsewhere could have chosen (DNS rebinding)
    403  a page of another origin; a token without the scope that is needed; a proxy before a door that needs no tokens
    401  no token where one is needed, or one that is not valid
    429  too many requests of one token, or of one address

Tokens are needed on every address but the loopback, and there with `http.require_tokens`. One that is presented is looked at
everywhere. It stands in `Authorization: Bearer`, never in the address, which proxies write into their logs. Where none is needed, a
request that a proxy passed on is refused: everybody could come that way.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Container

import orjson
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cls.config import Config, HttpConfig
from cls.doors.addresses import is_loopback, sender_of
from cls.doors.callers import STRANGER, TOKEN, Hosts, Origins
from cls.doors.rates import Rates
from cls.doors.token_book import Refusal, TokenBook
from cls.doors.tokens import Token
from cls.logging import get_logger

# What a request needs. Below /v1/streams/NAME/ the last part of the path counts; everything that is not here needs `read` to look, and
# `admin` to do.
LOOKING = ("GET", "HEAD")
PATHS = {"/v1/audit": "admin"}
KINDS = {
    "events": "ingest",
    "labels": "ingest",
    "predict": "predict",
    **dict.fromkeys(("train", "rollback", "promote", "pause", "resume", "approve", "abort"), "operate"),
}
OPEN = frozenset(
    {"/healthz", "/readyz"}
)  # to everyone, so that supervisors need no token; strangers get no details
OPEN_HERE = frozenset({"/openapi.json"})  # to everyone on the loopback

_COMPLAINTS = 1 / 60  # a second that one address can put into the log
_PROXIED = frozenset({b"forwarded", b"x-forwarded-for", b"x-real-ip"})
_TWICE = b"\0"  # stands for a header that was sent twice: no value of one, and refused
_METHODS = b"GET, HEAD, POST"
_HEADERS = b"authorization, content-type, x-cls-producer, x-cls-sequence"
_Headers = list[tuple[bytes, bytes]]
_Refused = tuple[int, str, _Headers]  # status, reason, headers beside
_log = get_logger(__name__)


def guard(config: Config, listening: str, book: TokenBook | None) -> Middleware:
    """Return the guard of an application.

    Parameters
    ----------
    config
        With its table `http`.
    listening
        host:port of this application.
    book
        Knows the tokens; with None, none is valid.
    """
    return Middleware(Guard, http=config.http, listening=listening, book=book, streams=config.streams)


def scope_of(method: str, path: str) -> str:
    """Return the scope that a request needs where tokens are needed."""
    asked = _asked_of(path)
    if asked is not None and method == "POST":
        return KINDS.get(asked[1], "admin")
    return PATHS.get(path, "read" if method in LOOKING else "admin")


def _asked_of(path: str) -> tuple[str, str] | None:
    """Return stream and action of /v1/streams/NAME/ACTION, None for other paths."""
    if not path.startswith("/v1/streams/") or path.count("/") != 4:
        return None
    stream, _, action = path.removeprefix("/v1/streams/").partition("/")
    return stream, action


class Guard:
    """The guard as ASGI middleware; see `guard`.

    Parameters
    ----------
    app
        The application behind it.
    clock
        Monotonic seconds.
    streams
        Names of those that are configured.
    """

    def __init__(
        self,
        app: ASGIApp,
        http: HttpConfig,
        listening: str,
        book: TokenBook | None,
        clock: Callable[[], float] = time.monotonic,
        streams: Container[str] = (),
    ) -> None:
        self._app = app
        self._book = book
        self._clock = clock
        self._streams = streams
        self._hosts = Hosts(listening, http.hosts)
        self._origins = Origins(http.origins)
        self._needed = http.require_tokens or not is_loopback(listening)
        self._open = OPEN | OPEN_HERE if is_loopback(listening) else OPEN
        rate = http.requests_per_second
        self._rates = None if rate is None else Rates(rate)
        self._complaints = Rates(_COMPLAINTS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or refuse."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # websockets: nothing here speaks them
            await send({"type": "websocket.close", "code": 1008})
            return
        host, origin, authorization, proxied = _headers(scope)
        refusal = self._foreign(scope, host, origin)
        if refusal is None and proxied and not self._needed:
            refusal = (
                403,
                "a proxy passed this on, to a door that asks nobody for a token: set require_tokens = true in [http]",
                [],
            )
        if refusal is None and origin is not None:
            if scope["method"] == "OPTIONS":
                await _answer(send, 204, b"", _preflight(origin))
                return
            send = _shared(send, origin)
        if refusal is None:
            if scope["path"] in self._open:
                scope[STRANGER] = self._needed
            else:
                refusal = self._refusal(scope, authorization)
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            status, reason, headers = refusal
            body = orjson.dumps({"error": reason})
            await _answer(send, status, body, [(b"content-type", b"application/json"), *headers])

    def _foreign(self, scope: Scope, host: bytes, origin: bytes | None) -> _Refused | None:
        """Return why a request comes from where none may come from."""
        if not self._hosts.known(host):
            return 421, f"Host {host.decode('latin-1')[:200]!r} is not served here", []
        if origin is not None and not self._origins.known(origin, host, scope.get("scheme", "http")):
            return 403, "pages of this origin may not call: see origins in [http]", []
        return None

    def _refusal(self, scope: Scope, authorization: bytes | None) -> _Refused | None:
        """Return why a request may not pass; None where it may, with its token in its scope."""
        text = None if authorization is None else _bearer(authorization)
        token = None if text is None or self._book is None else self._book.check(text)
        if self._rates is not None:
            wait = self._rates.wait(_sender(scope) if token is None else token.id, self._clock())
            if wait:
                seconds = str(math.ceil(wait)).encode()
                return (
                    429,
                    "too many requests: see requests_per_second in [http]",
                    [(b"retry-after", seconds)],
                )
        if token is None:
            if text is not None:
                self._complain(scope)
                return _unknown(
                    "the token is not valid: unknown, expired or revoked", b', error="invalid_token"'
                )
            if self._needed:
                self._complain(scope)
                return _unknown("a token is needed: Authorization: Bearer cls_...", b"")
        else:
            needed = scope_of(scope["method"], scope["path"])
            if needed not in token.scopes:
                self._note(scope, token, needed)
                challenge = f'Bearer realm="cls", error="insufficient_scope", scope="{needed}"'.encode()
                return (
                    403,
                    f"the token has no scope {needed!r}, which this needs",
                    [(b"www-authenticate", challenge)],
                )
        scope[TOKEN] = token
        return None

    def _note(self, scope: Scope, token: Token, needed: str) -> None:
        """Keep for the audit that an operator's action was refused."""
        if needed in ("operate", "admin") and self._book is not None:
            stream, action = _asked_of(scope["path"]) or (None, scope["path"])
            self._book.refused(
                Refusal(
                    token,
                    client_of(scope),
                    action if action in KINDS or action in PATHS else "other",  # no text of the caller's own
                    stream if stream in self._streams else None,
                    needed,
                )
            )

    def _complain(self, scope: Scope) -> None:
        """Log that a token was missing or wrong, once a minute for each address."""
        if not self._complaints.wait(_sender(scope), self._clock()):
            _log.warning("no valid token", origin=client_of(scope))


def _headers(scope: Scope) -> tuple[bytes, bytes | None, bytes | None, bool]:
    """Return Host, Origin and Authorization, and whether a proxy says that it passed the request on."""
    host = origin = authorization = None
    proxied = False
    for name, value in scope["headers"]:
        if name == b"host":
            host = value if host is None else _TWICE
        elif name == b"authorization":
            authorization = value if authorization is None else _TWICE
        elif name == b"origin":
            origin = value if origin is None else _TWICE
        elif name in _PROXIED:
            proxied = True
    return host or b"", origin, authorization, proxied


def client_of(scope: Scope) -> str:
    """Return the address of a request's client."""
    client = scope.get("client")
    return str(client[0]) if client else "unknown"


def _sender(scope: Scope) -> str:
    """Return whose rate counts."""
    return sender_of(client_of(scope))


def _bearer(header: bytes) -> bytes | None:
    """Return what may be a token; None for another scheme, which is not ours to judge."""
    if header == _TWICE:
        return header
    scheme, _, text = header.partition(b" ")
    return text.strip(b" ") if scheme.lower() == b"bearer" else None


def _unknown(reason: str, more: bytes) -> _Refused:
    return 401, reason, [(b"www-authenticate", b'Bearer realm="cls"' + more)]


def _preflight(origin: bytes) -> _Headers:
    return [
        *_allowed(origin),
        (b"access-control-allow-methods", _METHODS),
        (b"access-control-allow-headers", _HEADERS),
        (b"access-control-max-age", b"600"),
    ]


def _allowed(origin: bytes) -> _Headers:
    return [(b"access-control-allow-origin", origin), (b"vary", b"Origin")]


def _shared(send: Send, origin: bytes) -> Send:
    """Let a page of a known origin read the answer."""

    async def sender(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *_allowed(origin)]}
        await send(message)

    return sender


async def _answer(send: Send, status: int, body: bytes, headers: _Headers) -> None:
    length = [(b"content-length", str(len(body)).encode())] if status != 204 else []
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *length]})
    await send({"type": "http.response.body", "body": body})
