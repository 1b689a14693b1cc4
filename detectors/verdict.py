"""Verdicts: what a drift detector says about one window, in a form that can be stored and shown."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class FeatureDrift:
    """How far one feature has moved."""

    name: str
    nats: float  # KL(current || reference) as measured
    excess_nats: float  # less its mean when nothing moved; below zero shows as zero
    share: float  # of the total excess; all features together 1, or all 0
    p_value: float  # of this feature alone
    top_bins: tuple[
        tuple[str, float, float], ...
    ]  # (label, reference share, current share), largest part first


@dataclass(frozen=True)
class PairDrift:
    """How far two features have moved together, beyond what each has moved alone."""

    first: str
    second: str
    nats: float  # as measured, beyond the marginals
    excess_nats: float  # less its mean when nothing moved; below zero shows as zero
    p_value: float  # of this pair alone
    top_cells: tuple[
        tuple[str, float, float], ...
    ]  # (label, share that the two features alone explain, current share), largest part first

    @property
    def name(self) -> str:
        """Both features."""
        return f"{self.first} × {self.second}"

    def sentence(self) -> str:
        """Say what moved, and where most."""
        said = f"{self.first} and {self.second} moved together beyond what each moved alone"
        if not self.top_cells:
            return said
        label, expected, share = self.top_cells[0]
        return f"{said}: *{label}* holds {share:.1%} of rows, {expected:.1%} expected"


@dataclass(frozen=True)
class Drift:
    """How far a window has moved, and whether that is more than chance within the budget."""

    alarm: bool
    p_value: float  # of the window, all features together
    nats: float  # sum of the features' excess
    threshold: float  # p_value at which the detector alarms, or its fixed excess nats of any feature
    rows: int  # window
    reference_rows: int
    features: tuple[FeatureDrift, ...]  # largest share first
    false_alarm_rate: (
        float  # share of windows that alarm when nothing has moved: as asked, or as a fixed threshold implies
    )
    rows_needed: int = 0  # reference rows that a trustworthy verdict takes; 0 if the reference has them
    pairs: tuple[PairDrift, ...] = ()  # of features that moved together, least likely first: alarms alone

    def to_json(self) -> dict[str, Any]:
        """Write plain JSON types, which `from_json` reads back exactly."""
        return asdict(self) | {
            "features": [
                asdict(feature) | {"top_bins": [list(top) for top in feature.top_bins]}
                for feature in self.features
            ],
            "pairs": [
                asdict(pair) | {"top_cells": [list(top) for top in pair.top_cells]} for pair in self.pairs
            ],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Drift":
        """Read what `to_json` wrote."""
        features = tuple(
            FeatureDrift(**{**feature, "top_bins": _read(feature["top_bins"])})
            for feature in document["features"]
        )
        pairs = tuple(
            PairDrift(**{**pair, "top_cells": _read(pair["top_cells"])}) for pair in document.get("pairs", ())
        )
        return cls(**{**document, "features": features, "pairs": pairs})


def _read(shares: Iterable[Iterable[Any]]) -> tuple[tuple[str, float, float], ...]:
    return tuple((str(label), float(before), float(now)) for label, before, now in shares)
