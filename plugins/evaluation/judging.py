"""What the network says of each picture: one record that names its file, from the first to the last step."""

import csv
import io
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnnkit import Context, Image, ImageError, Model, ModelError, label_of
from cnnkit.plugins.evaluation.pictures import Picture
from cnnkit.plugins.training.feeding import ahead

THREADS = 2


class Judged(NamedTuple):
    """A picture and its answer. Classes are indices in the network, probabilities those of its output.

    `rank` is 1 where the class with the highest probability is the truth, 2 where the next one is, and so on;
    of equals the lower index comes first. `second` is the class after the predicted one, the same where there
    is one only.
    """

    file: str
    truth: int
    predicted: int
    second: int
    probability: float
    of_truth: float
    of_second: float
    rank: int

    @property
    def right(self) -> bool:
        return self.predicted == self.truth


class Unreadable(NamedTuple):
    file: str
    why: str


def judge(
    folder: Path, pictures: Sequence[Picture], model: Model, context: Context
) -> Iterator[Judged | Unreadable]:
    """Each picture once, few of them in memory at a time; all but the unreadable ones in order."""
    scores = model.probabilities
    waiting: deque[Picture] = deque()
    unreadable: deque[Unreadable] = deque()

    def load(picture: Picture) -> tuple[Picture, NDArray[np.float32] | ImageError]:
        try:
            return picture, model.preprocessing.apply(Image.load(folder / picture.file)).tensor[0]
        except ImageError as error:
            return picture, error

    def tensors() -> Iterator[NDArray[np.float32]]:
        for picture, loaded in ahead(load, pictures, context.settings.threads or THREADS):
            if isinstance(loaded, ImageError):
                unreadable.append(Unreadable(picture.file, str(loaded)))
            else:
                waiting.append(picture)
                yield loaded

    for outputs in context.session(model).map(tensors(), [scores.tensor]):
        yield judged(waiting.popleft(), scores.of_one(outputs))
        while unreadable:
            yield unreadable.popleft()
    yield from unreadable


def judged(picture: Picture, probabilities: NDArray[np.float32]) -> Judged:
    """One picture by the probabilities (classes,) of all classes. Raises ModelError for what is no number."""
    if not np.isfinite(probabilities).all():
        raise ModelError(f"the network's answer to '{picture.file}' has values that are no numbers.")
    order = np.argsort(-probabilities, kind="stable")
    predicted, second = int(order[0]), int(order[min(1, len(order) - 1)])
    return Judged(
        picture.file,
        picture.truth,
        predicted,
        second,
        float(probabilities[predicted]),
        float(probabilities[picture.truth]),
        float(probabilities[second]),
        1 + int(np.flatnonzero(order == picture.truth)[0]),
    )


def wrong(pictures: Sequence[Judged]) -> list[Judged]:
    """The wrong ones, the surest first; of equals by their files."""
    return sorted((one for one in pictures if not one.right), key=lambda one: (-one.probability, one.file))


def told(one: Judged, labels: Sequence[str]) -> dict[str, Any]:
    """A picture as the data of a result and the tables have it."""
    return {
        "file": one.file,
        "truth": label_of(one.truth, labels),
        "predicted": label_of(one.predicted, labels),
        "probability": one.probability,
        "probability_of_truth": one.of_truth,
        "rank_of_truth": one.rank,
    }


COLUMNS = ("file", "truth", "predicted", "probability", "probability_of_truth", "rank_of_truth")


def table(pictures: Sequence[Judged], labels: Sequence[str]) -> bytes:
    """CSV, a line per picture, in the order given."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for one in pictures:
        row = told(one, labels)
        writer.writerow({name: f"{v:.6g}" if isinstance(v, float) else v for name, v in row.items()})
    return text.getvalue().encode()
