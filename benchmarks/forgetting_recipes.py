"""Our recipes for each scenario, chosen by benchmarks.forgetting_choice on seeds that are not reported.

All but the composition is what everyone has: Adam at 1e-3 without warm-up or clipping, its moments kept from task to task, 128 new
rows a step and as many from memory, the last iterate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from benchmarks.forgetting_plain import BATCH_ROWS, FISHER_ROWS, RATE
from benchmarks.scenarios import Name
from learners.recipe import Recipe

ALONE = Recipe(
    learning_rate=RATE,
    batch_rows=BATCH_ROWS,
    epochs=10,
    warmup_steps=0,
    clip_norm=0.0,
    average_share=0.0,
    keep_optimizer=True,
    replay_share=0.0,
    memory_rows=0,
    ewc_lambda=0.0,
    fisher_rows=FISHER_ROWS,
    fisher_decay=1.0,
)
# Outputs are stored with the rows and held on to (DER++).
REMEMBERING = replace(
    ALONE, batch_rows=2 * BATCH_ROWS, replay_share=0.5, rehearsal="der++", distil_weight=0.5, memory_rows=500
)
# New rows compete among the new classes alone; old and new compete in the replayed part, which has rows of both (ER-ACE).
CLASSES = replace(REMEMBERING, memory_balance="class", class_mask="ace")
REGIMES = replace(REMEMBERING, memory_balance="regime")
# The penalty pulls back, and what is important also moves less: by the same Fisher information.
PERMUTED = replace(ALONE, epochs=5, ewc_lambda=0.021, freeze=1.0)
PERMUTED_REMEMBERING = replace(REGIMES, epochs=5, ewc_lambda=0.0063)

OURS: Mapping[Name, Mapping[str, Recipe]] = MappingProxyType(
    {
        "class": {
            "ours DER++ 200": replace(CLASSES, memory_rows=200),
            "ours DER++ 200, shifted images": replace(CLASSES, memory_rows=200, augment=True),
            "ours DER++ 1000": replace(CLASSES, memory_rows=1000),
            "ours DER++ 1000, shifted images": replace(CLASSES, memory_rows=1000, augment=True),
        },
        "domain": {
            "ours DER++ 200": replace(REGIMES, memory_rows=200),
            "ours DER++ 200, shifted images": replace(REGIMES, memory_rows=200, augment=True),
        },
        "permuted": {"ours EWC, freezing": PERMUTED, "ours EWC + DER++ 500": PERMUTED_REMEMBERING},
        "permuted-6": {"ours EWC, freezing": PERMUTED, "ours EWC + DER++ 500": PERMUTED_REMEMBERING},
        "alternating": {
            "ours DER++ 500": REGIMES,
            "ours DER++ 500, shifted images": replace(REGIMES, augment=True),
        },
    }
)
