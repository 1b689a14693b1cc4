"""Shape of the multilayer perceptron. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from learners.models.network_config import NetworkConfig, check_widths


@dataclass(frozen=True)
class MlpConfig(NetworkConfig):
    """Arguments of `learners.models.mlp.Mlp`; errors as those of `NetworkConfig`."""

    hidden: tuple[int, ...] = (400, 400)  # width of each hidden layer

    def __post_init__(self) -> None:
        super().__post_init__()
        check_widths("hidden", self.hidden, 1, 65_536)
