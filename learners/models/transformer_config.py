"""Shape of the transformer. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from learners.models.network_config import NetworkConfig, check_whole


@dataclass(frozen=True)
class TransformerConfig(NetworkConfig):
    """Arguments of `learners.models.transformer.Transformer`; errors as those of `NetworkConfig`."""

    channels: int = 1  # features per step: the features are those of the first step, then of the second ...
    heads: int = 4  # of attention
    head_width: int = 16  # width of each; that of the network is heads times head_width
    depth: int = 2  # blocks of attention and perceptron
    expansion: int = 2  # width of the perceptrons, in widths of the network

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, high in (
            ("channels", 65_536),
            ("heads", 64),
            ("head_width", 1_024),
            ("depth", 64),
            ("expansion", 16),
        ):
            check_whole(field, getattr(self, field), 1, high)

    def check_features(self, features: int) -> None:
        """Refuse features that are no whole number of steps."""
        if features % self.channels:
            raise ValueError(
                f"model: channels must divide the number of numeric features: {features} are no whole number of "
                f"steps of {self.channels}"
            )
