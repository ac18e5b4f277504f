"""A run: a synthesis that is recorded, shown on the way, and kept for the case of an interruption."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cnnkit import Image, Result, drawing
from cnnkit.plugins.interrupting import whole
from cnnkit.plugins.synthesis.loop import Array, Moment, Synthesis, Task
from cnnkit.plugins.synthesis.record import Animation, AnimationFormat, Record, Row
from cnnkit.plugins.synthesis.stages import Size

CHECKPOINT = 30.0
"""Seconds between two checkpoints."""

State = dict[str, NDArray[Any]]


class Shown(Task, Protocol):
    """A task whose x can be shown."""

    @property
    def name(self) -> str:
        """Of what is made, for a progress bar."""

    def picture(self, x: Array) -> Image:
        """x as it is shown."""

    def weights(self, size: Size) -> Mapping[str, float]:
        """What each part of the loss is multiplied by, for x of a size."""


class Run:
    """`snapshots` says behind how many iterations a picture is shown at once, under the name `step0100`.

    `name` is that of a run among several: "blend050" shows `blend050.step0100`.
    """

    def __init__(
        self,
        task: Shown,
        seconds: float | None = None,
        snapshots: int | None = None,
        animation: AnimationFormat | None = None,
        name: str = "",
    ) -> None:
        self.name = name
        self.task, self.synthesis = task, Synthesis(task, seconds)
        self.record = Record()
        self._snapshots, self._format = snapshots, animation
        self._animation = Animation() if animation else None

    def go(self, keep: Callable[[State], None]) -> None:
        """From where it is to the end; `keep` is given the state every now and then."""
        made = self.record.rows[-1].iteration if self.record.rows else 0
        total = sum(stage.iterations for stage in self.synthesis.stages) - made
        kept = time.monotonic()
        for _ in self.task.context.progress(whole(self._recorded()), total, self._label):
            if time.monotonic() - kept > CHECKPOINT:
                keep(self.state())
                kept = time.monotonic()

    def state(self) -> State:
        """What `take_up` goes on from, bit for bit; of a run with rows."""
        state = {**self.synthesis.state(), **self.record.state()}
        return state | self._animation.state() if self._animation else state

    def take_up(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from a state. Raises UsageError for another run's."""
        self.synthesis.take_up(state)
        if self._animation:
            self._animation.take_up(state)
        self.record.take_up(state)  # the last, as nothing is kept of a run without rows

    def pictures(self) -> dict[str, Image]:
        """ "" the one of the lowest loss, or the mean of the last ones where the recipe averages; and "last"
        where it is another."""
        best, last = self.synthesis.best_x, self.synthesis.x
        pictures = {"": self.task.picture(best)}
        return pictures if np.array_equal(best, last) else {**pictures, "last": self.task.picture(last)}

    def files(self, last: Image) -> dict[str, bytes]:
        """The losses as a table and as curves, and the animation, which rests on `last`."""
        files = {"losses.csv": self.record.csv(), "losses.png": self.record.plot()}
        if self._animation and self._format:
            files[f"run.{self._format}"] = self._animation.encode(last.pixels, self._format)
        return files

    def _recorded(self) -> Iterator[Moment]:
        for moment in self.synthesis.moments():
            losses = dict(moment.losses)
            total = losses.pop("total")
            stage = moment.stage
            weights = self.task.weights(stage.size)
            row = Row(
                moment.number, stage.number, stage.size, losses, weights, total, moment.step, moment.seconds
            )
            self.record.rows.append(row)
            self._show(moment)
            yield moment

    def _label(self) -> str:
        rows = self.record.rows
        what = f"{self.task.name} {self.name}".rstrip()
        return f"{what}: loss {drawing.compact(rows[-1].total)}" if rows else what

    def _show(self, moment: Moment) -> None:
        every = self._snapshots
        before = self.record.rows[-2].iteration if len(self.record.rows) > 1 else 0
        if every and moment.number // every > before // every:  # an iteration can have several evaluations
            step = self.task.picture(moment.x())
            self.task.context.emit(Result({joined(self.name, f"step{moment.number:04d}"): step}))
        if self._animation and self._animation.wants_next():
            self._animation.add(self.task.picture(moment.x()).pixels)


def joined(name: str, part: str) -> str:
    """What a part of the run `name` is called: "blend050.last"; one that is "" is left out."""
    return ".".join(filter(None, (name, part)))
