"""Which pictures of a folder are evaluated, and which of the network's classes they are of."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cnnkit import Context, Dataset, Model, Split, UsageError, did_you_mean
from cnnkit.plugins.evaluation.options import EvaluateOptions, SetName
from cnnkit.plugins.training.options import SplitRule
from cnnkit.plugins.training.sets import few, joined, listed, once

SHARE = 0.2
RULE: SplitRule = "keras"
"""As in `train`."""
HOW = "say with --classes TABLE, a CSV of folder,label, which label or index each folder has"


class Picture(NamedTuple):
    """`file` is its path below the folder, `truth` the index of its class in the network."""

    file: str
    truth: int


@dataclass(frozen=True)
class Chosen:
    """The pictures of one set by the names of their files; `empty` are classes without a picture in it.

    `recorded` is how many there were when the network was trained, where that is known.
    """

    set: SetName
    pictures: tuple[Picture, ...]
    empty: tuple[str, ...]
    recorded: int | None = None


@dataclass(frozen=True)
class Record:
    """How the pictures were split that a network was trained with, and how many it was shown."""

    share: float
    rule: SplitRule
    seed: int
    trained: int
    held_out: int

    @staticmethod
    def of(model: Model) -> "Record | None":
        """As `train` wrote it down; None for a network from elsewhere."""
        told = model.training
        if not told:
            return None
        options = told["options"]
        return Record(
            options["validation"], options["split"], told["seed"], told["pictures"], told["validated_with"]
        )


def choose(folder: Path, model: Model, options: EvaluateOptions, context: Context) -> Chosen:
    """The pictures that the options mean. Raises UsageError for folders that are no classes of the network.

    Says which classes have no picture, and when the network may have learned from what it is evaluated with.
    """
    name: SetName = options.set or ("validation" if options.manifest else "all")
    record = Record.of(model)
    own = None if options.manifest or options.validation is not None or options.split else record
    split = _split(folder, options, own, context)
    dataset = {"all": joined(split), "train": split.train, "validation": split.validation}[name]
    _look(dataset, folder, name, options)

    counts = dataset.counts
    empty = tuple(label for label in dataset.classes if not counts[label])
    for label in empty:
        context.say(f"the class '{label}' has no pictures{'' if name == 'all' else f' for {name}'}.")
    if record and name == "all" and _learned_from(dataset, model, record):
        context.say(
            f"the {record.trained} pictures that the network learned from seem to be among these "
            f"{len(dataset)}: --set validation leaves them out."
        )
    places = {label: _place(label, model) for label in dataset.classes if counts[label]}
    pictures = sorted(
        Picture(file, places[dataset.classes[label]])
        for file, label in zip(dataset.files, dataset.labels.tolist(), strict=True)
    )
    recorded = own.held_out if own and own.rule == "keras" and name == "validation" else None
    return Chosen(name, tuple(pictures), empty, recorded)


def _split(folder: Path, options: EvaluateOptions, record: Record | None, context: Context) -> Split:
    """Pictures that a training learned from, and those that it held out."""
    if options.manifest:
        return read_manifest(folder, options.manifest)
    share = SHARE if options.validation is None else options.validation
    rule, seed = options.split or RULE, context.seed
    if record:
        share, rule, seed = record.share, record.rule, record.seed
    if options.classes:
        return listed(folder, options.classes, share, seed, rule)
    return Dataset.index(folder).split(share, seed, rule)


def read_manifest(folder: Path, table: Path) -> Split:
    """The sets that `cnnkit.manifest_of` wrote down. Raises UsageError for another file."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"--manifest {table} cannot be read: {error}.") from None
    if not rows or not rows[0].keys() >= {"set", "file", "label"}:
        raise UsageError(f"--manifest {table} should have the columns 'set', 'file' and 'label'.")
    classes = tuple(sorted({row["label"] for row in rows}))
    places = {name: index for index, name in enumerate(classes)}

    def named(name: str) -> Dataset:
        chosen = [row for row in rows if row["set"] == name]
        labels = np.array([places[row["label"]] for row in chosen], np.int64)
        return Dataset(folder, classes, tuple(row["file"] for row in chosen), labels)

    return Split(named("train"), named("validation"))


def _look(dataset: Dataset, folder: Path, name: SetName, options: EvaluateOptions) -> None:
    """Raises UsageError for pictures that cannot be judged."""
    if not len(dataset):
        where = "" if name == "all" else f" for {name}"
        raise UsageError(f"{folder} has no pictures{where}: there is nothing to evaluate.")
    if not options.manifest:
        return
    if gone := [file for file in dataset.files if not (folder / file).is_file()]:
        raise UsageError(f"--manifest {options.manifest} names {few(gone)}, which {folder} does not have.")
    once(dataset.files, options.manifest)


def _learned_from(dataset: Dataset, model: Model, record: Record) -> bool:
    """Whether a folder seems to be the one that the network was trained on."""
    named = model.origin.startswith(f"trained by cnnkit on {dataset.root.name},")
    as_many = record.trained + record.held_out == len(dataset)
    return dataset.classes == model.labels and (named or as_many)


def _place(name: str, model: Model) -> int:
    """The network's class that a folder is called after: a label, one of its synonyms, or an index."""
    word = name.casefold()
    synonyms = [[one.strip() for one in label.split(",")] for label in model.labels]
    found = [i for i, label in enumerate(model.labels) if label.casefold() == word]
    found = found or [i for i, some in enumerate(synonyms) if word in (one.casefold() for one in some)]
    if not found and name.isdecimal() and int(name) < model.classes:
        found = [int(name)]
    if len(found) == 1:
        return found[0]
    if found:
        several = ", ".join(f"{i} ({model.labels[i]})" for i in found)
        raise UsageError(f"'{name}' may be several classes of '{model.name}': {several}; {HOW}.")
    if not model.labels:
        raise UsageError(
            f"'{model.name}' has no labels, so nobody knows which of its classes '{name}' is: give them with "
            f"--labels, or {HOW}."
        )
    hint = did_you_mean(name, (one for some in synonyms for one in some))
    raise UsageError(f"'{name}' is no class of '{model.name}'.{hint} Rename the folder, or {HOW}.")
