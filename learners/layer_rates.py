"""Layer-wise step sizes by the gradient's relative variance (Balles and Hennig 2018, arXiv:1705.07774).

The step along a gradient g = mu + noise that gains most in expectation is shorter than that along mu by the factor
1 / (1 + eta^2), eta^2 = variance / |mu|^2 (their equation 9; Schaul et al. 2013, arXiv:1206.1106, equation 8). The
variance itself says nothing about a step of Adam, which divides by the gradient's size; and that division leaves
sqrt(1 / (1 + eta^2)) in its step, weight by weight. The other root is missing. Here each layer gets it, where thousands
of weights make a steady estimate of what is too noisy in one:

    gamma_l = E <m_{t-1}, g_t> / E |g_t|^2                      m: Adam's running mean, which has not seen g_t
    step size of layer l = step size * (gamma_l / geometric mean over layers)^(strength / 2), within [1/3, 3]

Batches are independent, so <m_{t-1}, g_t> estimates |mu|^2 without the noise. It is negative where steps are so large
that they overshoot; layers in which it is, or nearly zero, count as equally noisy. Two inner products per layer and
step, and no buffer of the parameters' size.

Shapes: L layers, in order of their first parameter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

DECAY = 0.99  # of both running means
FIRST = 20  # observations before which all layers take the same step
LEAST_GAMMA = 1e-3  # smaller estimates are noise, and may be negative
LIMIT = 3.0  # largest multiplier; the smallest is its inverse


class LayerRates:
    """Running signal and power of each layer's gradient.

    Parameters
    ----------
    names
        Names of the parameters; those of one module, weight and bias, are one layer.
    strength
        0 to 1; at 0 every multiplier is exactly one.
    """

    def __init__(self, names: Sequence[str], strength: float) -> None:
        self.strength = strength
        self.layers: dict[str, list[str]] = {}
        for name in names:
            self.layers.setdefault(name.rpartition(".")[0], []).append(name)
        self._signal_L = torch.zeros(len(self.layers))
        self._power_L = torch.zeros(len(self.layers))
        self._observed = 0

    @torch.no_grad()
    def observe(self, gradients: Mapping[str, Tensor], means: Mapping[str, Tensor]) -> None:
        """Take the gradient of a step into account.

        Parameters
        ----------
        gradients
            By name, as the optimiser will take them; a parameter without gradient is left out.
        means
            Adam's `exp_avg` by name, from before the step; without any there is nothing to compare with.
        """
        used = [
            [name for name in names if name in gradients and name in means] for names in self.layers.values()
        ]
        if not any(used):
            return
        signal_L = torch.stack([_inner(names, gradients, means) for names in used])
        power_L = torch.stack([_inner(names, gradients, gradients) for names in used])
        self._observed += 1
        weight = max(1 - DECAY, 1 / self._observed)  # the plain mean at first
        self._signal_L = torch.lerp(self._signal_L.to(signal_L.device), signal_L, weight)
        self._power_L = torch.lerp(self._power_L.to(power_L.device), power_L, weight)

    def multipliers(self) -> dict[str, float]:
        """Return each layer's multiplier of the step size, in the order of `layers`."""
        if self._observed < FIRST or self.strength == 0:
            return dict.fromkeys(self.layers, 1.0)
        seen_L = self._power_L > 0  # others have no gradient
        gamma_L = (
            (self._signal_L.double() / self._power_L.double()).clamp(LEAST_GAMMA, 1.0).where(seen_L, 1.0)
        )
        log_L = gamma_L.log() - (gamma_L.log().sum() / seen_L.sum()).where(seen_L, 0.0)
        rate_L = (self.strength / 2 * log_L).exp().clamp(1 / LIMIT, LIMIT)
        return dict(zip(self.layers, rate_L.tolist(), strict=True))

    def tensors(self) -> dict[str, Tensor]:
        """Return what `restore` needs."""
        observed = torch.tensor(self._observed)
        return {"signal": self._signal_L.clone(), "power": self._power_L.clone(), "observed": observed}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from `tensors`; without any, or with those of another number of layers, begin anew."""
        if not tensors or len(tensors["signal"]) != len(self.layers):
            return
        self._signal_L, self._power_L = tensors["signal"].clone(), tensors["power"].clone()
        self._observed = int(tensors["observed"])


def _inner(names: Sequence[str], a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tensor:
    """Return the inner product over these parameters."""
    products = [torch.dot(a[name].flatten(), b[name].flatten()) for name in names]
    device = next(iter(a.values())).device
    return torch.stack(products).sum() if products else torch.zeros((), device=device)
