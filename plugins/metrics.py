"""Metrics of heat maps: how well a map says what a score really stands on.

They hide parts of an input in the order of a map and watch the score. They take any map and any function from
a batch of inputs to scores, so they need no network. Maps broadcast over inputs: (height, width) over
(channels, height, width), and (height, width, 1) over (height, width, channels).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Scores = Callable[[NDArray[np.float32]], ArrayLike]
"""A batch of inputs, (batch, ...), to one score for each, (batch,)."""


class Curve(NamedTuple):
    """The score while positions are replaced."""

    fractions: NDArray[np.float64]
    """(points,), how many of the positions are replaced: from 0 to 1."""
    scores: NDArray[np.float64]
    """(points,)."""

    @property
    def area(self) -> float:
        """Under the scores by the trapezoidal rule, over the fractions as they are; the last may be short."""
        return float(np.trapezoid(self.scores, self.fractions))


def deletion(
    scores: Scores,
    x: NDArray[Any],
    baseline: NDArray[Any],
    heatmap: NDArray[Any],
    steps: int = 20,
    batch: int = 32,
) -> Curve:
    """The scores while the input x turns into the baseline, the highest of the map first: low is good.

    Each of `steps` steps replaces ceil(positions / steps) positions, the last one what is left; equal values
    go in reading order. `batch` bounds the inputs per call of `scores`.

    Source: Petsiuk, Das and Saenko, RISE (BMVC 2018); steps and area as torch-cam has them.
    """
    return _curve(scores, x, baseline, heatmap, steps, batch)


def insertion(
    scores: Scores,
    x: NDArray[Any],
    baseline: NDArray[Any],
    heatmap: NDArray[Any],
    steps: int = 20,
    batch: int = 32,
) -> Curve:
    """The scores while the baseline turns into the input x, the highest of the map first: high is good.

    Otherwise as `deletion`.
    """
    return _curve(scores, baseline, x, heatmap, steps, batch)


def _curve(
    scores: Scores,
    start: NDArray[Any],
    end: NDArray[Any],
    heatmap: NDArray[Any],
    steps: int,
    batch: int,
) -> Curve:
    places, size = _places(heatmap), heatmap.size
    counts = np.append(np.arange(0, size, -(-size // steps)), size)
    found = []
    for first in range(0, len(counts), batch):
        replaced = counts[first : first + batch].reshape(-1, *[1] * start.ndim)
        found.append(np.asarray(scores(np.where(places < replaced, end, start)), np.float64))
    return Curve(counts / size, np.concatenate(found))


def _places(heatmap: NDArray[Any]) -> NDArray[np.intp]:
    """The place of each position in the order from the highest value to the lowest, from 0."""
    order = np.argsort(-heatmap.astype(np.float64), axis=None, kind="stable")
    places = np.empty_like(order)
    places[order] = np.arange(order.size)
    return places.reshape(heatmap.shape)


def explained(x: NDArray[Any], baseline: NDArray[Any], heatmap: NDArray[Any]) -> NDArray[Any]:
    """The input where the map is at its highest, the baseline where it is zero or less, and mixed between.

    The explanation map of Chattopadhay et al., Grad-CAM++ (WACV 2018), whose product with the
    map is the case of a baseline of zero.
    """
    positive = np.maximum(heatmap, 0)
    weights = positive / (positive.max() or 1.0)
    return np.asarray(weights * x + (1 - weights) * baseline, x.dtype)


def average_drop(whole: ArrayLike, masked: ArrayLike) -> float:
    """The mean over pictures of max(0, y - o) / y, from 0 to 1: low is good.

    `whole` are the scores y of the inputs and `masked` the scores o of what `explained` leaves of them, both
    (pictures,) and not negative. As in torch-cam, 1e-7 is added to the divisor.

    Source: Chattopadhay et al., Grad-CAM++ (WACV 2018).
    """
    y, o = np.asarray(whole, np.float64), np.asarray(masked, np.float64)
    return float(np.mean(np.maximum(y - o, 0) / (y + 1e-7)))


def increase_in_confidence(whole: ArrayLike, masked: ArrayLike) -> float:
    """The share of pictures, from 0 to 1, whose score is higher for what `explained` leaves: high is good.

    Source: as `average_drop`.
    """
    return float(np.mean(np.asarray(whole) < np.asarray(masked)))


class Box(NamedTuple):
    """Rows top <= y < bottom and columns left <= x < right, in pixels of the picture."""

    top: int
    left: int
    bottom: int
    right: int


def pointing_game(heatmap: NDArray[Any], box: Box, tolerance: float = 0) -> bool:
    """Whether the highest value of the map, the first of equals, lies in the box or at most `tolerance` away.

    The distance is Euclidean, in pixels of the map, to the nearest pixel of the box. NaN is never highest.

    Source: Zhang et al., Excitation Backprop (ECCV 2016), where the tolerance is 15.
    """
    y, x = divmod(int(np.nanargmax(heatmap)), heatmap.shape[1])
    down = max(box.top - y, 0, y - (box.bottom - 1))
    across = max(box.left - x, 0, x - (box.right - 1))
    return math.hypot(down, across) <= tolerance
