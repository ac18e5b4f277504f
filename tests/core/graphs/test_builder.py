"""The builder appends nodes; what it makes computes what it says."""

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from cnnkit import Builder, ModelError
from cnnkit.graphs.autodiff.backward import gradients
from cnnkit.runtime.device import onnxruntime


def test_a_graph_computes_what_it_says() -> None:
    graph = Builder("affine")
    x = graph.input("x", ("batch", 2))
    y = graph.op.Add(graph.op.Mul(x, np.float32(3)), np.array([1, -1], np.float32), name="affine")
    graph.output(y, ("batch", 2))
    model = graph.model({"key": "value"})

    (result,) = ReferenceEvaluator(model).run(None, {"x": np.array([[1, 2]], np.float32)})
    assert result.tolist() == [[4, 5]]
    assert [(entry.key, entry.value) for entry in model.metadata_props] == [("key", "value")]
    assert [(node.name, node.output[0]) for node in model.graph.node] == [
        ("Mul_0", "Mul_0"),
        ("affine", "affine"),
    ]


def test_several_outputs_and_left_out_inputs() -> None:
    graph = Builder()
    x = graph.input("x", (4,))
    first, second = graph.op.Split(x, output=["first", "second"], axis=0, num_outputs=2)
    graph.output(graph.op.Clip(first, None, 1.0))
    graph.output(second, (2,))

    clipped, rest = ReferenceEvaluator(graph.model()).run(None, {"x": np.arange(4, dtype=np.float32)})
    assert clipped.tolist() == [0, 1] and rest.tolist() == [2, 3]


def test_one_name_means_one_tensor() -> None:
    graph = Builder()
    graph.input("x", (1,))
    with pytest.raises(ModelError, match="two tensors called 'x'"):
        graph.constant(np.zeros(1), "x")


@pytest.mark.parametrize("axes", [[0], [1, 2], [2, 0]])
def test_a_margin_behind_a_transpose_is_where_it_should_be(axes: list[int]) -> None:
    """ONNX Runtime moves the Transpose past the Pad, and mixes up axes when the Pad names some of them."""
    graph = Builder()
    x = graph.input("x", (2, 3, 4))
    turned = graph.op.Transpose(x, perm=[1, 2, 0])
    padded = graph.op.pad(turned, range(1, len(axes) + 1), [2] * len(axes), axes, 5.0)
    graph.output(graph.op.Transpose(padded, perm=[2, 0, 1]))
    session = onnxruntime().InferenceSession(
        graph.model().SerializeToString(), providers=["CPUExecutionProvider"]
    )

    value = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    pads = [(0, 0)] * 3
    for before, axis in enumerate(axes, 1):
        pads[axis] = (before, 2)
    expected = np.pad(value.transpose(1, 2, 0), pads, constant_values=5).transpose(2, 0, 1)
    assert np.array_equal(session.run(None, {"x": value})[0], expected)


def test_no_margin_is_no_node() -> None:
    graph = Builder()
    x = graph.input("x", (2, 3))
    assert graph.op.pad(x, [0], [0], [1]) is x and not graph.nodes


def test_what_does_not_depend_on_the_batch_is_looked_at_once() -> None:
    graph = Builder()
    x, w = graph.input("x", ("batch", 3)), graph.input("w", (3, 5))
    assert graph.op.Relu(w).facts[0] is graph.op.Relu(w).facts[1]
    product = graph.op.MatMul(x, w)
    assert product.shape == (None, 5) and [fact.shape for fact in product.facts] == [(2, 5), (3, 5)]


def test_what_follows_from_a_promoted_weight_is_no_longer_known() -> None:
    graph = Builder()
    x, p = graph.input("x", (3,)), graph.constant(np.array([3], np.float32), "p")
    exponent = graph.op.Mul(p, 1.0)
    y = graph.op.Pow(x, exponent)
    assert exponent.value == [3]
    assert graph.promote("p") == [3]
    assert p.value is None and exponent.value is None and exponent.shape == (1,)

    dx = graph.output(gradients(graph, y, ["x"])["x"])
    session = onnxruntime().InferenceSession(
        graph.model().SerializeToString(), providers=["CPUExecutionProvider"]
    )
    feeds = {"x": np.array([1, 2, 3], np.float32), "p": np.array([2], np.float32)}
    assert session.run([dx], feeds)[0].tolist() == [2, 4, 6]


def test_an_unnamed_constant_that_was_promoted_is_not_used_again() -> None:
    graph = Builder()
    one = graph.constant(1.0)
    graph.promote(one)
    assert graph.constant(1.0) != one


@pytest.mark.parametrize(
    "operator, sentence",
    [
        ("Reducesum", r"ONNX \(opset 18\) has no operator 'Reducesum'. Did you mean 'ReduceSum'\?"),
        ("Gelu", r"ONNX \(opset 18\) has no operator 'Gelu'."),
    ],
)
def test_an_operator_that_is_not_there(operator: str, sentence: str) -> None:
    graph = Builder(opset=18)
    with pytest.raises(ValueError, match=sentence):
        graph.append(operator, [graph.input("x", (2,))])
