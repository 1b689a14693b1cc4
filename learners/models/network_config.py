"""What every wrapped network takes besides its own arguments. Torch-free, so that configuration is checked without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

Scale = Literal["standard", "global", "none"]


@dataclass(frozen=True)
class NetworkConfig:
    """Arguments of `learners.models.network.Network`.

    Raises
    ------
    ValueError
        Naming the field and the range that it must lie in.
    """

    scale: Scale = (
        "standard"  # each feature by its own mean and deviation, all by one, or values as they come
    )

    def __post_init__(self) -> None:
        if self.scale not in get_args(Scale):
            raise ValueError(f"model: scale must be standard, global or none, not {self.scale!r}")

    def check_features(self, features: int) -> None:
        """Refuse a number of numeric features that the network cannot be laid out over.

        Raises
        ------
        ValueError
            Saying what would fit.
        """


def check_whole(field: str, value: Any, low: int, high: int) -> None:
    """Refuse what is no whole number from `low` to `high`."""
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"model: {field} must be a whole number from {low} to {high}, not {value!r}")


def check_widths(field: str, values: Any, low: int, high: int) -> None:
    """Refuse what is no tuple of one or more whole numbers from `low` to `high`."""
    if not isinstance(values, tuple) or not values:
        raise ValueError(f"model: {field} must be one or more whole numbers, not {values!r}")
    for value in values:
        check_whole(field, value, low, high)
