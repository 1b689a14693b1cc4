"""Random numbers as pure functions of a seed, a purpose and a number: nothing to save, nothing to restore."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

SHUFFLE, REPLAY, FISHER, STRATA, INITIAL, FORWARD, AUGMENT, MIX, RENEW, ALIGN = range(10)  # purposes


def generator(seed: int, purpose: int, number: int = 0) -> np.random.Generator:
    """Return the generator of one purpose, epoch, step or count."""
    return np.random.default_rng([seed, purpose, number])


def torch_generator(seed: int, purpose: int, number: int = 0) -> torch.Generator:
    """Return the same as a generator of torch, on the CPU."""
    return torch.Generator().manual_seed(_number(seed, purpose, number))


@contextmanager
def seeded(seed: int, purpose: int, number: int = 0) -> Iterator[None]:
    """Let torch draw from that stream inside, and leave its own generators untouched."""
    number = _number(seed, purpose, number)
    cuda = torch.cuda.is_available()  # else torch.manual_seed queues a call, and its traceback, each time
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if cuda else ()):
        torch.default_generator.manual_seed(number)
        if cuda:
            torch.cuda.manual_seed_all(number)
        yield


def _number(seed: int, purpose: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, purpose, number]).generate_state(1)[0])
