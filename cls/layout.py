"""The files of a checkpoint, by name, and the JSON in them. Torch-free.

- model.safetensors: weights and preprocessing buffers, all that predicting needs
- model.json: how to build the network (its spec), the learner's meta, the distribution that it came from
- learner.safetensors: what learning goes on from (Fisher, anchor, memory, optimiser)
- profile.json: the reference profile of the regime it was fitted to
"""

from __future__ import annotations

import json

from cls.domain import Json

MODEL, SPEC, LEARNER, PROFILE = "model.safetensors", "model.json", "learner.safetensors", "profile.json"


def to_json(value: Json) -> bytes:
    """Encode JSON so that equal values have equal bytes; raises `ValueError` for NaN and infinities."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
