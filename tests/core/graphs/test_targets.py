"""Which classes a text means, and where a network keeps their scores."""

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from cnnkit import Builder, Graph, Scores, UsageError, label_of, resolve_targets
from cnnkit.graphs.targets import logits, probabilities

LABELS = ["tench, Tinca tinca", "tabby, tabby cat", "tiger cat", "crane", "crane, lifting gear", "top hat"]
SCORES = np.array([0.1, 0.5, 0.2, 0.9, 0.2, 0.3], np.float32)


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("top", [3]),
        ("top:3", [3, 1, 5]),
        ("top:4", [3, 1, 5, 2]),
        ("2", [2]),
        ("0, 5", [0, 5]),
        ("tabby", [1]),
        ("TABBY CAT", [1]),
        ("tinca tinca", [0]),
        ("tench, Tinca tinca", [0]),
        ("crane", [3]),
        ("crane, lifting gear", [4]),
        ("tig", [2]),
        ("top hat", [5]),
        ("tabby,crane,1", [1, 3]),
        ("top,crane", [3]),
        ("all", [0, 1, 2, 3, 4, 5]),
    ],
)
def test_targets(text: str, classes: list[int]) -> None:
    assert resolve_targets(text, LABELS, SCORES) == classes


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("6", "there is no class 6: the network has 6, from 0 to 5"),
        ("top:7", "asks for 7 classes; the network has 6"),
        ("top:0", "asks for 0"),
        ("tigre cat", "Did you mean 'tiger cat'?"),
        ("t", "may be several classes: 0 (tench, Tinca tinca), 1"),
        ("", "no class is called ''"),
    ],
)
def test_what_is_no_target(text: str, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve_targets(text, LABELS, SCORES)
    assert sentence in str(caught.value)


def test_without_labels() -> None:
    assert label_of(281, ()) == "class 281"
    assert label_of(2, LABELS) == "tiger cat"
    with pytest.raises(UsageError, match="has no labels"):
        resolve_targets("tabby", (), SCORES)


@pytest.mark.parametrize(
    ("final", "under", "on_top"),
    [
        ("Softmax", Scores("scores"), Scores("out")),
        ("Sigmoid", Scores("scores"), Scores("out")),
        ("LogSoftmax", Scores("scores"), Scores("scores", softmax=True)),
        ("Neg", Scores("out"), Scores("out", softmax=True)),
    ],
)
def test_scores_under_and_over_the_final_activation(final: str, under: Scores, on_top: Scores) -> None:
    b = Builder()
    x = b.op.Flatten(b.input("x", ("N", 1, 1, 3)), name="flat")
    x = b.op.Mul(x, np.float32(2), name="scores")
    x = getattr(b.op, final)(x, name="final")
    b.output(b.op.Identity(b.op.Cast(x, to=1), name="out"), ("N", 3))
    model = b.model()
    assert (logits(Graph.of(model)), probabilities(Graph.of(model))) == (under, on_top)
    part = Graph.of(model).extract([on_top.tensor]).skeleton
    x = np.array([[[[1, 2, 3]]], [[[40, 0, 0]]]], np.float32)
    (values,) = ReferenceEvaluator(part).run(None, {"x": x})
    scores = on_top.of({on_top.tensor: values})
    if final in ("Softmax", "LogSoftmax"):
        expected = np.exp([2, 4, 6]) / np.exp([2, 4, 6]).sum()
        np.testing.assert_allclose(scores, [expected, [1, 0, 0]], atol=1e-6)


def test_scores_of_any_shape_are_one_row_per_picture() -> None:
    assert Scores("t").of({"t": np.zeros((2, 5, 1, 1))}).shape == (2, 5)
    assert Scores("t").of({"t": np.arange(3)}).tolist() == [[0], [1], [2]]
