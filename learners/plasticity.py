"""Whether a network can still learn, and a way to keep it able: shrink and perturb.

A network trained on and on, with ever new aims, learns ever more slowly: units stop to fire, features become alike
(Dohare et al. 2024, Nature 632). Shrinking the weights and adding fresh ones keeps what was learned roughly in place
and restores the gradients (Ash and Adams 2020, arXiv:1910.08475). The other guard is `learners.continual_backprop`.

Shapes: B rows of a batch, H units of a hidden layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

DORMANT = 0.025  # share of the layer's mean activation that a dormant unit does not exceed


@dataclass(frozen=True, eq=False)
class Hidden:
    """A hidden layer of ReLU units between two linear layers."""

    name: str  # of the incoming layer, in the model
    following: str  # of the outgoing layer
    incoming: nn.Linear  # weight (H, inputs)
    outgoing: nn.Linear  # weight (outputs, H)
    features_BH: Tensor  # activations of the batch; leading dimensions, if more than one, are merged

    @property
    def learned(self) -> bool:
        """Whether all weights around the units are learned."""
        return all(p.requires_grad for layer in (self.incoming, self.outgoing) for p in layer.parameters())


@torch.no_grad()
def hidden_layers(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[Hidden]:
    """Return the hidden layers that these inputs pass, in order, with their activations.

    A linear layer belongs to one if exactly the ReLU of what it gave is what the next one is given, in eval mode:
    that is seen in the numbers, however `forward` is written. Layers called more than once have no part in it. The
    model's mode is left as it was.
    """
    linear = {module: name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    calls: list[tuple[nn.Linear, Tensor, Tensor]] = []
    was_training = model.training
    model.eval()
    handles = [module.register_forward_hook(partial(_note, calls)) for module in linear]
    try:
        model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
        model.train(was_training)
    once = [call for call in calls if sum(call[0] is other[0] for other in calls) == 1]
    return [
        Hidden(linear[incoming], linear[outgoing], incoming, outgoing, given.flatten(0, -2))
        for (incoming, _, gave), (outgoing, given, _) in pairwise(once)
        if torch.equal(given, gave.relu())
    ]


def dormant_share(features: list[Tensor], threshold: float = DORMANT) -> float:
    """Return the share of units that hardly fire (Sokar et al. 2023, arXiv:2302.12902, definition 3.1).

    Parameters
    ----------
    features
        (B, H) activations of each hidden layer.
    threshold
        A unit is dormant if its mean absolute activation, divided by the mean of its layer, is at most this.
    """
    dormant = []
    for features_BH in features:
        activity_H = features_BH.abs().mean(dim=0)
        dormant.append(activity_H <= threshold * activity_H.mean())
    return torch.cat(dormant).double().mean().item() if dormant else 0.0


def effective_rank(features_BH: Tensor) -> float:
    """Return how many directions the features use: exp of the entropy of the normalised singular values.

    From 1 to min(B, H), for features that are not all zero, else 0 (Roy and Vetterli 2007, equation 3).
    """
    singular = torch.linalg.svdvals(features_BH.double())
    if not singular.sum() > 0:
        return 0.0
    return float(torch.special.entr(singular / singular.sum()).sum().exp())


@torch.no_grad()
def shrink_and_perturb(
    parameters: Mapping[str, Tensor], fresh: Mapping[str, Tensor], shrink: float = 0.8, scale: float = 0.1
) -> None:
    """Set each parameter, in place, to shrink * itself + scale * fresh.

    For the start of a training, which repairs what this costs; a network at rest would predict worse.

    Parameters
    ----------
    fresh
        By name, weights of the same network as newly made: noise of the size that each layer was designed for. A
        parameter without one, or of another shape, stays as it is.
    """
    for name, parameter in parameters.items():
        if name in fresh and fresh[name].shape == parameter.shape:
            parameter.mul_(shrink).add_(fresh[name].to(parameter.device), alpha=scale)


def _note(
    calls: list[tuple[nn.Linear, Tensor, Tensor]], module: nn.Module, given: tuple[Tensor, ...], gave: Tensor
) -> None:
    assert isinstance(module, nn.Linear)
    calls.append((module, given[0], gave))
