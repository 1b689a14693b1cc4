"""A stream that is learned ten rows at a time, without an end: what an update costs at its beginning and at its end.

Beside every block of updates a loop of torch alone takes steps on as many rows: machines slow down and speed up, and what counts is
the ratio of the two. Operations are counted by torch itself, over a whole period from one consolidation to the next.

Shapes: N rows, I pixels.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.cost_steps import NETWORK, PIXELS, SCHEMA, concluded
from benchmarks.forgetting_plain import RATE, network
from benchmarks.scenarios import Digits
from learners.learn import Learner, start
from learners.recipe import RECIPES
from learners.rows import Rows

TEN = 10  # rows of an update
REPLAYED = 64
PERIOD = 50  # updates from one consolidation to the next
FIRST = 1000  # rows that the learner has learned before
REFERENCE_STEPS = 5  # of torch alone, before and after each period
PLACES = 10  # of the stream where operations are counted
RECIPE = replace(
    RECIPES["ewc+replay"],
    learning_rate=RATE,
    batch_rows=TEN + REPLAYED,
    replay_share=REPLAYED / (TEN + REPLAYED),
    epochs=1.0,
    warmup_steps=0,
    clip_norm=0.0,
    average_share=0.0,
    keep_optimizer=True,
    memory_rows=1000,
    memory_balance="class",
    fisher="sampled",
    fisher_rows=TEN,
    consolidate_every=PERIOD,
)


@dataclass(frozen=True)
class Period:
    """What the updates from one consolidation to the next took."""

    after_rows: int  # that were learned before
    ours: float  # CPU-milliseconds of an update
    reference: float  # CPU-milliseconds of a step of torch alone on as many rows


@dataclass(frozen=True)
class Count:
    """What one update consisted of."""

    after_rows: int
    place: Literal["first", "middle", "last"]  # in its period: at the last it is consolidated
    entered: Literal["none", "one", "more"]  # rows that entered the memory
    operations: int  # of torch
    numbers: int  # that these brought forth


class Counting(TorchDispatchMode):
    """Counts operations of torch and the numbers that they bring forth."""

    def __init__(self) -> None:
        super().__init__()
        self.operations, self.numbers = Counter[str](), 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Count one operation, and do it."""
        result = func(*args, **(kwargs or {}))
        self.operations[str(func)] += 1
        for one in result if isinstance(result, list | tuple) else (result,):
            self.numbers += one.numel() if isinstance(one, torch.Tensor) else 0
        return result


class Stream:
    """Digits over and over, under another permutation of the pixels each time."""

    def __init__(self, digits: Digits, seed: int) -> None:
        self.digits, self.seed = digits, seed
        self._turn, self._image_IN = -1, np.empty((0, 0))

    def rows(self, first: int, stop: int) -> Rows:
        """Return rows of the stream, all of the same turn."""
        turn, low = divmod(first, len(self.digits))
        if turn != self._turn:
            order_I = np.random.default_rng([self.seed, turn]).permutation(len(PIXELS))
            self._turn = turn
            self._image_IN = np.ascontiguousarray(self.digits.image.T[order_I], dtype=np.float64)
        here = slice(low, low + stop - first)
        columns = dict(zip(PIXELS, self._image_IN[:, here], strict=True))
        return Rows(columns, self.digits.target[here].astype(np.float64), np.arange(first, stop))

    def tens(self, first: int, count: int) -> list[Rows]:
        """Return the rows of so many updates."""
        return [self.rows(low, low + TEN) for low in range(first, first + TEN * count, TEN)]


def periods(digits: Digits, seed: int, rows: int) -> Iterator[Period | list[Count]]:
    """Learn the stream; tell what each period cost, and at ten places what its updates consist of."""
    stream, reference = Stream(digits, seed), _reference(digits)
    alone = replace(RECIPE, batch_rows=128, replay_share=0.0)
    learner = concluded(
        start(None, stream.rows(0, FIRST), alone, schema=SCHEMA, model="mlp", config=NETWORK, seed=seed)
    )
    bounds = range(FIRST, rows, TEN * PERIOD)
    counted = {bounds[round(place)] for place in np.linspace(1, len(bounds) - 1, PLACES)}
    for first in bounds:
        tens = [stream.rows(low, low + TEN) for low in range(first, first + TEN * PERIOD, TEN)]
        if first in counted:
            yield [_counted(learner, ten, seed) for ten in tens]
            continue
        half = reference()
        began = time.process_time()
        for ten in tens:
            learner = concluded(start(learner, ten, RECIPE, seed=seed))
        ours = (time.process_time() - began) / len(tens)
        yield Period(first, 1e3 * ours, 1e3 * (half + reference()) / 2)


def _counted(learner: Learner, ten: Rows, seed: int) -> Count:
    first, fresh = int(ten.position[0]), not learner.pending.rows
    with Counting() as counting:
        concluded(start(learner, ten, RECIPE, seed=seed))
    entered = int((learner.memory.position >= first).sum())
    return Count(
        first,
        "first" if fresh else "middle" if learner.pending.rows else "last",
        "none" if not entered else "one" if entered == 1 else "more",
        counting.operations.total(),
        counting.numbers,
    )


def _reference(digits: Digits) -> Callable[[], float]:
    """Return steps of torch alone, which tell the CPU-seconds of one."""
    image_NI, target_N = torch.from_numpy(digits.image), torch.from_numpy(digits.target)
    model = network(10)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)

    def learn() -> float:
        batches = torch.randint(len(digits), (REFERENCE_STEPS, TEN + REPLAYED))
        began = time.process_time()
        for index_B in batches:
            optimizer.zero_grad()
            torch.autograd.backward(functional.cross_entropy(model(image_NI[index_B]), target_N[index_B]))
            optimizer.step()
        return (time.process_time() - began) / REFERENCE_STEPS

    return learn


def slope(value_N: NDArray[np.float64], draws: int = 2000) -> tuple[float, float, float]:
    """Return the change of a straight line through the values from first to last, over their mean, and its 95% interval.

    The interval is that of a bootstrap over the values with their places. Least squares, of values cut off at three deviations.
    """
    random, place_N = np.random.default_rng(0), np.linspace(0, 1, len(value_N))
    middle = np.median(value_N)
    spread = 1.4826 * np.median(np.abs(value_N - middle))
    cut_N = np.clip(value_N, middle - 3 * spread, middle + 3 * spread)

    def change(index_N: NDArray[np.int64]) -> float:
        return float(np.polyfit(place_N[index_N], cut_N[index_N], 1)[0] / cut_N[index_N].mean())

    drawn = [change(random.integers(0, len(cut_N), len(cut_N))) for _ in range(draws)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return change(np.arange(len(cut_N))), float(low), float(high)
