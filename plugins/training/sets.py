"""Which pictures are trained with, and which validated with."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cnnkit import Context, Dataset, Image, Split, UsageError, drawing
from cnnkit.plugins.training.feeding import Feeder
from cnnkit.plugins.training.options import SplitRule, TrainOptions

SHOWN = 8
"""Pictures of a class on the sheet, and classes on it."""


def sets(folder: Path, options: TrainOptions, context: Context) -> Split:
    """The two sets of a folder, with the same classes. Raises UsageError for folders without such sets."""
    if options.classes and options.validation_folder:
        raise UsageError(
            "--classes says with its third column what validates; leave out --validation-folder."
        )
    if options.classes:
        found = listed(folder, options.classes, options.validation, context.seed, options.split)
    else:
        whole = Dataset.index(folder)
        if options.validation_folder:
            found = Split(whole, _with_classes_of(whole, Dataset.index(options.validation_folder)))
        else:
            found = whole.split(options.validation, context.seed, options.split)
    _look(found, folder, context)
    return found


def readable(feeder: Feeder, options: TrainOptions, context: Context) -> Feeder:
    """The feeder without the pictures that cannot be read, which are named.

    Raises UsageError where there are any and the user wants none.
    """
    dataset = feeder.dataset
    problems = list(context.progress(feeder.read(), len(dataset), "reading pictures"))
    for error in problems:
        if error and options.unreadable == "refuse":
            raise UsageError(f"{str(error).rstrip('.')}. Take it away, or say --unreadable skip.")
        if error:
            context.say(f"left out: {error}")
    return feeder.take([index for index, error in enumerate(problems) if error is None])


def sheet(feeder: Feeder, augmented: bool) -> Image:
    """The first pictures of the first classes, as they are loaded or as the first epoch shows them.

    A row for each class; where one has fewer pictures, its row ends in white.
    """
    dataset = feeder.dataset
    tiles, names = [], []
    for label in range(min(len(dataset.classes), SHOWN)):
        found = np.flatnonzero(dataset.labels == label)[:SHOWN]
        for index in found:
            pixels = feeder.view(int(index), 0) if augmented else feeder.plain(int(index))
            tiles.append(pixels)
            names.append(dataset.classes[label])
        missing = SHOWN - len(found)
        tiles += [np.full((*feeder.size, 3), 255, np.uint8)] * missing
        names += [""] * missing
    return Image(drawing.grid(tiles, SHOWN, padding=4, captions=names))


def listed(folder: Path, table: Path, share: float, seed: int, rule: SplitRule) -> Split:
    """The two sets of a table of classes; what it puts into neither is split. Raises UsageError."""
    found = Dataset.listed(folder, table)
    if unknown := sorted(found.keys() - {"", "train", "validation"}):
        raise UsageError(f"{table}: a set is train, validation or empty, not '{unknown[0]}'.")
    once([file for dataset in found.values() for file in dataset.files], table)
    parts: dict[str, list[Dataset]] = {"train": [], "validation": []}
    for name, dataset in found.items():
        if name:
            parts[name].append(dataset)
        else:
            split = dataset.split(share, seed, rule)
            parts["train"].append(split.train)
            parts["validation"].append(split.validation)
    return Split(*(joined(some or [next(iter(found.values())).take([])]) for some in parts.values()))


def once(files: Sequence[str], table: Path) -> None:
    """Raises UsageError for a table that gives a picture more than one class or set."""
    if twice := sorted(file for file, count in Counter(files).items() if count > 1):
        raise UsageError(f"{table} has more than one row for {few(twice)}.")


def few(files: Sequence[str]) -> str:
    """The first, and how many more there are."""
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return f"'{files[0]}'{more}"


def joined(parts: Sequence[Dataset]) -> Dataset:
    files = tuple(file for part in parts for file in part.files)
    return replace(parts[0], files=files, labels=np.concatenate([part.labels for part in parts]))


def _with_classes_of(whole: Dataset, other: Dataset) -> Dataset:
    """The other dataset with its labels counted as in the first."""
    if unknown := sorted(set(other.classes) - set(whole.classes)):
        raise UsageError(
            f"{other.root} has a folder '{unknown[0]}', and {whole.root} has none: both need the same."
        )
    places = np.array([whole.classes.index(name) for name in other.classes], np.int64)
    return replace(other, classes=whole.classes, labels=places[other.labels])


def _look(split: Split, folder: Path, context: Context) -> None:
    """Say what may be wrong with the sets. Raises UsageError for sets that teach nothing."""
    counts = split.train.counts
    used = [name for name, count in counts.items() if count]
    if len(used) < 2:
        found = f"only '{used[0]}' has" if used else "none has"
        raise UsageError(
            f"{folder}: a classifier needs two classes with pictures; {found} any to train with."
        )
    names: dict[str, str] = {}
    for name, count in counts.items():
        validated = split.validation.counts[name]
        if not count + validated:
            context.say(f"the class '{name}' has no pictures: it will never be learned.")
        elif not count:
            context.say(
                f"all {validated} pictures of the class '{name}' are for validation: it cannot be learned."
            )
        elif len(split.validation) and not validated:
            context.say(f"no picture of the class '{name}' is for validation.")
        if (other := names.setdefault(name.casefold(), name)) != name:
            context.say(f"the classes '{other}' and '{name}' differ in capitals only; are they one?")
