"""Is the gradient of a whole network right? Measured where it is used: in float32, on ONNX Runtime.

Differences in float32 are coarse: over long steps they see the kinks of a thousand units, over short ones the
rounding. So many steps are tried, and the one is believed whose neighbours agree with it best; how far those
are apart is the noise. Nothing of this looks at the gradient.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnkit.graphs.autodiff.rules import Rule
from cnnkit.graphs.builder import Builder
from cnnkit.graphs.model import Model
from cnnkit.runtime.session import Session
from cnnkit.runtime.training import TrainingSession

TOLERANCE = 1e-2
"""Relative error up to which the gradient of a whole network counts as right."""
_STEPS = 2.0 ** -np.arange(8, 25)
_NEIGHBOURS = 4


@dataclass(frozen=True)
class WholeSlope:
    """The change of a network's scores along a direction of the picture, measured and by the gradient.

    `noise` is how much the slope varies between neighbouring steps, relative as `error` is; `step` is the
    believed one, in units of the picture's spread.
    """

    measured: float
    predicted: float
    noise: float
    step: float

    @property
    def error(self) -> float:
        return abs(self.measured - self.predicted) / max(abs(self.measured), abs(self.predicted), 1e-30)

    @property
    def clear(self) -> bool:
        """Whether the measurement is good enough to judge by."""
        return self.noise <= TOLERANCE

    @property
    def good(self) -> bool:
        return self.clear and self.error <= TOLERANCE


def whole_slopes(
    model: Model,
    picture: NDArray[Any],
    of: str,
    rules: Mapping[str, Rule] | None = None,
    seed: int = 0,
    directions: int = 2,
    **settings: Any,
) -> list[WholeSlope]:
    """Slopes of the sum of a tensor, with random weights, along directions near the gradient's own.

    `picture` is a batch of one for the network; it gets a little noise, because flat areas lie on kinks.
    `settings` are device and threads. Raises ModelError where a gradient does not exist.
    """
    random = np.random.default_rng(seed)
    spread = float(picture.std()) or 1.0
    start = (picture + 0.02 * spread * random.standard_normal(picture.shape)).astype(np.float32)
    session = Session(model, **settings)
    weights = random.standard_normal(session.run(start, [of])[of].shape).astype(np.float32)

    def score(builder: Builder, tap: Any) -> Any:
        op, kept = builder.op, builder.constant(weights.astype(tap(of).dtype))
        return {"score": op.ReduceSum(op.Mul(tap(of), kept), keepdims=0)}

    training = TrainingSession(model, score, ["input"], batch=len(start), rules=rules, **settings)
    gradient = training.gradient({"input": start}).gradients["input"].astype(np.float64)

    def at(batch: NDArray[Any]) -> float:
        return float(np.sum(session.run(batch, [of])[of].astype(np.float64) * weights))

    found = []
    for _ in range(directions):
        direction = gradient * (1 + random.standard_normal(start.shape))
        length = float(np.linalg.norm(direction)) or 1.0
        direction *= spread * np.sqrt(start.size) / length
        slopes, predictions = [], []
        for step in _STEPS:
            before, after = ((start + sign * step * direction).astype(np.float32) for sign in (-1, 1))
            moved = (after.astype(np.float64) - before) / (2 * step)
            slopes.append((at(after) - at(before)) / (2 * step))
            predictions.append(float(np.sum(gradient * moved)))
        found.append(_believed(np.array(slopes), np.array(predictions)))
    return found


def _believed(slopes: NDArray[Any], predictions: NDArray[Any]) -> WholeSlope:
    windows = np.lib.stride_tricks.sliding_window_view(slopes, _NEIGHBOURS)
    means = windows.mean(axis=1)
    noise = np.ptp(windows, axis=1) / np.maximum(np.abs(means), 1e-30)
    best = int(noise.argmin())
    predicted = float(predictions[best : best + _NEIGHBOURS].mean())
    return WholeSlope(float(means[best]), predicted, float(noise[best]), float(_STEPS[best + 1]))
