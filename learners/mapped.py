"""Slots on disk: one memory-mapped file per tensor, paged in and out by the system."""

from __future__ import annotations

import errno
import math
import os
import shutil
from pathlib import Path

import torch
from torch import Tensor

from learners.slots import Allocate


def mapped(directory: Path) -> Allocate:
    """Return an allocation of tensors in files `NAME.slots` of `directory`, which only this user can read.

    The files are sparse: what was never written takes no disk. A file of the same name is replaced; the tensor that
    maps the old one keeps its content as long as it lives. Whoever made the directory removes it.

    Raises
    ------
    OSError
        If, when a tensor is made, the disk has less room than all of it would take: a page that cannot be written
        later would kill the process.
    """

    def allocate(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        size = math.prod(shape) * dtype.itemsize
        if not size:
            return torch.empty(shape, dtype=dtype)
        free = shutil.disk_usage(directory).free
        if size > free:
            raise OSError(
                errno.ENOSPC,
                f"memory_disk: {name} takes {size:,} bytes and {free:,} are free: lower memory_bytes",
                str(directory),
            )
        path = directory / f"{name}.slots"
        path.unlink(missing_ok=True)
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            os.ftruncate(file, size)
        finally:
            os.close(file)
        return torch.from_file(str(path), shared=True, size=math.prod(shape), dtype=dtype).view(shape)

    return allocate
