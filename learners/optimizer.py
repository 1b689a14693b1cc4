"""AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101), with its state by parameter name.

Gradients are clipped by their joint norm; in fp16 the loss is scaled (`learners.precision`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from learners.layer_rates import LayerRates
from learners.precision import LossScale
from learners.recipe import Recipe


class Optimizer:
    """Steps of one training.

    Parameters
    ----------
    moments
        Adam's state by `<parameter>.<key>` to go on with. Parameters that are new or have grown begin without one.
    rates
        What `LayerRates` knew of the gradients, to go on with; may be empty.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        recipe: Recipe,
        moments: Mapping[str, Tensor],
        rates: Mapping[str, Tensor],
    ) -> None:
        self.parameters, self.recipe = parameters, recipe
        self.scale = LossScale() if recipe.precision == "fp16" else None
        self.rates = LayerRates(list(parameters), recipe.layerwise) if recipe.layerwise else None
        if self.rates is not None:
            self.rates.restore(rates)
        groups = [list(parameters)] if self.rates is None else list(self.rates.layers.values())
        self._adam = torch.optim.AdamW(
            [{"params": [parameters[name] for name in names]} for names in groups],
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        self._set(moments)

    @property
    def scalars(self) -> dict[str, Any]:
        """What a snapshot needs beside the tensors, as JSON."""
        return {"scale": self.scale.scalars if self.scale else None}

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self._adam.zero_grad()

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of the loss."""
        torch.autograd.backward(loss * self.scale.scale if self.scale else loss)

    def unscale(self) -> None:
        """Undo the scale of the loss."""
        if self.scale is not None:
            self.scale.unscale(self.parameters.values())

    def clip(self) -> Tensor:
        """Scale all gradients so that their norm is at most the recipe's, and return what it was."""
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        norm, most = torch.nn.utils.get_total_norm(gradients), self.recipe.clip_norm
        if most and most / (norm + 1e-6) < 1:  # else they would be multiplied by one
            torch.nn.utils.clip_grads_with_norm_(self.parameters.values(), most, norm)
        return norm

    def overflowed(self, finite: bool) -> bool:
        """Adapt the scale of a finite loss, and tell whether a gradient that is not `finite` may be due to it alone.

        The scale is no excuse for a loss that is not finite: that was computed without it.
        """
        if self.scale is None:
            return False
        exhausted, self.scale = self.scale.exhausted, self.scale.after(finite)
        return not (finite or exhausted)

    def step(self, size: float) -> None:
        """Take a step of that size, by layer where the recipe says so."""
        multipliers = [1.0]
        if self.rates is not None:
            gradients = {name: p.grad for name, p in self.parameters.items() if p.grad is not None}
            states = {name: self._adam.state.get(p, {}) for name, p in self.parameters.items()}
            self.rates.observe(gradients, {n: s["exp_avg"] for n, s in states.items() if "exp_avg" in s})
            multipliers = list(self.rates.multipliers().values())
        for group, multiplier in zip(self._adam.param_groups, multipliers, strict=True):
            group["lr"] = size * multiplier
        self._adam.step()

    def tensors(self) -> dict[str, Tensor]:
        """Return what is known of each layer's gradient, where step sizes are by layer."""
        return self.rates.tensors() if self.rates is not None else {}

    def restore(self, scalars: Mapping[str, Any]) -> None:
        """Go on from a snapshot's `scalars`."""
        if self.scale is not None:
            self.scale = LossScale.restore(scalars["scale"])

    def moments(self) -> dict[str, Tensor]:
        """Return Adam's state by `<parameter>.<key>`; the tensors change with the next step."""
        return {
            f"{name}.{key}": value
            for name, parameter in self.parameters.items()
            for key, value in self._adam.state.get(parameter, {}).items()
        }

    def _set(self, moments: Mapping[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            state = {
                key: moments[f"{name}.{key}"]
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"{name}.{key}" in moments
            }
            if state and state["exp_avg"].shape == parameter.shape:
                self._adam.state[parameter] = {
                    key: value.to(parameter.device if key != "step" else "cpu")
                    for key, value in state.items()
                }
