"""Words: one sentence on how a feature moved, when nothing says that it is broken."""

import math

import numpy as np
from numpy.typing import NDArray

from detectors.bins import NumericBins
from detectors.fault import Case, Reference, number, percent
from detectors.kl import kl_by_bin

MISSED = 0.02  # rise of the missing share that is worth the sentence
SPREAD = 1.15  # ratio of interquartile ranges that is worth a word


def moved_sentence(case: Case) -> str:
    """Say how a feature moved: its missing rows, its median and spread, or the bin that changed most."""
    before, now = case.missing
    if abs(now - before) >= MISSED:
        return f"{case.name!r} is missing in {percent(now)} of the rows (before: {percent(before)})"
    if isinstance(case.bins, NumericBins) and len(case.bins.edges) > 4 and case.finite.size:
        sentence = _numeric_sentence(case, case.finite, Reference.of(case.bins, case.reference))
        if sentence:
            return sentence
    shares = case.reference / max(case.reference.sum(), 1), case.counts / max(case.counts.sum(), 1)
    k = int(kl_by_bin(case.counts, case.reference).argmax())
    label = case.bins.labels()[k]
    way = "rose" if shares[1][k] > shares[0][k] else "fell"
    return (
        f"{case.name!r}: the share of {label!r} {way} from {percent(shares[0][k])} to {percent(shares[1][k])}"
    )


def _numeric_sentence(case: Case, values: NDArray[np.float64], reference: Reference) -> str:
    """Say how median and spread moved; nothing if both read the same as before."""
    before, now = reference.quantile(0.5), float(np.median(values))
    if reference.step:  # interpolation may have come between two values
        before = math.floor(before / reference.step + 1e-6) * reference.step
    low, high = reference.quantile(0.25), reference.quantile(0.75)
    stays = f"{before:.4g}" == f"{now:.4g}"
    text = f"{case.name!r}: the median went from {number(before)} to {number(now)}"
    if high <= low:
        return "" if stays else text
    ratio = float(np.subtract(*np.quantile(values, [0.75, 0.25]))) / (high - low)
    spread = "" if 1 / SPREAD < ratio < SPREAD else f"the spread to {number(ratio)} times"
    if stays:
        return f"{case.name!r}: {spread.replace('to', 'went to', 1)} what it was" if spread else ""
    text += f" ({(now - before) / (high - low):+.2f} interquartile ranges)"
    return f"{text}, {spread}" if spread else text
