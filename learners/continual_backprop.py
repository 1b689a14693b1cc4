"""Continual backpropagation: useless units begin anew (Dohare et al. 2024, Nature 632, algorithm 1).

Of every hidden layer of ReLU units, the utility of unit i is a running mean of what it contributes,

    u_i <- eta u_i + (1 - eta) |h_i| sum_k |w_ik|                            w_ik: its outgoing weights

and of the units older than the maturity, a share `rate` per step is replaced, fractions carried over: those of least
utility get fresh incoming weights, outgoing weights of zero, utility and age of zero. What they gave on average goes
into the bias of the next layer, so that the network's outputs hardly change; Adam's moments of their weights begin anew.

Units are looked at every `PERIOD` steps, on the rows of that step: the decay and the rate are those of as many steps.
Steps are counted from training to training, so that many small updates are looked at as one long one is. Layers of
which a part is frozen are left alone.

Shapes: B rows of a batch, H units of a hidden layer, R units replaced.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from learners.plasticity import Hidden, hidden_layers

PERIOD = 10  # steps from one look to the next
RATE = 1e-4  # share of the mature units that is replaced per step
MATURITY = 100  # steps until a unit may be replaced
DECAY = 0.99  # eta, per step


class ContinualBackprop:
    """Utilities and ages of a network's hidden units, kept from training to training.

    Parameters
    ----------
    rate
        Share of the mature units that is replaced per step.
    maturity
        Steps that a unit has to prove itself.
    """

    def __init__(self, rate: float = RATE, maturity: int = MATURITY) -> None:
        self.rate, self.maturity = rate, maturity
        self._state: dict[
            str, Tensor
        ] = {}  # by `<layer>.<key>`, and `steps`; what has no units stays on the CPU

    @torch.no_grad()
    def after_step(
        self,
        model: nn.Module,
        inputs: tuple[Tensor, ...],
        moments: Mapping[str, Tensor],
        generator: torch.Generator,
    ) -> int:
        """Look at the units if it is time, and replace those that are due, in place; return how many.

        Parameters
        ----------
        inputs
            Batch of the step just taken, which the model is passed once more, in eval mode.
        moments
            Adam's state by `<parameter>.exp_avg` and `.exp_avg_sq`; changed in place.
        generator
            Of new weights, on the CPU.
        """
        steps = self._state.setdefault("steps", torch.zeros((), dtype=torch.int64))
        steps += 1
        if steps.item() % PERIOD:
            return 0
        learned = [hidden for hidden in hidden_layers(model, inputs) if hidden.learned]
        return sum(self._look_at(hidden, moments, generator) for hidden in learned)

    def _look_at(self, hidden: Hidden, moments: Mapping[str, Tensor], generator: torch.Generator) -> int:
        utility_H, mean_H, age_H, due = self._of(hidden)
        decay = DECAY**PERIOD
        utility_H.lerp_(
            hidden.features_BH.abs().mean(dim=0) * hidden.outgoing.weight.abs().sum(dim=0), 1 - decay
        )
        mean_H.lerp_(hidden.features_BH.mean(dim=0), 1 - decay)
        age_H += PERIOD
        mature_H = age_H > self.maturity
        count = int(mature_H.sum())
        due += self.rate * PERIOD * count
        replaced = min(int(due), count)
        if not replaced:
            return 0
        due -= replaced
        corrected_H = utility_H / (1 - DECAY ** age_H.double())  # as the running means began at zero
        unit_R = corrected_H.where(mature_H, torch.inf).argsort(stable=True)[:replaced]
        given_R = (mean_H / (1 - DECAY ** age_H.double()))[unit_R].to(mean_H.dtype)
        _begin_anew(hidden, unit_R, given_R, moments, generator)
        for tensor in (utility_H, mean_H, age_H):
            tensor[unit_R] = 0
        return replaced

    def _of(self, hidden: Hidden) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return utility (H,), mean activation (H,), age (H,) and the replacements due; of zero for a new layer."""
        weight = hidden.incoming.weight
        keys = [f"{hidden.name}.{key}" for key in ("utility", "mean", "age", "due")]
        if keys[0] not in self._state or len(self._state[keys[0]]) != len(weight):
            zeros_H, whole_H = weight.new_zeros(len(weight)), torch.zeros(len(weight), dtype=torch.int64)
            due = torch.zeros((), dtype=torch.float64)
            self._state |= dict(
                zip(keys, (zeros_H, zeros_H.clone(), whole_H.to(weight.device), due), strict=True)
            )
        utility_H, mean_H, age_H, due = (self._state[key] for key in keys)
        return utility_H, mean_H, age_H, due

    def on(self, device: torch.device | str) -> None:
        """Move what is known of units to where the network is."""
        self._state = {
            name: tensor.to(device) if tensor.dim() else tensor for name, tensor in self._state.items()
        }

    def tensors(self) -> dict[str, Tensor]:
        """Return what `restore` needs."""
        return {name: tensor.clone() for name, tensor in self._state.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from `tensors`."""
        self._state = {name: tensor.clone() for name, tensor in tensors.items()}


def _begin_anew(
    hidden: Hidden, unit_R: Tensor, given_R: Tensor, moments: Mapping[str, Tensor], generator: torch.Generator
) -> None:
    """Give these units fresh incoming weights, as `nn.Linear` begins with, and outgoing ones of zero."""
    incoming, outgoing = hidden.incoming, hidden.outgoing
    if outgoing.bias is not None:
        outgoing.bias.add_(outgoing.weight[:, unit_R] @ given_R)
    outgoing.weight[:, unit_R] = 0
    bound = incoming.in_features**-0.5
    fresh = (2 * torch.rand(len(unit_R), incoming.in_features, generator=generator) - 1) * bound
    incoming.weight[unit_R] = fresh.to(incoming.weight)
    if incoming.bias is not None:
        incoming.bias[unit_R] = 0
    weights = (
        (hidden.name, "weight", (unit_R,)),
        (hidden.name, "bias", (unit_R,)),
        (hidden.following, "weight", (slice(None), unit_R)),
    )
    for layer, parameter, units in weights:
        first, second = (moments.get(f"{layer}.{parameter}.{key}") for key in ("exp_avg", "exp_avg_sq"))
        if first is not None and second is not None:
            first[units] = 0
            second[units] = second.mean()  # of zero, Adam's first steps would be three times its size
