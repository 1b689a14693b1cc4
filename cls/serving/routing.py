"""Who answers a row: sticky by key, without a memory.

A key's place on the line from 0 to 1 is a hash of the rollout and the key. The canary answers those below its share, so that a larger share
keeps all keys of a smaller one, another rollout draws other keys, and every process comes to the same answer without asking.
"""

from __future__ import annotations

from hashlib import blake2b

SLOTS = 1 << 16  # of the bitmaps that count distinct keys
_PLACES = 1 << 48


def place(rollout: int, key: str) -> tuple[float, int]:
    """Return a key's place in [0, 1) in a rollout, and its slot in [0, SLOTS), independent of it."""
    digest = int.from_bytes(blake2b(f"{rollout}:{key}".encode(), digest_size=8).digest(), "little")
    return (digest >> 16) / _PLACES, digest & (SLOTS - 1)


def in_canary(rollout: int, key: str, share: float) -> bool:
    """Whether a key's rows are answered by the canary."""
    return place(rollout, key)[0] < share
