"""A reference: read back exactly, and a loss estimated from whatever of it is there."""

import json

import numpy as np
import pytest

from detectors.columns import Categorical, Column
from detectors.loss import fit_losses
from detectors.profile import Profile, build_profile
from detectors.reference import Reference

RNG = np.random.default_rng(0)
X = RNG.normal(size=4000)
UNCERTAINTY = RNG.beta(1, 4, 4000)
WRONG = (RNG.random(4000) < UNCERTAINTY).astype(np.float64)
INPUTS: dict[str, Column] = {"x": X}
OUTPUTS: dict[str, Column] = {
    "prediction": Categorical.of(["a", "b"] * 2000),
    "uncertainty": UNCERTAINTY,
}


def reference() -> Reference:
    inputs, outputs = build_profile(INPUTS), build_profile(OUTPUTS)
    return Reference(
        inputs,
        outputs,
        build_profile({"label": Categorical.of(["a", "b"] * 2000)}),
        fit_losses(inputs, INPUTS, WRONG, seed=0),
        fit_losses(outputs, OUTPUTS, WRONG, seed=0),
    )


def test_json_reads_back_exactly() -> None:
    for whole in (reference(), Reference(build_profile(INPUTS))):
        again = Reference.from_json(json.loads(json.dumps(whole.to_json())))
        assert again.to_json() == whole.to_json()
        assert (again.losses is None) == (whole.losses is None)


def test_another_format_is_refused() -> None:
    with pytest.raises(ValueError, match="format"):
        Reference.from_json(reference().to_json() | {"format": 9})
    with pytest.raises(ValueError, match="reference has format"):
        Reference.from_json(build_profile(INPUTS).to_json())


def test_confidence_judges_a_classifier_and_inputs_say_why() -> None:
    whole = reference()
    assert whole.outputs is not None
    inputs = whole.inputs.count({"x": X[:1000]})
    unsure = whole.outputs.count(
        {"prediction": Categorical.of(["a"] * 1000), "uncertainty": np.full(1000, 0.3)}
    )
    estimate = whole.estimate_loss(inputs, unsure)
    assert estimate is not None
    assert estimate.mean == pytest.approx(0.3, abs=0.08)
    assert [effect[0] for effect in estimate.effects] == ["x"]
    by_inputs = whole.estimate_loss(inputs)
    assert by_inputs is not None
    assert by_inputs.mean == pytest.approx(WRONG.mean(), abs=0.02)


def test_without_losses_nothing_is_estimated() -> None:
    bare = Reference(build_profile(INPUTS))
    assert bare.estimate_loss(bare.inputs.counts) is None
    assert isinstance(bare.inputs, Profile)
