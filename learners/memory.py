"""What a learner keeps of the past: a bounded sample of all rows offered so far, fair over strata.

Every row gets a priority u in [0, 1), a pure function of the seed and the row's running number, and each stratum (all
rows, a class, a regime) keeps its rows of smallest priority: see `learners.strata`. So which rows are held, and in
which slots, depends on the rows and their order alone, not on how they were cut into offers, and the count of rows is
all the generator state there is. With one stratum, each of n rows is held with probability capacity / n, as by
reservoir sampling (Vitter 1985). Herding is another priority: `learners.herding`.

Rows are the tensors of `Model.encode`. An offer from which nothing enters costs one comparison per row; every row that
enters takes over one slot, in place.

Shapes: B rows offered, M rows held, K outputs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learners.slots import Allocate, Slots, in_ram
from learners.strata import Strata


@dataclass(eq=False)
class Memory:
    """A bounded sample of rows. Mutable: `offer` writes into the tensors that the properties are views of."""

    seed: int
    bytes_max: (
        int | None
    )  # of all slots; beside them, in RAM, is an index of some 250 bytes per row. See `resize`
    seen: int  # rows offered
    output_columns: int  # K
    strata: Strata
    slots: Slots

    @classmethod
    def empty(
        cls,
        capacity: int,
        seed: int,
        *,
        outputs: int = 0,
        bytes_max: int | None = None,
        allocate: Allocate = in_ram,
    ) -> Memory:
        """Return a memory that has seen nothing.

        Parameters
        ----------
        capacity
            Rows at most; 0 = nothing is kept, nor counted.
        seed
            Of the priorities.
        outputs
            Columns K of `outputs` to begin with; 0 = none are stored until an offer brings some.
        bytes_max
            Bound of the slots in bytes: lowers the capacity as soon as the size of a row is known.
        allocate
            Where the slots are: in RAM, or `learners.mapped.mapped(directory)`.
        """
        return cls(seed, bytes_max, 0, outputs, Strata(capacity, seed), Slots(allocate))

    def __len__(self) -> int:
        return self.slots.filled

    @property
    def capacity(self) -> int:
        """Return how many rows may be held."""
        return self.strata.capacity

    @property
    def counts(self) -> dict[int, int]:
        """Return the rows offered of each stratum that has rows here."""
        return self.strata.counts

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Return the arguments of `forward`, each (M, ...)."""
        count = sum(
            name.startswith("inputs.") for name in self.slots.names
        )  # whatever the order of a restored file
        return tuple(self.slots[f"inputs.{number}"] for number in range(count))

    @property
    def target(self) -> Tensor:
        """Return the (M,) standardised targets, or class indices."""
        return self._view("target", torch.float32)

    @property
    def position(self) -> Tensor:
        """Return the (M,) int64 positions in the sample log."""
        return self._view("position", torch.int64)

    @property
    def stratum(self) -> Tensor:
        """Return the (M,) int64 strata."""
        return self._view("stratum", torch.int64)

    @property
    def priority(self) -> Tensor:
        """Return the (M,) float64 priorities: the smallest stay."""
        return self._view("priority", torch.float64)

    @property
    def outputs(self) -> Tensor | None:
        """Return (M, K) float32 outputs of each row's last visit, NaN where none came; None if none ever came."""
        return self.slots["outputs"] if "outputs" in self.slots.names else None

    def offer(
        self,
        inputs: tuple[Tensor, ...],
        target: Tensor,
        position: Tensor,
        stratum: Tensor,
        outputs: Tensor | None = None,
        priority: Tensor | None = None,
    ) -> None:
        """See B rows, in order. Each row is to be offered once.

        Parameters
        ----------
        inputs
            Arguments of `forward`, each (B, ...).
        target
            (B,) float32 or int64.
        position, stratum
            (B,) int64.
        outputs
            (B, K) outputs to be stored with the rows. If K is larger than before, rows held get NaN in new columns,
            if it is smaller, these rows do.
        priority
            (B,) finite; instead of the random ones. Of equal ones the row of smaller position stays.

        Raises
        ------
        ValueError
            If lengths differ, a row is not like those held, a priority is not finite, or `bytes_max` is less than
            one row.
        """
        if not self.capacity or not len(target):
            return
        rows = {f"inputs.{number}": tensor for number, tensor in enumerate(inputs)}
        rows |= {"target": target, "position": position.long(), "stratum": stratum.long()}
        rows["priority"] = self.uniform(len(target)) if priority is None else priority.double()
        _check_lengths(rows if outputs is None else {**rows, "outputs": outputs})
        if priority is not None and not bool(priority.isfinite().all()):
            raise ValueError(
                "memory: a priority is not finite: leave out priority, or check the features it is of"
            )
        self._fit(rows, 0 if outputs is None else outputs.shape[1])
        self.slots.reserve(min(self.capacity, len(self) + len(target)), self.capacity)
        source: dict[int, int] = {}  # of each slot that is written: the row, which is the last that took it
        offered = zip(stratum.tolist(), rows["priority"].tolist(), position.tolist(), strict=True)
        for row, (name, rank, place) in enumerate(offered):
            slot = self.strata.offer(name, rank, place)
            if slot is not None:
                source[slot] = row
        if source:
            if self.output_columns:
                rows["outputs"] = _padded(outputs, len(target), self.output_columns)
            self.slots.write(list(source), rows, list(source.values()))
        self.seen += len(target)

    def uniform(self, rows: int) -> Tensor:
        """Return the (rows,) float64 random numbers in [0, 1) of the next rows, which by default are their priorities."""
        return torch.from_numpy(
            np.random.Generator(np.random.PCG64(self.seed).advance(self.seen)).random(rows)
        )

    def resize(self, capacity: int) -> None:
        """Change the capacity; a changed `bytes_max` takes effect, too.

        A smaller memory is what a memory of that capacity would hold. A larger one fills up slowly if it has turned
        rows away: a later row still has no better chance than an earlier one of its stratum had. No capacity means
        to forget everything, and that it was seen. While slots move, old and new storage exist side by side.
        """
        if not capacity:
            self.slots.vacate(range(len(self)))
            self.seen, self.strata, self.slots = 0, Strata(0, self.seed), self.slots.anew()
            return
        capacity = self._affordable(capacity)
        if capacity == self.capacity:
            return
        self._vacate(self.strata.resize(capacity))
        if self.slots.length > capacity:
            self.slots.move(capacity)

    def divide(self, stratum: Tensor) -> None:
        """Put the rows held into other strata, (M,) int64, as when a recipe balances by something else from now on.

        A stratum takes over the smallest of the bounds of those that its rows come from: rows beyond it are the first
        to go, and what comes later enters below it, so that the sample becomes uniform again. Counts begin with the
        rows held.
        """
        bounds: dict[int, float] = {}
        for old, new in zip(self.stratum.tolist(), stratum.tolist(), strict=True):
            bounds[new] = min(bounds.get(new, math.inf), self.strata.by_name[old].bound)
        self.stratum[:] = stratum
        self._index(Counter(stratum.tolist()), bounds)

    def erase(self, positions: Collection[int]) -> int:
        """Forget the rows of these positions, and return how many there were. They count as seen.

        Their storage is overwritten. Later rows fill the room as after `resize` to a larger capacity.
        """
        erased = (
            torch.isin(self.position, torch.tensor(list(positions), dtype=torch.int64)).nonzero().flatten()
        )
        self._vacate(erased.tolist())
        return len(erased)

    def weights(self, recency_rows: float | None) -> NDArray[np.float64]:
        """Return each row's chance to be replayed, unnormalised: uniform, or halved every `recency_rows` positions."""
        if not len(self) or recency_rows is None:
            return np.ones(len(self))
        position_M = self.position.numpy()
        return np.asarray(np.exp2(-(position_M.max() - position_M) / recency_rows), dtype=np.float64)

    def tensors(self) -> dict[str, Tensor]:
        """Return the filled slots by name: views, which change with the next offer."""
        return {name: self.slots[name] for name in self.slots.names}

    def meta(self) -> dict[str, Any]:
        """Return, as JSON, what `restore` needs beside the tensors."""
        return {
            "capacity": self.capacity,
            "bytes_max": self.bytes_max,
            "seen": self.seen,
            "seed": self.seed,
            "outputs": self.output_columns,
            "counts": {str(name): count for name, count in self.counts.items()},
            "bounds": {str(name): bound for name, bound in self.strata.bounds.items()},
        }

    @classmethod
    def restore(
        cls, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], allocate: Allocate = in_ram
    ) -> Memory:
        """Return the memory of `tensors()` and `meta()`, which goes on as the other one would have."""
        memory = cls.empty(
            meta["capacity"],
            meta["seed"],
            outputs=meta["outputs"],
            bytes_max=meta["bytes_max"],
            allocate=allocate,
        )
        memory.seen = meta["seen"]
        if tensors:
            memory.slots.lay_out(tensors)
            memory.slots.reserve(len(tensors["target"]), memory.capacity)
            memory.slots.fill(tensors)
            counts, bounds = (
                {int(name): value for name, value in meta[key].items()} for key in ("counts", "bounds")
            )
            memory._index(counts, bounds)
        return memory

    def _view(self, name: str, dtype: torch.dtype) -> Tensor:
        return self.slots[name] if self.slots.names else torch.empty(0, dtype=dtype)

    def _fit(self, rows: Mapping[str, Tensor], columns: int) -> None:
        """Take the layout of the first rows, later give outputs more columns; and keep within `bytes_max`."""
        more = max(columns - self.output_columns, 0)
        if not self.slots.names:
            self.output_columns += more
            stored = {"outputs": torch.empty(0, self.output_columns)} if self.output_columns else {}
            self.slots.lay_out({**rows, **stored})
            more = 0
        self.slots.check(rows)
        if self.bytes_max is not None:
            self.resize(self._affordable(self.capacity, more * torch.float32.itemsize))
        if more:
            self.output_columns += more
            self.slots.widen("outputs", self.output_columns)

    def _affordable(self, capacity: int, more_bytes: int = 0) -> int:
        """Return the capacity within `bytes_max`, with rows larger by `more_bytes`."""
        row_bytes = self.slots.row_bytes + more_bytes
        if self.bytes_max is None or not row_bytes:
            return capacity
        if self.bytes_max < row_bytes:
            raise ValueError(
                f"memory_bytes: {self.bytes_max:,} is less than one row of {row_bytes:,} bytes: "
                "raise it, or set memory_rows = 0 to keep none"
            )
        return min(capacity, self.bytes_max // row_bytes)

    def _vacate(self, slots: Sequence[int]) -> None:
        if slots:
            self.slots.vacate(slots)
            self._index(self.counts, self.strata.bounds)

    def _index(self, counts: Mapping[int, int], bounds: Mapping[int, float]) -> None:
        rows = zip(self.stratum.tolist(), self.priority.tolist(), self.position.tolist(), strict=True)
        self.strata.restart(rows, counts, bounds)


def _padded(outputs: Tensor | None, rows: int, columns: int) -> Tensor:
    padded = torch.full((rows, columns), torch.nan)
    if outputs is not None:
        padded[:, : outputs.shape[1]] = outputs.detach()
    return padded


def _check_lengths(rows: Mapping[str, Tensor]) -> None:
    lengths = {name: len(tensor) for name, tensor in rows.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"memory: what is offered differs in length: {lengths}")
