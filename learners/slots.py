"""Storage of rows: named tensors of equal length whose first `filled` entries are in use.

In RAM they grow by doubling. Elsewhere (`learners.mapped`) they are laid out at full length at once, as files are
sparse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

Allocate = Callable[
    [str, tuple[int, ...], torch.dtype], Tensor
]  # name, shape, dtype -> a fresh tensor, any content
Layout = tuple[torch.dtype, torch.Size]  # of one row


def in_ram(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:  # noqa: ARG001 - one signature for all
    """Return a tensor in RAM."""
    return torch.empty(shape, dtype=dtype)


def _layout(rows: Mapping[str, Tensor]) -> dict[str, Layout]:
    return {name: (tensor.dtype, tensor.shape[1:]) for name, tensor in rows.items() if name != "outputs"}


class Slots:
    """Rows in numbered slots."""

    def __init__(self, allocate: Allocate = in_ram) -> None:
        self.filled = 0
        self._allocate = allocate
        self._tensors: dict[str, Tensor] = {}
        self._layout: dict[str, Layout] = {}

    @property
    def names(self) -> list[str]:
        """Return the names of the tensors; none before `lay_out`."""
        return list(self._tensors)

    @property
    def row_bytes(self) -> int:
        """Return the bytes of one row."""
        return sum(tensor.dtype.itemsize * tensor.shape[1:].numel() for tensor in self._tensors.values())

    @property
    def length(self) -> int:
        """Return the slots there is storage for."""
        return len(next(iter(self._tensors.values()), ()))

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name][: self.filled]

    def anew(self) -> Slots:
        """Return slots in the same place that hold nothing."""
        return Slots(self._allocate)

    def check(self, rows: Mapping[str, Tensor]) -> None:
        """Refuse rows that are not like those held, `outputs` apart."""
        offered, held = _layout(rows), self._layout
        if offered != held:
            raise ValueError(
                f"memory: rows offered are {offered}, and those held are {held}: "
                "a model that encodes rows in another way starts with an empty memory"
            )

    def lay_out(self, like: Mapping[str, Tensor]) -> None:
        """Fix names, dtypes and shapes per row: those of `like`, tensors of one entry per row."""
        self._tensors = {name: tensor.new_empty(0, *tensor.shape[1:]).cpu() for name, tensor in like.items()}
        self._layout = _layout(like)

    def reserve(self, rows: int, capacity: int) -> None:
        """Make room for `rows` of at most `capacity` rows."""
        if rows > self.length:
            self.move(min(capacity, max(rows, 2 * self.length)) if self._allocate is in_ram else capacity)

    def move(self, length: int) -> None:
        """Move to fresh storage of `length` slots."""
        for name, old in self._tensors.items():
            self._tensors[name] = new = self._allocate(name, (length, *old.shape[1:]), old.dtype)
            new[: self.filled] = old[: self.filled]

    def fill(self, rows: Mapping[str, Tensor]) -> None:
        """Put all these rows into the first slots, of which there must be enough."""
        self.filled = len(next(iter(rows.values())))
        for name, tensor in rows.items():
            self._tensors[name][: self.filled] = tensor

    def write(self, slots: Sequence[int], rows: Mapping[str, Tensor], source: Sequence[int]) -> None:
        """Put entries `source` of the tensors `rows` into `slots`, which are filled or the next ones."""
        slot_B, source_B = torch.tensor(slots), torch.tensor(source)
        self.filled = max(self.filled, *(slot + 1 for slot in slots))
        for name, tensor in self._tensors.items():
            tensor[slot_B] = rows[name].detach()[source_B.to(rows[name].device)].to(tensor)

    def vacate(self, slots: Sequence[int]) -> None:
        """Remove these rows. The last rows move into the gaps, and zeros to where they were."""
        left = self.filled - len(slots)
        removed = set(slots)
        gaps = torch.tensor(sorted(slot for slot in removed if slot < left), dtype=torch.int64)
        moving = torch.tensor(
            [slot for slot in range(left, self.filled) if slot not in removed], dtype=torch.int64
        )
        for tensor in self._tensors.values():
            tensor[gaps] = tensor[moving]
            tensor[left : self.filled] = 0
        self.filled = left

    def widen(self, name: str, columns: int) -> None:
        """Give the (M, K) tensor `name` more columns, NaN where nothing was stored; it may be new."""
        new = self._allocate(name, (self.length, columns), torch.float32)
        new[: self.filled] = torch.nan
        if name in self._tensors:
            old = self[name]
            new[: self.filled, : old.shape[1]] = old
        self._tensors[name] = new
