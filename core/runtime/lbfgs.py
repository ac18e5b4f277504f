"""The steps of L-BFGS: along the gradient, times what the last steps told about the curvature."""

import math
from collections import deque
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from cnnkit.runtime.line_search import (
    FixedStep,
    Line,
    MoreThuente,
    Objective,
    Point,
    Projection,
    Rule,
    StrongWolfe,
    Vector,
)

_EPSILON = float(np.finfo(np.float64).eps)
_RETREATS = 12


class Reason(StrEnum):
    """Why a minimization stopped."""

    GRADIENT = "the gradient became as small as asked for"
    LOSS = "the loss falls no faster than asked for"
    ITERATIONS = "all iterations were made"
    EVALUATIONS = "all evaluations were made"
    SECONDS = "the time is used up"
    ASKED = "the caller asked for it"
    INTERRUPTED = "it was interrupted"
    NO_DESCENT = "no step along the gradient lowers the loss measurably"
    NOT_FINITE = "the loss or its gradient is not finite, however short the step"


class Pair(NamedTuple):
    """A step, what the gradient changed by along it, and the product of the two."""

    step: Vector
    change: Vector
    curvature: float


class Iterate(NamedTuple):
    """Where an iteration ended; number 0 is the start. `step` is a multiple of the direction then taken.

    `pairs` are what is remembered of the last steps, the oldest first, and `best` is the lowest iterate
    before this one, if any was lower: with them `LBFGS.iterates` can go on from here.
    """

    number: int
    loss: float
    x: Vector
    gradient: Vector
    step: float
    pairs: tuple[Pair, ...] = ()
    best: "Iterate | None" = None

    def state(self) -> dict[str, NDArray[Any]]:
        """All of it as named arrays, for a file; `Iterate.of` is the way back."""
        arrays = {
            "number": self.number,
            "loss": self.loss,
            "x": self.x,
            "gradient": self.gradient,
            "step": self.step,
        }
        for place, pair in enumerate(self.pairs):
            arrays |= {f"pairs/{place}/{name}": value for name, value in pair._asdict().items()}
        state = {name: np.asarray(value) for name, value in arrays.items()}
        if self.best:
            state |= {f"best/{name}": array for name, array in self.best.state().items()}
        return state

    @staticmethod
    def of(state: Mapping[str, NDArray[Any]]) -> "Iterate":
        """The iterate whose state this is. Raises KeyError where something is missing."""
        count = sum(name.startswith("pairs/") for name in state) // len(Pair._fields)
        pairs = [[state[f"pairs/{place}/{name}"] for name in Pair._fields] for place in range(count)]
        best = {name.removeprefix("best/"): state[name] for name in state if name.startswith("best/")}
        return Iterate(
            int(state["number"]),
            float(state["loss"]),
            state["x"],
            state["gradient"],
            float(state["step"]),
            tuple(Pair(step, change, float(curvature)) for step, change, curvature in pairs),
            Iterate.of(best) if best else None,
        )


