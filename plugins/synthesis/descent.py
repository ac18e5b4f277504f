"""L-BFGS at one size: on the host, with the gradient from the device.

x and the loss are followed in float64; what a long memory holds is float32, as the gradients are.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnkit import LBFGS, Iterate, Preprocessing, Reason, TrainingSession
from cnnkit.plugins.synthesis import units
from cnnkit.plugins.synthesis.moving import Clock, Step, TimeIsUp, averaged
from cnnkit.plugins.synthesis.recipe import Recipe
from cnnkit.plugins.synthesis.stages import Size
from cnnkit.plugins.synthesis.trouble import NotFinite, finite

Array = NDArray[np.float32]
Vector = NDArray[np.float64]

_VECTORS = 8  # beside the pairs: x and the gradient, here, before, at the best and at the next place


def method(recipe: Recipe, level: float, factor: float = 1.0) -> LBFGS:
    """L-BFGS with the steps of the recipe's program, `factor` times as long where their length is given.

    `level` is what one grey level, of 255, is in x.
    """
    rate, memory = factor * recipe.rate, recipe.memory
    if recipe.optimizer == "lbfgs-scipy":
        return LBFGS.as_scipy(memory)
    chosen = {
        "lbfgs-torch": lambda: LBFGS.as_torch(rate, memory),
        "lbfgs-wolfe": lambda: LBFGS.as_torch(rate, memory, strong_wolfe=True),
        "lbfgs-damped": lambda: LBFGS.as_crowsonkb(memory, 0.1 * level * rate),
    }[recipe.optimizer]()
    return replace(chosen, precision=np.float32)


class Descent:
    """Iterations of L-BFGS; each can take several evaluations, and these are what is counted.

    With `restart_every` it runs in rounds as Keras' old example calls SciPy: a round ends behind the
    iteration in which its evaluations, the one of its start included, exceeded that number, and nothing is
    remembered of it.
    """

    def __init__(
        self,
        session: TrainingSession,
        feeds: Mapping[str, Any],
        recipe: Recipe,
        unit: Preprocessing,
        iterations: int,
        clock: Clock,
    ) -> None:
        self._session, self._feeds, self._recipe, self._clock = session, feeds, recipe, clock
        self._low, self._high = units.limits(unit)
        self._level = float(np.abs(self._high - self._low).mean()) / 255
        self._limit = iterations
        self._seen: list[tuple[Vector, dict[str, float]]] = []
        self._run: Any = None
        self.made = self._rounds = self._in_round = 0
        self._iterate: Iterate | None = None
        self._factor = 1.0
        self._averages = 0

    def begin(self, x: Array, memory: Mapping[str, NDArray[Any]]) -> None:
        """From x on; pairs of places are no use at another one."""
        self._start, self._average, self._averages = x, x, 1
        self._iterate = self._run = None

    def memory_at(self, size: Size, layout: str) -> dict[str, NDArray[Any]]:
        """Nothing."""
        return {}

    def go_back(self, x: Array) -> None:
        """From x on, with steps of half the length."""
        self._factor /= 2
        self.begin(x, {})

    def advance(self) -> Step | Reason:
        """One iteration, or why there is none. Raises NotFinite."""
        if self._ended():
            return Reason.EVALUATIONS
        if self._run is None:
            lbfgs = method(self._recipe, self._level, self._factor)
            clamp = self._recipe.clamp
            self._run = lbfgs.iterates(
                self._evaluate,
                self._start if self._iterate is None else self._iterate,
                projection=None if clamp == "never" else self._clamped,
                everywhere=clamp == "evaluation",
            )
        self._seen.clear()
        counts = self.made, self._in_round
        try:
            iterate = next(self._run)
        except StopIteration as end:
            still = self._iterate is not None and not self._iterate.gradient.any()
            reason: Reason = Reason.GRADIENT if still else end.value
            return reason
        except (TimeIsUp, KeyboardInterrupt):
            self.made, self._in_round = counts
            self._run = None
            raise
        self._iterate = iterate
        self._averages += iterate.number > 0
        x = self._shaped(iterate.x)
        self._average = averaged(self._average, x, self._recipe.average, self._averages)
        losses = next(losses for place, losses in self._seen if place is iterate.x)
        return Step(losses, iterate.step, x)

    @property
    def x(self) -> Array:
        if self._recipe.average:
            return self._average
        return self._start if self._iterate is None else self._shaped(self._iterate.x)

    @property
    def bytes(self) -> int:
        vectors = 2 * self._recipe.memory + _VECTORS
        return self._session.graph.bytes_alive + vectors * 8 * self._start.size

    def look(self) -> tuple[dict[str, float], Array] | None:
        """Every iterate was looked at when it was made."""
        return None

    def state(self) -> dict[str, NDArray[Any]]:
        counts = [self.made, self._rounds, self._in_round, self._averages]
        state: dict[str, Any] = {
            "counts": np.array(counts),
            "factor": np.array(self._factor),
            "start": self._start,
            "average": self._average,
        }
        if self._iterate:
            state |= {f"iterate/{name}": array for name, array in self._iterate.state().items()}
        return state

    def take_up(self, state: Mapping[str, NDArray[Any]]) -> None:
        self.made, self._rounds, self._in_round, self._averages = map(int, state["counts"])
        self._factor = float(state["factor"])
        self._start, self._average = state["start"], state["average"]
        of_iterate = {n.removeprefix("iterate/"): a for n, a in state.items() if n.startswith("iterate/")}
        self._iterate = Iterate.of(of_iterate) if of_iterate else None
        self._run = None

    def _ended(self) -> bool:
        every = self._recipe.restart_every
        if not every:
            return self.made >= self._limit
        if self._iterate and self._in_round > min(every, self._limit - self._rounds * every):
            self._rounds += 1
            self._in_round = 1
            self._iterate = self._iterate._replace(number=0, pairs=(), best=None)
            self._run = None
        return self._rounds >= math.ceil(self._limit / every)

    def _evaluate(self, x: Vector) -> tuple[float, Vector]:
        if self.made:
            self._clock.check()
        picture = self._shaped(x)
        losses, gradients, _ = self._session.gradient({**self._feeds, "input": picture})
        gradient = gradients["input"].astype(np.float64).ravel()
        losses = {name: loss for name, loss in losses.items() if name != "total"}
        self.made += 1
        self._in_round += 1
        if not (finite(losses) and np.isfinite(gradient).all()):
            raise NotFinite(picture, losses)
        losses["total"] = math.fsum(losses.values())
        self._seen.append((x, losses))
        return losses["total"], gradient

    def _clamped(self, x: Vector) -> Vector:
        clamped = np.clip(x.reshape(self._start.shape), self._low, self._high)
        return np.asarray(clamped, np.float64).ravel()

    def _shaped(self, x: Vector) -> Array:
        return x.astype(np.float32).reshape(self._start.shape)
