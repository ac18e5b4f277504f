"""The builder appends nodes; what it makes computes what it says."""

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from cnnkit import Builder


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
    with pytest.raises(ValueError, match="two tensors called 'x'"):
        graph.constant(np.zeros(1), "x")
