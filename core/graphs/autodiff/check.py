"""Is a gradient right? It must predict how the function changes along a random direction.

In float64 and by onnx's own reference implementation, so neither rounding nor ONNX Runtime is in the way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from cnnkit.graphs.autodiff.backward import gradients
from cnnkit.graphs.autodiff.rules import Rule
from cnnkit.graphs.builder import Builder

STEP = 1e-5
"""Of the central difference, in units of the direction's length; its error is about the square."""
TOLERANCE = 1e-5
"""Relative error up to which a gradient counts as right."""


@dataclass(frozen=True)
class Slope:
    """The change along one direction of one tensor: as measured, and as the gradient predicts it.

    `scale` is what the two are compared with: the length of the gradient times that of the direction.
    """

    tensor: str
    measured: float
    predicted: float
    scale: float

    @property
    def error(self) -> float:
        """The relative error."""
        return abs(self.measured - self.predicted) / max(self.scale, 1e-30)

    @property
    def good(self) -> bool:
        return self.error <= TOLERANCE


def slopes(
    builder: Builder,
    of: str,
    feeds: Mapping[str, NDArray[Any]],
    wrt: Sequence[str],
    rules: Mapping[str, Rule] | None = None,
    directions: int = 2,
    seed: int = 0,
) -> list[Slope]:
    """Compare the gradients of a graph with central differences.

    `of` is a tensor of any shape; the scalar is its sum with random weights. `feeds` hold the float64 values
    of all inputs of the graph, among them those of `wrt`. The builder gets the gradient's nodes.
    """
    random = np.random.default_rng(seed)
    end = builder.tensor(of)
    weights = builder.input("check/weights", end.shape, end.dtype)
    found = gradients(builder, of, wrt, seed=weights, rules=rules)
    for name in [of, *found.values()]:
        builder.output(name)
    evaluator = ReferenceEvaluator(builder.model())
    start = dict(feeds)
    start["check/weights"] = np.zeros(0)
    forward = ReferenceEvaluator(builder.model(only=[of]))
    value = np.asarray(forward.run(None, _of(forward, feeds))[0])
    start["check/weights"] = random.standard_normal(value.shape)
    results = dict(zip([of, *found.values()], evaluator.run(None, start), strict=True))
    measured = []
    for name in wrt:
        gradient = np.asarray(results[found[name]])
        for _ in range(directions):
            direction = random.standard_normal(feeds[name].shape)
            ends = []
            for sign in (1, -1):
                moved = {**feeds, name: feeds[name] + sign * STEP * direction}
                ends.append(np.sum(start["check/weights"] * forward.run(None, _of(forward, moved))[0]))
            slope = (ends[0] - ends[1]) / (2 * STEP)
            scale = float(
                np.linalg.norm(gradient) * np.linalg.norm(direction) / np.sqrt(max(1, direction.size))
            )
            measured.append(Slope(name, float(slope), float(np.sum(gradient * direction)), scale))
    return measured


def _of(evaluator: ReferenceEvaluator, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name: feeds[name] for name in evaluator.input_names if name in feeds}
