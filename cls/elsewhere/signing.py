"""Signatures by the Standard Webhooks specification (standardwebhooks.com): HMAC-SHA256 over id, timestamp and body."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Mapping

SECRET_BYTES = 24  # at least
PREFIX = "whsec_"


class SecretError(ValueError):
    """A secret that is not there or cannot sign."""


def keys_of(variable: str, environment: Mapping[str, str] = os.environ) -> list[bytes]:
    """Return the keys in an environment variable: one, or several separated by spaces while a secret is being replaced.

    A secret is its bytes as they stand, or base64 after "whsec_".

    Raises
    ------
    SecretError
        If the variable is not set, or holds something that is too short or not what its prefix says. Never shows the secret.
    """
    words = environment.get(variable, "").split()
    if not words:
        raise SecretError(f"environment variable {variable} is not set: it holds the secret that signs")
    return [_key(word, variable) for word in words]


def _key(word: str, variable: str) -> bytes:
    if word.startswith(PREFIX):
        try:
            key = base64.b64decode(word.removeprefix(PREFIX), validate=True)
        except (binascii.Error, ValueError) as error:
            raise SecretError(f"environment variable {variable}: no base64 after {PREFIX}") from error
    else:
        key = word.encode()
    if len(key) < SECRET_BYTES:
        raise SecretError(
            f"environment variable {variable}: a secret has {SECRET_BYTES} bytes or more, this one {len(key)}"
        )
    return key


def signature(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """Return "v1,<base64 of HMAC-SHA256 over id.timestamp.body>"."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
