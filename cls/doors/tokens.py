"""Tokens of the HTTP doors: `cls_ID_SECRET`. The id is public, the secret is shown once, and only its SHA-256 is kept.

The secret is 43 random letters and digits, 256 bits: nobody finds it by trying, whatever a try costs. So a slow, salted hash, which
protects words that people choose, would cost every request its time and add nothing.

Scopes: `ingest` sends events and labels, `predict` asks for predictions, `read` looks, `operate` does what operators do and reads,
`admin` does everything.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import string
from collections.abc import Iterable
from dataclasses import dataclass

SCOPES = ("ingest", "predict", "read", "operate", "admin")
_IMPLIED = {"operate": ("operate", "read"), "admin": SCOPES}
_PREFIX = b"cls_"
_ALPHABET = (
    string.ascii_letters + string.digits
)  # no _ and no -: a token has two _, and a double click takes all of it
_ID, _SECRET = 10, 43  # letters; 62^43 > 2^256
_NOBODY = "0" * 64  # the hash that a secret of an unknown id is compared with


@dataclass(frozen=True)
class Fresh:
    """A token that was just made: the only time that its secret is known."""

    id: str
    text: str  # all of it
    hash: str  # SHA-256 of the secret, in hexadecimal


@dataclass(frozen=True)
class Token:
    """What is kept of a token."""

    id: str
    name: str
    hash: str  # SHA-256 of the secret, in hexadecimal
    scopes: frozenset[str]  # those that are implied among them
    expires: float  # seconds since the epoch, database time; infinite: never


def make() -> Fresh:
    """Return a new token."""
    name, secret = ("".join(secrets.choice(_ALPHABET) for _ in range(size)) for size in (_ID, _SECRET))
    return Fresh(name, f"cls_{name}_{secret}", digest(secret.encode()))


def parse(text: bytes) -> tuple[str, bytes] | None:
    """Return (id, secret) of what may be a token, None for what cannot be one. Reads no more than a token's length."""
    if len(text) != len(_PREFIX) + _ID + 1 + _SECRET or not text.startswith(_PREFIX):
        return None
    name, middle, secret = text[4 : 4 + _ID], text[4 + _ID : 5 + _ID], text[5 + _ID :]
    if middle != b"_" or not name.isalnum() or not secret.isalnum():
        return None
    return name.decode(), secret


def digest(secret: bytes) -> str:
    """Return what is kept of a secret."""
    return hashlib.sha256(secret).hexdigest()


def check(token: Token | None, secret: bytes, now: float) -> bool:
    """Whether a secret is that of a token which is still valid; without a token, False after just as long.

    Parameters
    ----------
    now
        Database time in seconds since the epoch.
    """
    same = hmac.compare_digest(digest(secret), _NOBODY if token is None else token.hash)
    return same and token is not None and now < token.expires


def implied(scopes: Iterable[str]) -> frozenset[str]:
    """Return what scopes allow, each with those that it implies; unknown ones allow nothing.

    Examples
    --------
    >>> sorted(implied(["operate", "predict"]))
    ['operate', 'predict', 'read']
    """
    return frozenset(one for scope in scopes if scope in SCOPES for one in _IMPLIED.get(scope, (scope,)))
