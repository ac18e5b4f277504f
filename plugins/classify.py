"""Classification: the best classes of many pictures in batches, and how often they are right."""

import csv
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal

import numpy as np

from cnnkit import Context, Image, Model, Operation, Option, Result, UsageError, hookimpl, label_of


@dataclass(frozen=True)
class ClassifyOptions:
    """Say what is on the pictures: the best classes of each, and with --truth how many are right."""

    top: Annotated[int, Option("how many classes to name", min=1)] = 5
    score: Annotated[Literal["probabilities", "logits"], Option("what to print beside the class")] = (
        "probabilities"
    )
    truth: Annotated[
        Path | None, Option("CSV table of the right classes: file, class index; a header may stand above")
    ] = None
    truth_offset: Annotated[
        int, Option("added to the class indices of --truth (1 where 0 is background)")
    ] = 0


def classify(
    pictures: Iterator[Image], model: Model, options: ClassifyOptions, context: Context
) -> Iterator[Result]:
    """One result per picture, in order; with a truth, one more about them all."""
    truth = Truth.load(options.truth, options.truth_offset, model.classes) if options.truth else None
    waiting: deque[tuple[str, str | None]] = deque()

    def tensors() -> Iterator[Any]:
        for picture in pictures:
            waiting.append((picture.name, picture.source))
            yield model.preprocessing.apply(picture).tensor[0]

    watched = model.probabilities if options.score == "probabilities" else model.logits
    for output in context.session(model).map(tensors(), [watched.tensor]):
        name, source = waiting.popleft()
        scores = watched.of_one(output)
        order = np.argsort(-scores, kind="stable").tolist()
        data: dict[str, Any] = {
            "picture": name,
            "score": options.score,
            "classes": [
                {"class": index, "label": label_of(index, model.labels), "score": float(scores[index])}
                for index in order[: options.top]
            ],
        }
        if truth and source and (right := truth.record(source, order)) is not None:
            data["truth"] = {"class": right, "label": label_of(right, model.labels)}
            data["correct"] = order[0] == right
        yield Result(data=data, text=_table(data))
    if truth:
        for line in truth.unmatched():
            context.say(line)
        yield Result(data=truth.data(), text=truth.text())


class Truth:
    """The right classes by file name, and the count of how often they were found."""

    def __init__(self, path: Path, classes: dict[str, int]) -> None:
        self.path = path
        self.classes = classes
        self.met: set[str] = set()
        self.missing: list[str] = []
        self.judged = self.top1 = self.top5 = 0

    @classmethod
    def load(cls, path: Path, offset: int, count: int) -> "Truth":
        """Read a CSV file of (file, class index). Raises UsageError, with the line that is none."""
        try:
            rows = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            reason = getattr(error, "strerror", None) or error
            raise UsageError(f"--truth {path} cannot be read as a CSV table: {reason}.") from None
        classes: dict[str, int] = {}
        for number, row in enumerate(rows, start=1):
            here = f"--truth {path}, line {number}"
            if not row or (number == 1 and len(row) > 1 and not _is_whole(row[1])):
                continue
            if len(row) < 2 or not _is_whole(row[1]):
                raise UsageError(f"{here}: expected a file and a class index, found '{','.join(row)}'.")
            index = int(row[1]) + offset
            if not 0 <= index < count:
                raise UsageError(
                    f"{here}: class {row[1]} with --truth-offset {offset} is {index}, "
                    f"and the network has the classes 0 to {count - 1}."
                )
            if classes.setdefault(row[0], index) != index:
                raise UsageError(f"{here}: '{row[0]}' has a second, different class.")
        return cls(path, classes)

    def record(self, source: str, order: list[int]) -> int | None:
        """The right class of a picture, which counts `order` as its answer; None if the table lacks it.

        A row names the picture by any number of its last folders: `b.jpg` or `a/b.jpg` for `/photos/a/b.jpg`.
        """
        parts = PurePath(source).parts
        names = ["/".join(parts[start:]) for start in range(len(parts))]
        row = next((name for name in [source, *names] if name in self.classes), None)
        if row is None:
            self.missing.append(source)
            return None
        right = self.classes[row]
        self.met.add(row)
        self.judged += 1
        self.top1 += right in order[:1]
        self.top5 += right in order[:5]
        return right

    def unmatched(self) -> Iterator[str]:
        """Sentences about the pictures without a row and the rows without a picture."""
        if self.missing:
            yield f"{len(self.missing)} of the pictures are not in {self.path}: {_few(self.missing)}."
        unmet = [name for name in self.classes if name not in self.met]
        if unmet:
            yield f"{len(unmet)} of the rows of {self.path} met no picture: {_few(unmet)}."

    def data(self) -> dict[str, Any]:
        return {
            "judged": self.judged,
            "top1": self.top1,
            "top5": self.top5,
            "top1_accuracy": self.top1 / self.judged if self.judged else None,
            "top5_accuracy": self.top5 / self.judged if self.judged else None,
            "pictures_without_truth": self.missing,
            "rows_without_picture": [name for name in self.classes if name not in self.met],
        }

    def text(self) -> str:
        if not self.judged:
            return f"none of the pictures is in {self.path}"
        return "\n".join(
            f"{name}  {count} of {self.judged}  {100 * count / self.judged:.1f} %"
            for name, count in (("top-1", self.top1), ("top-5", self.top5))
        )


def _table(data: dict[str, Any]) -> str:
    """The picture's name, and beside it one line per class; the right one is marked."""
    right = data["truth"]["class"] if "truth" in data else None
    digits = 3 if data["score"] == "probabilities" else 2
    scores = [f"{row['score']:.{digits}f}" for row in data["classes"]]
    width = max(map(len, scores))
    lines = [
        f"{score:>{width}}  {row['label']}{'  <- right' if row['class'] == right else ''}"
        for score, row in zip(scores, data["classes"], strict=True)
    ]
    if right is not None and all(row["class"] != right for row in data["classes"]):
        lines.append(f"{'':{width}}  {data['truth']['label']}  <- right")
    indent = " " * (len(data["picture"]) + 2)
    return f"{data['picture']}  " + f"\n{indent}".join(lines)


def _few(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _is_whole(text: str) -> bool:
    return re.fullmatch(r"\s*[+-]?[0-9]+\s*", text) is not None


@hookimpl
def cnnkit_operations() -> list[Operation]:
    return [Operation("classify", classify, ClassifyOptions, takes="pictures", needs="classifier")]
