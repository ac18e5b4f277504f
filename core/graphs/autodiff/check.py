"""Is a gradient right? It must predict how the function changes along a random direction.

In float64 and by onnx's own reference implementation, so neither rounding nor ONNX Runtime is in the way.

A difference across a kink (of Relu at 0, of a maximum where two are equal) measures neither slope, so outputs
that have one between the two ends are found and left out: there, halving the step changes the slope, or
halves how far the middle is from the mean of the ends, which a smooth function quarters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnkit.errors import ModelError
from cnnkit.graphs.autodiff.backward import gradients
from cnnkit.graphs.autodiff.reference import CannotCompute, Computes, Reference
from cnnkit.graphs.autodiff.rules import Rule
from cnnkit.graphs.builder import Builder

STEP = 1e-5
"""Of the central difference, in units of each number's own size; its error is about the square."""
TOLERANCE = 1e-5
"""Relative error up to which a gradient counts as right."""
WEIGHTS = "check/weights"
"""The input of a checked graph that holds the random weights of its output's sum."""
_SMALLEST = 1e-3  # a number's own size, in units of the root mean square of its tensor
_ROUNDING = 64 * float(np.finfo(np.float64).eps)

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Slope:
    """The change along one direction of one tensor: as measured, and as the gradient predicts it.

    `scale` is what the two are compared with, how large such a change usually is; `noise` is what rounding
    adds to `measured`. Of the `outputs` that were summed, `kinks` were left out because they have a kink.
    """

    tensor: str
    measured: float
    predicted: float
    scale: float
    noise: float = 0.0
    kinks: int = 0
    outputs: int = 1

    @property
    def error(self) -> float:
        """The relative error."""
        difference = abs(self.measured - self.predicted)
        return difference / max(self.scale, abs(self.measured), 1e-30) if difference else 0.0

    @property
    def seen(self) -> bool:
        """Whether there is enough to judge by: most outputs have no kink."""
        return 2 * self.kinks <= self.outputs

    @property
    def drowned(self) -> bool:
        """Whether the difference is no more than rounding."""
        return abs(self.measured - self.predicted) <= self.noise

    @property
    def good(self) -> bool:
        return self.seen and self.error <= TOLERANCE


@dataclass(frozen=True)
class Measured:
    """What `measure` found: a slope for each tensor and direction, and all that was fed and came out."""

    slopes: list[Slope]
    feeds: Arrays
    results: Arrays


def slopes(
    builder: Builder,
    of: str,
    feeds: Arrays,
    wrt: Sequence[str],
    rules: Mapping[str, Rule] | None = None,
    directions: int = 2,
    seed: int = 0,
    computes: Mapping[str, Computes] | None = None,
) -> list[Slope]:
    """Compare the gradients of a graph with central differences.

    `of` is a tensor of any shape; the scalar is its sum with random weights. `feeds` hold the float64 values
    of all inputs of the graph, among them those of `wrt`. The builder gets the gradient's nodes. `computes`
    are as for `Reference`. Raises ModelError where a gradient does not exist or nothing can be computed.
    """
    return measure(builder, of, feeds, wrt, rules, directions, seed, computes).slopes


