"""What is compared with what: the points of reference, the targets, and what the plot shows."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.forgetting_figures import Goal
from benchmarks.forgetting_plain import Plain
from benchmarks.scenarios import Name

PLAIN: Mapping[Name, Mapping[str, Plain]] = {
    "class": {
        "plain naive": Plain("naive"),
        "joint": Plain("joint"),
        "joint, shifted images": Plain("joint", shift=1),
        "plain ER 200": Plain("er", memory_rows=200),
        "plain ER 1000": Plain("er", memory_rows=1000),
    },
    "domain": {
        "plain naive": Plain("naive"),
        "joint": Plain("joint"),
        "joint, shifted images": Plain("joint", shift=1),
        "plain ER 200": Plain("er", memory_rows=200),
        "plain EWC": Plain("ewc", ewc_lambda=1e9),
    },
    "permuted": {
        "plain naive": Plain("naive"),
        "joint": Plain("joint"),
        "plain ER 500": Plain("er", memory_rows=500),
        "plain EWC": Plain("ewc", ewc_lambda=100.0),
    },
    "permuted-6": {
        "plain naive": Plain("naive"),
        "plain EWC": Plain("ewc", ewc_lambda=100.0),
    },
    "alternating": {
        "plain naive": Plain("naive"),
        "joint": Plain("joint"),
        "joint, shifted images": Plain("joint", shift=1),
        "plain ER 500": Plain("er", memory_rows=500),
    },
}

SMALL = ("plain ER 200", "Avalanche replay 200", "CapyMOA ER 200", "CapyMOA GDumb 200")
LARGE = ("plain ER 1000", "Avalanche replay 1000", "CapyMOA ER 1000", "CapyMOA GDumb 1000")
SHIFTED = ("Avalanche replay {}, shifted images", "CapyMOA RAR {}, shifted images")
GOALS = (
    Goal("class-incremental, 200 in memory", "class", "ours DER++ 200", SMALL, 91.0),
    Goal(
        "class-incremental, 200 in memory, shifted images",
        "class",
        "ours DER++ 200, shifted images",
        tuple(method.format(200) for method in SHIFTED),
        91.0,
        "joint, shifted images",
    ),
    Goal("class-incremental, 1000 in memory", "class", "ours DER++ 1000", LARGE, 93.5),
    Goal(
        "class-incremental, 1000 in memory, shifted images",
        "class",
        "ours DER++ 1000, shifted images",
        tuple(method.format(1000) for method in SHIFTED),
        93.5,
        "joint, shifted images",
    ),
    Goal("domain-incremental, 200 in memory", "domain", "ours DER++ 200", SMALL, 92.0),
    Goal(
        "domain-incremental, 200 in memory, shifted images",
        "domain",
        "ours DER++ 200, shifted images",
        tuple(method.format(200) for method in SHIFTED),
        92.0,
        "joint, shifted images",
    ),
    Goal("permuted, EWC alone", "permuted", "ours EWC, freezing", ("plain EWC", "Avalanche EWC"), 93.5),
    Goal(
        "permuted, EWC and 500 in memory",
        "permuted",
        "ours EWC + DER++ 500",
        ("plain ER 500", "Avalanche replay 500", "Avalanche EWC + replay 500"),
        95.0,
    ),
)
SHOWN: Mapping[Name, tuple[str, ...]] = {
    "class": (
        "joint",
        "plain naive",
        "plain ER 200",
        "Avalanche replay 200",
        "ours DER++ 200",
        "ours DER++ 200, shifted images",
        "ours DER++ 1000, shifted images",
    ),
    "domain": (
        "joint",
        "plain naive",
        "Avalanche EWC",
        "Avalanche replay 200",
        "ours DER++ 200",
        "ours DER++ 200, shifted images",
    ),
    "permuted": (
        "joint",
        "plain naive",
        "plain EWC",
        "Avalanche EWC",
        "Avalanche replay 500",
        "ours EWC, freezing",
        "ours EWC + DER++ 500",
    ),
    "permuted-6": ("plain naive", "plain EWC", "ours EWC, freezing", "ours EWC + DER++ 500"),
    "alternating": ("joint", "plain naive", "plain ER 500", "Avalanche replay 500", "ours DER++ 500"),
}
