"""Shape of low-rank adapters. Torch-free, so that configuration is checked without torch."""

from __future__ import annotations

from dataclasses import dataclass

from learners.models.backbone_config import BackboneConfig, check_kind, check_parts


@dataclass(frozen=True)
class LoraConfig(BackboneConfig):
    """Arguments of `learners.models.lora.Lora`; errors as those of `BackboneConfig`."""

    model: str = "transformer"
    trainable: tuple[str, ...] = ()  # parts that learn besides the adapters, such as a head for other classes
    fresh: bool = False
    targets: tuple[str, ...] = ("query", "value")  # parts whose linear layers get an adapter each
    rank: int = 8  # of an adapter
    alpha: float = 16.0  # an adapter's product is multiplied by alpha / rank
    dropout: float = 0.0  # of what an adapter reads

    def __post_init__(self) -> None:
        super().__post_init__()
        check_parts("targets", self.targets)
        check_kind("rank", self.rank, int, "a whole number")
        if not 1 <= self.rank <= 4_096:
            raise ValueError(f"model: rank must be between 1 and 4096, not {self.rank}")
        if not 0 < self.alpha < float("inf"):
            raise ValueError(f"model: alpha must be above 0, not {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model: dropout must be at least 0 and below 1, not {self.dropout}")
