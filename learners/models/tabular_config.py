"""Shape of the tabular network. Torch-free, so that configuration is checked without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

NumericEmbedding = Literal["plain", "periodic", "piecewise"]


@dataclass(frozen=True)
class TabularConfig:
    """Hyper-parameters of `learners.models.tabular.TabularNetwork`.

    Raises
    ------
    ValueError
        Naming the field and the range that it must lie in.
    """

    hidden: tuple[int, ...] = (128, 128)  # width of each hidden layer
    embedding_max: int = 16  # widest embedding of a categorical feature
    vocabulary_max: int = 10_000  # categories that a feature may have; later ones stay unknown
    numeric_embedding: NumericEmbedding = "piecewise"
    embedding_bins: int = 16  # bins (piecewise) or frequencies (periodic) per numeric feature
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not self.hidden or any(width < 1 or width > 65_536 for width in self.hidden):
            raise ValueError(f"model: hidden must be one or more widths of 1 to 65536, not {self.hidden}")
        if self.numeric_embedding not in ("plain", "periodic", "piecewise"):
            raise ValueError(
                f"model: numeric_embedding must be plain, periodic or piecewise, not {self.numeric_embedding!r}"
            )
        for field, high in (
            ("embedding_max", 4_096),
            ("vocabulary_max", 10_000_000),
            ("embedding_bins", 1_024),
        ):
            if not 1 <= getattr(self, field) <= high:
                raise ValueError(f"model: {field} must be between 1 and {high}, not {getattr(self, field)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model: dropout must be at least 0 and below 1, not {self.dropout}")
