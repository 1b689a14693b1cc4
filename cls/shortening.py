"""Names that fit: cut so that they go on differing."""

from __future__ import annotations

from collections.abc import Sequence


def shortened(text: str, length: int) -> str:
    """Cut a name in its middle, where names differ least, and make it one line of printable text."""
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    if len(text) <= length:
        return text
    tail = (length - 1) // 3
    return f"{text[: length - 1 - tail]}…{text[len(text) - tail :]}"


def told_apart(names: Sequence[str], length: int) -> list[str]:
    """Shorten names so that those which differ go on differing, if their first difference is all that tells them apart."""
    short = [shortened(name, length) for name in names]
    head = length // 3
    for text in {text for text in short if short.count(text) > 1}:
        places = [k for k, other in enumerate(short) if other == text]
        same = _same([names[k] for k in places])
        begin = max(same - 2, head)
        for k in places:
            short[k] = f"{shortened(names[k], 10**6)[:head]}…{shortened(names[k][begin:], length - head - 1)}"
    return short


def _same(names: Sequence[str]) -> int:
    """Return how many letters names begin with in common."""
    columns = list(zip(*names, strict=False))
    return next((k for k, letters in enumerate(columns) if len(set(letters)) > 1), len(columns))
