"""Optimizers: small graph pieces that turn a parameter and its gradient into the next parameter."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cnnkit.graphs.builder import Operators
from cnnkit.graphs.tensors import Tensor


class Optimizer(Protocol):
    """What a training graph needs to know of an optimizer."""

    @property
    def settings(self) -> Mapping[str, float]:
        """Names and usual values of the scalars that may differ at every step."""

    def slots(self, parameter: NDArray[Any]) -> Mapping[str, NDArray[Any]]:
        """What is remembered beside a parameter from step to step, as it is at first."""

    def update(
        self,
        op: Operators,
        parameter: Tensor,
        gradient: Tensor,
        slots: Mapping[str, Tensor],
        settings: Mapping[str, Tensor],
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Append one step: the next parameter and the next slots."""


@dataclass(frozen=True)
class SGD:
    """Gradient descent with momentum, as torch.optim.SGD defines it: v <- m·v + g, p <- p - learning rate·v.

    `weight_decay` w adds w·p to the gradient. With `nesterov` the step is along g + m·v.
    """

    learning_rate: float = 0.01
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    @property
    def settings(self) -> Mapping[str, float]:
        return {"learning_rate": self.learning_rate}

    def slots(self, parameter: NDArray[Any]) -> Mapping[str, NDArray[Any]]:
        return {"velocity": np.zeros_like(parameter)} if self.momentum else {}

    def update(
        self,
        op: Operators,
        parameter: Tensor,
        gradient: Tensor,
        slots: Mapping[str, Tensor],
        settings: Mapping[str, Tensor],
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        if self.weight_decay:
            gradient = op.Add(gradient, op.Mul(parameter, self.weight_decay))
        step, after = gradient, {}
        if self.momentum:
            velocity = op.Add(op.Mul(slots["velocity"], self.momentum), gradient)
            step, after = velocity, {"velocity": velocity}
            if self.nesterov:
                step = op.Add(gradient, op.Mul(velocity, self.momentum))
        rate = op.cast(settings["learning_rate"], parameter.dtype)
        return op.Sub(parameter, op.Mul(step, rate)), after
