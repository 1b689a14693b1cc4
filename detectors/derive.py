"""Derive plain columns from booleans, times, texts and embeddings: what detectors and models read of them.

Shapes: N rows, D numbers in an embedding, k directions. Everything is fixed: the same value gives the same columns in every
process and for ever (sums of products to rounding), so that references, logs and models made at different times agree.
Each row is derived by itself.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from scipy import special

from detectors.columns import Categorical, Column
from detectors.derivation import DIRECTIONS, Derivation

NO_TIME = np.iinfo(np.int64).min
HOURS = tuple(f"{hour:02d}" for hour in range(24))
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
BUCKETS = 32  # of words: as many as a profile keeps categories apart by default
NO_WORD = "none"  # bucket of a text without a word

_HOUR_US = 3_600_000_000
_EPOCH_WEEKDAY = 3  # 1 January 1970 was a Thursday
_TOKEN = re.compile(r"[^\W_]+")
_WORD = re.compile(r"[^\W\d_]+")


def derive_boolean(column: Derivation, values: Sequence[bool | None]) -> dict[str, Column]:
    """Turn truth values into the categories true and false; None is missing."""
    codes = np.array([-1 if value is None else int(value) for value in values], np.int32)
    return {column.name: Categorical(codes, ("false", "true"))}


def derive_timestamp(column: Derivation, time_us: NDArray[np.int64]) -> dict[str, Column]:
    """Turn times into hour of the day and day of the week, both in UTC.

    The time itself is no feature: it never returns, so every window would differ from every reference.

    Parameters
    ----------
    time_us : int array, shape (N,)
        Microseconds since the epoch; `NO_TIME` is missing.
    """
    there = time_us != NO_TIME
    hours = np.where(there, time_us, 0) // _HOUR_US
    hour = np.where(there, hours % 24, -1).astype(np.int32)
    weekday = np.where(there, (hours // 24 + _EPOCH_WEEKDAY) % 7, -1).astype(np.int32)
    hour_name, weekday_name = column.categorical
    return {hour_name: Categorical(hour, HOURS), weekday_name: Categorical(weekday, WEEKDAYS)}


def derive_text(column: Derivation, texts: Sequence[str | None]) -> dict[str, Column]:
    """Turn texts into their size, their make-up and one word of each.

    Tokens are runs of letters and digits, small and capital letters alike. The word that stands for a text is its longest
    one without a digit (the first of equals): rare words are long (Zipf's law of abbreviation), and rare words tell the
    topic, where the first or the commonest word of a text is mostly "the". Its bucket is CRC-32 of its UTF-8 bytes modulo
    32, so that a topic which comes or goes moves mass between few, bounded categories, whatever the vocabulary.

    Parameters
    ----------
    texts
        None is missing in all columns; a text without tokens has no variety, one without characters no share of digits.
    """
    statistics_N4 = np.full((len(texts), 4), np.nan)
    codes = np.full(len(texts), -1, np.int32)
    for row, text in enumerate(texts):
        if text is not None:
            folded = text.casefold()
            tokens = _TOKEN.findall(folded)
            statistics_N4[row] = (
                len(text),
                len(tokens),
                len(set(tokens)) / len(tokens) if tokens else np.nan,
                sum(map(str.isdecimal, text)) / len(text) if text else np.nan,
            )
            word = max(_WORD.findall(folded), key=len, default="")
            codes[row] = crc32(word.encode(errors="surrogatepass")) % BUCKETS if word else BUCKETS
    columns: dict[str, Column] = {
        name: np.ascontiguousarray(statistics_N4[:, i]) for i, name in enumerate(column.numeric)
    }
    vocabulary = (*(f"word {bucket:02d}" for bucket in range(BUCKETS)), NO_WORD)
    return columns | {column.categorical[0]: Categorical(codes, vocabulary)}


def derive_embedding(column: Derivation, vectors_ND: NDArray[np.float64]) -> dict[str, Column]:
    """Turn vectors into their coordinates along a few fixed directions, and their Euclidean norm.

    Parameters
    ----------
    vectors_ND : float array, shape (N, D)
        Rows that hold a NaN are missing.

    Raises
    ------
    ValueError
        If the vectors do not have the length that the column declares.
    """
    if vectors_ND.ndim != 2 or vectors_ND.shape[1] != column.length:
        raise ValueError(
            f"embedding {column.name!r} has length {column.length}, not vectors of shape {vectors_ND.shape}"
        )
    coordinates_Nk = vectors_ND @ directions(column.length)
    norm = np.sqrt(np.einsum("nd,nd->n", vectors_ND, vectors_ND))
    values = (*coordinates_Nk.T, norm)
    return {name: np.ascontiguousarray(value) for name, value in zip(column.numeric, values, strict=True)}


@lru_cache(maxsize=32)
def directions(length: int) -> NDArray[np.float64]:
    """Return orthonormal directions, uniformly distributed, the same for ever: shape (D, min(8, D)).

    A Gaussian matrix orthonormalised with positive diagonal (Mezzadri 2007, "How to generate random matrices from the
    classical compact groups"). Its numbers come from the raw output of a bit generator, which numpy promises never to
    change; that of its distributions it may change.
    """
    number = min(DIRECTIONS, length)
    raw = np.random.PCG64(length).random_raw(length * number)
    uniform = ((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    q_Dk, r_kk = np.linalg.qr(special.ndtri(uniform).reshape(length, number))
    fixed: NDArray[np.float64] = q_Dk * np.where(np.diag(r_kk) < 0, -1.0, 1.0)
    fixed.flags.writeable = False
    return fixed
