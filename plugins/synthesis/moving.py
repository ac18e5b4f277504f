"""What the two ways of moving x, `Descent` and `Updates`, have in common."""

import time
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from cnnkit import Reason
from cnnkit.plugins.synthesis.stages import Size

Array = NDArray[np.float32]


class Step(NamedTuple):
    """One move: a place's losses (parts and `total`), the step's length, and x there if it was looked at."""

    losses: dict[str, float]
    length: float
    x: Array | None


class Mover(Protocol):
    """Moves x at one size, and counts evaluations or updates as `made`."""

    made: int

    def begin(self, x: Array, memory: Mapping[str, NDArray[Any]]) -> None:
        """From x on, with `memory` as what the optimizer remembers."""

    def memory_at(self, size: Size, layout: str) -> dict[str, NDArray[Any]]:
        """What it remembers, for x at another size."""

    def go_back(self, x: Array) -> None:
        """From x on, with steps of half the length; nothing is remembered."""

    def advance(self) -> Step | Reason:
        """One move, or why there is none. Raises NotFinite."""

    @property
    def x(self) -> Array:
        """What would be shown now."""

    @property
    def bytes(self) -> int:
        """An estimate of what activations and optimizer take."""

    def look(self) -> tuple[dict[str, float], Array] | None:
        """The losses at `x` and x itself; None where nothing new would be learned."""

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything that decides how it goes on."""

    def take_up(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from a state."""


class TimeIsUp(Exception):
    """Of a stage."""


class Clock:
    """Seconds of work, those before a state was taken up included; `deadline` is when they are used up."""

    def __init__(self, deadline: float | None = None) -> None:
        self.deadline = deadline
        self._zero = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._zero

    def set(self, seconds: float) -> None:
        """Go on from so many seconds."""
        self._zero = time.monotonic() - seconds

    def check(self) -> None:
        """Raises TimeIsUp."""
        if self.deadline is not None and self.seconds >= self.deadline:
            raise TimeIsUp


def averaged(average: Array, x: Array, decay: float, count: int) -> Array:
    """The mean of `count` places of which x is the last, from that of those before; see `cnnkit.Averaged`."""
    if not decay:
        return x
    return np.asarray(average + (x - average) * np.float32((1 - decay) / (1 - decay**count)), np.float32)
