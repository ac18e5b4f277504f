"""Gradients of the scores of classes: what the explaining operations are made from."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnnkit import Builder, Context, Model, Scores, measure
from cnnkit.plugins.explaining import Array, Question, per_model

MOST_TOGETHER = 8
"""Pictures in one run of a gradient: on a CPU more were seen to gain nothing."""
MEMORY = 512 << 20
"""Bytes that one run of a gradient may take for activations."""


@dataclass(frozen=True)
class ScoreOfClass:
    """The loss whose gradient explains: each picture's score of its own class, which is fed as `class`."""

    scores: Scores

    def __call__(self, builder: Builder, tap: Any) -> dict[str, Any]:
        op = builder.op
        values = op.Flatten(tap(self.scores.tensor), axis=1)
        if self.scores.softmax:
            values = op.Softmax(values, axis=1)
        classes = builder.input("class", [values.shape[0] or "batch"], np.int64)
        chosen = op.GatherElements(values, op.Unsqueeze(classes, [1]), axis=1)
        return {"score": op.ReduceSum(chosen, keepdims=0)}


class Slope(NamedTuple):
    """The gradient of one picture's score, and the layers' values, by the names they were asked for under."""

    gradients: dict[str, Array]
    values: dict[str, Array]


class Slopes:
    """Gradients of the scores of classes with respect to the picture (`input`) or layers, in batches.

    The class is fed, so one session serves every class and picture of a network.
    """

    def __init__(
        self,
        question: Question,
        context: Context,
        wrt: Sequence[str] = ("input",),
        taps: Sequence[str] = (),
        rules: Mapping[str, Any] | None = None,
    ) -> None:
        model, size = question.model, question.size
        loss = ScoreOfClass(question.watched)
        self._session = context.training(model, loss, wrt, taps, rules, size=size)
        self._fixed = model.graph.batch
        settings = context.settings
        needed = 2 * _bytes_of_activations(model, size)
        fitting = (settings.max_memory or MEMORY) // max(1, needed // (self._fixed or 1))
        self._together = self._fixed or settings.batch or max(1, min(MOST_TOGETHER, fitting))

    def map(self, pairs: Iterable[tuple[Array, int]]) -> Iterator[Slope]:
        """One for each (input without batch dimension, class), in order; only a batch is held at a time."""
        remaining = iter(pairs)
        while chunk := list(islice(remaining, self._together)):
            count = len(chunk)
            chunk += chunk[-1:] * ((self._fixed or count) - count)
            found = self._session.gradient(
                {
                    "input": np.stack([tensor for tensor, _ in chunk]),
                    "class": np.array([target for _, target in chunk]),
                }
            )
            for index in range(count):
                yield Slope(
                    {name: _of_one(value, index) for name, value in found.gradients.items()},
                    {name: _of_one(value, index) for name, value in found.taps.items()},
                )


@per_model
def _bytes_of_activations(model: Model, size: tuple[int, int]) -> int:
    shapes = (row.shape or () for row in measure(model.graph, *size).rows)
    return sum(4 * math.prod(side or 1 for side in shape) for shape in shapes)


def _of_one(values: NDArray[Any], index: int) -> Array:
    return np.asarray(values[index], np.float32)
