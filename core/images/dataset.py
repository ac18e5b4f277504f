"""Folders of class folders: which pictures there are, of which class, and in which set.

The rules are those of Keras' `image_dataset_from_directory` (keras/src/utils/dataset_utils.py and
image_dataset_utils.py), so that the same folder gives the same pictures in the same sets: classes are the
folders in it, sorted; a class has all pictures below its folder, in the order of their folders and names.
"""

import csv
import hashlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnnkit.errors import UsageError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png")
"""What counts as a picture, in small letters or capitals."""

SplitRule = Literal["keras", "hash"]
Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Pictures with their classes.

    `files` are paths below `root` with "/" between folders, `labels` (N,) their classes as indices into
    `classes`.
    """

    root: Path
    classes: tuple[str, ...]
    files: tuple[str, ...]
    labels: Indices

    @staticmethod
    def index(root: str | Path) -> "Dataset":
        """The pictures in the class folders of a folder, in Keras' order. Raises UsageError for another."""
        root = Path(root)
        if not root.is_dir():
            found = "a file" if root.exists() else "nothing"
            raise UsageError(
                f"{root} should be a folder with a folder of pictures per class; there is {found}."
            )
        names = sorted(n for n in os.listdir(root) if (root / n).is_dir() and not n.startswith("."))
        if not names:
            raise UsageError(
                f"{root} has no folders in it: give the folder that holds a folder of pictures per class."
            )
        return Dataset._of(root, tuple(names), [(name, name) for name in names])

    @staticmethod
    def listed(root: str | Path, table: str | Path) -> "Mapping[str, Dataset]":
        """The sets that a table names: CSV with the columns `folder`, `label` and, if it likes, `set`.

        Each row is a folder below `root` whose pictures have that label; folders of one label are one class.
        Keys are the words in `set`, "" where there is none. All sets have the same classes, sorted. Raises
        UsageError.
        """
        root, table = Path(root), Path(table)
        rows = _rows(table)
        classes = tuple(sorted({row["label"] for row in rows}))
        for row in rows:
            if not (root / row["folder"]).is_dir():
                raise UsageError(f"{table} names the folder '{row['folder']}', which {root} does not have.")
        sets = dict.fromkeys((row.get("set") or "").strip() for row in rows)
        return {
            name: Dataset._of(
                root,
                classes,
                [(r["folder"], r["label"]) for r in rows if (r.get("set") or "").strip() == name],
            )
            for name in sets
        }

    @staticmethod
    def _of(root: Path, classes: tuple[str, ...], folders: Sequence[tuple[str, str]]) -> "Dataset":
        places = {name: index for index, name in enumerate(classes)}
        files: list[str] = []
        labels: list[int] = []
        for folder, label in folders:
            found = list(_pictures(root, folder))
            files += found
            labels += [places[label]] * len(found)
        return Dataset(root, classes, tuple(files), np.array(labels, np.int64))

    def __len__(self) -> int:
        return len(self.files)

    def path(self, index: int) -> Path:
        return self.root / self.files[index]

    def label(self, index: int) -> str:
        return self.classes[int(self.labels[index])]

    @property
    def counts(self) -> dict[str, int]:
        """The number of pictures of each class."""
        numbers = np.bincount(self.labels, minlength=len(self.classes))
        return dict(zip(self.classes, map(int, numbers), strict=True))

    def take(self, indices: Indices | Sequence[int]) -> "Dataset":
        """Some of the pictures, in that order."""
        chosen = np.asarray(indices, np.int64)
        return Dataset(self.root, self.classes, tuple(self.files[i] for i in chosen), self.labels[chosen])

    def shuffled(self, seed: int) -> "Dataset":
        """In Keras' order for `shuffle=True`."""
        return self.take(permutation(len(self), seed))

    def split(self, share: float, seed: int, rule: SplitRule = "keras") -> "Split":
        """Pictures to train with, and the share of 0 to 1 to validate with.

        "keras": all are shuffled, and the last int(share·N) are for validation; another picture changes
        everything. "hash": a picture's own path decides, so it stays where it is when others come or go; the
        share is then about right. Neither looks at the classes.
        """
        if rule == "keras":
            order = permutation(len(self), seed)
            count = int(share * len(self))
            return Split(self.take(order[: len(self) - count]), self.take(order[len(self) - count :]))
        held = np.array([_position(file, seed) < share for file in self.files], bool)
        return Split(self.take(np.flatnonzero(~held)), self.take(np.flatnonzero(held)))


class Split(NamedTuple):
    train: Dataset
    validation: Dataset


def permutation(count: int, seed: int) -> Indices:
    """The order that Keras shuffles `count` pictures into: that of numpy's old generator."""
    order = np.arange(count)
    np.random.RandomState(seed).shuffle(order)
    return order


def manifest_of(sets: Mapping[str, Dataset]) -> str:
    """CSV with the columns set, file and label: which picture is where, in the order of the sets."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["set", "file", "label"])
    for name, dataset in sets.items():
        writer.writerows(
            (name, file, dataset.classes[label])
            for file, label in zip(dataset.files, dataset.labels, strict=True)
        )
    return text.getvalue()


def _pictures(root: Path, folder: str) -> Iterator[str]:
    """The pictures below a folder, as paths below `root`."""
    for place, _, names in sorted(os.walk(root / folder)):
        inside = Path(place).relative_to(root).as_posix()
        yield from (f"{inside}/{name}" for name in sorted(names) if name.lower().endswith(SUFFIXES))


def _position(file: str, seed: int) -> float:
    """A number of 0 to 1 that a path alone decides."""
    digest = hashlib.sha256(f"{seed}/{file}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _rows(table: Path) -> list[dict[str, str]]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"the table of classes {table} cannot be read: {error}.") from None
    if not rows or not {"folder", "label"} <= rows[0].keys():
        has = ", ".join(rows[0]) if rows else "nothing"
        raise UsageError(f"{table} should have the columns 'folder' and 'label'; it has {has}.")
    if empty := [str(number) for number, row in enumerate(rows, 2) if not row["label"] or not row["folder"]]:
        raise UsageError(f"{table} has no folder or no label in line {', '.join(empty[:5])}.")
    return rows
