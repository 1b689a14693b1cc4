"""Sequential detection: an e-detector on bins, which may be looked at after every row.

Shin, Ramdas and Rinaldo, "E-detectors: a nonparametric framework for sequential change detection" (arXiv 2203.03532). An
expert's bets on the rows since a change multiply to evidence L; the Shiryaev-Roberts sum over all rows at which the change may
have begun,

    R_t = (R_(t-1) + 1) L_t,

has mean t as long as nothing moves, and so has every average of such sums. The first time T at which an average reaches the
requested run length A therefore has mean E[T] = E[R_T] >= A, whatever the distribution and however features depend on
each other.

**Finite references.** p is not the reference's share. Bins end at order statistics of the reference, so the next row's bin, given
the reference and the rows so far, follows Polya's urn: its counts, a prior of one spacing (which `Bins.prior` spreads), and every
row put in as it comes. Bets against the urn are fair at any size of the reference, averaged over references. Each feature's urn knows its
own past only; that others know more about it is ignored. For categories the prior is an assumption, which can cost no more
than the urn's regret, about ln(rows) / 2 nats per category over the whole stream.

**Many features.** Part of the budget, 1 - `JOINT`, goes to the mean over single features: an average of fair evidence is fair under any
dependence, a product is not. The rest goes to one joint bet per row, a portfolio

    1 + sum_f w_f (L_f - 1) / max(1, risk),    w_f = odds R_f / (1 + odds R_f),

with L_f the feature's mixture of experts, w_f the probability that it has moved by now (Shiryaev), and risk the most that the sum
can lose. It is an average too, and so as fair; but where several features move, their gains add up nearly as those of a
product would.

**Dependent rows** count 1 / d each, d being the design effect: L^(1/d) has the drift and the variance of fair evidence over many
rows, and what features win together is discounted once more, as each one's exponent does not know of the others. This rests on the
central limit theorem and on the estimate of d; `unsupported` says when a reference is too short for that. Where rows are
independent after all, an exponent below one costs delay, never the run length (Jensen).

**Tolerance.** Experts bet against the worst distribution P with KL(P || reference) <= tolerance, not against the reference, and so
their evidence has mean at most 1 under any sequence of such P: the run length holds however long tolerated drift lasts. Exact for
tilts and spikes where the reference's shares are true; for memories the ball is that of the chi-square divergence, to which
KL is the second-order approximation.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.columns import Columns, rows_of
from detectors.experts import Bank, Memory, bank_of, memory_of
from detectors.profile import Profile

ODDS = 1 / 1024  # that a feature moves at a given row, in the joint bet
JOINT = 0.33  # share of the joint bet
SILENCE = (
    2.0  # a start one run length ago counts exp(-2): where nothing ever happens, no rows add up to an alarm
)
FORMAT = 1  # version of the state's JSON document
SILENCE = (
    2.0  # a start one run length ago counts exp(-2): where nothing ever happens, no rows add up to an alarm
)
FORMAT = 1  # version of the state's JSON document


@dataclass(frozen=True)
class Change:
    """An alarm."""

    row: int  # since the state's start, from 0
    onset_row: int  # at which the change most likely began
    feature: str  # with the strongest evidence
    evidence: float  # mean rows until chance shows as much; at least the run length


@dataclass(frozen=True, eq=False)
class State:
    """All that the rows so far have left behind; its size does not depend on their number."""

    rows: int  # since the start
    memory: Memory  # since the start or the last alarm

    def to_json(self) -> dict[str, Any]:
        """Write plain JSON types, which `from_json` reads back exactly."""
        arrays = {name: array.tolist() for name, array in self.memory._asdict().items()}
        return {"format": FORMAT, "rows": self.rows, **arrays}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "State":
        """Read what `to_json` wrote.

        Raises
        ------
        ValueError
            If the document has another format version.
        """
        if document.get("format") != FORMAT:
            raise ValueError(f"state has format {document.get('format')!r}; this release reads {FORMAT}")
        arrays = {name: np.array(document[name], dtype=np.float64) for name in Memory._fields}
        return cls(int(document["rows"]), Memory(**arrays))


@dataclass(frozen=True)
class SequentialDetector:
    """Watch a stream row by row.

    Raises
    ------
    ValueError
        If an option is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from detectors.profile import build_profile
    >>> rng = np.random.default_rng(1)
    >>> profile = build_profile({"x": rng.normal(size=5000), "y": rng.normal(size=5000)})
    >>> detector = SequentialDetector()
    >>> quiet = {"x": rng.normal(size=2000), "y": rng.normal(size=2000)}
    >>> state, changes = detector.advance(profile, detector.start(profile), quiet)
    >>> changes
    []
    >>> moved = {"x": rng.normal(1.0, size=60), "y": rng.normal(size=60)}
    >>> state, changes = detector.advance(profile, state, moved)
    >>> changes[0].feature, abs(changes[0].onset_row - 2000) < 10
    ('x', True)
    """

    run_length: float = 100_000  # mean rows until a false alarm, at least
    tolerance: float = (
        0.0  # nats of KL(current || reference) of a feature that never count, however long they last
    )

    def __post_init__(self) -> None:
        if not 1 < self.run_length <= 1e12:
            raise ValueError(f"run_length must lie between 1 and 1e12 rows, not {self.run_length}")
        if not 0 <= self.tolerance < math.inf:
            raise ValueError(f"tolerance must be at least 0 nats, not {self.tolerance}")

    def unsupported(self, profile: Profile) -> str | None:
        """Say what the reference lacks for the run length to hold; None if it lacks nothing.

        Rows that depend on each other need a reference long enough to show how. For independent rows any is.
        """
        if profile.seasons is not None:
            return "the reference has seasons, which a sequential detector takes for drift"
        if profile.rows_needed:
            return f"rows depend on each other: it takes {profile.rows_needed} reference rows, not {profile.rows}"
        return None

    def start(self, profile: Profile) -> State:
        """Begin with nothing but the reference."""
        return State(0, memory_of(_bank(profile, self.tolerance)))

    def advance(self, profile: Profile, state: State, columns: Columns) -> tuple[State, list[Change]]:
        """Take the next rows, of any number.

        Parameters
        ----------
        profile
            The reference.
        state
            From `start` with the same profile, or from the last call.
        columns
            The rows, in stream order. A feature that is not among them counts as missing in every row.

        Returns
        -------
        State
            However rows are cut into blocks, it is the same.
        list of Change
            Alarms. After each one the detector starts afresh from the reference.

        Raises
        ------
        ValueError
            If the columns differ in length, or the state is not one of this profile.
        TypeError
            If a column is of another kind than in the reference.
        """
        runner = SequentialRunner(self, profile, state)
        changes = runner.update(assign(profile, columns))
        return runner.state, changes


def assign(profile: Profile, columns: Columns) -> NDArray[np.intp]:
    """Bins of all features, shape (N, F); see `SequentialDetector.advance`."""
    bin_NF = np.empty((rows_of(columns), len(profile.features)), dtype=np.intp)
    for f, feature in enumerate(profile.features):
        known = feature.name in columns
        bin_NF[:, f] = feature.assign(columns[feature.name]) if known else feature.size - 1
    return bin_NF


class SequentialRunner:
    """A detector on its way, which changes in place: for rows that come one at a time."""

    def __init__(self, detector: SequentialDetector, profile: Profile, state: State | None = None) -> None:
        from detectors.sequential_kernel import valid, watch

        self._valid, self._watch = valid, watch
        self._names = tuple(feature.name for feature in profile.features)
        self._bank = _bank(profile, detector.tolerance)
        self._fresh = detector.start(profile).memory
        self._memory = _copied(self._fresh if state is None else state.memory)
        # Without features, JSON's empty lists have lost their shape, and nothing is read.
        pairs = zip(self._memory, self._fresh, strict=True)
        if any(mine.shape != fresh.shape and fresh.size for mine, fresh in pairs):
            raise ValueError("the state was not made with this profile")
        self._rows = 0 if state is None else state.rows
        # As Python floats: numba would compile once more for integers.
        keep = math.exp(-SILENCE / detector.run_length)
        self._limits = (ODDS, JOINT, keep, float(detector.run_length))

    @property
    def state(self) -> State:
        """A copy, from which another runner goes on."""
        return State(self._rows, _copied(self._memory))

    def update(self, bin_NF: NDArray[np.intp]) -> list[Change]:
        """Take rows as bins, shape (N, F), from `assign` or `Bins.assign`.

        Raises
        ------
        ValueError
            If a bin does not exist.
        """
        if (
            bin_NF.ndim != 2
            or bin_NF.shape[1] != len(self._names)
            or not self._valid(bin_NF, self._bank.size_F)
        ):
            raise ValueError(f"not the bins of {len(self._names)} features in a reference")
        changes: list[Change] = []
        row = 0 if self._names else -1
        while row >= 0:
            alarm = self._watch(bin_NF, row, self._memory, self._bank, *self._limits)
            if alarm >= 0:
                changes.append(self._change(self._rows + alarm))
                self._memory = _copied(self._fresh)
            row = alarm + 1 if alarm >= 0 else -1
        self._rows += bin_NF.shape[0]
        return changes

    def _change(self, row: int) -> Change:
        memory, weight_FX = self._memory, self._bank.weight_FX
        wealth_F = (weight_FX * memory.wealth_FX).sum(axis=1)
        f = int(np.argmax(wealth_F))
        evidence = (1 - JOINT) * float(wealth_F.mean()) + JOINT * float(memory.joint[1])
        # Mean of the posterior distribution of the change, all rows being equally likely beforehand.
        since = float(weight_FX[f] @ memory.dated_FX[f]) / float(wealth_F[f])
        onset = row - int(memory.joint[0]) + round(since)
        return Change(row, min(onset, row), self._names[f], evidence)


@lru_cache(maxsize=16)
def _bank(profile: Profile, tolerance: float) -> Bank:
    return bank_of(profile, tolerance)


def _copied(memory: Memory) -> Memory:
    return Memory(*(array.copy() for array in memory))