def measure(
    builder: Builder,
    of: str,
    feeds: Arrays,
    wrt: Sequence[str],
    rules: Mapping[str, Rule] | None = None,
    directions: int = 2,
    seed: int = 0,
    computes: Mapping[str, Computes] | None = None,
) -> Measured:
    """As `slopes`, with the arrays that it went through."""
    random = np.random.default_rng(seed)
    end = builder.tensor(of)
    unknown = end.facts[0].shape is None  # of an operator that onnx knows nothing of
    builder.output(of, [None] if unknown else None, end.facts[0].dtype or np.float64)
    forward = _Function(Reference(builder.model(only=[of]), computes), of, feeds)
    weights = builder.input(WEIGHTS, forward.middle.shape if unknown else end.shape, np.float64)
    found = gradients(builder, of, wrt, seed=weights, rules=rules)
    for gradient_of in found.values():
        builder.output(gradient_of)
    backward = Reference(builder.model(), computes)

    lines = []
    for name in wrt:
        sizes = _sizes(feeds[name])
        lines += [forward.along(name, sizes, random.standard_normal(sizes.shape)) for _ in range(directions)]
    kinked = np.any([line.kinked for line in lines], axis=0)
    summed = np.where(kinked, 0.0, random.standard_normal(forward.middle.shape))
    fed = {**feeds, WEIGHTS: summed}
    results = backward.run(fed)
    noise = _ROUNDING * forward.largest * float(np.linalg.norm(summed)) / STEP
    measured = []
    for line in lines:
        gradient = results[found[line.tensor]]
        if gradient.shape != feeds[line.tensor].shape:
            raise ModelError(f"the gradient of '{line.tensor}' has the shape {gradient.shape}")
        measured.append(
            Slope(
                line.tensor,
                measured=float(np.sum(summed * line.slope)),
                predicted=float(np.sum(gradient * line.direction)),
                scale=float(np.linalg.norm(gradient * line.sizes)),
                noise=noise,
                kinks=int(kinked.sum()),
                outputs=kinked.size,
            )
        )
    return Measured(measured, fed, results)


@dataclass(frozen=True)
class _Line:
    """How an output changes when one tensor moves along a direction: its slope, and where it has a kink."""

    tensor: str
    sizes: NDArray[Any]
    direction: NDArray[Any]
    slope: NDArray[Any]
    kinked: NDArray[Any]


class _Function:
    """One output of a graph around some inputs."""

    def __init__(self, graph: Reference, of: str, feeds: Arrays) -> None:
        self._graph, self._of, self._feeds = graph, of, feeds
        self.middle = self._at({})
        self.largest = float(np.max(np.abs(self.middle), initial=0.0))
        if not np.isfinite(self.largest):
            raise CannotCompute("its own output is not finite here")

    def along(self, tensor: str, sizes: NDArray[Any], multiples: NDArray[Any]) -> _Line:
        direction = sizes * multiples
        slope, bend = self._difference(tensor, direction, STEP)
        rounding = _ROUNDING * self.largest
        kinked = ~np.isfinite(slope)
        if np.any(np.abs(bend) > 1e-7 * np.abs(slope) * STEP + rounding):
            nearer, slighter = self._difference(tensor, direction, STEP / 2)
            usual = float(np.sqrt(np.mean(np.square(slope[~kinked])))) if not kinked.all() else 0.0
            with np.errstate(invalid="ignore"):
                kinked |= np.abs(slope - nearer) > 1e-7 * (np.abs(slope) + 0.1 * usual) + 4 * rounding / STEP
                kinked |= (np.abs(bend) > 64 * rounding) & (np.abs(slighter) > 0.35 * np.abs(bend))
            kinked |= ~np.isfinite(nearer)
            slope = nearer
        return _Line(tensor, sizes, direction, np.where(kinked, 0.0, slope), kinked)

    def _difference(
        self, tensor: str, direction: NDArray[Any], step: float
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """The slope over twice the step, and by how much the middle misses the mean of the ends."""
        before, after = (
            self._at({tensor: self._feeds[tensor] + sign * step * direction}) for sign in (-1, 1)
        )
        with np.errstate(invalid="ignore"):
            return (after - before) / (2 * step), after + before - 2 * self.middle

    def _at(self, moved: Arrays) -> NDArray[Any]:
        return self._graph.run({**self._feeds, **moved})[self._of]


def _sizes(array: NDArray[Any]) -> NDArray[Any]:
    """How far each number may be moved: as far as it is large, and a little where it is 0."""
    mean = float(np.sqrt(np.mean(np.square(array)))) if array.size else 0.0
    return np.asarray(np.abs(array) + _SMALLEST * (mean or 1 / _SMALLEST))
