"""The gradient of a network as a network: which score, which class, with respect to what."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from cnnkit import Builder, Model, ModelError, Preprocessing, UsageError, gradient_model
from cnnkit.testing import make_tiny_model

RANDOM = np.random.default_rng(0)
PICTURES = RANDOM.uniform(0.1, 1, (2, 3, 16, 16)).astype(np.float32)


def run(model: onnx.ModelProto, **feeds: NDArray[Any]) -> dict[str, NDArray[Any]]:
    evaluator = ReferenceEvaluator(model)
    outputs = evaluator.run(None, {"input": PICTURES, **feeds})
    return dict(zip(evaluator.output_names, outputs, strict=True))


def test_a_logit_by_hand() -> None:
    """The tiny network's logit of a colour is 4 times the mean of its channel."""
    found = run(gradient_model(make_tiny_model(), "logits:1"))
    assert found["score"] == pytest.approx(4 * PICTURES[:, 1].mean((1, 2)), rel=1e-5)
    expected = np.zeros_like(PICTURES)
    expected[:, 1] = 4 / 256
    assert found["gradient"] == pytest.approx(expected, abs=1e-7)


def test_a_class_by_its_label_or_as_an_input() -> None:
    by_index = run(gradient_model(make_tiny_model(), "logits:2"))
    by_label = run(gradient_model(make_tiny_model(), "logits:blue"))
    open_class = gradient_model(make_tiny_model(), "logits")
    fed = run(open_class, target=np.array([2, 2]))
    for found in (by_label, fed):
        assert all((found[name] == by_index[name]).all() for name in by_index)
    mixed = run(open_class, target=np.array([2, 0]))
    assert mixed["gradient"][0].sum((1, 2)) == pytest.approx([0, 0, 4], abs=1e-5)
    assert mixed["gradient"][1].sum((1, 2)) == pytest.approx([4, 0, 0], abs=1e-5)


def test_a_probability() -> None:
    """The gradient of a softmax: p (1 - p) along its own logit, - p q along another."""
    found = run(gradient_model(make_tiny_model(), "probabilities:0"))
    logits = 4 * PICTURES.mean((2, 3)).astype(np.float64)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    slopes = p[:, :1] * (np.array([[1, 0, 0]]) - p)
    assert found["score"] == pytest.approx(p[:, 0], rel=1e-5)
    assert found["gradient"].sum((2, 3)) == pytest.approx(4 * slopes, abs=1e-5)


def test_layers_and_weights() -> None:
    model = gradient_model(make_tiny_model(), "relu:1", ["conv", "input"])
    found = run(model)
    assert sorted(found) == ["gradient/conv", "gradient/input", "score"]
    assert found["score"] == pytest.approx(PICTURES[:, 1].sum((1, 2)), rel=1e-5)
    assert found["gradient/conv"][:, 1].min() == 1 and not found["gradient/conv"][:, [0, 2]].any()
    (weight,) = (
        node.input[1] for node in make_tiny_model().graph.skeleton.graph.node if node.op_type == "Conv"
    )
    summed = run(gradient_model(make_tiny_model(), "relu", [weight]))["gradient"]
    assert summed[0, :, 1, 1] == pytest.approx(PICTURES.sum((0, 2, 3)), rel=1e-5)


def test_a_layer_stops_the_gradient() -> None:
    operators = [node.op_type for node in gradient_model(make_tiny_model(), "logits:0", ["pool"]).graph.node]
    assert operators.count("Conv") == 1  # only the forward one


def test_preprocessing_and_labels_travel() -> None:
    told = {e.key: json.loads(e.value) for e in gradient_model(make_tiny_model(), "logits:0").metadata_props}
    assert told["cnnkit.labels"] == ["red", "green", "blue"]
    assert Preprocessing.from_json(told["cnnkit.preprocessing"]) == make_tiny_model().preprocessing


def any_size() -> Model:
    b = Builder()
    x = b.op.Relu(b.input("input", ("batch", 3, "height", "width")), name="relu")
    b.output(b.op.Flatten(b.op.GlobalAveragePool(x), name="scores"), ("batch", 3))
    return Model.of(b.model())


def test_a_network_of_any_size_needs_one() -> None:
    with pytest.raises(UsageError, match="gradients need one"):
        gradient_model(any_size(), "scores:0")
    model = gradient_model(any_size(), "scores:0", size=(16, 16))
    assert run(model)["gradient"][:, 0] == pytest.approx(1 / 256)


@pytest.mark.parametrize(
    "output, wrt, sentence",
    [
        ("logits:3", "input", "there is no class 3"),
        ("logits:purple", "input", "no class is called 'purple'"),
        ("logits:top", "input", "'top' depends on the picture"),
        ("conv:3", "input", "'3' is no channel of 'conv', which has 3"),
        ("nose", "input", "no layer is called 'nose'"),
        ("logits:0", "nose", "no layer is called 'nose'"),
        ("relu", "pool", "'ReduceSum_.*' does not depend on 'pool'"),
    ],
)
def test_a_sentence_for_what_cannot_be_done(output: str, wrt: str, sentence: str) -> None:
    with pytest.raises((UsageError, ModelError), match=sentence):
        gradient_model(make_tiny_model(), output, [wrt])


def test_a_rule_that_is_missing_is_named() -> None:
    b = Builder()
    x = b.op.Det(b.input("input", ("batch", 3, 16, 16)), name="determinant")
    b.output(x)
    with pytest.raises(ModelError, match=r"operator Det \(opset \d+\).*'determinant'"):
        gradient_model(Model.of(b.model()), "determinant:0")


def rule_of_det(op: Any, node: Any, dy: Any, x: Any) -> Any:
    return (op.Mul(op.Unsqueeze(dy, [2, 3]), x),)  # wrong, but a rule


def test_and_may_be_given() -> None:
    b = Builder()
    b.output(b.op.Det(b.input("input", ("batch", 3, 16, 16)), name="determinant"))
    rule: Callable[..., Any] = rule_of_det
    found = run(gradient_model(Model.of(b.model()), "determinant:0", rules={"Det": rule}))
    assert (found["gradient"][:, 0] == PICTURES[:, 0]).all() and not found["gradient"][:, 1:].any()
