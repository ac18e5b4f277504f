"""Adam and gradient descent at one size: on the device, where x stays from update to update."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnkit import SGD, Adam, Averaged, Clamped, Preprocessing, Reason, TrainingSession, schedules
from cnnkit.plugins.synthesis import units
from cnnkit.plugins.synthesis.moving import Clock, Step
from cnnkit.plugins.synthesis.recipe import Recipe
from cnnkit.plugins.synthesis.stages import Size
from cnnkit.plugins.synthesis.trouble import NotFinite, finite

Array = NDArray[np.float32]

LOOK_EVERY = 10
"""Updates, behind which x is copied to the host."""
_COPIES = 4  # of what the optimizer holds: now, next, at the last look, at the best


def optimizer(recipe: Recipe, unit: Preprocessing) -> Any:
    """The recipe's optimizer, with its clamp and its average; the rate is fed."""
    made: Any
    if recipe.optimizer == "sgd":
        made = SGD()
    else:
        made = Adam(betas=recipe.betas, epsilon=recipe.epsilon, epsilon_as=recipe.epsilon_as)
    if recipe.clamp != "never":
        made = Clamped(made, *units.limits(unit))
    return Averaged(made, recipe.average) if recipe.average else made


class Updates:
    """Updates of x, of which every tenth is looked at."""

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
        self._limits = units.limits(unit)
        self._limit = iterations
        self._rate = schedules.exponential(recipe.rate, recipe.decay, recipe.decay_every)
        self._shown = f"{session.model.graph.input.name}/average" if recipe.average else "input"
        self._looked: tuple[int, dict[str, NDArray[Any]]] | None = None
        self.made = 0
        self._factor = 1.0

    def begin(self, x: Array, memory: Mapping[str, NDArray[Any]]) -> None:
        """From x on, with `memory` as what the optimizer remembers."""
        x = np.clip(x, *self._limits) if self._recipe.clamp == "evaluation" else x
        for name, first in self._session.graph.state.items():
            self._session.write(name, first)
        self._session.write("input", x)
        if self._recipe.average:
            self._session.write(self._shown, x)
            self._session.write(f"{self._shown}d", 1.0)
        for name, value in memory.items():
            self._session.write(name, value)
        self._looked = None

    def memory_at(self, size: Size, layout: str) -> dict[str, NDArray[Any]]:
        """What Adam remembers, at another size, as crowsonkb/style-transfer-pytorch does it.

        The mean is resampled bicubic, the mean square bilinear and not below 0, and the steps are counted on.
        """
        tensors = {name.rpartition("/")[2]: (name, value) for name, value in self._tensors().items()}
        filters = {"mean": "bicubic", "square": "bilinear"}
        resampled: dict[str, NDArray[Any]] = {}
        for slot, filter in filters.items():
            if slot in tensors:
                name, value = tensors[slot]
                resampled[name] = units.resized(value, size, layout, filter)
        if "square" in tensors:
            resampled[tensors["square"][0]] = resampled[tensors["square"][0]].clip(0)
            resampled.update([tensors["steps"]])
        return resampled

    def go_back(self, x: Array) -> None:
        """From x on, with half the rate."""
        self._factor /= 2
        self.begin(x, {})

    def advance(self) -> Step | Reason:
        """One update, or why there is none. Raises NotFinite."""
        if self.made >= self._limit:
            return Reason.ITERATIONS
        if self.made:
            self._clock.check()
        look = self.made % LOOK_EVERY == 0
        if look or self._looked is None:
            self._looked = self.made, self._tensors()
        x = self._looked[1][self._session.model.graph.input.name] if look else None
        length = self._length(self.made)
        losses = self._step(self.made)
        if not finite(losses):
            raise self._trouble()
        self.made += 1
        return Step(losses, length, x)

    @property
    def x(self) -> Array:
        return self._session.read(self._shown)

    @property
    def bytes(self) -> int:
        held = sum(value.nbytes for value in self._session.graph.state.values())
        return self._session.graph.bytes_alive + _COPIES * held

    def look(self) -> tuple[dict[str, float], Array] | None:
        """One more evaluation, at what would be shown."""
        shown, x = self.x, self._session.read("input")
        self._session.write("input", shown)
        losses = _summed(self._session.gradient(self._feeds).losses)
        self._session.write("input", x)
        return (losses, shown) if finite(losses) else None

    def state(self) -> dict[str, NDArray[Any]]:
        state = {f"tensors/{name}": value for name, value in self._tensors().items()}
        return state | {"made": np.array(self.made), "factor": np.array(self._factor)}

    def take_up(self, state: Mapping[str, NDArray[Any]]) -> None:
        for name, value in state.items():
            if name.startswith("tensors/"):
                self._session.write(name.removeprefix("tensors/"), value)
        self.made, self._factor = int(state["made"]), float(state["factor"])
        self._looked = None

    def _tensors(self) -> dict[str, NDArray[Any]]:
        return {name: self._session.read(name) for name in self._session.state}

    def _length(self, update: int) -> float:
        return self._factor * self._rate(update)

    def _step(self, update: int) -> dict[str, float]:
        return _summed(self._session.step({**self._feeds, "learning_rate": self._length(update)}))

    def _trouble(self) -> NotFinite:
        """Where it came up, found by going there once more from where x was last looked at."""
        assert self._looked is not None
        update, tensors = self._looked
        for name, value in tensors.items():
            self._session.write(name, value)
        before = x = self._session.read("input")
        while finite(losses := self._step(update)) and update < self.made:
            update, before, x = update + 1, x, self._session.read("input")
        return NotFinite(x, losses) if np.isfinite(x).all() else NotFinite(before, {})


def _summed(losses: Mapping[str, float]) -> dict[str, float]:
    """The parts, and their sum in float64."""
    parts = {name: loss for name, loss in losses.items() if name != "total"}
    return parts | {"total": math.fsum(parts.values())}
