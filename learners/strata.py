"""Which rows stay: in every stratum those of smallest priority, as many as its max-min fair quota.

A row enters if its priority lies below everything its stratum ever turned away; once there are more rows than
`capacity`, the largest stratum loses its row of largest priority. So stratum c, of which n_c rows came, holds
min(n_c, L) of them, with the level L where these sum to the capacity (of strata at the level, those of smaller rank
hold the one row more of the remainder): max-min fairness. The held rows are the bottom-k sample (Cohen and Kaplan,
Summarizing data using bottom-k sketches, 2007) of all its rows: with random priorities a uniform sample without
replacement. Quotas of strata that turned rows away never rise, so nothing dropped is ever missed.

Where rows were erased or the capacity was raised there is room, and a row of priority u still enters only below the
bound, so that what comes later is not favoured; when the room is filled the sample is again the bottom k of all rows.

A stratum without rows is forgotten: bounded state for regimes without end. If there are more strata than rows, those
of smallest rank hold one row each. One that lost its only row would lose it again, so forgetting it changes nothing,
and which strata are held is a uniform sample of them, too. (After room was made, it begins anew.)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush, heapreplace

from learners.seeds import STRATA, generator

Held = tuple[float, int, int]  # of one row: -priority, -position, slot; the smallest is the first to go


@dataclass
class Stratum:
    """The rows of one class, of one regime, or of all."""

    name: int
    rank: float  # U[0, 1), a function of seed and name: of equally large strata, the one of highest rank loses a row
    count: int = 0  # rows offered
    bound: float = math.inf  # the smallest priority that was turned away or dropped
    held: list[Held] = field(default_factory=list)  # a heap

    @property
    def size(self) -> tuple[int, float]:
        """Return what strata are compared by."""
        return len(self.held), self.rank


class Strata:
    """Slots 0 to `held - 1`, each taken by a row of one stratum."""

    def __init__(self, capacity: int, seed: int) -> None:
        self.capacity, self.seed = capacity, seed
        self.held = 0  # rows
        self.by_name: dict[int, Stratum] = {}
        self._largest: Stratum | None = None  # while full it stays the largest until it loses a row

    def offer(self, name: int, priority: float, position: int) -> int | None:
        """Return the slot that a new row of stratum `name` takes over, or None if it stays outside."""
        stratum = self.by_name.get(name) or self._appear(name)
        stratum.count += 1
        if priority >= stratum.bound:
            return None
        if self.held < self.capacity:
            slot = self.held
            self.held += 1
        else:
            largest = self._largest = self._largest or self._find_largest()
            if (len(stratum.held) + 1, stratum.rank) >= largest.size:
                return self._replace(stratum, priority, position)
            slot = self._drop(largest)
        heappush(stratum.held, (-priority, -position, slot))
        return slot

    def resize(self, capacity: int) -> list[int]:
        """Change the capacity; return the slots of the rows beyond it, which are dropped."""
        self.capacity, self._largest = capacity, None
        dropped = [self._drop(self._find_largest()) for _ in range(self.held - self.capacity)]
        self.held -= len(dropped)
        return dropped

    def restart(
        self,
        rows: Iterable[tuple[int, float, int]],
        counts: Mapping[int, int],
        bounds: Mapping[int, float],
    ) -> None:
        """Hold these rows (stratum, priority, position) in slots 0, 1, ...; of the strata they belong to."""
        self.by_name, self.held, self._largest = {}, 0, None
        for slot, (name, priority, position) in enumerate(rows):
            stratum = self.by_name.get(name) or self._appear(name)
            stratum.held.append((-priority, -position, slot))
            self.held += 1
        for name, stratum in self.by_name.items():
            stratum.count, stratum.bound = counts[name], bounds.get(name, math.inf)
            heapify(stratum.held)

    @property
    def counts(self) -> dict[int, int]:
        """Return the rows offered of each stratum that has rows here."""
        return {name: stratum.count for name, stratum in self.by_name.items()}

    @property
    def bounds(self) -> dict[int, float]:
        """Return the bounds of the strata that turned rows away."""
        return {name: stratum.bound for name, stratum in self.by_name.items() if stratum.bound < math.inf}

    def _replace(self, stratum: Stratum, priority: float, position: int) -> int | None:
        if not stratum.held or (-priority, -position) < stratum.held[0][:2]:
            stratum.bound = priority
            if not stratum.held:
                del self.by_name[stratum.name]
            return None
        last, _, slot = stratum.held[0]
        heapreplace(stratum.held, (-priority, -position, slot))
        stratum.bound = min(stratum.bound, -last)
        return slot

    def _drop(self, stratum: Stratum) -> int:
        last, _, slot = heappop(stratum.held)
        stratum.bound, self._largest = min(stratum.bound, -last), None
        if not stratum.held:
            del self.by_name[stratum.name]
        return slot

    def _appear(self, name: int) -> Stratum:
        rank = generator(self.seed, STRATA, name % 2**64).random()
        stratum = self.by_name[name] = Stratum(name, float(rank))
        return stratum

    def _find_largest(self) -> Stratum:
        return max(self.by_name.values(), key=lambda stratum: stratum.size)
