"""Tokens: only the whole, unchanged, unexpired one is valid, and what is wrong takes as long as what is unknown."""

from __future__ import annotations

import hmac
import math
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cls.doors.tokens import SCOPES, Fresh, Token, check, digest, implied, make, parse

FRESH = make()
ALPHABET = string.ascii_letters + string.digits


def kept(fresh: Fresh, *, expires: float = math.inf) -> Token:
    return Token(fresh.id, "feeder", fresh.hash, implied(["ingest"]), expires)


def valid(text: bytes, token: Token | None = None, now: float = 0.0) -> bool:
    parts, token = parse(text), token or kept(FRESH)
    return parts is not None and check(token if parts[0] == token.id else None, parts[1], now)


def test_a_token_is_what_it_says_and_no_two_are_alike() -> None:
    made = [make() for _ in range(200)]
    for fresh in made:
        prefix, name, secret = fresh.text.split("_")
        assert (prefix, name, parse(fresh.text.encode())) == ("cls", fresh.id, (fresh.id, secret.encode()))
        assert len(secret) * math.log2(len(ALPHABET)) >= 256
        assert secret not in fresh.hash
        assert fresh.hash == digest(secret.encode())
    assert len({fresh.id for fresh in made}) == len({fresh.hash for fresh in made}) == 200


def test_the_whole_token_is_valid_until_it_expires_and_not_then() -> None:
    token = kept(FRESH, expires=100.0)
    assert valid(FRESH.text.encode(), token, 99.999)
    assert not valid(FRESH.text.encode(), token, 100.0)


def test_no_truncation_and_no_single_changed_bit_is_valid() -> None:
    text = FRESH.text.encode()
    assert not any(valid(text[:length]) or valid(text[length + 1 :]) for length in range(len(text)))
    for place in range(len(text)):
        for bit in range(8):
            assert not valid(text[:place] + bytes([text[place] ^ 1 << bit]) + text[place + 1 :])


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"cls__",
        FRESH.text.swapcase().encode(),
        FRESH.text.upper().encode(),
        FRESH.text.encode() + b"A",
        b" " + FRESH.text.encode(),
        FRESH.text.encode() + b"\n",
        FRESH.text.encode() + b"\0",
        FRESH.text.replace("_", "-").encode(),
        ("cls_" + FRESH.id + "_" + "\N{CYRILLIC SMALL LETTER A}" * 43).encode(),
        b"cls_" + b"\xff" * 54,
        b"A" * 10_000_000,
        FRESH.hash.encode(),
        ("cls_" + FRESH.id + "_" + FRESH.hash).encode(),
    ],
    ids=lambda text: f"{len(text)} bytes",  # nothing random: the same in every process
)
def test_what_only_looks_like_a_token_is_none(text: bytes) -> None:
    assert not valid(text)


@given(st.binary(max_size=80) | st.text(max_size=80).map(str.encode))
def test_whatever_is_sent_is_parsed_without_an_error_and_never_as_ours(text: bytes) -> None:
    parts = parse(text)
    assert parts is None or f"cls_{parts[0]}_".encode() + parts[1] == text
    assert not valid(text)


@given(st.text(ALPHABET, min_size=10, max_size=10), st.text(ALPHABET, min_size=43, max_size=43))
def test_what_has_the_form_comes_apart_where_it_was_put_together(name: str, secret: str) -> None:
    assert parse(f"cls_{name}_{secret}".encode()) == (name, secret.encode())


def test_wrong_and_unknown_go_the_same_way_of_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[int, int]] = []

    def compare(a: Any, b: Any) -> bool:
        compared.append((len(a), len(b)))
        return real(a, b)

    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert check(kept(FRESH), FRESH.text.encode()[15:], 0.0)
    assert not check(kept(FRESH), b"A" * 43, 0.0)
    assert not check(kept(FRESH, expires=-1.0), FRESH.text.encode()[15:], 0.0)
    assert not check(None, FRESH.text.encode()[15:], 0.0)
    assert compared == [(64, 64)] * 4


@pytest.mark.parametrize(
    ("scopes", "allowed"),
    [
        (["ingest"], {"ingest"}),
        (["predict", "read"], {"predict", "read"}),
        (["operate"], {"operate", "read"}),
        (["admin"], set(SCOPES)),
        (["root", "*", ""], set()),
        ([], set()),
    ],
)
def test_scopes_allow_what_they_imply_and_unknown_ones_nothing(scopes: list[str], allowed: set[str]) -> None:
    assert implied(scopes) == allowed