@dataclass(frozen=True)
class LBFGS:
    """Steps along the gradient times an estimate of the inverse curvature, from the last `memory` steps.

    Nocedal and Wright, Numerical Optimization, algorithm 7.4. `search` says how far a step goes.
    `first_step` is the mean change of a number when nothing is known of the curvature (0.1 of a grey level
    is right for pictures); by default it is the search's own. `damped` keeps a method without a search from
    running away (crowsonkb/style_transfer): steps are shortened until the memory is full, and a pair of
    little or negative curvature is bent (Powell 1978, Nocedal and Wright procedure 18.2) in place of being
    left out. `least_curvature` is that below which a pair is left out in any case. The memory is kept in
    `precision`: float32 takes half of the space and of the time, and is enough for gradients in float32.
    """

    memory: int = 10
    search: Rule = field(default_factory=MoreThuente)
    first_step: float | None = None
    damped: bool = False
    least_curvature: float = 0.0
    precision: DTypeLike = np.float64

    @staticmethod
    def as_crowsonkb(memory: int = 10, first_step: float = 0.1) -> "LBFGS":
        """Damped steps of one evaluation each, as crowsonkb/style_transfer takes them, with bent pairs."""
        return LBFGS(memory, FixedStep(), first_step, damped=True)

    @staticmethod
    def as_scipy(memory: int = 10, evaluations: int = 20) -> "LBFGS":
        """The steps of scipy.optimize.fmin_l_bfgs_b without bounds; its m and maxls."""
        return LBFGS(memory, MoreThuente(evaluations))

    @staticmethod
    def as_torch(rate: float = 1.0, memory: int = 100, strong_wolfe: bool = False) -> "LBFGS":
        """The steps of torch.optim.LBFGS; its lr, history_size and line_search_fn."""
        search = StrongWolfe(rate) if strong_wolfe else FixedStep(rate)
        return LBFGS(memory, search, least_curvature=1e-10)

    def iterates(
        self,
        objective: Objective,
        start: "ArrayLike | Iterate",
        *,
        projection: Projection | None = None,
        everywhere: bool = False,
    ) -> Generator[Iterate, None, Reason]:
        """The start and where each iteration ends, on and on; returned is the reason why there is no more.

        From an `Iterate` it goes on behind it, bit for bit as the run that it came from. `projection` brings
        each iterate back to where it may be, and with `everywhere` each point before it is evaluated, as
        PyTorch's tutorial on style transfer clamps its picture; what is remembered of a step is the whole
        step.
        """
        if isinstance(start, Iterate):
            here = start
        else:
            x = np.array(start, np.float64).ravel()
            x = projection(x) if projection and everywhere else x
            here = Iterate(0, *_evaluated(objective, x), 0.0)
            yield here
        memory = _Memory(self.memory, here.pairs, self.precision)
        best = here.best or here
        while True:
            after = self._advance(objective, here, memory, projection, everywhere, fresh=not here.number)
            while isinstance(after, Reason):
                if not memory.pairs:
                    return after
                memory.pairs.clear()
                if after is Reason.NOT_FINITE:
                    here = best._replace(number=here.number)
                after = self._advance(objective, here, memory, projection, everywhere, fresh=True)
            better = None if after.loss < best.loss else best
            here = Iterate(
                here.number + 1, after.loss, after.x, after.gradient, after.step, tuple(memory.pairs), better
            )
            best = better or here._replace(pairs=())
            yield here

    def _advance(
        self,
        objective: Objective,
        here: Iterate,
        memory: "_Memory",
        projection: Projection | None,
        everywhere: bool,
        fresh: bool,
    ) -> Point | Reason:
        """One step, which is remembered; or why there is none."""
        place = Point(here.step, here.loss, 0.0, here.x, here.gradient)
        line = Line(objective, place, memory.direction(here.gradient), projection if everywhere else None)
        if not (math.isfinite(here.loss) and math.isfinite(line.start.slope)):
            return Reason.NOT_FINITE
        if line.start.slope >= 0:
            return Reason.NO_DESCENT
        after = self._search(line, self._trial(line, memory, here.number, fresh))
        if isinstance(after, Point):
            step = after.step * line.direction
            if projection and not np.array_equal(x := projection(after.x), after.x):
                loss, x, gradient = _evaluated(objective, x)
                after = after._replace(loss=loss, x=x, gradient=gradient)
            least = max(self.least_curvature, -_EPSILON * line.start.slope * after.step)
            memory.add(step, after.gradient - here.gradient, least, bend=self.damped)
        return after

    def _trial(self, line: Line, memory: "_Memory", number: int, fresh: bool) -> float:
        if self.first_step and not memory.pairs:
            return self.first_step / float(np.abs(line.direction).mean())
        step = self.search.trial(line.start.gradient, number, fresh)
        return step * (len(memory.pairs) or self.memory) / self.memory if self.damped else step

    def _search(self, line: Line, step: float) -> Point | Reason:
        for _ in range(_RETREATS):
            try:
                return self.search.search(line, step) or Reason.NO_DESCENT
            except ArithmeticError:  # also of an interpolation through what is hardly a number
                if line.lowest:
                    return line.lowest
                step /= 10
        return Reason.NOT_FINITE


def _evaluated(objective: Objective, x: Vector) -> tuple[float, Vector, Vector]:
    loss, gradient = objective(x)
    return loss, x, gradient


class _Memory:
    """The latest steps s and what the gradient changed by along them, y; with s·y."""

    def __init__(self, size: int, pairs: Iterable[Pair], precision: DTypeLike) -> None:
        self.pairs: deque[Pair] = deque(pairs, maxlen=size)
        self._precision = precision

    @property
    def scale(self) -> float:
        """The inverse curvature in a direction of which nothing is known."""
        _, y, curvature = self.pairs[-1]
        exact = y.astype(np.float64, copy=False)
        return curvature / float(exact @ exact)

    def direction(self, gradient: Vector) -> Vector:
        """Minus the gradient times the inverse curvature, by the two loops."""
        size = float(np.abs(gradient).max(initial=0.0)) or 1.0  # so that no product leaves a small precision
        direction = (gradient / -size).astype(self._precision)
        shares = []
        for s, y, curvature in reversed(self.pairs):
            shares.append(float(s @ direction) / curvature)
            direction -= shares[-1] * y
        if self.pairs:
            direction *= self.scale
        for (s, y, curvature), share in zip(self.pairs, reversed(shares), strict=True):
            direction += (share - float(y @ direction) / curvature) * s
        return size * direction.astype(np.float64, copy=False)

    def add(self, s: Vector, y: Vector, least: float, bend: bool) -> None:
        """Remember a pair whose curvature s·y is above `least`; with `bend` it is first made positive."""
        curvature = float(s @ y)
        if bend and self.pairs:
            usual = float(s @ s) / self.scale
            if curvature < 0.2 * usual:
                share = 0.8 * usual / (usual - curvature)
                y = share * y + (1 - share) / self.scale * s
                curvature = float(s @ y)
        if curvature > least and math.isfinite(curvature):
            s, y = (vector.astype(self._precision, copy=False) for vector in (s, y))
            self.pairs.append(Pair(s, y, curvature))
