"""Faults of a numeric column that a conversion undoes: other units, another scale, another sign, in all rows or in some.

The column must agree with the reference once it is converted back. That alone proves nothing where growth, a shift or a change of variance
would do the same; there the factor must be a known one, and the data must tell it from its neighbours. Nor does it where a window shows one
state of a column that changes slowly: a low of a positive column looks like a tenth of it. So a window that is worth few rows must have
leapt out of the reference's range, and one that did not alarm must besides have changed by a factor that no low or high has.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from detectors.fault import Fault, multiples, number, percent, step_of
from detectors.look import LEAST, ON_GRID, Look
from detectors.units import AFFINE, SCALES, Conversion

FAR = 5.0  # factor from which a change of scale that keeps the shape is no growth
EVIDENT = 80.0  # factor, as estimated, from which it is a fault in a window that did not alarm, too
COUNTED = 10  # steps that the median of a column of counts does not reach
GROWN = 1.3  # factor below which growth is taken for granted
CLOSE = 0.9  # of a move that a conversion explains if it is one
LOOSE = (
    0.7  # the same for conversions that move a column out of its range: the season may have changed besides
)
RATIOS = 3  # quantiles that a factor is read from
SCANNED = 5_000  # rows that factors are tried on
PRECISE = 0.022  # relative standard error from which data tell that a factor is a known one
ERRORS = 2.5  # standard errors by which a known factor may differ from the estimate
TINY = 1e-6  # ratio that stands for those of the other sign
DRAWS = 50  # of the bootstrap behind that error
BETTER = 10.0  # nats of all rows by which one story must beat another
RANGE = 0.95  # of the values that leave a range, or are back in it
JUMP = 3.0  # ranges that an offset must span where nothing but the range tells it: no trend jumps so far
OFFSET = 0.5  # of the range: smaller offsets show no more than a factor does
PART = 0.05  # of the rows that either kind must have where only some were converted

FAR_SCALES = tuple(c for c in SCALES if not 1 / FAR < c.factor < FAR)
NEAR_SCALES = tuple(c for c in SCALES if 1 / FAR < c.factor < FAR)


def unit_fault(look: Look) -> Fault | None:
    """Return the conversion that undoes a column's move, if it is one that the world does not make."""
    return jumped(look) or _converted(look) or _rescaled(look) or _flipped(look) or _partly_converted(look)


def unit_hint(look: Look) -> str | None:
    """Return what growth and a change of units explain alike; the rows are too few to tell one from the other."""
    found = _free_factor(look) if look.case.alarm and look.reference.one_sign() else None
    if found is None:
        return None
    free, error = found
    step = look.reference.step
    few = look.reference.quantile(0.5) * look.reference.one_sign() < COUNTED * step
    if few and step_of(look.case.finite, ON_GRID) >= step:  # visits, rooms: what is counted has no units
        return None
    if error <= PRECISE or not math.log(GROWN) <= abs(math.log(free)) <= math.log(FAR):
        return None
    off = min(abs(math.log(conversion.factor / free)) for conversion in NEAR_SCALES)
    back_K = look.case.bins.count(look.case.finite / free)
    if off > ERRORS * error or look.case.excess(back_K) > (1 - LOOSE) * look.case.moved:
        return None
    times = f"{free:.2g} times" if free > 1 else f"1/{1 / free:.2g} of"
    return f"about {times} what it was: growth, or other units?"


def jumped(look: Look) -> Fault | None:
    """Celsius to kelvin and the like, where the column left its range altogether and is back in it once it is converted, whatever the weather."""
    edges_E, best = look.reference.edges, _best_conversion(look)
    if best is None:
        return None
    span = float(edges_E[-1] - edges_E[0])
    far = abs(best.offset) >= JUMP * span * max(best.factor, 1)
    left = far and look.within(look.case.finite, span) <= 1 - RANGE
    if not left or look.within(_inverse(best)(look.case.finite), span / 2) < RANGE:
        return None
    return look.fault("units", 1.0, _changed(best))


def _best_conversion(look: Look) -> Conversion | None:
    """Return the conversion with an offset that explains most."""
    edges_E, case = look.reference.edges, look.case
    if len(edges_E) < LEAST:
        return None
    span = float(edges_E[-1] - edges_E[0])
    apt = [
        c for c in AFFINE if abs(c.offset) >= OFFSET * span * max(c.factor, 1)
    ]  # elsewhere it is a mere factor
    return min(apt, key=lambda c: case.excess(case.bins.count(_inverse(c)(case.finite))), default=None)


