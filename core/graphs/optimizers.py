"""Optimizers: small graph pieces that turn a parameter and its gradient into the next parameter."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

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


@dataclass(frozen=True)
class Adam:
    """Steps of equal size in every number: Kingma and Ba 2015 (arXiv:1412.6980, algorithm 1).

    `betas` say how much of the mean of the gradients and of that of their squares lives on at a step.
    `epsilon` keeps the quotient finite. "torch" adds it to the root of the corrected mean square, as the
    paper's algorithm 1 and torch.optim.Adam do; "keras" to the root of the uncorrected one, which is the
    paper's "epsilon hat" and the meaning of epsilon in Keras and TensorFlow (there 1e-7 by default).
    `weight_decay` w adds w·p to the gradient, as in torch; what Keras means by it is `AdamW`.
    """

    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    epsilon_as: Literal["torch", "keras"] = "torch"
    weight_decay: float = 0.0

    @property
    def settings(self) -> Mapping[str, float]:
        return {"learning_rate": self.learning_rate}

    def slots(self, parameter: NDArray[Any]) -> Mapping[str, NDArray[Any]]:
        # In float32, 1 - 0.999^steps would have lost five of its seven digits at the first step.
        steps = np.zeros((), np.float64)
        return {"mean": np.zeros_like(parameter), "square": np.zeros_like(parameter), "steps": steps}

    def update(
        self,
        op: Operators,
        parameter: Tensor,
        gradient: Tensor,
        slots: Mapping[str, Tensor],
        settings: Mapping[str, Tensor],
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        rate = op.cast(settings["learning_rate"], np.float64)
        parameter, gradient = self._decay(op, parameter, gradient, rate)
        keep_mean, keep_square = self.betas
        steps = op.Add(slots["steps"], 1.0)
        mean = op.Add(slots["mean"], op.Mul(op.Sub(gradient, slots["mean"]), 1 - keep_mean))
        square = op.Add(
            op.Mul(slots["square"], keep_square), op.Mul(op.Mul(gradient, gradient), 1 - keep_square)
        )

        rate = op.Div(rate, op.Sub(1.0, op.Pow(np.float64(keep_mean), steps)))
        correction = op.Sqrt(op.Sub(1.0, op.Pow(np.float64(keep_square), steps)))
        root = op.Sqrt(square)
        if self.epsilon_as == "torch":
            root = op.Div(root, op.cast(correction, parameter.dtype))
        else:
            rate = op.Mul(rate, correction)
        step = op.Div(op.Mul(mean, op.cast(rate, parameter.dtype)), op.Add(root, self.epsilon))
        return op.Sub(parameter, step), {"mean": mean, "square": square, "steps": steps}

    def _decay(
        self, op: Operators, parameter: Tensor, gradient: Tensor, rate: Tensor
    ) -> tuple[Tensor, Tensor]:
        if self.weight_decay:
            gradient = op.Add(gradient, op.Mul(parameter, self.weight_decay))
        return parameter, gradient


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam whose `weight_decay` w shrinks the parameter itself: p <- (1 - learning rate·w)·p at each step.

    Loshchilov and Hutter 2019 (arXiv:1711.05101), as torch.optim.AdamW and keras.optimizers.AdamW have it.
    """

    weight_decay: float = 0.01

    def _decay(
        self, op: Operators, parameter: Tensor, gradient: Tensor, rate: Tensor
    ) -> tuple[Tensor, Tensor]:
        kept = op.Sub(1.0, op.Mul(rate, self.weight_decay))
        return op.Mul(parameter, op.cast(kept, parameter.dtype)), gradient


@dataclass(frozen=True)
class Clamped:
    """Another optimizer, after whose every step the parameter is brought back between `low` and `high`.

    These are numbers, or arrays that broadcast over the parameter: (1, channels, 1, 1) for a picture.
    """

    optimizer: Optimizer
    low: ArrayLike
    high: ArrayLike

    def __post_init__(self) -> None:
        for name in ("low", "high"):  # as tuples, so that two equal ones are equal
            object.__setattr__(self, name, _as_tuples(np.asarray(getattr(self, name)).tolist()))

    @property
    def settings(self) -> Mapping[str, float]:
        return self.optimizer.settings

    def slots(self, parameter: NDArray[Any]) -> Mapping[str, NDArray[Any]]:
        return self.optimizer.slots(parameter)

    def update(
        self,
        op: Operators,
        parameter: Tensor,
        gradient: Tensor,
        slots: Mapping[str, Tensor],
        settings: Mapping[str, Tensor],
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        after, kept = self.optimizer.update(op, parameter, gradient, slots, settings)
        low, high = (np.asarray(limit, parameter.dtype) for limit in (self.low, self.high))
        return op.Min(op.Max(after, low), high), kept


@dataclass(frozen=True)
class Averaged:
    """Another optimizer, and beside it, in the slot `average`, the mean of the parameter over its steps.

    Each step back counts `decay` times as much as the one after it (crowsonkb/style_transfer's average). The
    mean is a true one from the first step on: its weights add up to 1. A first value that is to count too is
    written to `average`, and 1 to the slot `averaged`, the number of values in it.
    """

    optimizer: Optimizer
    decay: float = 0.99

    @property
    def settings(self) -> Mapping[str, float]:
        return self.optimizer.settings

    def slots(self, parameter: NDArray[Any]) -> Mapping[str, NDArray[Any]]:
        own = {"average": np.zeros_like(parameter), "averaged": np.zeros((), np.float64)}
        return {**self.optimizer.slots(parameter), **own}

    def update(
        self,
        op: Operators,
        parameter: Tensor,
        gradient: Tensor,
        slots: Mapping[str, Tensor],
        settings: Mapping[str, Tensor],
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        after, kept = self.optimizer.update(op, parameter, gradient, slots, settings)
        averaged = op.Add(slots["averaged"], 1.0)
        share = op.Div(1 - self.decay, op.Sub(1.0, op.Pow(np.float64(self.decay), averaged)))
        way = op.Mul(op.Sub(after, slots["average"]), op.cast(share, parameter.dtype))
        return after, {**kept, "average": op.Add(slots["average"], way), "averaged": averaged}


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value
