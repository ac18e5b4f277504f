"""A series: pictures of one task after another, as one run. What is done stays done."""

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from cnnkit import Image, Reason, Result, measure
from cnnkit.plugins.synthesis.easel import Easel
from cnnkit.plugins.synthesis.loop import Array
from cnnkit.plugins.synthesis.record import Record, csv_of, plot_of
from cnnkit.plugins.synthesis.run import Run, State
from cnnkit.plugins.synthesis.stages import stages
from cnnkit.plugins.tiles import file_safe

NOW, MADE = "now/", "made/"
"""Begin the names in the state of what is under way, and of what is done."""


class Made(NamedTuple):
    """A picture of the series, and what is known of it."""

    picture: Image
    record: Record
    data: dict[str, Any]


class Series:
    """The tasks, each with the name of its picture. `about` says of a task's picture and x what is kept as
    data; `shown` makes a result of what is made so far.

    Of `seconds` each task has its share by its multiplications, and what the ones before have left.
    """

    def __init__(
        self,
        tasks: Mapping[str, Easel],
        about: Callable[[Easel, Array, Image], dict[str, Any]],
        shown: Callable[[Mapping[str, Made]], Result],
        seconds: float | None = None,
        snapshots: int | None = None,
    ) -> None:
        self._tasks, self._about, self._shown = tasks, about, shown
        self._seconds, self._snapshots = seconds, snapshots
        self._made: dict[str, Made] = {}

    def go(self) -> Result:
        """All of them, from where an interrupted run was. Raises UsageError for another run's state."""
        context = next(iter(self._tasks.values())).context
        state = context.restore() or {}
        self._take_up(state)
        under_way = _within(state, NOW)
        for name in [name for name in self._tasks if name not in self._made]:
            run = Run(self._tasks[name], self._share(name), self._snapshots, name=file_safe(name))
            if under_way:
                run.take_up(under_way)
                under_way = {}
            try:
                run.go(lambda state: context.save(self._state(state)))
            except KeyboardInterrupt:
                if run.record.rows:
                    context.save(self._state(run.state()))
                    self._keep(name, run)
                    context.emit(self._shown(self._made))
                raise
            self._keep(name, run)
            context.save(self._state({}))
            context.emit(self._shown(self._made))
        return self._shown(self._made)

    def _keep(self, name: str, run: Run) -> None:
        x, task, row = run.synthesis.best_x, self._tasks[name], run.record.rows[-1]
        picture, best = task.picture(x), run.synthesis.best
        data = {
            **self._about(task, x, picture),
            "loss": best.total if best else row.total,
            "iterations": row.iteration,
            "stopped": run.synthesis.reason or str(Reason.INTERRUPTED),
        }
        self._made[name] = Made(picture, run.record, data)

    def _share(self, name: str) -> float | None:
        """The seconds of a task, which begins when all before it are done."""
        if self._seconds is None:
            return None
        left = self._seconds - sum(made.record.rows[-1].seconds for made in self._made.values())
        work = {other: _work(task) for other, task in self._tasks.items() if other not in self._made}
        return max(0.0, left) * work[name] / sum(work.values())

    def _state(self, of_run: State) -> State:
        state = {NOW + name: value for name, value in of_run.items()}
        for name, made in self._made.items():
            place = f"{MADE}{list(self._tasks).index(name)}/"
            state |= {f"{place}{key}": value for key, value in made.record.state().items()}
            state[f"{place}pixels"] = made.picture.pixels
            state[f"{place}data"] = np.array(json.dumps(made.data))
        return state

    def _take_up(self, state: Mapping[str, Any]) -> None:
        for place, (name, task) in enumerate(self._tasks.items()):
            if kept := _within(state, f"{MADE}{place}/"):
                record = Record()
                record.take_up(kept)
                picture = task.content.with_pixels(kept["pixels"])
                self._made[name] = Made(picture, record, json.loads(str(kept["data"])))


def files(made: Mapping[str, Made]) -> dict[str, bytes]:
    """The losses of all as one table and as curves."""
    records = {name: each.record for name, each in made.items()}
    return {"losses.csv": csv_of(records), "losses.png": plot_of(records)}


def _work(task: Easel) -> int:
    """Multiply-accumulates of all iterations, forwards."""
    macs = (
        stage.iterations * measure(task.eye.graph, *stage.size).macs
        for stage in stages(task.recipe, task.size)
    )
    return sum(macs)


def _within(state: Mapping[str, Any], beginning: str) -> State:
    return {
        name.removeprefix(beginning): value for name, value in state.items() if name.startswith(beginning)
    }
