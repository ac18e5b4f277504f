"""What is kept of a training: a row for each epoch, as a table and as curves, and those of other runs."""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
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


def names(own: Sequence[Row], others: Mapping[Path, Sequence[Row]]) -> list[str]:
    """What the others, then this run are called: their last phase, and the folder of those that share it."""
    phases = [rows[-1].phase for rows in others.values()]
    times = Counter([*phases, own[-1].phase])
    folders = [path.parent.name or path.stem for path in others]
    return [
        phase if times[phase] == 1 else f"{phase} in {folder}"
        for phase, folder in zip(phases, folders, strict=True)
    ] + [own[-1].phase]


def curves(own: Sequence[Row], others: Mapping[Path, Sequence[Row]]) -> bytes:
    """A PNG: loss and accuracy over the epochs, dashed of training, solid of validation; a colour a run."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    runs = [*others.values(), own]
    figure = Figure(figsize=(13, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, what in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for number, (name, rows) in enumerate(zip(names(own, others), runs, strict=True)):
            colour = colormaps["tab10"](number % 10)
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
            figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    return buffer.getvalue()