def _converted(look: Look) -> Fault | None:
    """Celsius to Fahrenheit and the like, where the conversion fits and no shift of the column fits as well."""
    case, best = look.case, _best_conversion(look)
    if best is None or not case.alarm or not case.enough:
        return None
    offset = float(np.median(case.finite)) - look.reference.quantile(0.5)
    explained, shifted = look.undone(_inverse(best)), look.undone(lambda values: values - offset)
    told = best.factor != 1 and (explained - shifted) * case.moved * case.independent > BETTER
    return look.fault("units", 1.0, _changed(best)) if told and explained >= CLOSE else None


def _rescaled(look: Look) -> Fault | None:
    found = _free_factor(look)
    if found is None:
        return None
    free, error = found
    if not _credible(look, free):
        return None
    best = max(FAR_SCALES, key=lambda conversion: look.undone(_inverse(conversion)))
    explained, known = look.undone(lambda values: values / free), look.undone(_inverse(best))
    better = (explained - known) * look.case.moved * look.case.independent > BETTER and explained >= CLOSE
    power = math.log10(best.factor)  # factors of ten are common enough for the season to have changed besides
    better &= abs(power - round(power)) > 1e-9
    enough = LOOSE if len(look.reference.edges) > LEAST else CLOSE  # few bins are easily fitted
    if known >= enough and not better and abs(math.log(best.factor / free)) < math.log(2):
        return look.fault("rescaled", 1.0, _changed(best))
    if explained >= CLOSE and abs(math.log(free)) >= math.log(FAR):
        return look.fault("rescaled", 1.0, _changed(Conversion(free, 0.0, "")))
    near = _near_conversion(look, free, error) if look.case.enough else None
    if near is None or look.undone(_inverse(near)) < CLOSE:
        return None
    return look.fault("rescaled", 1.0, _changed(near))


def _credible(look: Look, factor: float) -> bool:
    """Whether a change of scale is more than a column's own lows and highs."""
    size = abs(math.log(factor))
    if not look.case.alarm and size < math.log(EVIDENT):
        return False
    return look.case.enough or _leapt(look, size)


def _leapt(look: Look, size: float) -> bool:
    """Whether the column left its range: an amount by as much as the range is wide, in logarithms, others but for stragglers."""
    edges_E, sign = look.reference.edges, look.reference.one_sign()
    if not sign:
        return look.within(look.case.finite, float(edges_E[-1] - edges_E[0])) <= 1 - RANGE
    kept_E = np.abs(edges_E[edges_E * sign > 0])
    return size >= math.log(kept_E.max() / kept_E.min())


def _near_conversion(look: Look, free: float, error: float) -> Conversion | None:
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


def _partly_converted(look: Look) -> Fault | None:
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
        raw, undone, rest = (
            case.excess(case.bins.count(part)) for part in (values[marked], back[marked], values[~marked])
        )
        # Few rows agree with everything: what chance does to them must be small against what is to be explained.
        chance = case.effect * case.bins.size / (2 * share * values.size)
        if max(undone, chance) <= (1 - CLOSE) * raw and rest <= (1 - CLOSE) * case.moved:
            return look.fault("partly converted", share, _changed(conversion, share))
    return None


def _outside(look: Look) -> float:
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


def _free_factor(look: Look) -> tuple[float, float] | None:
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


def _flipped(look: Look) -> Fault | None:
    if not look.case.enough:
        return None
    explained = look.undone(lambda values: -values)
    sign = look.reference.one_sign()
    if sign:
        told = float((np.sign(look.case.finite) == -sign).mean()) > 0.9 and explained >= LOOSE
    else:  # a shift can look like a flip unless the column is skewed
        offset = float(np.median(look.case.finite)) - look.reference.quantile(0.5)
        told = explained >= CLOSE and look.undone(lambda values: values - offset) < LOOSE
    return look.fault("flipped", 1.0, "has changed its sign") if told else None


def _inverse(conversion: Conversion) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    return lambda values: (values - conversion.offset) / conversion.factor
