"""What is kept of a training: a row for each epoch, as a table and as curves, and those of other runs."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from cnnkit import UsageError
from cnnkit.plugins.training.course import Row

COLUMNS = Row._fields


def table(rows: Sequence[Row]) -> bytes:
    """CSV, a line per epoch."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow(f"{value:.6g}" if isinstance(value, float) else value for value in row)
    return text.getvalue().encode()


def read(path: Path) -> list[Row]:
    """What `table` wrote. Raises UsageError for another file."""
    try:
        with path.open(newline="") as file:
            lines = list(csv.DictReader(file))
        if not lines:
            raise ValueError("it has no epochs")
        return [Row(*(kind(line[name]) for name, kind in Row.__annotations__.items())) for line in lines]
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
        raise UsageError(f"{path} is no history.csv of a training: {error}.") from None


def curves(runs: Sequence[Sequence[Row]]) -> bytes:
    """A PNG: loss and accuracy over the epochs, dashed of training, solid of validation; a colour a run."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, what in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for number, rows in enumerate(runs):
            name, colour = rows[-1].phase, colormaps["tab10"](number % 10)
            epochs = range(1, len(rows) + 1)
            marker = "o" if len(rows) == 1 else ""
            for field, style, set_ in ((what, "--", "training"), (f"validation_{what}", "-", "validation")):
                values = [getattr(row, field) for row in rows]
                label = f"{name}, {set_}"
                axes.plot(epochs, values, style, color=colour, marker=marker, label=label)
            for before, after, epoch in zip(rows, rows[1:], epochs, strict=False):
                if before.phase != after.phase:
                    axes.axvline(epoch + 0.5, color=colour, alpha=0.4, lw=1, ls=":")
        axes.set(xlabel="epoch", title=what)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if what == "accuracy":
            axes.set_ylim(top=1.01)
            axes.legend(loc="lower right", frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    return buffer.getvalue()
