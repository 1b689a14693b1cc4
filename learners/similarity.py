"""How like an earlier regime a new one is, by three witnesses. Torch-free, so that a decider reads it without torch.

Each witness has a scale of its own, from "the same" (0) to "nothing in common" (1):

    losses      what a stored version loses on new rows, between what it lost when it was accepted (0) and what the best
                constant loses on them (1): the share of its skill that does not carry over. See `lost_skill`.
    gradients   (1 - cos) / 2, with the cosine between the mean gradients of the loss on new rows and on rows in memory, at
                the weights that learning starts from: whether what helps the new harms the old (transfer and interference of
                Riemer et al. 2019, arXiv:1810.11910, eq. 3 and 4). See `learners.alignment`.
    profiles    Jensen-Shannon divergence in nats over ln 2, of the feature in which new rows and a version's reference differ
                most: the share of the one bit "which regime?" that the feature's value tells. See `divergence`.

Labels say more than inputs, which may move without harm or stay while the target turns. So losses decide where they are known,
then gradients, then profiles; gradients that surely oppose each other (by two standard errors) make a regime farther whatever its
losses say, as learning it will cost the old ones. No threshold is tuned: a regime is "near" below the middle of the
scale and "far" from there on, and "recurring" if a version other than the parent has kept most of its skill and
loses clearly less than the parent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from detectors.divergences import divergences
from detectors.profile import Profile

Kind = Literal["near", "far", "recurring"]
MIDDLE = 0.5  # of the scale: from here on a regime is far
MARGIN = 0.1  # share by which a version must lose less than the parent to be the one that fits
MOST_LOST = 10.0  # a version ten times farther off than a constant is not told from one that is farther still
ERRORS = 2.0  # standard errors by which a cosine must be negative


@dataclass(frozen=True)
class Stored:
    """What is known of a stored version on rows of the new regime; losses in one measure, of rows that it did not learn."""

    loss: float  # mean on new rows
    accepted: float | None = None  # mean on rows of its own regime, when it was accepted
    nats: float | None = None  # by `divergence`, from its reference profile


@dataclass(frozen=True)
class Alignment:
    """What the weights that learning starts from say, in the units of the train loss; see `learners.alignment`."""

    new_loss: float  # mean on new rows
    constant_loss: float  # of the best constant on them
    memory_loss: float | None = None  # mean on rows in memory; None without any
    cosine: float | None = (
        None  # between the mean gradients; None where one of them is not told from zero: an optimum
    )
    error: float | None = None  # its standard error
    by_regime: Mapping[int, float] = field(
        default_factory=dict
    )  # cosine by regime, where the memory tells them apart
    rows: int = 0  # passed forward and backward for it


@dataclass(frozen=True)
class Similarity:
    """How like what is known a new regime is."""

    kind: Kind
    distance: float  # from 0, the same, to 1, nothing in common
    reason: str  # which witness decided, with its numbers
    version: int | None = None  # recurring: the one that fits
    lost: Mapping[int, float] = field(default_factory=dict)  # share of its skill by version
    nats: Mapping[int, float] = field(default_factory=dict)  # divergence from its reference by version
    alignment: Alignment | None = None

    def to_json(self) -> dict[str, Any]:
        """Write plain JSON types, which `from_json` reads back exactly."""
        plain = asdict(self) | {"lost": _named(self.lost), "nats": _named(self.nats)}
        if self.alignment is not None:
            plain["alignment"]["by_regime"] = _named(self.alignment.by_regime)
        return plain

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Similarity:
        """Read what `to_json` wrote."""
        alignment = document["alignment"]
        if alignment is not None:
            alignment = Alignment(**{**alignment, "by_regime": _numbered(alignment["by_regime"])})
        numbered = {name: _numbered(document[name]) for name in ("lost", "nats")}
        return cls(**{**document, **numbered, "alignment": alignment})


def lost_skill(loss: float, accepted: float, constant: float) -> float:
    """Return the share of a model's skill that it lost, (L - a) / (c - a): 0 as good as when accepted, 1 no better than a constant.

    Negative if it does better than when it was accepted, and at most `MOST_LOST`. Where a constant does as well
    as the model did (rows of one class; a target that hardly depends on the inputs), the scale ends at twice the accepted loss: a
    model without much skill has not lost it by a small change.

    Parameters
    ----------
    loss, accepted, constant
        Mean losses: L of the model on new rows, a of the model where it was accepted, c of the best constant on new
        rows.
    """
    reach = max(constant, 2 * accepted) - accepted
    if loss <= accepted:
        return max((loss - accepted) / reach, -1.0) if reach > 0 else 0.0
    return min((loss - accepted) / reach, MOST_LOST) if reach > 0 else MOST_LOST


def divergence(profile: Profile, counts: NDArray[np.int64], rows: int) -> float:
    """Return the largest Jensen-Shannon divergence of any feature, in nats, from 0 to ln 2, without its bias.

    Parameters
    ----------
    profile
        The reference of an earlier regime.
    counts
        Of the new rows, in its bins, as by `profile.count`.
    rows
        How many they are.

    Notes
    -----
    To second order the divergence is an eighth of chi-square's sum (q - p)^2 / p, whose mean without any change is
    (K - 1) (1 / n + 1 / m) for n and m independent rows and K bins.
    """
    if not rows or not profile.rows:
        return 0.0
    chance = (1 / rows + 1 / profile.rows) / 8
    features = divergences(profile, counts, ("jensen_shannon",))
    raw = ((feature.value("jensen_shannon") or 0.0, len(feature.labels)) for feature in features)
    return max((max(nats - (bins - 1) * chance, 0.0) for nats, bins in raw), default=0.0)


def judge(
    stored: Mapping[int, Stored],
    parent: int | None = None,
    constant: float | None = None,
    alignment: Alignment | None = None,
    margin: float = MARGIN,
) -> Similarity | None:
    """Return the similarity that all witnesses together speak for, None if there is no witness.

    Parameters
    ----------
    stored
        What is known of stored versions, by number.
    parent
        The one that learning would start from.
    constant
        Mean loss of the best constant on new rows, in the measure of the versions' losses.
    alignment
        Of the parent.
    margin
        Share by which a version must lose less than the parent for the regime to be its own.
    """
    nats = {number: version.nats for number, version in stored.items() if version.nats is not None}
    lost = {} if constant is None else _lost(stored, constant)
    known = None if parent is None else lost.get(parent)
    fits = _recurring(stored, lost, parent, margin)
    if fits is not None:
        number, reason = fits, f"version {fits} has lost {lost[fits]:.0%} of its skill"
        return Similarity("recurring", _clipped(lost[fits]), reason, number, lost, nats, alignment)
    return _measured(known, None if parent is None else nats.get(parent), lost, nats, alignment)


def with_alignment(similarity: Similarity | None, alignment: Alignment | None) -> Similarity | None:
    """Return what a similarity becomes once the learner has looked at its gradients itself."""
    if similarity is None:
        return judge({}, alignment=alignment)
    distance, reason = _opposed(similarity.distance, similarity.reason, alignment)
    kind: Kind = similarity.kind if similarity.kind == "recurring" else _kind(distance)
    return replace(similarity, kind=kind, distance=distance, reason=reason, alignment=alignment)


def _lost(stored: Mapping[int, Stored], constant: float) -> dict[int, float]:
    return {
        number: lost_skill(version.loss, version.accepted, constant)
        for number, version in stored.items()
        if version.accepted is not None
    }


def _recurring(
    stored: Mapping[int, Stored], lost: Mapping[int, float], parent: int | None, margin: float
) -> int | None:
    """Return the version whose regime has come back."""
    if parent is None or parent not in stored:
        return None
    others = [number for number in lost if number != parent and lost[number] < MIDDLE]
    best = min(others, key=lambda number: (stored[number].loss, number), default=None)
    if best is None or not stored[best].loss < (1 - margin) * stored[parent].loss:
        return None
    return best


def _measured(
    lost_share: float | None,
    parent_nats: float | None,
    lost: Mapping[int, float],
    nats: Mapping[int, float],
    alignment: Alignment | None,
) -> Similarity | None:
    """Return near or far by the first witness that knows, and by gradients that oppose each other."""
    if lost_share is None and alignment is not None and alignment.memory_loss is not None:
        lost_share = lost_skill(alignment.new_loss, alignment.memory_loss, alignment.constant_loss)
    if lost_share is not None:
        distance, reason = _clipped(lost_share), f"the parent has lost {lost_share:.0%} of its skill"
    elif alignment is not None and alignment.cosine is not None:
        distance, reason = (1 - alignment.cosine) / 2, f"the gradients' cosine is {alignment.cosine:.2f}"
    elif parent_nats is not None:
        distance, reason = (
            _clipped(parent_nats / math.log(2)),
            f"a feature has moved by {parent_nats:.3f} nats",
        )
    else:
        return None
    distance, reason = _opposed(distance, reason, alignment)
    return Similarity(_kind(distance), distance, reason, None, lost, nats, alignment)


def _opposed(distance: float, reason: str, alignment: Alignment | None) -> tuple[float, str]:
    """Return the larger distance, with its reason, if the gradients oppose each other by more than chance."""
    if alignment is None or alignment.cosine is None or alignment.error is None:
        return distance, reason
    surely = alignment.cosine + ERRORS * alignment.error < 0
    opposed = (1 - alignment.cosine) / 2
    if surely and opposed > distance:
        return (
            opposed,
            f"{reason}, but the gradients oppose each other: their cosine is {alignment.cosine:.2f}",
        )
    return distance, reason


def _kind(distance: float) -> Kind:
    return "near" if distance < MIDDLE else "far"


def _clipped(share: float) -> float:
    return min(max(share, 0.0), 1.0)


def _named(numbered: Mapping[int, float]) -> dict[str, float]:
    return {str(number): value for number, value in numbered.items()}


def _numbered(named: Mapping[str, float]) -> dict[int, float]:
    return {int(name): value for name, value in named.items()}
