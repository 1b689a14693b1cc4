"""What is frozen of a network, and what goes on learning. Torch-free, so that configuration is checked without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class BackboneConfig:
    """Arguments of `learners.models.backbone.Backbone`.

    A part is a name, or several joined by dots, within the names of parameters: `head` is net.head.weight and
    net.head.bias, `blocks.1` all of the second block.

    Raises
    ------
    ValueError
        Naming the field and what it must be.
    """

    model: str = "mlp"  # registered name of the network inside; its class may bring weights of its own
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of that network
    trainable: tuple[str, ...] = ("head",)  # parts that learn; all others are fixed
    fresh: bool = True  # whether these begin anew, and the target's scale with them, or as they were trained
    spec: Mapping[str, Any] | None = None  # of a trained network, instead of model and arguments
    weights: bytes = field(default=b"", repr=False)  # its state, as safetensors

    def __post_init__(self) -> None:
        check_kind("model", self.model, str, "a name")
        check_kind("arguments", self.arguments, Mapping, "a table")
        check_kind("fresh", self.fresh, bool, "true or false")
        check_parts("trainable", self.trainable)
        if (self.spec is None) != (not self.weights):
            raise ValueError("model: spec and weights belong together: give both or neither")


def check_kind(name: str, value: Any, kind: type, described: str) -> None:
    """Refuse a value of another type."""
    if not isinstance(value, kind):
        raise ValueError(f"model: {name} must be {described}, not {value!r}")


def check_parts(name: str, parts: Any) -> None:
    """Refuse what is no tuple of names of parts."""
    if not isinstance(parts, tuple) or not all(isinstance(part, str) and part for part in parts):
        raise ValueError(f"model: {name} must be a list of names of layers, not {parts!r}")


def belongs(name: str, parts: tuple[str, ...]) -> bool:
    """Tell whether a parameter or layer called `name` is in one of the parts."""
    return any(f".{part}." in f".{name}." for part in parts)
