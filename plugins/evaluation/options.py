"""What a person may set of an evaluation."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cnnkit import Option
from cnnkit.plugins.training.options import SplitRule

SetName = Literal["all", "train", "validation"]
Explanation = Literal["grad-cam", "cam", "occlusion", "none"]


@dataclass(frozen=True)
class EvaluateOptions:
    """Say how good a classifier is on a folder that holds a folder of pictures per class.

    Tells what is taken for what, how far the probabilities can be trusted, which pictures are wrong, and
    where the network looked on them.
    """

    set: Annotated[
        SetName | None,
        Option("which pictures: all, or those that a training held out or learned from (validation with "
               "--manifest, else all)"),
    ] = None  # fmt: skip
    manifest: Annotated[
        Path | None, Option("the split.csv of a training, which says what picture is in which set")
    ] = None
    classes: Annotated[
        Path | None,
        Option("CSV of what the classes are: columns folder, label and, if any, set (train, validation)"),
    ] = None
    validation: Annotated[
        float | None,
        Option("share that was held out, with --seed (as the network's training record says, else 0.2)",
               min=0, max=0.95),
    ] = None  # fmt: skip
    split: Annotated[
        SplitRule | None,
        Option("who was held out: as Keras shuffles, or by each picture's name (as recorded, else keras)"),
    ] = None

    shown: Annotated[int, Option("right and wrong pictures on the sheets, of each at most", min=1)] = 12
    explain: Annotated[Explanation, Option("the heat maps on the sheets")] = "grad-cam"
    bins: Annotated[int, Option("of equal width, for the calibration", min=1)] = 15
