"""Faults of a numeric column: stuck, converted, rounded, clipped, filled with a placeholder.

Every test asks for more than a move, since the world moves columns too. A fault leaves a mark: one exact value that holds more rows than the
reference had in the whole bin around it; a column that agrees with the reference again once it is divided by 1000. What the world does as well
(all prices up by a fifth) is no fault here, however well it fits.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

from detectors.fault import (
    CREDIBLE,
    SURE,
    Case,
    Fault,
    excess,
    multiples,
    number,
    percent,
    step_of,
)
from detectors.look import LEAST, ON_GRID, Look
from detectors.unit_faults import jumped, unit_fault

STUCK = 0.995  # of the rows hold one value: the column is stuck
REPEATS = 0.8  # share of the reference that may repeat other rows' values for those to be called different
LEFT = 0.3  # of the move that may remain once the tail is taken as one bin
RUNS = 5.0  # rows worth an independent one, from which equal values may come in runs
BEYOND = 0.5  # of the reference at most: what is cut off is the tail
PLACES = 10  # values that a bin must have room for before one of them is a surprise
CANDIDATES = 3  # most common values that may be placeholders
RISE = 0.01  # of the rows that a placeholder must fill
FAR_CHANCE = 0.01  # chance at which a value far outside is a placeholder; it takes less proof than one inside


def numeric_fault(case: Case) -> Fault | None:
    """Return what is wrong with a numeric column, the most telling first."""
    if not case.finite.size or not case.reference[:-1].sum():
        return None
    look = Look.at(case)
    # Without an alarm, how far the column strays by itself must be known; only what no column does is told nevertheless.
    told = case.alarm or case.sound
    for test in (_stuck, unit_fault, _rounded, _clipped, _filled) if told else (jumped,):
        fault = test(look)
        if fault is not None:
            return fault
    return None


def _stuck(look: Look) -> Fault | None:
    case = look.case
    top = int(look.rows.argmax())
    share = float(look.rows[top] / look.rows.sum())
    value = float(look.values[top])
    bound = case.at_most(look.bin_of(value))
    if share < STUCK or case.constant or case.more_than(int(look.rows[top]), bound) > SURE:
        return None
    # A whole window of one value is common where a column changes slowly, unless its values do not even repeat.
    if not case.enough and look.reference.repeats > REPEATS:
        return None
    return look.fault(
        "stuck", share, f"is {number(value)} in {percent(share)} of the rows; the reference varied"
    )


def _rounded(look: Look) -> Fault | None:
    """All values lie on a grid that the reference's edges do not lie on."""
    if len(look.values) < 3 or len(look.reference.edges) < LEAST:
        return None
    step = step_of(look.case.finite, ON_GRID)
    if not step or (look.reference.step and look.reference.step >= step):
        return None
    edges_E = look.reference.edges
    on = int(multiples(edges_E, step).sum())
    chance = sum(
        math.comb(len(edges_E), i) * ON_GRID**i * (1 - ON_GRID) ** (len(edges_E) - i) for i in range(on + 1)
    )
    by_luck = (look.reference.step / step) ** len(look.values)  # few values may all happen to be multiples
    if max(chance, by_luck) > SURE:
        return None
    return look.fault("rounded", 1.0, f"holds only multiples of {number(step)}; the reference was finer")


def _clipped(look: Look) -> Fault | None:
    """The largest (smallest) value holds what the reference had at and beyond it, and nothing lies beyond."""
    case, rows = look.case, look.rows
    reference_K, counts_K = case.reference[:-1], case.counts[:-1]
    for end, word in ((-1, "above"), (0, "below")):
        value = float(look.values[end])
        k = look.bin_of(value)
        beyond = slice(k + 1, None) if end else slice(None, k)
        share = int(reference_K[beyond].sum()) / reference_K.sum()
        if not 0 < share <= BEYOND or case.fewer_than(0, share) > SURE or rows[end] < 10:
            continue
        inside = slice(None, k) if end else slice(k + 1, None)
        merged = _merged(counts_K, inside), _merged(reference_K, inside)
        left = excess(*merged)
        held = rows[end] / rows.sum()
        if left <= LEFT * case.moved and held >= 0.8 * share:
            text = f"{percent(share)} of the reference lay {word}"
            return look.fault(
                "clipped",
                float(held),
                f"is cut off at {number(value)}, where {percent(held)} of the rows lie; {text}",
            )
    return None


def _merged(counts_K: NDArray[np.int64], inside: slice) -> NDArray[np.int64]:
    kept = counts_K[inside]
    return np.append(kept, counts_K.sum() - kept.sum())


def _filled(look: Look) -> Fault | None:
    """One exact value holds more rows than the whole bin around it did, in a bin that had room for many values."""
    case, edges_E = look.case, look.reference.edges
    if len(edges_E) < LEAST:
        return None
    lasting = (
        case.effect > RUNS and look.reference.repeats > REPEATS
    )  # prices, weather: values stay for a while
    span = float(edges_E[-1] - edges_E[0])
    shares_K = case.reference[:-1] / case.reference[:-1].sum()
    usual = 2 * shares_K[shares_K > 0].min()  # bins with more hold a value that was common in the reference
    for i in np.argsort(-look.rows, kind="stable")[:CANDIDATES].tolist():
        value, rows = float(look.values[i]), int(look.rows[i])
        share = rows / look.rows.sum()
        k = look.bin_of(value)
        far = value < edges_E[0] - span or value > edges_E[-1] + span
        strange = bool(look.reference.step) and not multiples(np.array([value]), look.reference.step)[0]
        strange |= look.reference.one_sign() * value < 0
        crowded = (
            shares_K[k] <= usual and look.reference.places(k) >= PLACES and rows >= look.case.counts[k] / 2
        )
        if share < RISE or not (far or strange or (crowded and not lasting)):
            continue
        # What lies far outside does not follow the column's slow ways: it counts as often as it came back.
        case = replace(look.case, effect=_run_length(look.case, value)) if far else look.case
        # Had the reference held this value too, the bin's other rows would be fewer than the bin's were then.
        bound, limit = case.at_most(k), FAR_CHANCE if far else SURE
        others = case.counts - rows * np.eye(case.bins.size, dtype=np.int64)[k]
        if case.excess(others) <= 0.5 * case.moved:
            bound = max(bound - _at_least(int(others[k]), int(others.sum())), RISE)
        stayed = look.within(case.finite[case.finite != value], span)
        if case.more_than(rows, bound) <= limit and stayed >= 0.5:
            text = f"is exactly {number(value)} in {percent(share)} of the rows: a placeholder?"
            return look.fault("placeholder" if far else "filled", share, text)
    return None


def _run_length(case: Case, value: float) -> float:
    """Mean length of the runs in which the rows of a value come."""
    held_N = np.asarray(case.column) == value
    begins = int(held_N[0]) + np.count_nonzero(held_N[1:] & ~held_N[:-1])
    return float(held_N.sum() / max(begins, 1))


def _at_least(count: int, rows: int) -> float:
    """Lower bound for a share."""
    return float(special.betaincinv(count, rows - count + 1, 1 - CREDIBLE)) if count else 0.0
