"""How far to go along a direction: the three rules that L-BFGS is used with.

A rule is given a line and where it begins, and returns the point to go on from, or None when it found none.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Objective = Callable[[Vector], tuple[float, Vector]]
"""The loss and its gradient at a point; all are float64."""
Projection = Callable[[Vector], Vector]
"""Brings a point back to where it may be."""


class Point(NamedTuple):
    """A place on a line: how far along, the loss, its slope along the line, the place and the gradient."""

    step: float
    loss: float
    slope: float
    x: Vector
    gradient: Vector


class NotFinite(ArithmeticError):
    """The loss or its gradient is infinite or no number at a point that a search came to."""


class Line:
    """The points `x + step · direction`, brought back by `projection` if there is one.

    `lowest` is the best one so far whose loss fell as it should.
    """

    def __init__(
        self, objective: Objective, start: Point, direction: Vector, projection: Projection | None = None
    ) -> None:
        self.start = start._replace(step=0.0, slope=float(start.gradient @ direction))
        self.direction = direction
        self.lowest: Point | None = None
        self._objective = objective
        self._projection = projection
        self._last = self.start

    def __call__(self, step: float) -> Point:
        """Raises NotFinite."""
        if step == self._last.step:
            return self._last
        x = self.start.x + step * self.direction
        if self._projection:
            x = self._projection(x)
        loss, gradient = self._objective(x)
        slope = float(gradient @ self.direction)
        if not (math.isfinite(step) and math.isfinite(loss) and math.isfinite(slope)):
            raise NotFinite
        point = self._last = Point(step, loss, slope, x, gradient)
        if falls(self.start, point, 1e-4) and (self.lowest is None or loss < self.lowest.loss):
            self.lowest = point
        return point


class Rule(Protocol):
    """What L-BFGS needs to know of a line search."""

    def trial(self, gradient: Vector, iteration: int, fresh: bool) -> float:
        """The first step to try. `fresh`: no step was taken yet, or all that was known has been forgotten."""

    def search(self, line: Line, step: float) -> Point | None:
        """The point to go on from; the slope at the start is negative. Raises NotFinite."""


@dataclass(frozen=True)
class FixedStep:
    """No search: `rate` times the direction, whatever comes of it; torch.optim.LBFGS by default."""

    rate: float = 1.0

    def trial(self, gradient: Vector, iteration: int, fresh: bool) -> float:
        return min(1.0, 1.0 / float(np.abs(gradient).sum())) * self.rate if fresh else self.rate

    def search(self, line: Line, step: float) -> Point | None:
        return line(step)


@dataclass(frozen=True)
class StrongWolfe(FixedStep):
    """Until the loss fell by 1e-4 of what the slope promised, and the slope to 0.9 of its size.

    Nocedal and Wright, Numerical Optimization, algorithms 3.5 and 3.6, as torch.optim.LBFGS has them with
    "strong_wolfe": at most `evaluations` after the first, and none when no number would change by `shortest`.
    """

    evaluations: int = 25
    shortest: float = 1e-9

    def search(self, line: Line, step: float) -> Point | None:
        start = before = line.start
        point, tries = line(step), self.evaluations
        while tries:
            risen = tries < self.evaluations - 1 and point.loss >= before.loss
            if risen or not falls(start, point, 1e-4):
                break
            if abs(point.slope) <= -0.9 * start.slope:
                return point
            if point.slope >= 0:
                break
            reach = (point.step + 0.01 * (point.step - before.step), 10 * point.step)
            before, point = point, line(_minimum_between(before, point, reach))
            tries -= 1
        return self._between(line, before if tries else start, point, tries)

    def _between(self, line: Line, one: Point, other: Point, tries: int) -> Point | None:
        """A good point between two, of which the lower one falls towards the other."""
        low, high = (one, other) if one.loss <= other.loss else (other, one)
        was_close = False
        size = float(np.abs(line.direction).max())
        while tries and abs(high.step - low.step) * size >= self.shortest:
            left, right = sorted((low, high), key=lambda end: end.step)
            step = _minimum_between(left, right)
            step, was_close = _off_the_ends(step, left.step, right.step, was_close)
            point = line(step)
            tries -= 1
            if not falls(line.start, point, 1e-4) or point.loss >= low.loss:
                high = point
                low, high = (low, high) if low.loss <= high.loss else (high, low)
            elif abs(point.slope) <= -0.9 * line.start.slope:
                return point
            else:
                low, high = point, low if point.slope * (high.step - low.step) >= 0 else high
        return low if low.step else None


@dataclass(frozen=True)
class MoreThuente:
    """The search of SciPy's L-BFGS-B: Moré and Thuente 1994 (doi:10.1145/192115.192132), with MINPACK-2's
    choices: the loss falls by 1e-3 of what the slope promised and the slope to 0.9 of its size, or the
    interval shrank to a tenth of its end. `evaluations` is what SciPy calls maxls.
    """

    evaluations: int = 20

    def trial(self, gradient: Vector, iteration: int, fresh: bool) -> float:
        return 1.0 if iteration else 1.0 / float(np.linalg.norm(gradient))

    def search(self, line: Line, step: float) -> Point | None:
        start = low = high = line.start
        bracketed = descended = False
        shortest, longest = 0.0, 5 * step
        width, width_before = _FARTHEST, 2 * _FARTHEST
        for _ in range(self.evaluations):
            point = line(step)
            enough = falls(start, point, 1e-3)
            descended |= enough and point.slope >= 0
            if enough and abs(point.slope) <= -0.9 * start.slope:
                return point
            if bracketed and (not shortest < step < longest or longest - shortest <= 0.1 * longest):
                return point if step else None
            if step == _FARTHEST and enough and point.slope <= 1e-3 * start.slope:
                return point

            # Until a step descended, what is sought is a minimum of the loss minus the fall asked for.
            tilt = 0.0 if descended or enough or point.loss > low.loss else 1e-3 * start.slope
            near, far, new = (_tilted(end, tilt) for end in (low, high, point))
            step, across = _next_step(near, far, new, bracketed, shortest, longest)
            rises = new.loss > near.loss
            low, high = (low, point) if rises else (point, low if across else high)
            bracketed |= rises or across

            if bracketed:
                if abs(high.step - low.step) >= 0.66 * width_before:
                    step = low.step + 0.5 * (high.step - low.step)
                width_before, width = width, abs(high.step - low.step)
                shortest, longest = sorted((low.step, high.step))
            else:
                shortest, longest = (step + factor * (step - low.step) for factor in (1.1, 4.0))
            step = min(max(step, 0.0), _FARTHEST)
            if bracketed and (not shortest < step < longest or longest - shortest <= 0.1 * longest):
                step = low.step
        return None


_FARTHEST = 1e10


def falls(start: Point, point: Point, share: float) -> bool:
    """Whether the loss fell by this share of what the slope promised (Armijo's condition)."""
    return point.loss <= start.loss + share * point.step * start.slope


def _tilted(point: Point, slope: float) -> Point:
    return point._replace(loss=point.loss - point.step * slope, slope=point.slope - slope)


def _next_step(
    low: Point, high: Point, point: Point, bracketed: bool, shortest: float, longest: float
) -> tuple[float, bool]:
    """Section 4 of Moré and Thuente: the next step, and whether the slope changed its sign since `low`."""
    across = point.slope * math.copysign(1.0, low.slope) < 0
    back, limit = low.step - point.step, longest if point.step > low.step else shortest
    if point.loss > low.loss:
        cubic = low.step - _cubic(low, point)[0] * back
        fall = (low.loss - point.loss) / -back + low.slope
        parabola = low.step - low.slope / fall / 2 * back
        near = abs(cubic - low.step) <= abs(parabola - low.step)
        return (cubic if near else cubic + (parabola - cubic) / 2), across
    secant = _ratio(point.slope, point.slope - low.slope)
    if across:
        way = _cubic(point, low)[0]
        return point.step + max(way, secant, key=abs) * back, across
    if abs(point.slope) < abs(low.slope):
        way, root = _cubic(point, low)
        cubic = point.step + way * back if way < 0 and root else limit
        parabola = point.step + secant * back
        choice = min if bracketed else max
        step = choice(parabola, cubic, key=lambda step: abs(step - point.step))
        if not bracketed:
            return min(max(step, shortest), longest), across
        guard = point.step + 0.66 * (high.step - point.step)
        return (min if point.step > low.step else max)(guard, step), across
    if bracketed:
        return point.step + _cubic(point, high)[0] * (high.step - point.step), across
    return limit, across


def _cubic(a: Point, b: Point) -> tuple[float, float]:
    """Where the cubic through two points is least, as a share of the way from `a` to `b`; and the root in it.

    The root is 0 when the cubic has no minimum.
    """
    theta = 3 * (a.loss - b.loss) / (b.step - a.step) + a.slope + b.slope
    size = max(abs(theta), abs(a.slope), abs(b.slope))
    root = size * math.sqrt(max(0.0, (theta / size) ** 2 - a.slope / size * (b.slope / size)))
    root = -root if b.step < a.step else root
    return _ratio(root - a.slope + theta, root - a.slope + root + b.slope), root


def _ratio(a: float, b: float) -> float:
    return a / b if b else math.inf


def _minimum_between(a: Point, b: Point, reach: tuple[float, float] | None = None) -> float:
    """Where the cubic through two points is least, within `reach`, by default between the two."""
    nearest, farthest = reach or (a.step, b.step)
    theta = a.slope + b.slope - 3 * (a.loss - b.loss) / (a.step - b.step)
    square = theta**2 - a.slope * b.slope
    if square < 0:
        return (nearest + farthest) / 2
    root = math.sqrt(square)
    way = _ratio(b.slope + root - theta, b.slope - a.slope + 2 * root)
    return min(max(b.step - (b.step - a.step) * way, nearest), farthest)


def _off_the_ends(step: float, left: float, right: float, was_close: bool) -> tuple[float, bool]:
    """A step that is close to an end for the second time is moved a tenth of the interval inwards.

    Returns also whether it was close and left there.
    """
    tenth = 0.1 * (right - left)
    if min(right - step, step - left) >= tenth:
        return step, False
    if not was_close and left < step < right:
        return step, True
    return (right - tenth if abs(step - right) < abs(step - left) else left + tenth), False
