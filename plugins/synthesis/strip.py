"""A strip: one content painted several times, while each style gives way to the next."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import compress
from typing import Any, NamedTuple, TypeVar

import numpy as np

from cnnkit import Image, Result, drawing
from cnnkit.plugins.synthesis.easel import Easel
from cnnkit.plugins.synthesis.run import Run, State, joined

Shares = tuple[float, ...]
Part = TypeVar("Part")
NOW = "now/"
"""Begins the names of the state of the blend that is being painted."""


def shares_of_blends(styles: int, count: int) -> dict[str, Shares]:
    """By name, "blend000" to "blend100": from all of the first style over each to all of the last, evenly."""
    places = np.linspace(0, styles - 1, count)
    return {
        f"blend{100 * place / (styles - 1):03.0f}": tuple(
            max(0.0, 1 - abs(float(place) - style)) for style in range(styles)
        )
        for place in places
    }


def blended(task: Easel, shares: Shares) -> Easel:
    """The task with these shares of its styles; those without one are left out."""
    regions = replace(task.regions, taken=tuple(compress(task.regions.taken, shares)))
    styles = tuple(compress(task.styles, shares))
    return replace(task, styles=styles, shares=tuple(filter(None, shares)), regions=regions)


class Blend(NamedTuple):
    """One that is painted."""

    picture: Image
    data: dict[str, Any]


class Strip:
    """`count` blends of the styles of a task, each a run of its own on the same sessions.

    `run_of` makes the run of a blend by its name and task, `result_of` the result of a run with rows. What a
    blend has to show is shown under its name: "blend050", "blend050.losses.csv".
    """

    def __init__(
        self,
        task: Easel,
        count: int,
        run_of: Callable[[str, Easel], Run],
        result_of: Callable[[Easel, Run], Result],
    ) -> None:
        self.shares = shares_of_blends(len(task.styles), count)
        self._task, self._run_of, self._result_of = task, run_of, result_of
        self._blends: dict[str, Blend] = {}

    def go(self) -> Result:
        """All blends, but for those that an interrupted run has made."""
        context = self._task.context
        state = context.restore() or {}
        self._blends = self._made(state)
        under_way = {name.removeprefix(NOW): state[name] for name in state if name.startswith(NOW)}
        with context.host.sweeping():
            for name in [name for name in self.shares if name not in self._blends]:
                self._paint(name, under_way)
                under_way = {}
        return self._result()

    def _paint(self, name: str, state: State) -> None:
        context = self._task.context
        task = blended(self._task, self.shares[name])
        run = self._run_of(name, task)
        if state:
            run.take_up(state)
        try:
            run.go(lambda state: context.save(self._state(state)))
            self._show(name, self._result_of(task, run))
        except KeyboardInterrupt:
            if run.record.rows:
                self._blends.pop(name, None)
                context.save(self._state(run.state()))
                context.emit(Result(_named(name, run.pictures())))  # at once, as all else takes seconds
                self._show(name, self._result_of(task, run))
            raise
        context.save(self._state({}))

    def _show(self, name: str, made: Result) -> None:
        self._blends[name] = Blend(made.picture, {"shares": self.shares[name], **made.data})
        result = self._result()
        result.pictures |= _named(name, made.pictures)
        result.files = _named(name, made.files)
        self._task.context.emit(result)

    def _result(self) -> Result:
        """What all blends so far have to show together."""
        names = " : ".join(style.name for style in self._task.styles)
        figures = [
            drawing.figure(blend.picture.flattened().pixels, told(blend.data["shares"]))
            for blend in self._blends.values()
        ]
        strip = drawing.figure(drawing.beside(*figures, gap=0), names)
        lines = [f"{self._task.content.name} in the styles {names}"]
        for name, blend in self._blends.items():
            total = drawing.compact(blend.data["losses"]["total"])
            lines.append(
                f"  {name}, {told(blend.data['shares'])}: {blend.data['iterations']} iterations, "
                f"loss {total}; {blend.data['stopped']}"
            )
        return Result(
            {"": self._task.content.flattened().with_pixels(strip)},
            data={"blends": {name: blend.data for name, blend in self._blends.items()}},
            text="\n".join(lines),
        )

    def _state(self, of_run: State) -> State:
        state = {NOW + name: value for name, value in of_run.items()}
        for name, blend in self._blends.items():
            state[f"{name}/pixels"] = blend.picture.pixels
            state[f"{name}/data"] = np.array(json.dumps(blend.data))
        return state

    def _made(self, state: Mapping[str, Any]) -> dict[str, Blend]:
        content = self._task.content
        made = {}
        for name in self.shares:
            if (pixels := state.get(f"{name}/pixels")) is not None:
                picture = content.resized(*pixels.shape[:2]).with_pixels(pixels)
                made[name] = Blend(picture, json.loads(str(state[f"{name}/data"])))
        return made


def _named(name: str, parts: Mapping[str, Part]) -> dict[str, Part]:
    return {joined(name, part): made for part, made in parts.items()}


def told(shares: Shares) -> str:
    """ "75 : 25"."""
    return " : ".join(f"{100 * share:.0f}" for share in shares)
