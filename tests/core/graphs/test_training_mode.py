"""Networks as they are while they learn, however their files write ratios and statistics down."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from cnnkit.graphs.builder import Builder
from cnnkit.graphs.training_mode import in_training_mode

SHAPE = (2, 3)


def model(*nodes: onnx.NodeProto, **weights: list[float]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, SHAPE)],
        [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def constant(name: str, **value: Any) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], **value)


RATIO = numpy_helper.from_array(np.array(0.75, np.float32))


@pytest.mark.parametrize(
    "ratio, factor",
    [
        (constant("ratio", value_float=0.75), 4),
        (constant("ratio", value=RATIO), 4),
        (constant("ratio", value_float=1.0), 0),
    ],
)
def test_the_ratio_of_a_dropout(ratio: onnx.NodeProto, factor: int) -> None:
    mode = in_training_mode(model(ratio, helper.make_node("Dropout", ["x", "ratio"], ["y"])), {"x": SHAPE})
    ((keep, (dropped, _)),) = mode.masks.items()
    assert dropped == "x"
    x, mask = np.ones(SHAPE, np.float32), np.array([[True, False, True], [False, False, True]])
    (y,) = ReferenceEvaluator(mode.model).run(None, {"x": x, keep: mask})
    assert y.tolist() == (factor * mask).tolist()


def test_statistics_that_are_no_initializers() -> None:
    """They are made ones; two that were one, as exporters write equal weights, move on their own."""
    network = model(
        constant("mean", value_floats=[1.0, 2.0, 3.0]),
        helper.make_node("Identity", ["ones"], ["var"]),
        helper.make_node("Identity", ["ones"], ["var2"]),
        helper.make_node("BatchNormalization", ["x", "scale", "bias", "mean", "var"], ["h"]),
        helper.make_node("BatchNormalization", ["h", "scale", "bias", "bias", "var2"], ["y"]),
        scale=[1, 1, 1],
        bias=[0, 0, 0],
        ones=[4, 4, 4],
    )
    mode = in_training_mode(network, {"x": SHAPE})
    assert list(mode.statistics) == ["mean", "var", "bias", "var2"]
    builder = Builder.extending(mode.model)
    values = [builder.promote(name).tolist() for name in mode.statistics]
    assert values == [[1, 2, 3], [4, 4, 4], [0, 0, 0], [4, 4, 4]]
    assert [node.op_type for node in builder.nodes] == ["BatchNormalization"] * 2
