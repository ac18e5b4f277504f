"""Minimization of any function of a vector that gives a loss and its gradient, which says why it stopped.

    function, flat = objective_of(session, {"label": labels}, {"input": picture})
    found = minimize(function, flat.pack({"input": picture}), seconds=60)
    print(found.reason, flat.unpack(found.x)["input"])

The loss is followed in float64, all tests of convergence are relative, a search that fails starts again along
the gradient, numbers that are not finite are walked back from, and what is returned is the best point seen.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cnnkit.errors import UsageError
from cnnkit.runtime.lbfgs import LBFGS, Iterate, Reason
from cnnkit.runtime.line_search import Objective, Vector
from cnnkit.runtime.training import Feeds, TrainingSession


@dataclass(frozen=True)
class Tolerances:
    """When a minimization has converged; 0 leaves of a test only the standstill.

    `loss`: it changes by at most this share of its size, `patience` times in a row; a size below `loss_floor`
    counts as that. `gradient`: its largest number is at most this share of what it was at the start, or at
    most `gradient_floor`.
    """

    loss: float = 1e-9
    patience: int = 3
    loss_floor: float = 0.0
    gradient: float = 1e-8
    gradient_floor: float = 0.0

    @staticmethod
    def as_scipy(factr: float = 1e7, pgtol: float = 1e-5) -> "Tolerances":
        """The tests of scipy.optimize.fmin_l_bfgs_b, which are absolute for losses below 1."""
        return Tolerances(factr * float(np.finfo(np.float64).eps), 1, 1.0, 0.0, pgtol)


@dataclass(frozen=True)
class Minimum:
    """What `minimize` found: the best point seen, why it stopped, and `last`, where it stopped.

    `losses` are those at the start and after each iteration.
    """

    x: Vector
    loss: float
    gradient: Vector
    reason: Reason
    last: Iterate
    evaluations: int
    losses: list[float]

    @property
    def iterations(self) -> int:
        return len(self.losses) - 1

    @property
    def converged(self) -> bool:
        return self.reason in (Reason.GRADIENT, Reason.LOSS)


def minimize(
    objective: Callable[[Vector], tuple[Any, ArrayLike]],
    start: ArrayLike,
    method: LBFGS | None = None,
    *,
    iterations: int = 1000,
    evaluations: int | None = None,
    seconds: float | None = None,
    tolerances: Tolerances | None = None,
    watch: Callable[[Iterate], object] | None = None,
) -> Minimum:
    """Make the loss `objective(x) -> (loss, gradient)` small, from a flat vector on.

    It stops after `iterations`, behind the iteration in which there were more than `evaluations` (SciPy's
    maxfun), when `seconds` are over, when it has converged, when `watch(iterate)`, which sees the start and
    each iteration, returns something true, or by Ctrl-C. An exception of `objective` passes through.
    """
    seen = _Seen(objective, math.inf if seconds is None else time.monotonic() + seconds)
    run = (method or LBFGS()).iterates(seen, start)
    converged = _Convergence(tolerances or Tolerances())
    losses: list[float] = []
    last: Iterate | None = None
    reason = None
    try:
        while reason is None:
            last = next(run)
            losses.append(last.loss)
            if watch and watch(last):
                reason = Reason.ASKED
            elif settled := converged(last):
                reason = settled
            elif last.number >= iterations:
                reason = Reason.ITERATIONS
            elif evaluations is not None and seen.evaluations > evaluations:
                reason = Reason.EVALUATIONS
    except StopIteration as end:
        reason = end.value
    except _TimeUp:
        reason = Reason.SECONDS
    except KeyboardInterrupt:
        if last is None:
            raise
        reason = Reason.INTERRUPTED
    assert last is not None and reason is not None
    loss, x, gradient = seen.best or (last.loss, last.x, last.gradient)
    return Minimum(x, loss, gradient, reason, last, seen.evaluations, losses)


@dataclass(frozen=True)
class Flat:
    """How named arrays lie one after the other in a vector."""

    like: Mapping[str, NDArray[Any]]

    def pack(self, arrays: Mapping[str, ArrayLike]) -> Vector:
        return np.concatenate([np.asarray(arrays[name], np.float64).ravel() for name in self.like])

    def unpack(self, vector: Vector) -> dict[str, NDArray[Any]]:
        """The arrays, in the shapes and types that they had."""
        pieces = np.split(vector, np.cumsum([array.size for array in self.like.values()])[:-1])
        return {
            name: piece.reshape(array.shape).astype(array.dtype)
            for piece, (name, array) in zip(pieces, self.like.items(), strict=True)
        }


def objective_of(
    session: TrainingSession, feeds: Feeds, start: Mapping[str, NDArray[Any]]
) -> tuple[Objective, Flat]:
    """The total loss of a session as a function of some of what it differentiates with respect to.

    `start` are arrays of the right shapes by name: pictures (`input`), which are fed, or parameters, which
    are written to the session and stay there. The parts of the loss are added up in float64.
    Raises UsageError for what the session does not differentiate with respect to.
    """
    graph = session.graph
    if unknown := start.keys() - graph.gradients.keys():
        raise UsageError(f"the session has no gradient of '{min(unknown)}'; name it in wrt")
    flat = Flat({name: np.asarray(array) for name, array in start.items()})

    def objective(x: Vector) -> tuple[float, Vector]:
        fed = dict(feeds)
        for name, value in flat.unpack(x).items():
            if name in graph.parameters:
                session.write(graph.parameters[name], value)
            else:
                fed[name] = value
        losses, gradients, _ = session.gradient(fed)
        return math.fsum(loss for name, loss in losses.items() if name != "total"), flat.pack(gradients)

    return objective, flat


class _TimeUp(Exception):
    pass


class _Seen:
    """An objective that counts, keeps the time and remembers the best point that it was asked about."""

    def __init__(self, objective: Callable[[Vector], tuple[Any, ArrayLike]], deadline: float) -> None:
        self.evaluations = 0
        self.best: tuple[float, Vector, Vector] | None = None
        self._objective, self._deadline = objective, deadline

    def __call__(self, x: Vector) -> tuple[float, Vector]:
        if self.best and time.monotonic() > self._deadline:
            raise _TimeUp
        value, slopes = self._objective(x)
        loss, gradient = float(value), np.array(slopes, np.float64).ravel()
        self.evaluations += 1
        if math.isfinite(loss) and (self.best is None or loss < self.best[0]) and np.isfinite(gradient).all():
            self.best = loss, x, gradient
        return loss, gradient


class _Convergence:
    """Tests each iterate against the tolerances."""

    def __init__(self, tolerances: Tolerances) -> None:
        self._tolerances = tolerances
        self._first = self._before = math.nan
        self._calm = 0
        self._smallest = 0.0

    def __call__(self, iterate: Iterate) -> Reason | None:
        wanted = self._tolerances
        largest = float(np.abs(iterate.gradient).max(initial=0.0))
        if not iterate.number:
            self._first = iterate.loss
            self._smallest = max(wanted.gradient * largest, wanted.gradient_floor)
        size = max(abs(self._before), abs(iterate.loss), wanted.loss_floor)
        calm = abs(self._before - iterate.loss) <= wanted.loss * size
        self._before, self._calm = iterate.loss, self._calm + 1 if calm else 0
        if largest <= self._smallest:
            return Reason.GRADIENT
        if self._calm >= wanted.patience:
            return Reason.LOSS if iterate.loss < self._first else Reason.NO_DESCENT
        return None
