"""Reference: everything that a model version is watched against. The regime that it was fitted to, as profiles; no raw data."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.loss import LossEstimate, LossModel
from detectors.profile import Profile

FORMAT = 3  # version of the JSON document, above those of the profiles that stood alone; readers refuse what they do not know


@dataclass(frozen=True, eq=False)
class Reference:
    """What a version's inputs, predictions and labels looked like, and what it lost by them.

    Parts are None where there were too few rows to say.
    """

    inputs: Profile
    outputs: Profile | None = None  # its own predictions, and a classifier's uncertainty
    labels: Profile | None = None
    losses: LossModel | None = None  # in the bins of `inputs`
    confidence: LossModel | None = (
        None  # in the bins of `outputs`, where they tell a classifier's uncertainty
    )

    def estimate_loss(
        self, inputs: NDArray[np.int64], outputs: NDArray[np.int64] | None = None
    ) -> LossEstimate | None:
        """Estimate the mean loss of a window from its counts.

        Parameters
        ----------
        inputs, outputs : int array
            Flat counts of the window's rows in the bins of `inputs` and of `outputs`; without the latter a classifier is judged by its
            inputs alone.

        Returns
        -------
        LossEstimate
            Its effects are always those of the inputs: they say what drove the change. None where nothing can be estimated.
        """
        by_inputs = None if self.losses is None else self.losses.estimate(self.inputs, inputs)
        if self.confidence is None or self.outputs is None or outputs is None:
            return by_inputs
        by_outputs = self.confidence.estimate(self.outputs, outputs)
        return replace(by_outputs, effects=() if by_inputs is None else by_inputs.effects)

    def to_json(self) -> dict[str, Any]:
        """Write plain JSON types, which `from_json` reads back exactly."""
        parts = {
            name: getattr(self, name) for name in ("inputs", "outputs", "labels", "losses", "confidence")
        }
        return {"format": FORMAT} | {
            name: None if part is None else part.to_json() for name, part in parts.items()
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Reference":
        """Read what `to_json` wrote.

        Raises
        ------
        ValueError
            If the document, or a part of it, has another format version.
        """
        if document.get("format") != FORMAT or "inputs" not in document:
            raise ValueError(f"reference has format {document.get('format')!r}; this release reads {FORMAT}")

        def profile(name: str) -> Profile | None:
            return None if document[name] is None else Profile.from_json(document[name])

        def losses(name: str) -> LossModel | None:
            return None if document[name] is None else LossModel.from_json(document[name])

        return cls(
            Profile.from_json(document["inputs"]),
            profile("outputs"),
            profile("labels"),
            losses("losses"),
            losses("confidence"),
        )
