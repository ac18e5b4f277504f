"""The gradient of a network as a network: which score, which class, with respect to what."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from cnnkit import Builder, Model, ModelError, Preprocessing, UsageError, gradient_model
from cnnkit.graphs.autodiff.reference import Reference
from cnnkit.testing import make_tiny_model

RANDOM = np.random.default_rng(0)
PICTURES = RANDOM.uniform(0.1, 1, (2, 3, 16, 16)).astype(np.float32)


def run(model: onnx.ModelProto, **feeds: NDArray[Any]) -> dict[str, NDArray[Any]]:
    return run_of(model, "input", **{"input": PICTURES, **feeds})


def run_of(model: onnx.ModelProto, picture: str, **feeds: NDArray[Any]) -> dict[str, NDArray[Any]]:
    return Reference(model).run({picture: PICTURES, **feeds})


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
        ("logits:3", "input", "there is no class 3: the network has 3, from 0 to 2"),
        ("logits:-1", "input", "there is no class -1: the network has 3, from 0 to 2"),
        ("logits:", "input", "there is no class '': the network has 3, from 0 to 2"),
        ("logits:purple", "input", "no class is called 'purple'"),
        ("logits:top", "input", "'top' depends on the picture"),
        ("logits:0,top", "input", "'0,top' depends on the picture"),
        ("conv:3", "input", "there is no channel '3': 'conv' has 3, from 0 to 2"),
        ("conv:-1", "input", "there is no channel '-1': 'conv' has 3, from 0 to 2"),
        ("conv:", "input", "there is no channel '': 'conv' has 3, from 0 to 2"),
        ("nose", "input", "no layer is called 'nose'"),
        ("nose:1", "input", "no layer is called 'nose'"),
        ("logits:0", "nose", "no layer is called 'nose'"),
        ("relu", "pool", "the score 'relu' does not depend on 'pool' in a way that has a gradient"),
        ("logits:1", "probabilities", "the score 'logits:1' does not depend on 'probabilities' in a way"),
        ("input:1", "conv", "the score 'input:1' does not depend on 'conv' in a way"),
        ("WEIGHT", "input", "is a weight, the same for every picture"),
    ],
)
def test_a_sentence_for_what_makes_no_sense(output: str, wrt: str, sentence: str) -> None:
    (weight,) = (
        node.input[1] for node in make_tiny_model().graph.skeleton.graph.node if node.op_type == "Conv"
    )
    with pytest.raises(UsageError, match=sentence):
        gradient_model(make_tiny_model(), output.replace("WEIGHT", weight), [wrt])


def test_no_gradient_in_the_words_of_the_one_who_asked() -> None:
    """The picture does reach the score, but only through a rounding."""
    b = Builder()
    x = b.op.Floor(b.input("x", ("batch", 3, 16, 16)), output="inner")
    b.output(b.op.Flatten(b.op.GlobalAveragePool(x), name="scores"), ("batch", 3))
    model = Model.of(b.model())
    said = "the score 'scores:0' does not depend on 'input' in a way that has a gradient"
    with pytest.raises(ModelError, match=said):
        gradient_model(model, "scores:0")


def layouts() -> Model:
    """Pictures with their channels last, a network that has them first, tokens, and numbers."""
    b = Builder()
    x = b.op.Mul(b.input("input", ("batch", 16, 16, 3)), np.array([1, 10, 100], np.float32), name="last")
    x = b.op.Transpose(x, perm=[0, 3, 1, 2], name="first")
    tokens = b.op.Reshape(x, [0, 3, 256], name="tokens")
    x = b.op.Reshape(tokens, [0, 3, 16, 16], name="again")
    x = b.op.Conv(x, np.eye(3, dtype=np.float32)[:, :, None, None], name="conv")
    x = b.op.Relu(x, name="behind")
    row = b.op.Reshape(b.op.ReduceMean(x, [1, 2, 3], keepdims=0), [-1], name="row")
    b.op.ReduceSum(row, [0], keepdims=0, name="number")
    mixed = b.op.Add(b.op.Flatten(b.op.GlobalAveragePool(x)), b.tensor("number"), name="scores")
    b.output(mixed, ("batch", 3))
    return Model.of(b.model())


@pytest.mark.parametrize("layer, factor", [("input", 1), ("last", 10), ("first", 10), ("behind", 10)])
def test_a_channel_is_where_the_layer_has_it(layer: str, factor: float) -> None:
    pictures = PICTURES.transpose(0, 2, 3, 1)
    found = run(gradient_model(layouts(), f"{layer}:1"), input=pictures)
    assert found["score"] == pytest.approx(factor * pictures[..., 1].sum((1, 2)), rel=1e-5)
    assert (found["gradient"][..., 1] == factor).all() and not found["gradient"][..., [0, 2]].any()


def test_where_there_is_no_channel_or_no_batch() -> None:
    for output, sentence in [
        ("tokens:1", r"which axis of 'tokens', whose shape is \(batch, 3, 256\), holds channels"),
        ("again:1", r"which axis of 'again', whose shape is \(batch, 3, 16, 16\), holds channels"),
        ("row:0", r"which axis of 'row', whose shape is \(batch\), holds channels"),
        ("number", r"the first axis of its shape \(\) is not the batch"),
        ("number:0", r"the first axis of its shape \(\) is not the batch"),
    ]:
        with pytest.raises(UsageError, match=sentence):
            gradient_model(layouts(), output)
    found = run(gradient_model(layouts(), "row"), input=PICTURES.transpose(0, 2, 3, 1))
    assert found["score"].shape == (2,) and found["gradient"][..., 2] == pytest.approx(100 / 768)


def network_of(picture: str, *names: str, weight: str = "weight") -> Model:
    """Doubles the picture once for each name, which its tensor gets; the logits are means of channels."""
    b = Builder()
    x: Any = b.input(picture, ("batch", 3, 16, 16))
    b.constant(np.float32([2]), weight)
    for name in names:
        x = b.op.Mul(x, b.tensor(weight), output=name)
    b.output(b.op.Flatten(b.op.GlobalAveragePool(x), output="means"), ("batch", 3))
    return Model.of(b.model())


def test_names_with_colons() -> None:
    model = network_of("input_1:0", "m/Relu:0", "m/Conv:0", weight="kernel:0")
    for output, wrt, factor in [
        ("m/Relu:0", "input", 2),
        ("m/Conv:0", "m/Relu:0", 2),
        ("m/Conv:0", "input_1:0", 4),
        ("input_1:0", "input_1:0", 1),
    ]:
        made = gradient_model(model, output, [wrt])
        assert (run_of(made, "input_1:0")["gradient"] == factor).all()
        one = run_of(gradient_model(model, f"{output}:2", [wrt]), "input_1:0")["gradient"]
        assert (one[:, 2] == factor).all() and not one[:, :2].any()
    with pytest.raises(UsageError, match="'kernel:0' is a weight"):
        gradient_model(model, "kernel:0")


def test_names_that_the_network_has_too() -> None:
    """The network's own tensors make way; layers keep their names for those who ask."""
    model = network_of("input", "score", "gradient", "gradient/input", "gradient/score", "target")
    whole = gradient_model(model, "target:1", ["input", "score"])
    assert [value.name for value in whole.graph.output] == ["score", "gradient/input", "gradient/score"]
    found = run(whole)
    assert found["score"] == pytest.approx(32 * PICTURES[:, 1].sum((1, 2)), rel=1e-5)
    assert (found["gradient/input"][:, 1] == 32).all() and (found["gradient/score"][:, 1] == 16).all()
    chosen = gradient_model(model, "logits", ["gradient"])
    assert [value.name for value in chosen.graph.input] == ["input", "target"]
    found = run(chosen, target=np.array([0, 2]))
    assert found["score"] == pytest.approx(32 * PICTURES.mean((2, 3))[[0, 1], [0, 2]], rel=1e-5)
    assert found["gradient"].sum((2, 3)) == pytest.approx(np.array([[8, 0, 0], [0, 0, 8]]), rel=1e-5)


def test_names_that_cross() -> None:
    """The picture is called as a layer is asked for, and one tensor is asked for by two names."""
    found = run_of(gradient_model(network_of("x", "y"), "y", ["input", "x", "y"]), "x")
    assert (found["gradient/input"] == 2).all() and (found["gradient/x"] == 2).all()
    assert (found["gradient/y"] == 1).all()


@pytest.mark.parametrize(
    "model, name",
    [(network_of("score", "y"), "score"), (network_of("target", "y"), "target")]
    + [(network_of("x", "y", weight=name), name) for name in ("score", "gradient", "target")],
)
def test_names_that_cannot_make_way(model: Model, name: str) -> None:
    with pytest.raises(ModelError, match=f"an input or a weight '{name}'"):
        gradient_model(model, "logits")


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
