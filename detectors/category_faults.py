"""Faults of a categorical column: stuck, renamed, spelt anew, filled with a placeholder, coded in another way.

A new category beside the old ones is the world's doing, and so is one that disappears. Where one of the old goes and an unseen one comes with
its share, it has been renamed; where an unseen one differs from an old one by case, blanks or punctuation alone, it has been spelt anew.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from detectors.bins import CategoricalBins
from detectors.columns import Categorical
from detectors.fault import SURE, Case, Fault, percent

STUCK = 0.995  # of the rows hold one category: the column is stuck
LARGE = 0.05  # share of a category that is matched with its heir by shares alone
GONE = 0.1  # of the rows that a category had; fewer are stragglers
SAME = 0.25  # relative difference of two shares that are about the same
SURPRISE = 4.0  # standard errors by which they may differ besides
STRANGERS = 0.9  # of the rows unseen: the column is coded in another way
RISE = 0.1  # of the rows newly a placeholder
PLACEHOLDERS = frozenset(
    (
        "",
        "na",
        "n/a",
        "nan",
        "none",
        "null",
        "nil",
        "missing",
        "unknown",
        "undefined",
        "?",
        "-",
        "tbd",
        "#n/a",
    )
)


def category_fault(case: Case) -> Fault | None:
    """Return what is wrong with a categorical column, the most telling first."""
    look = _Look.at(case)
    if not look.rows or not case.reference[:-1].sum():
        return None
    for test in (_filled, _renamed, _recoded, _stuck):
        fault = test(look)
        if fault is not None:
            return fault
    return None


@dataclass(frozen=True, eq=False)
class _Look:
    """What the tests need: rows by category in the window, shares in the reference."""

    case: Case
    counts: Mapping[str, int]  # of the window
    shares: Mapping[str, float]  # of the reference's own categories
    rows: int  # of the window that are not missing

    @classmethod
    def at(cls, case: Case) -> _Look:
        assert isinstance(case.bins, CategoricalBins)
        assert isinstance(case.column, Categorical)
        codes, vocabulary = case.column.codes, case.column.vocabulary
        rows_V = np.bincount(codes[codes >= 0], minlength=len(vocabulary)).tolist()
        counts = {category: rows for category, rows in zip(vocabulary, rows_V, strict=True) if rows}
        shares = case.reference / max(int(case.reference[:-1].sum()), 1)
        return cls(case, counts, dict(zip(case.bins.categories, shares.tolist(), strict=False)), sum(rows_V))

    def share(self, category: str) -> float:
        return self.counts.get(category, 0) / self.rows

    def new(self) -> list[str]:
        """Categories that the reference cannot have held at this share, the largest first."""
        bound = self.case.at_most(self.case.bins.size - 2)
        found = [
            category
            for category, rows in self.counts.items()
            if category not in self.shares and self.case.more_than(rows, bound) <= SURE
        ]
        return sorted(found, key=lambda category: (-self.counts[category], category))

    def gone(self) -> list[str]:
        """Categories that had rows and have none to speak of, the largest first."""
        return [
            category
            for category, share in self.shares.items()
            if self.share(category) <= GONE * share
            and self.case.fewer_than(self.counts.get(category, 0), share) <= SURE
        ]

    def fault(self, kind: str, share: float, sentence: str) -> Fault:
        return Fault(kind, self.case.name, share, f"column {self.case.name!r} {sentence}")


def _stuck(look: _Look) -> Fault | None:
    top = max(look.counts, key=lambda category: look.counts[category])
    case = look.case
    k = int(case.bins.assign(Categorical.of([top]))[0])
    bound = case.at_most(k)
    if look.share(top) < STUCK or case.constant or case.more_than(look.counts[top], bound) > SURE:
        return None
    if not case.enough:  # a whole window of one category is common where a column changes slowly
        return None
    text = (
        f"is {top!r} in {percent(look.share(top))} of the rows (before: {percent(look.shares.get(top, 0.0))})"
    )
    return look.fault("stuck", look.share(top), text)


def _filled(look: _Look) -> Fault | None:
    for category in look.new():
        share = look.share(category)
        if category.strip().lower() in PLACEHOLDERS and share >= RISE:
            return look.fault(
                "filled", share, f"is {category!r} in {percent(share)} of the rows: a placeholder?"
            )
    return None


def _renamed(look: _Look) -> Fault | None:
    spelling = {_plain(category): category for category in look.shares}
    pairs = [
        (spelling[_plain(category)], category) for category in look.new() if _plain(category) in spelling
    ]
    kind = "spelt anew" if pairs else "renamed"
    pairs += _heirs(look, {name for pair in pairs for name in pair})
    if not pairs:
        return None
    share = sum(look.share(category) for _, category in pairs)
    names = [
        f"{old!r} is now {category!r} ({percent(look.shares[old])} and {percent(look.share(category))})"
        for old, category in pairs
    ]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return look.fault(kind, share, f"has categories {kind}: {', '.join(names[:3])}{more}")


def _heirs(look: _Look, taken: set[str]) -> list[tuple[str, str]]:
    """Pairs of a category that went and one that came with its share."""
    # A column that changes slowly, or had one category alone, shows no shares that an heir could have inherited.
    if not look.case.enough or look.case.constant:
        return []
    pairs, new = [], [category for category in look.new() if category not in taken]
    for old in look.gone():
        share = look.shares[old]
        heir = min(new, key=lambda category: abs(look.share(category) - share), default=None)
        if old not in taken and share >= LARGE and heir is not None and _alike(look, share, look.share(heir)):
            pairs.append((old, heir))
            new.remove(heir)
    return pairs


def _alike(look: _Look, old: float, new: float) -> bool:
    spread = math.sqrt(old * (1 - old) / look.case.independent)
    return abs(new - old) <= max(SAME * old, SURPRISE * spread) and new >= old / 2


def _recoded(look: _Look) -> Fault | None:
    strangers = sum(look.share(category) for category in look.counts if category not in look.shares)
    before = float(look.case.reference[-2] / look.case.reference[:-1].sum())
    if strangers < STRANGERS or before > 1 - STRANGERS or min(len(look.counts), len(look.shares)) < 2:
        return None
    if not look.case.enough:  # another season may have its own categories
        return None
    examples = ", ".join(
        repr(category) for category in sorted(look.counts, key=lambda c: -look.counts[c])[:3]
    )
    return look.fault(
        "recoded",
        strangers,
        f"holds none of its categories in {percent(strangers)} of the rows, but {examples}",
    )


def _plain(category: str) -> str:
    """Return a category without what people and programs vary: case, blanks, punctuation, "1.0" for "1"."""
    try:
        return repr(float(category))
    except ValueError:
        return re.sub(r"[\W_]+", "", category.casefold()) or category
