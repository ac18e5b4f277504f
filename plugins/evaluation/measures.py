"""Figures of merit of a classifier, from what it said of each picture."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnnkit.plugins.evaluation.judging import Judged

Counts = NDArray[np.int64]

SMALLEST = float(np.finfo(np.float32).tiny)
"""A probability below counts as this one, so that a cross-entropy is finite: at most 87."""


def accuracy(pictures: Sequence[Judged], most: int = 1) -> float:
    """The share of pictures whose truth is among the `most` classes with the highest probability."""
    return sum(one.rank <= most for one in pictures) / len(pictures)


def cross_entropy(pictures: Sequence[Judged]) -> float:
    """The mean of -log of the probability of the truth, in nats."""
    return -math.fsum(math.log(max(one.of_truth, SMALLEST)) for one in pictures) / len(pictures)


@dataclass(frozen=True)
class Confusion:
    """`counts[row, column]` pictures of the class `truths[row]` were taken for `predicted[column]`.

    All are indices in the network. `truths` are the classes that have pictures, and `predicted` begins with
    them and goes on with other classes that pictures were taken for.
    """

    truths: tuple[int, ...]
    predicted: tuple[int, ...]
    counts: Counts

    @staticmethod
    def of(pictures: Sequence[Judged]) -> "Confusion":
        truths = tuple(sorted({one.truth for one in pictures}))
        others = sorted({one.predicted for one in pictures} - set(truths))
        predicted = (*truths, *others)
        columns = {index: column for column, index in enumerate(predicted)}
        counts = np.zeros((len(truths), len(predicted)), np.int64)
        for one in pictures:
            counts[columns[one.truth], columns[one.predicted]] += 1
        return Confusion(truths, predicted, counts)

    def pairs(self) -> list[tuple[int, int, int]]:
        """(truth, predicted, pictures) of all that was confused, the most frequent first."""
        found = [
            (self.truths[row], self.predicted[column], int(self.counts[row, column]))
            for row, column in np.argwhere(self.counts)
            if row != column
        ]
        return sorted(found, key=lambda pair: (-pair[2], pair[:2]))


@dataclass(frozen=True)
class ClassFigures:
    """Of one class: TP / predicted, TP / pictures, and 2 TP / (predicted + pictures); 0 where 0 / 0."""

    index: int
    precision: float
    recall: float
    f1: float
    pictures: int
    predicted: int


def per_class(confusion: Confusion) -> list[ClassFigures]:
    """Of each class that has pictures."""
    found = []
    for row, index in enumerate(confusion.truths):
        hit = int(confusion.counts[row, row])
        pictures, predicted = int(confusion.counts[row].sum()), int(confusion.counts[:, row].sum())
        found.append(
            ClassFigures(
                index,
                hit / predicted if predicted else 0.0,
                hit / pictures,
                2 * hit / (predicted + pictures),
                pictures,
                predicted,
            )
        )
    return found


class Bin(NamedTuple):
    """Pictures whose highest probability is above `start` and at most `stop`; the means of none are NaN."""

    start: float
    stop: float
    pictures: int
    confidence: float
    accuracy: float


def calibration(pictures: Sequence[Judged], bins: int) -> list[Bin]:
    """The highest probabilities, from 0 to 1 in bins of equal width, beside how often they are right."""
    confidences = np.array([one.probability for one in pictures])
    right = np.array([one.right for one in pictures])
    numbers = np.clip(np.ceil(confidences * bins).astype(int) - 1, 0, bins - 1)
    found = []
    for number in range(bins):
        inside = numbers == number
        means = [float(one[inside].mean()) if inside.any() else math.nan for one in (confidences, right)]
        found.append(Bin(number / bins, (number + 1) / bins, int(inside.sum()), *means))
    return found


def calibration_error(bins: Sequence[Bin]) -> float:
    """ECE: the mean over the pictures of |accuracy - confidence| of their bin (Guo et al. 2017, eq. 3)."""
    filled = [one for one in bins if one.pictures]
    gaps = math.fsum(one.pictures * abs(one.accuracy - one.confidence) for one in filled)
    return gaps / sum(one.pictures for one in filled)
