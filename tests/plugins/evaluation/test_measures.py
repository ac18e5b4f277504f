"""Figures of merit: closed forms from a table of answers, then scikit-learn."""

import math
from itertools import pairwise

import numpy as np
import pytest

from cnnkit.plugins.evaluation.judging import Judged, judged
from cnnkit.plugins.evaluation.measures import (
    Confusion,
    accuracy,
    calibration,
    calibration_error,
    cross_entropy,
    per_class,
)
from cnnkit.plugins.evaluation.pictures import Picture

ANSWERS = [
    ("a", 0, [0.7, 0.2, 0.1, 0.0]),
    ("b", 0, [0.3, 0.6, 0.1, 0.0]),
    ("c", 0, [0.5, 0.3, 0.2, 0.0]),
    ("d", 1, [0.1, 0.8, 0.1, 0.0]),
    ("e", 1, [0.2, 0.3, 0.1, 0.4]),
    ("f", 2, [0.4, 0.5, 0.1, 0.0]),
]
"""File, truth, and the probabilities of four classes, of which the last has no pictures."""


def table(answers: list[tuple[str, int, list[float]]] = ANSWERS) -> list[Judged]:
    return [judged(Picture(file, truth), np.array(scores, np.float32)) for file, truth, scores in answers]


def test_one_answer() -> None:
    one = judged(Picture("e", 1), np.array([0.2, 0.3, 0.1, 0.4], np.float32))
    assert (one.file, one.truth, one.predicted, one.second, one.rank) == ("e", 1, 3, 1, 2)
    assert (one.probability, one.of_truth, one.of_second) == pytest.approx((0.4, 0.3, 0.3))


def test_of_equals_the_lower_index_comes_first() -> None:
    equal = np.array([0.25, 0.25, 0.25, 0.25], np.float32)
    assert [judged(Picture("", truth), equal).rank for truth in range(4)] == [1, 2, 3, 4]


def test_accuracy_among_the_first() -> None:
    assert [accuracy(table(), most) for most in (1, 2, 3, 4)] == pytest.approx([3 / 6, 5 / 6, 1, 1])


def test_cross_entropy() -> None:
    expected = -sum(map(math.log, (0.7, 0.3, 0.5, 0.8, 0.3, 0.1))) / 6
    assert cross_entropy(table()) == pytest.approx(expected)
    never = judged(Picture("", 1), np.array([1, 0], np.float32))
    assert cross_entropy([never]) == pytest.approx(87.336545)


def test_what_is_taken_for_what() -> None:
    """A class without pictures has a column where it is predicted, and no row."""
    found = Confusion.of(table())
    assert found.truths == (0, 1, 2) and found.predicted == (0, 1, 2, 3)
    assert found.counts.tolist() == [[2, 1, 0, 0], [0, 1, 0, 1], [0, 1, 0, 0]]
    assert found.pairs() == [(0, 1, 1), (1, 3, 1), (2, 1, 1)]


def test_each_class() -> None:
    one, two, three = per_class(Confusion.of(table()))
    assert (one.precision, one.recall, one.f1, one.pictures, one.predicted) == (1, 2 / 3, 4 / 5, 3, 2)
    assert (two.precision, two.recall, two.f1, two.pictures, two.predicted) == (1 / 3, 1 / 2, 2 / 5, 2, 3)
    assert (three.precision, three.recall, three.f1, three.pictures, three.predicted) == (0, 0, 0, 1, 0)


def test_calibration() -> None:
    """Bins are open below and closed above: exactly 0.5 is in the lower of two."""
    low, high = calibration(table(), 2)
    assert (low.start, low.stop, high.start, high.stop) == (0, 0.5, 0.5, 1)
    assert (low.pictures, low.accuracy, low.confidence) == (3, 1 / 3, pytest.approx((0.5 + 0.4 + 0.5) / 3))
    assert (high.pictures, high.accuracy, high.confidence) == (
        3,
        pytest.approx(2 / 3),
        pytest.approx(2.1 / 3),
    )
    assert calibration_error([low, high]) == pytest.approx((abs(1 - 1.4) + abs(2 - 2.1)) / 6)


def test_a_network_that_means_what_it_says() -> None:
    answers = [(str(i), 0 if i < 3 else 1, [0.75, 0.25]) for i in range(4)]
    assert calibration_error(calibration(table(answers), 10)) == 0
    sure = [(str(i), i % 2, [1.0, 0.0]) for i in range(4)]
    bins = calibration(table(sure), 10)
    assert calibration_error(bins) == 0.5 and bins[-1].pictures == 4 and math.isnan(bins[0].accuracy)


@pytest.mark.oracle
def test_against_scikit_learn() -> None:
    from sklearn import metrics

    random = np.random.default_rng(0)
    count, classes = 400, 7
    truths = random.integers(0, classes, count)
    logits = random.standard_normal((count, classes)) + 1.5 * np.eye(classes)[truths]
    scores = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32)
    found = [
        judged(Picture(str(i), int(truth)), row)
        for i, (truth, row) in enumerate(zip(truths, scores, strict=True))
    ]
    predicted = scores.argmax(1)
    confusion = Confusion.of(found)
    np.testing.assert_array_equal(confusion.counts, metrics.confusion_matrix(truths, predicted))
    expected = metrics.precision_recall_fscore_support(truths, predicted)
    rows = [(one.precision, one.recall, one.f1, one.pictures) for one in per_class(confusion)]
    np.testing.assert_allclose(np.transpose(rows), np.array(expected), rtol=1e-12)
    for most in (1, 3, 5):
        assert accuracy(found, most) == metrics.top_k_accuracy_score(truths, scores, k=most)
    assert cross_entropy(found) == pytest.approx(metrics.log_loss(truths, scores), rel=1e-6)

    edges, error = np.linspace(0, 1, 16), 0.0
    for low, high in pairwise(edges):
        inside = (scores.max(1) > low) & (scores.max(1) <= high)
        if inside.any():
            right = (predicted == truths)[inside].mean()
            error += inside.mean() * abs(right - scores.max(1)[inside].mean(dtype=np.float64))
    assert calibration_error(calibration(found, 15)) == pytest.approx(error, rel=1e-9)
