"""Older graphs in newer words: they compute the same numbers."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cnnkit.errors import ModelError
from cnnkit.graphs.autodiff.backward import gradients
from cnnkit.graphs.builder import Builder
from cnnkit.graphs.opset import OPSET, modernised, opset_of
from cnnkit.runtime.device import onnxruntime


def graph_of(nodes: list[onnx.NodeProto], outputs: list[str], opset: int, **more: Any) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "old",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (2, 4, 6, 6))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        initializer=[
            numpy_helper.from_array(np.array([[0, 0, 4, 4], [1, 1, 5, 3]], np.float32), "boxes"),
            numpy_helper.from_array(np.array([0, 1]), "pictures"),
            numpy_helper.from_array(np.array([2, 2]), "halves"),
            numpy_helper.from_array(np.array(True), "yes"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7, **more)


def results(model: onnx.ModelProto) -> list[np.ndarray]:
    options = onnxruntime().SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime().InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": np.random.default_rng(0).standard_normal((2, 4, 6, 6), np.float32)})


def reworded() -> onnx.ModelProto:
    """All that opsets 14 to 18 say in other words, also inside a branch."""
    branch = helper.make_graph(
        [helper.make_node("ReduceMax", ["x"], ["inside"], axes=[1], keepdims=0)],
        "branch",
        [],
        [helper.make_tensor_value_info("inside", TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[2, -1], keepdims=0),
        helper.make_node("ReduceL2", ["x"], ["length"]),
        helper.make_node("ReduceSum", ["x", "halves"], ["sum"], keepdims=1),
        helper.make_node("Split", ["x"], ["front", "back"], axis=1),
        helper.make_node("Split", ["x", "halves"], ["first", "last"], axis=1),
        helper.make_node(
            "RoiAlign",
            ["x", "boxes", "pictures"],
            ["regions"],
            output_height=2,
            output_width=3,
            sampling_ratio=2,
        ),
        helper.make_node("If", ["yes"], ["chosen"], then_branch=branch, else_branch=branch),
    ]
    return graph_of(nodes, ["mean", "length", "sum", "front", "back", "last", "regions", "chosen"], 13)


def test_the_same_numbers_as_before() -> None:
    old = reworded()
    new = modernised(old)
    assert opset_of(old) == 13 and opset_of(new) == OPSET and new.ir_version == 8
    for before, after in zip(results(old), results(new), strict=True):
        assert np.array_equal(before, after)


def test_regions_are_aligned_as_before_opset_16() -> None:
    """From 16 on RoiAlign moves its boxes by half a pixel unless it is told not to."""
    old = reworded()
    naive = onnx.ModelProto()
    naive.CopyFrom(old)
    del naive.graph.node[:]
    naive.graph.node.append(old.graph.node[5])
    del naive.graph.output[:]
    naive.graph.output.append(old.graph.output[6])
    naive.opset_import[0].version = 16
    assert not np.allclose(results(naive)[0], results(old)[6])


def test_the_argument_is_untouched() -> None:
    old = reworded()
    before = old.SerializeToString(deterministic=True)
    modernised(old)
    assert old.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("opset", [18, 20, 23])
def test_newer_graphs_stay_as_they_are(opset: int) -> None:
    model = graph_of([helper.make_node("Relu", ["x"], ["y"])], ["y"], opset)
    assert opset_of(modernised(model)) == opset
    assert modernised(model).graph == model.graph


def test_an_older_graph_is_converted() -> None:
    """Opset 11: Squeeze and Split with attributes, Softmax over all that is behind its axis."""
    nodes = [
        helper.make_node("Split", ["x"], ["front", "back"], axis=1, split=[1, 3]),
        helper.make_node("Squeeze", ["front"], ["flat"], axes=[1]),
        helper.make_node("ReduceSum", ["flat"], ["sum"], axes=[1], keepdims=0),
        helper.make_node("Softmax", ["back"], ["shares"], axis=1),
    ]
    old = graph_of(nodes, ["sum", "shares"], 11)
    new = modernised(old)
    assert opset_of(old) == 11 and opset_of(new) == OPSET
    for before, after in zip(results(old), results(new), strict=True):
        np.testing.assert_allclose(before, after, rtol=1e-6)


def test_what_cannot_be_converted_is_refused() -> None:
    model = graph_of([helper.make_node("Upsample", ["x"], ["y"], domain="", mode="nearest")], ["y"], 9)
    with pytest.raises(ModelError) as refused:
        modernised(model)
    assert str(refused.value).startswith(
        "the network uses ONNX opset 9, gradients need 13 or newer, and the conversion failed ("
    )
    assert str(refused.value).endswith("); export it again with opset 17")

    elsewhere = graph_of([helper.make_node("Relu", ["x"], ["y"])], ["y"], 11)
    elsewhere.graph.initializer[0].data_location = TensorProto.EXTERNAL
    with pytest.raises(ModelError, match="its weights are too large for the converter"):
        modernised(elsewhere)


@pytest.mark.parametrize("opset", [13, 18])
def test_weights_that_are_listed_as_inputs_are_no_inputs(opset: int) -> None:
    model = graph_of([helper.make_node("Gather", ["x", "pictures"], ["y"], axis=1)], ["y"], opset)
    model.graph.input.append(helper.make_tensor_value_info("pictures", TensorProto.INT64, (2,)))
    assert [value.name for value in modernised(model).graph.input] == ["x"]
    builder = Builder.extending(model)
    assert list(builder.inputs) == ["x"]
    known = builder.tensor("pictures").value
    assert known is not None and known.tolist() == [0, 1]


def test_functions_are_inlined_before_they_are_reworded() -> None:
    function = helper.make_function(
        "acme",
        "Mean",
        ["a"],
        ["b"],
        [helper.make_node("ReduceMean", ["a"], ["b"], axes=[1])],
        [helper.make_opsetid("", 13)],
    )
    model = graph_of([helper.make_node("Mean", ["x"], ["y"], domain="acme")], ["y"], 13, functions=[function])
    model.opset_import.append(helper.make_opsetid("acme", 1))
    model.ir_version = 8
    new = modernised(model)
    assert not new.functions and [node.op_type for node in new.graph.node] == ["Constant", "ReduceMean"]
    assert np.array_equal(results(model)[0], results(new)[0])


def sequence(position: int | str, *sizes: str, **attributes: int) -> onnx.ModelProto:
    """A piece of x (2, 4, 6, 6), taken out of a sequence of pieces."""
    nodes = [
        helper.make_node("Constant", [], ["unequal"], value_ints=[3, 1, 2]),
        helper.make_node("SplitToSequence", ["x", *sizes], ["pieces"], **attributes),
        helper.make_node("SequenceAt", ["pieces", "position"], ["y"]),
    ]
    model = graph_of(nodes, ["y"], 18)
    for name, value in {"four": 4, "one_three": [1, 3]}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    if isinstance(position, int):
        model.graph.initializer.append(numpy_helper.from_array(np.array(position), "position"))
    else:
        model.graph.node.insert(0, helper.make_node("Size", [position], ["position"]))
    return model


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(sequence(0, "four", axis=2), id="the first of equal pieces"),
        pytest.param(sequence(1, "four", axis=-1), id="the last of equal pieces, which is smaller"),
        pytest.param(sequence(1, "one_three", axis=1), id="the second of given sizes"),
        pytest.param(sequence(-2, "one_three", axis=1), id="from the end"),
        pytest.param(sequence(1, "one_three", axis=1, keepdims=0), id="sizes are stronger than keepdims"),
        pytest.param(sequence(2, axis=1), id="single numbers"),
        pytest.param(sequence(-1, axis=1, keepdims=0), id="single numbers without their axis"),
        pytest.param(sequence(1), id="along the first axis"),
    ],
)
def test_a_piece_of_a_sequence_is_taken_directly(model: onnx.ModelProto) -> None:
    new = modernised(model)
    assert "SequenceAt" not in {node.op_type for node in new.graph.node}
    assert np.array_equal(results(model)[0], results(new)[0])

    builder = Builder.extending(model)
    (found,) = gradients(builder, builder.op.Mul("y", "y"), ["x"]).values()
    builder.output(found)
    picture = np.random.default_rng(0).standard_normal((2, 4, 6, 6), np.float32)
    slope = results(builder.model())[0]
    assert np.array_equal(slope[slope != 0], 2 * picture[slope != 0])
    assert np.array_equal(np.sort(slope[slope != 0]), np.sort(2 * results(model)[0].ravel()))


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(sequence(-1, "four", axis=2), id="how many pieces there are depends on x"),
        pytest.param(sequence("yes", "four", axis=2), id="which piece is computed"),
        pytest.param(sequence(1, "unequal", axis=2), id="sizes that are no tensor"),
    ],
)
def test_other_sequences_stay(model: onnx.ModelProto) -> None:
    assert modernised(model).graph == model.graph
    with pytest.raises(ModelError, match="no gradient rule for the operator SequenceAt"):
        gradients(Builder.extending(model), "y", ["x"])
