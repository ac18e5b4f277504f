"""What is kept of a run: each loss at each iteration, as a table and a plot, and the run as an animation."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnnkit import Image

Pixels = NDArray[np.uint8]
AnimationFormat = Literal["gif", "webp"]

MOST_FRAMES = 80
"""Beyond so many every second frame is left out, so that a run of any length fits."""
FRAME, LAST_FRAME = 80, 2000
"""Milliseconds that they are shown."""


class Row(NamedTuple):
    """The losses of one iteration, `weighted` by part and their `total`; raw ones are without `weights`."""

    iteration: int
    stage: int
    size: tuple[int, int]
    weighted: Mapping[str, float]
    weights: Mapping[str, float]
    total: float
    rate: float
    seconds: float

    def raw(self, part: str) -> float | None:
        """None where the part counts for nothing."""
        weight = self.weights.get(part)
        return self.weighted[part] / weight if weight and part in self.weighted else None


class Record:
    """The rows of a run, in order."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    @property
    def parts(self) -> list[str]:
        """The names of the parts of the loss, in the order of the first row."""
        return list(dict.fromkeys(part for row in self.rows for part in row.weighted))

    def state(self) -> dict[str, NDArray[Any]]:
        """What `take_up` goes on from."""
        return {"record": np.array(json.dumps(self.rows))}

    def take_up(self, state: Mapping[str, NDArray[Any]]) -> None:
        rows = json.loads(str(state["record"]))
        self.rows = [Row(iteration, stage, tuple(size), *rest) for iteration, stage, size, *rest in rows]

    def csv(self) -> bytes:
        """A line per iteration: where it is, each part raw and weighted, their total, the step, the time."""
        return _written([_header(self.parts), *(_line(row, self.parts) for row in self.rows)])

    def plot(self) -> bytes:
        """A PNG of each weighted part and the total over the iterations, on a logarithmic axis."""
        figure, axes = _figure()
        iterations = [row.iteration for row in self.rows]
        kinds = {"content": "Blues", "style": "YlOrRd", "variation": "Greens", "norm": "Purples"}
        for kind, colours in kinds.items():
            parts = [part for part in self.parts if part.split(" ")[0] == kind]
            shades = _shades(colours, len(parts))
            for part, colour in zip(parts, shades, strict=True):
                axes.plot(
                    iterations,
                    [_positive(row.weighted.get(part)) for row in self.rows],
                    color=colour,
                    label=part,
                )
        axes.plot(iterations, [_positive(row.total) for row in self.rows], color="black", lw=2, label="total")
        for before, after in zip(self.rows, self.rows[1:], strict=False):
            if before.stage != after.stage:
                axes.axvline(after.iteration, color="0.8", zorder=0)
        stages = {row.stage: row for row in reversed(self.rows)}
        for row in stages.values() if len(stages) > 1 else ():
            place = (row.iteration, 1.0)
            axes.annotate(
                f" {row.size[1]}x{row.size[0]}",
                place,
                xycoords=("data", "axes fraction"),
                va="bottom",
                size=9,
            )
        return _drawn(figure, axes, self.rows, "weighted loss")


def csv_of(records: Mapping[str, Record]) -> bytes:
    """The lines of several runs one below the other; the first column, `picture`, has their names."""
    parts = list(dict.fromkeys(part for record in records.values() for part in record.parts))
    lines = [[name, *_line(row, parts)] for name, record in records.items() for row in record.rows]
    return _written([["picture", *_header(parts)], *lines])


def plot_of(records: Mapping[str, Record]) -> bytes:
    """A PNG of the total of each of several runs over its iterations, on a logarithmic axis."""
    figure, axes = _figure()
    for (name, record), colour in zip(records.items(), _shades("viridis_r", len(records)), strict=True):
        totals = [_positive(row.total) for row in record.rows]
        axes.plot([row.iteration for row in record.rows], totals, color=colour, label=name)
    return _drawn(figure, axes, [row for record in records.values() for row in record.rows], "total loss")


def _header(parts: Sequence[str]) -> list[str]:
    columns = [f"{part} {kind}" for part in parts for kind in ("raw", "weighted")]
    return ["iteration", "stage", "height", "width", *columns, "total", "rate", "seconds"]


def _line(row: Row, parts: Sequence[str]) -> list[Any]:
    values = [value for part in parts for value in (row.raw(part), row.weighted.get(part))]
    return [
        row.iteration,
        row.stage,
        *row.size,
        *("" if value is None else f"{value:.9g}" for value in (*values, row.total, row.rate)),
        f"{row.seconds:.3f}",
    ]


def _written(lines: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue().encode()


def _figure() -> tuple[Any, Any]:
    """An empty figure with room for a legend on its right."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6))
    FigureCanvasAgg(figure)
    return figure, figure.add_axes((0.08, 0.1, 0.66, 0.84))


def _drawn(figure: Any, axes: Any, rows: Sequence[Row], label: str) -> bytes:
    if any(row.total > 0 for row in rows):
        axes.set_yscale("log")
    axes.set(xlabel="iteration", ylabel=label)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    return buffer.getvalue()


def _positive(value: float | None) -> float:
    """What a logarithmic axis can show; a gap in the curve for anything else."""
    return value if value is not None and value > 0 else float("nan")


def _shades(colours: str, count: int) -> list[tuple[float, ...]]:
    from matplotlib import colormaps

    return [tuple(colormaps[colours](0.35 + 0.6 * (place + 1) / (count + 1))) for place in range(count)]


class Animation:
    """Frames of a run, evenly spread however long it is."""

    def __init__(self) -> None:
        self._frames: list[Pixels] = []
        self._calls, self._every = 0, 1

    def wants_next(self) -> bool:
        """Whether this iteration becomes a frame, which is then to be added. To be called once for each."""
        self._calls += 1
        return (self._calls - 1) % self._every == 0

    def add(self, pixels: Pixels) -> None:
        """A frame (height, width, 3), of any size."""
        self._frames.append(pixels)
        if len(self._frames) > MOST_FRAMES:
            self._frames = self._frames[::2]
            self._every *= 2

    def state(self) -> dict[str, NDArray[Any]]:
        """What `take_up` goes on from."""
        frames = {f"frame/{number}": frame for number, frame in enumerate(self._frames)}
        return {"frames": np.array([self._calls, self._every]), **frames}

    def take_up(self, state: Mapping[str, NDArray[Any]]) -> None:
        self._calls, self._every = (int(number) for number in state["frames"])
        count = sum(name.startswith("frame/") for name in state)
        self._frames = [state[f"frame/{number}"] for number in range(count)]

    def encode(self, last: Pixels, format: AnimationFormat) -> bytes:
        """The bytes of an animated picture that plays for ever and rests on `last`."""
        height, width = last.shape[:2]
        frames = [Image(pixels).resized(height, width).pil() for pixels in self._frames] + [Image(last).pil()]
        durations = [FRAME] * (len(frames) - 1) + [LAST_FRAME]
        settings: Any = {"gif": {"optimize": True}, "webp": {"quality": 85}}[format]
        buffer = io.BytesIO()
        frames[0].save(
            buffer, format, save_all=True, append_images=frames[1:], duration=durations, loop=0, **settings
        )
        return buffer.getvalue()
