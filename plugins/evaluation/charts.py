"""The confusion matrix and the reliability diagram, drawn."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from cnnkit import Image, drawing, label_of
from cnnkit.plugins.evaluation.measures import Bin, Confusion, calibration_error
from cnnkit.plugins.explaining import short

DPI = 100
CELL, LARGEST = 0.6, 15.0
"""Inches: a cell of the matrix where there are few classes, and the whole matrix without its labels."""
LONGEST = 170
"""Of a label, in pixels of a font of 12."""
OTHERS = "another class"
DARK = 0.55
"""Shares above this are written in white."""
SMALLEST = 5.0
"""Points of the numbers."""


def confusion_chart(confusion: Confusion, labels: Sequence[str], title: str) -> Image:
    """A row for each class that has pictures, a column for each that it was taken for.

    The colours are shares of the row. Classes of the network that have no pictures share the last column.
    """
    from matplotlib.figure import Figure

    count = len(confusion.truths)
    rows = [drawing.shorten(short(label_of(index, labels)), 12, LONGEST) for index in confusion.truths]
    counts, columns = confusion.counts[:, :count], list(rows)
    if len(confusion.predicted) > count:
        counts = np.column_stack([counts, confusion.counts[:, count:].sum(1)])
        columns.append(OTHERS)
    shares = counts / counts.sum(1, keepdims=True)
    words = f"{counts.sum()} pictures, {np.trace(counts) / counts.sum():.1%} right"

    cell = min(CELL, LARGEST / count)
    figure = Figure(figsize=(cell * len(columns), cell * count), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    points = min(10.0, 0.8 * 72 * cell)
    axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=points, parse_math=False)
    axes.set_yticks(range(count), rows, fontsize=points, parse_math=False)
    axes.set_xticks(np.arange(0.5, len(columns) - 1), minor=True)
    axes.set_yticks(np.arange(0.5, count - 1), minor=True)
    axes.grid(which="minor", color="0.88", lw=0.5)
    axes.tick_params(which="both", length=0)
    axes.set(xlabel="predicted", ylabel="truth")
    size = min(11.0, 72 * 0.9 * cell / (0.62 * len(str(counts.max()))))
    if size >= SMALLEST:
        for row, column in np.argwhere(counts):
            colour = "white" if shares[row, column] > DARK else "black"
            axes.text(column, row, counts[row, column], color=colour, fontsize=size, ha="center", va="center")
    axes.set_title(f"{title}\n{words}", fontsize=11, loc="left", parse_math=False)
    return _image(figure)


def calibration_chart(bins: Sequence[Bin], title: str) -> Image:
    """How often the network is right over how sure it is, and below it how many pictures there are."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 6.2), dpi=DPI, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    filled = [one for one in bins if one.pictures]
    starts = [one.start for one in filled]
    shape: Any = {"width": 1 / len(bins), "align": "edge"}
    above.bar(starts, [one.accuracy for one in filled], color="#9ec5e8", edgecolor="white", **shape)
    gaps = [one.confidence - one.accuracy for one in filled]
    style: Any = {"color": (0.8, 0.2, 0.15, 0.2), "edgecolor": "#c44e42", "hatch": "///", "lw": 0.8}
    above.bar(starts, gaps, bottom=[one.accuracy for one in filled], label="gap", **style, **shape)
    for number, one in enumerate(filled):
        ends = (one.start, one.stop)
        above.plot(ends, [one.accuracy] * 2, color="tab:blue", lw=2.5, label="" if number else "right")
    above.plot([0, 1], [0, 1], "--", color="0.4", lw=1, label="as right as sure")
    above.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="share of right ones")
    above.legend(loc="upper left", frameon=False)
    above.set_title(f"{title}: ECE {calibration_error(bins):.3f}", fontsize=11, parse_math=False)
    below.bar(starts, [one.pictures for one in filled], color="0.6", edgecolor="white", **shape)
    below.set(xlabel="probability of the predicted class", ylabel="pictures")
    for axes in (above, below):
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    return _image(figure)


def _image(figure: Any) -> Image:
    """As large as it turns out to be with all its labels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(buffer, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.15)
    return Image.load(buffer.getvalue())
