"""Any `nn.Module` on numeric features, by name: the class brings the layers, this brings all the rest.

The class is called Net(inputs=F, outputs=K, **arguments) and maps (B, F) float32 to (B, K): the standardised
prediction of a regression, or one logit per class. Missing values arrive as 0, which is the mean after scaling. It may have

head
    Its last layer, an `nn.Linear` whose result is what it returns: then classes can be added later.
augment(x_BF, generator)
    Returns a randomly changed copy of train rows that means the same.

Shapes: B rows, F features, K outputs, H inputs of the head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from threading import RLock
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from torch import Tensor, nn

from detectors.columns import Columns
from learners.errors import UnsuitableModelError
from learners.models.base import Inputs, Model
from learners.models.configured import configured, frozen
from learners.models.head import grow_head, with_classes
from learners.models.network_config import NetworkConfig
from learners.models.standard import CLIP, moments, positive, standardise
from learners.rows import Rows
from learners.schema import Schema

FORMAT = 1  # of the spec
_READING = (
    RLock()
)  # while a hook reads what enters a head: of several threads at once, each would see the others' rows


class Network(Model):
    """A registered class with frozen scales around it; `wrapping` makes the subclass that knows its name.

    Parameters
    ----------
    arguments
        Of the class; lists arrive as tuples. A `shape` of three, channels, height and width, says that rows are images.
    scale
        standard: each feature by its own mean and deviation, and within 10 of them. global: all features by one mean
        and deviation, as for pixels. none: values as they come.
    """

    name: ClassVar[str]
    build: ClassVar[Callable[..., nn.Module]]
    config: ClassVar[type[NetworkConfig] | None]  # of a built-in: checks the arguments
    predict_rows = 256  # rows per forward pass: convolutions and attention take memory

    numeric_mean: Tensor  # (F,) float64
    numeric_scale: Tensor  # (F,) float64

    def __init__(self, arguments: Mapping[str, Any], scale: str, schema: Schema) -> None:
        super().__init__()
        if schema.categorical:
            raise UnsuitableModelError(
                f"model {self.name!r} reads numeric features alone: leave {', '.join(schema.categorical)} out, "
                "or use model 'tabular'"
            )
        self.arguments = {name: frozen(value) for name, value in arguments.items()}
        self.scale, self.schema = scale, schema
        shape = self.arguments.get("shape")
        self.image = shape if isinstance(shape, tuple) and len(shape) == 3 else None
        features = len(schema.numeric)
        self.register_buffer("numeric_mean", torch.zeros(features, dtype=torch.float64))
        self.register_buffer("numeric_scale", torch.ones(features, dtype=torch.float64))
        self.net = self._built(schema.outputs)
        self._check_outputs()

    @classmethod
    def fit_preprocessing(
        cls, config: NetworkConfig | Mapping[str, Any] | None, schema: Schema, train: Rows
    ) -> Self:
        """Return an untrained network whose scales fit the train rows.

        Parameters
        ----------
        config
            Arguments of the class, and `scale`; a built-in also takes its frozen configuration.
        schema
            Numeric features alone.
        train
            At least one row.

        Raises
        ------
        UnsuitableModelError
            If the class cannot be built from its arguments, or returns another shape than one output per class.
        """
        if cls.config is not None and not isinstance(config, NetworkConfig):
            config = configured(cls.config, config)
        arguments = asdict(config) if isinstance(config, NetworkConfig) else {**(config or {})}
        scale = NetworkConfig(arguments.pop("scale", "standard")).scale
        network = cls(arguments, scale, schema)
        mean_F, std_F = moments(train.columns, schema.numeric)
        if scale == "global":
            mean = mean_F.mean()
            std_F = np.full_like(std_F, np.sqrt(np.mean(np.square(std_F) + np.square(mean_F - mean))))
            mean_F = np.full_like(mean_F, mean)
        if scale != "none":
            network.numeric_mean.copy_(torch.from_numpy(mean_F))
            network.numeric_scale.copy_(torch.from_numpy(positive(std_F, mean_F)))
        network.fit_target(train.target)
        return network

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Self:
        """Return the network that `spec()` described, with unset weights and buffers."""
        if spec["name"] != cls.name or spec["format"] != FORMAT:
            raise ValueError(f"not a model {cls.name!r} of format {FORMAT}: {spec['name']} {spec['format']}")
        schema = Schema(tuple(spec["numeric"]), (), spec["task"], tuple(spec["classes"]))
        if cls.config is not None:
            configured(cls.config, {**spec["arguments"], "scale": spec["scale"]})  # within its limits
        return cls(spec["arguments"], spec["scale"], schema)

    def spec(self) -> dict[str, Any]:
        """Return, as JSON, the registered name, the arguments and the schema."""
        return {
            "name": self.name,
            "format": FORMAT,
            "arguments": {name: _thawed(value) for name, value in self.arguments.items()},
            "scale": self.scale,
            "numeric": list(self.schema.numeric),
            "task": self.schema.task,
            "classes": list(self.schema.classes),
        }

    def encode(self, columns: Columns) -> Inputs:
        """Return x_BF, float32, scaled, 0 where the value is missing.

        Raises
        ------
        UnsuitableRowsError
            If a feature is absent or categorical.
        """
        mean_F, scale_F = self.numeric_mean.cpu().numpy(), self.numeric_scale.cpu().numpy()
        clip = np.inf if self.scale == "none" else CLIP
        x_BF = torch.from_numpy(standardise(columns, self.schema.numeric, mean_F, scale_F, clip))
        return (x_BF.nan_to_num_(0.0).to(self.numeric_mean.device),)

    def forward(self, x_BF: Tensor) -> Tensor:
        """Return out_BK: the standardised prediction, or logits."""
        return cast(Tensor, self.net(x_BF))

    def represent(self, *inputs: Tensor) -> Tensor:
        """Return features_BH, what the head reads; without a head the outputs."""
        head = getattr(self.net, "head", None)
        if not isinstance(head, nn.Linear):
            return super().represent(*inputs)
        read: list[Tensor] = []
        with _READING:
            handle = head.register_forward_pre_hook(lambda _, arguments: read.append(arguments[0]))
            try:
                self(*inputs)
            finally:
                handle.remove()
        return read[-1]

    def augment(self, inputs: Inputs, generator: torch.Generator) -> Inputs:
        """Return what the class makes of the rows; a class without `augment` leaves them."""
        augment = getattr(self.net, "augment", None)
        return inputs if augment is None else (augment(inputs[0], generator),)

    def grow(self, columns: Columns) -> None:
        """Change nothing: numbers bring nothing new."""

    def grow_classes(self, classes: Sequence[str]) -> None:
        """Append an output for each new class, as rows of the layer called `head`; see `Model.grow_classes`.

        Raises
        ------
        UnsuitableModelError
            Also if the class has no such layer, or more than it would depend on the number of outputs.
        """
        schema = with_classes(self.schema, classes)
        if schema.outputs == self.schema.outputs:
            return
        head = getattr(self.net, "head", None)
        if not isinstance(head, nn.Linear) or head.out_features != self.schema.outputs:
            raise UnsuitableModelError(
                f"{self._described}: to add classes it must end in an nn.Linear called head, with one output per class"
            )
        with torch.random.fork_rng(devices=()):
            wider = self._built(schema.outputs).state_dict()
        shapes = [
            {name: tensor.shape for name, tensor in state.items() if not name.startswith("head.")}
            for state in (wider, self.net.state_dict())
        ]
        if shapes[0] != shapes[1]:
            names = sorted(shapes[0].keys() | shapes[1].keys())
            other = ", ".join(name for name in names if shapes[0].get(name) != shapes[1].get(name))
            raise UnsuitableModelError(
                f"{self._described}: with {schema.outputs} outputs {other} would be of another shape; "
                "only head may depend on their number"
            )
        grow_head(head, schema.outputs)
        self.schema = schema

    def _built(self, outputs: int) -> nn.Module:
        try:
            return type(self).build(inputs=len(self.schema.numeric), outputs=outputs, **self.arguments)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UnsuitableModelError(
                f"{self._described} cannot be built with inputs={len(self.schema.numeric)}, outputs={outputs}"
                f"{''.join(f', {name}={value!r}' for name, value in self.arguments.items())}: {error}; "
                "correct the model's arguments, or let the class take these"
            ) from error

    @torch.no_grad()
    def _check_outputs(self) -> None:
        """Try two rows, so that a class of another shape is refused here and not in the loss."""
        features, outputs = len(self.schema.numeric), self.schema.outputs
        modes = {module: module.training for module in self.net.modules()}
        try:
            out_BK = self.net.eval()(torch.zeros(2, features))
        except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
            raise UnsuitableModelError(
                f"{self._described} does not read rows of shape (2, {features}): {error}; "
                "its forward must map (rows, features) to (rows, outputs)"
            ) from error
        for module, mode in modes.items():
            module.training = mode
        got = tuple(out_BK.shape) if isinstance(out_BK, Tensor) else type(out_BK).__name__
        if got != (2, outputs):
            raise UnsuitableModelError(
                f"{self._described} returns {got} for 2 rows, not (2, {outputs}): "
                "its forward must return one output per class, or one for a regression"
            )

    @property
    def _described(self) -> str:
        return f"model {self.name!r} ({getattr(type(self).build, '__qualname__', 'a class')})"


def wrapping(
    name: str, module: Callable[..., nn.Module], config: type[NetworkConfig] | None = None
) -> type[Network]:
    """Return the `Network` of a class (or function that returns a module) under its registered name."""
    return type("Network", (Network,), {"name": name, "build": staticmethod(module), "config": config})


def _thawed(value: Any) -> Any:
    return [_thawed(item) for item in value] if isinstance(value, list | tuple) else value
