"""Profiles and divergences as tables in the terminal."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cls.cli.drift_bars import bars
from cls.cli.output import print_json, print_table

if TYPE_CHECKING:
    from detectors.divergences import FeatureDivergences
    from detectors.profile import Profile


class By(StrEnum):
    """Divergences that a comparison can be sorted by."""

    kl = "kl"
    reverse_kl = "reverse_kl"
    jeffreys = "jeffreys"
    psi = "psi"
    jensen_shannon = "jensen_shannon"
    hellinger = "hellinger"
    total_variation = "total_variation"
    chi_square = "chi_square"
    wasserstein = "wasserstein"
    ks = "ks"


HEADINGS = {
    "name": "feature",
    "kl": "KL",
    "psi": "PSI",
    "jensen_shannon": "JS",
    "hellinger": "Hell.",
    "total_variation": "TV",
    "chi_square": "chi2",
    "wasserstein": "W1",
    "ks": "KS",
}
DRAWN = 3  # features whose bins are drawn
BINS = 5  # of each


def print_profile(
    path: Path, made: Profile, *, as_json: bool, left_out: list[dict[str, str]] | None = None
) -> None:
    """Print what a profile keeps, feature by feature; as JSON also the columns that were left out when it was built."""
    features = [
        {
            "name": bins.name,
            "kind": bins.to_json()["kind"],
            "bins": bins.size,
            "missing_share": float(counts[-1] / made.rows) if made.rows else None,
            "design_effect": dispersion.mean,
            "counts": dict(zip(bins.labels(), counts.tolist(), strict=True)),
        }
        for bins, counts, dispersion in zip(
            made.features, made.split(made.counts), made.dispersion, strict=True
        )
    ]
    if as_json:
        document = {"path": path, "rows": made.rows, "features": features}
        print_json(document if left_out is None else document | {"left_out": left_out})
        return
    columns = {"name": "feature", "kind": "kind", "bins": "bins"}
    columns |= {"missing": "missing", "design_effect": "design effect", "largest": "largest bin"}
    rows = [feature | _words(feature, made.rows) for feature in features]
    print_table(rows, columns, title=f"{path}: {made.rows:,} rows", empty="no features")


def _words(feature: dict[str, Any], rows: int) -> dict[str, str]:
    missing, counts = feature["missing_share"], feature["counts"]
    label = max(counts, key=counts.__getitem__)
    return {
        "missing": "-" if missing is None else f"{missing:.1%}",
        "largest": f"{label} ({counts[label] / rows:.0%})" if rows else "-",
    }


def print_distances(found: list[FeatureDivergences], by: By, title: str) -> None:
    """Print divergences by feature, and the bins that have most part in those of the first features."""
    rows = [{"name": feature.name} | {name: feature.value(name) for name in By} for feature in found]
    headings = HEADINGS if by in HEADINGS else HEADINGS | {by.value: by.value}
    print_table(rows, headings, title=title, empty="no features")
    for feature in found[:DRAWN]:
        top = feature.top_bins(by, BINS)
        if top:
            bars(feature.name, [(label, before, now) for label, before, now, _ in top])
