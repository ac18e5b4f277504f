"""What is to become large: a channel, its neuron in the middle, a class, or a whole layer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cnnkit import Builder

Aim = Literal["channel", "neuron", "dream"]


@dataclass(frozen=True)
class Objective:
    """The negative of what is to become large, as a loss.

    `tensor` is (1, channels), or has four axes with the channels on `axis`. "channel" is the mean over a
    channel, "neuron" its value in the middle, "dream" the mean of the squares of all. Fed is `wanted`
    (channels,), of which the one that is meant is 1: one session serves all channels.
    """

    tensor: str
    axis: int = 1
    aim: Aim = "channel"

    def __call__(self, builder: Builder, tap: Callable[[str], Any]) -> dict[str, Any]:
        op = builder.op
        values = op.cast(builder.tensor(self.tensor), np.float32)
        channels = values.shape[self.axis]
        if self.aim == "dream":
            reached = op.ReduceMean(op.Mul(values, values), keepdims=0)
        else:
            each = op.Reshape(self._reduced(op, values), [channels])
            reached = op.ReduceSum(op.Mul(each, builder.input("wanted", (channels,))), keepdims=0)
        return {self.aim: op.Neg(reached)}

    def _reduced(self, op: Any, values: Any) -> Any:
        """One number for each channel."""
        for axis in self._spatial(values.rank):
            if self.aim == "neuron":
                values = op.Gather(values, [values.shape[axis] // 2], axis=axis)
        return op.ReduceMean(values, self._spatial(values.rank)) if values.rank == 4 else values

    def reached(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """The same of a layer's values as numbers, for each channel (channels,), of "dream" one alone."""
        if self.aim == "dream":
            return np.array([np.square(values, dtype=np.float64).mean()])
        for axis in self._spatial(values.ndim):
            if self.aim == "neuron":
                values = values.take([values.shape[axis] // 2], axis)
        return np.asarray(values.mean(axis=self._spatial(values.ndim), dtype=np.float64)[0])

    def _spatial(self, rank: int) -> tuple[int, ...]:
        """The axes of height and width."""
        return tuple(axis for axis in range(1, rank) if axis != self.axis)
