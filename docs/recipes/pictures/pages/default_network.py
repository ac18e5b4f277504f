"""*The default network*: the stages of its training."""

from pathlib import Path

from workshop import DOCS, Workshop

from cnnkit import Image
from cnnkit.plugins.training import record

STAGES = ("64", "96", "128")


def make(workshop: Workshop) -> None:
    """Of the histories that the training left, as its last command draws them."""
    histories = DOCS / "recipes" / "default-network"
    *others, own = [record.read(histories / f"{stage}.history.csv") for stage in STAGES]
    beside = {Path(stage, "history.csv"): rows for stage, rows in zip(STAGES[:-1], others, strict=True)}
    workshop.keep("curves.png", Image.load(record.curves(own, beside)))
