"""Faults of a numeric column: stuck, units changed, sign flipped, rounded, clipped, filled with a placeholder.

Every test asks for more than a move, since the world moves columns too. A fault leaves a mark: one exact value that holds more rows than the
reference had in the whole bin around it; a column that agrees with the reference again once it is divided by 1000. What the world does as well
(all prices up by a fifth) is no fault here, however well it fits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from detectors.bins import NumericBins
from detectors.fault import (
    CREDIBLE,
    ENOUGH,
    SURE,
    Case,
    Fault,
    Reference,
    excess,
    multiples,
    number,
    percent,
    step_of,
)
from detectors.units import AFFINE, SCALES, Conversion

STUCK = 0.995  # of the rows hold one value: the column is stuck
LEAST = 5  # different edges that a test on the shape of the reference needs
REPEATS = 0.8  # share of the reference that may repeat other rows' values for those to be called different
RUNS = 5.0  # rows worth an independent one, from which equal values may come in runs
BEYOND = 0.5  # of the reference at most: what is cut off is the tail
ON_GRID = 0.98  # of the rows are multiples of a step: the others may be exceptions
RATIOS = 3  # quantiles that a factor is read from
SCANNED = 5_000  # rows that factors are tried on
FAR = 5.0  # factor from which a change of scale that keeps the shape is no growth
CLOSE = 0.9  # of a move that a conversion explains if it is one
LOOSE = (
    0.7  # the same for conversions that move a column out of its range: the season may have changed besides
)
PRECISE = 0.022  # relative standard error from which data tell that a factor is a known one
ERRORS = 2.5  # standard errors by which a known factor may differ from the estimate
TINY = 1e-6  # ratio that stands for those of the other sign
DRAWS = 50  # of the bootstrap behind that error
BETTER = 10.0  # nats of all rows by which one story must beat another
PLACES = 10  # values that a bin must have room for before one of them is a surprise
CANDIDATES = 3  # most common values that may be placeholders
RISE = 0.01  # of the rows that a placeholder must fill
FAR_CHANCE = 0.01  # chance at which a value far outside is a placeholder; it takes less proof than one inside
RANGE = 0.95  # of the values that leave a range, or are back in it
OFFSET = 0.5  # of the range: smaller offsets show no more than a factor does
PART = 0.05  # of the rows that either kind must have where only some were converted

FAR_SCALES = tuple(c for c in SCALES if not 1 / FAR < c.factor < FAR)
NEAR_SCALES = tuple(c for c in SCALES if 1 / FAR < c.factor < FAR)


def numeric_fault(case: Case) -> Fault | None:
    """Return what is wrong with a numeric column, the most telling first."""
    if not case.finite.size or not case.reference[:-1].sum():
        return None
    look = _Look.at(case)
    for test in (_stuck, _converted, _rescaled, _flipped, _partly_converted, _rounded, _clipped, _filled):
        fault = test(look)
        if fault is not None:
            return fault
    return None


@dataclass(frozen=True, eq=False)
class _Look:
    """What the tests need: the case, its reference, and the most common values of the window."""

    case: Case
    reference: Reference
    values: NDArray[np.float64]  # different values, rising
    rows: NDArray[np.int64]

    @classmethod
    def at(cls, case: Case) -> _Look:
        assert isinstance(case.bins, NumericBins)
        values_V, rows_V = np.unique(case.finite, return_counts=True)
        return cls(case, Reference.of(case.bins, case.reference), values_V, rows_V)

    def bin_of(self, value: float) -> int:
        return int(self.case.bins.assign(np.array([value]))[0])

    def within(self, values: NDArray[np.float64], margin: float) -> float:
        """Share of values between the reference's outer edges, or at most this far outside."""
        low, high = self.reference.edges[0] - margin, self.reference.edges[-1] + margin
        return float(((values >= low) & (values <= high)).sum() / max(values.size, 1))

    def undone(self, undo: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> float:
        """Share of the move that is gone when a change of values is undone."""
        return self.case.explained(self.case.bins.count(undo(self.case.finite)))

    def fault(self, kind: str, share: float, sentence: str) -> Fault:
        return Fault(kind, self.case.name, share, f"column {self.case.name!r} {sentence}")


def _stuck(look: _Look) -> Fault | None:
    case = look.case
    top = int(look.rows.argmax())
    share = float(look.rows[top] / look.rows.sum())
    value = float(look.values[top])
    bound = case.at_most(look.bin_of(value))
    if share < STUCK or case.constant or case.more_than(int(look.rows[top]), bound) > SURE:
        return None
    # A whole window of one value is common where a column changes slowly, unless its values do not even repeat.
    if case.independent < ENOUGH and look.reference.repeats > REPEATS:
        return None
    return look.fault(
        "stuck", share, f"is {number(value)} in {percent(share)} of the rows; the reference varied"
    )


def _converted(look: _Look) -> Fault | None:
    """Celsius to Fahrenheit and the like.

    Told where the column left its range altogether and is back in it once it is converted, whatever the weather; or where the conversion fits
    and no shift of the column fits as well.
    """
    edges_E, case = look.reference.edges, look.case
    if len(edges_E) < LEAST:
        return None
    span = float(edges_E[-1] - edges_E[0])
    apt = [
        c for c in AFFINE if abs(c.offset) >= OFFSET * span * max(c.factor, 1)
    ]  # elsewhere it is a mere factor
    best = min(apt, key=lambda c: case.excess(case.bins.count(_inverse(c)(case.finite))), default=None)
    if best is None:
        return None
    back = _inverse(best)(case.finite)
    if look.within(case.finite, span) <= 1 - RANGE and look.within(back, span / 2) >= RANGE:
        return look.fault("units", 1.0, _changed(best))
    offset = float(np.median(case.finite)) - look.reference.quantile(0.5)
    explained, shifted = look.undone(_inverse(best)), look.undone(lambda values: values - offset)
    told = best.factor != 1 and (explained - shifted) * case.moved * case.independent > BETTER
    return look.fault("units", 1.0, _changed(best)) if told and explained >= CLOSE else None


def _rescaled(look: _Look) -> Fault | None:
    found = _free_factor(look)
    if found is None:
        return None
    free, error = found
    best = max(FAR_SCALES, key=lambda conversion: look.undone(_inverse(conversion)))
    explained, known = look.undone(lambda values: values / free), look.undone(_inverse(best))
    better = (explained - known) * look.case.moved * look.case.independent > BETTER and explained >= CLOSE
    better &= (
        math.log10(best.factor) % 1 != 0
    )  # factors of ten are common enough for the season to have changed besides
    enough = LOOSE if len(look.reference.edges) > LEAST else CLOSE  # few bins are easily fitted
    if known >= enough and not better and abs(math.log(best.factor / free)) < math.log(2):
        return look.fault("rescaled", 1.0, _changed(best))
    if explained >= CLOSE and abs(math.log(free)) >= math.log(FAR):
        return look.fault("rescaled", 1.0, _changed(Conversion(free, 0.0, "")))
    near = _near_conversion(look, free, error)
    if near is None or look.undone(_inverse(near)) < CLOSE:
        return None
    return look.fault("rescaled", 1.0, _changed(near))


def _near_conversion(look: _Look, free: float, error: float) -> Conversion | None:
    """Return the change of units behind a factor that growth could have as well, if something tells that it is one."""
    # A quantity around zero whose scale changes has changed its variance; only amounts have units.
    if not look.reference.one_sign():
        return None
    near = sorted(NEAR_SCALES, key=lambda conversion: abs(math.log(conversion.factor / free)))[:2]
    step = look.reference.step
    if step and step_of(look.case.finite, ON_GRID) < step:  # values that fit the old grid when converted back
        fitting = (c for c in near if multiples(look.case.finite / c.factor, step).mean() >= ON_GRID)
        return next(fitting, None)
    told = error <= PRECISE and abs(math.log(near[0].factor / free)) <= ERRORS * error
    return near[0] if told else None


def _partly_converted(look: _Look) -> Fault | None:
    """Rows of two kinds: each kind agrees with the reference, one of them only when it is converted back."""
    case, values = look.case, look.case.finite
    if len(look.reference.edges) < LEAST or _outside(look) < PART:
        return None
    flip = (Conversion(-1.0, 0.0, "the sign has changed"),) if look.reference.one_sign() else ()
    depth = look.reference.log_depth(values)
    for conversion in (*FAR_SCALES, *AFFINE, *flip):
        back = _inverse(conversion)(values)
        marked = look.reference.log_depth(back) > depth + math.log(2)
        share = float(marked.mean())
        if not PART <= share <= 1 - PART or min(share, 1 - share) * values.size < 20:
            continue
        left = max(case.excess(case.bins.count(part)) for part in (back[marked], values[~marked]))
        # Few rows agree with everything: what chance does to them must be small against what is to be explained.
        chance = case.effect * case.bins.size / (2 * min(share, 1 - share) * values.size)
        if max(left, chance) <= (1 - CLOSE) * case.moved:
            return look.fault("partly converted", share, _changed(conversion, share))
    return None


def _outside(look: _Look) -> float:
    """Share of the window beyond the reference's outer edges."""
    counts = look.case.counts[:-1]
    return float((counts[0] + counts[-1]) / counts.sum())


def _changed(conversion: Conversion, share: float = 1.0) -> str:
    factor, offset = conversion.factor, conversion.offset
    times = (
        ""
        if factor == 1
        else f"{number(factor)} times "
        if abs(factor) >= 1
        else f"1/{number(1 / factor)} of "
    )
    plus = f" {offset:+.5g}" if offset else ""
    where = f" in {percent(share)} of the rows" if share < 1 else ""
    return f"is {times}what it was{plus}{where}" + (f": {conversion.story}?" if conversion.story else "")


def _free_factor(look: _Look) -> tuple[float, float] | None:
    """Geometric mean of the ratios of the window's quantiles to the reference's edges, and its relative standard error."""
    edges_E, levels_E = look.reference.edges, look.reference.levels
    kept_E = edges_E * np.quantile(look.case.finite, levels_E) > 0
    if kept_E.sum() < max(RATIOS, len(edges_E) / 2):
        return None
    values = look.case.finite[:: max(look.case.finite.size // SCANNED, 1)]
    draws = np.random.default_rng(0).integers(values.size, size=(DRAWS, values.size))
    quantiles_DE = np.quantile(values[draws], levels_E[kept_E], axis=1).T
    logs_D = np.log(np.maximum(quantiles_DE / edges_E[kept_E], TINY)).mean(axis=1)
    ratio_E = np.quantile(look.case.finite, levels_E[kept_E]) / edges_E[kept_E]
    # The reference has errors of its own, and dependent rows tell less than they are many.
    spread = values.size / look.case.independent + values.size * look.case.effect / look.case.reference.sum()
    return float(np.exp(np.log(ratio_E).mean())), float(logs_D.std()) * math.sqrt(spread)


def _flipped(look: _Look) -> Fault | None:
    explained = look.undone(lambda values: -values)
    sign = look.reference.one_sign()
    if sign:
        told = float((np.sign(look.case.finite) == -sign).mean()) > 0.9 and explained >= LOOSE
    else:  # a shift can look like a flip unless the column is skewed
        offset = float(np.median(look.case.finite)) - look.reference.quantile(0.5)
        told = explained >= CLOSE and look.undone(lambda values: values - offset) < LOOSE
    return look.fault("flipped", 1.0, "has changed its sign") if told else None


def _rounded(look: _Look) -> Fault | None:
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


def _clipped(look: _Look) -> Fault | None:
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
        if left < (1 - LOOSE) * case.moved and held >= 0.8 * share:
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


def _filled(look: _Look) -> Fault | None:
    """One exact value holds more rows than the whole bin around it did, in a bin that had room for many values."""
    case, edges_E = look.case, look.reference.edges
    if len(edges_E) < LEAST:
        return None
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
        common = shares_K[k] > usual
        roomy = look.reference.places(k) >= PLACES and not common
        runs = (
            case.effect > RUNS and look.reference.repeats > REPEATS
        )  # values that last: exchange rates, weather
        if share < RISE or not (far or strange or (roomy and not runs)):
            continue
        # Had the reference held this value too, the bin's other rows would be fewer than the bin's were then.
        bound, limit = case.at_most(k), FAR_CHANCE if far else SURE
        others = case.counts - rows * np.eye(case.bins.size, dtype=np.int64)[k]
        if case.excess(others) <= 0.5 * case.moved:
            bound = max(bound - _at_least(int(others[k]), int(others.sum())), RISE)
        stayed = look.within(case.finite[case.finite != value], span)
        if case.more_than(rows, bound) <= limit and stayed >= 0.5:
            text = f"is exactly {number(value)} in {percent(share)} of the rows: a placeholder?"
            return look.fault("filled", share, text)
    return None


def _at_least(count: int, rows: int) -> float:
    """Lower bound for a share."""
    return float(special.betaincinv(count, rows - count + 1, 1 - CREDIBLE)) if count else 0.0


def _inverse(conversion: Conversion) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    return lambda values: (values - conversion.offset) / conversion.factor
