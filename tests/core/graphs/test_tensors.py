"""What follows from a graph without running it: shapes, types, small values, what depends on the batch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from onnx.reference import ReferenceEvaluator

from cnnkit.errors import ModelError
from cnnkit.graphs.builder import Builder
from cnnkit.graphs.tensors import NOTHING, SMALL, Fact, Tensor, infer


def shape_arithmetic(op: Any, x: Tensor) -> dict[str, Tensor]:
    """Sizes worked out in the graph, as exporters write them; x has the shape [batch, 6, 4]."""
    sizes = op.Shape(x)
    channels = op.Gather(sizes, np.array(1), axis=0)
    half = op.Div(channels, np.array(2))
    two = op.Unsqueeze(half, [0])
    groups = op.Concat(op.Slice(sizes, [0], [1], [0]), two, [-1], axis=0)
    open_ones = op.Equal(groups, np.array(-1))
    return {
        "half": half,
        "groups": groups,
        "reshaped": op.Reshape(x, groups),
        "range": op.Range(np.array(0), channels, np.array(2)),
        "where": op.Where(open_ones, op.Mul(groups, np.array(0)), groups),
        "filled": op.ConstantOfShape(two, value=helper.make_tensor("v", 7, [1], [5])),
        "expanded": op.Expand(op.Cast(half, to=1), op.Concat(two, [2], axis=0)),
        "nonzero": op.NonZero(op.Cast(op.Range(np.array(0), channels, np.array(2)), to=9)),
        "size": op.Size(x),
        "pads": op.Concat([0, 0, 0], op.Slice(sizes, [0], [3], [0]), axis=0),
        "padded": op.Pad(x, op.Concat([0, 0, 0, 0], op.Sub(op.Slice(sizes, [1], [3]), [1, 1]), axis=0)),
    }


def test_values_and_shapes_of_a_fixed_graph() -> None:
    """All that is said to be known is what running the graph gives."""
    builder = Builder()
    x = builder.input("x", (2, 6, 4))
    tensors = shape_arithmetic(builder.op, x)
    for name in tensors.values():
        builder.output(name)
    values = ReferenceEvaluator(builder.model()).run(None, {"x": np.zeros((2, 6, 4), np.float32)})
    for (name, tensor), value in zip(tensors.items(), values, strict=True):
        assert tensor.shape == np.shape(value), name
        assert tensor.dtype == np.asarray(value).dtype, name
        if name not in ("reshaped", "padded"):
            assert tensor.value is not None and np.array_equal(tensor.value, value), name
    assert tensors["half"].value == 3 and tensors["size"].value == 48
    assert tensors["reshaped"].shape == (2, 3, 8) and tensors["padded"].shape == (2, 11, 7)
    assert tensors["nonzero"].value.tolist() == [[1, 2]]
    assert tensors["where"].value.tolist() == [2, 3, 0]


def test_an_open_batch_is_none_where_it_matters_and_nowhere_else() -> None:
    builder = Builder()
    op = builder.op
    x = builder.input("x", ("batch", 6, 4))
    tensors = shape_arithmetic(op, x)
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        "half": (),
        "groups": (3,),
        "reshaped": (None, 3, 8),
        "range": (3,),
        "where": (3,),
        "filled": (3,),
        "expanded": (3, 2),
        "nonzero": (1, 2),
        "size": (),
        "pads": (6,),
        "padded": (None, 11, 7),
    }
    depends = {name for name, tensor in tensors.items() if tensor.value is None}
    assert depends == {"groups", "reshaped", "where", "size", "pads", "padded"}
    assert op.Transpose(x, perm=[1, 2, 0]).shape == (6, 4, None)
    assert op.Reshape(x, [-1, 3]).shape == (None, 3)
    assert op.Reshape(x, [0, -1]).shape == (None, 24)
    assert op.Concat(x, x, axis=0).shape == (None, 6, 4)
    assert op.ReduceSum(x, [0]).shape == (1, 6, 4)
    assert op.Slice(x, [0], [1], [0]).shape == (1, 6, 4)
    assert op.MatMul(x, np.ones((4, 2), np.float32)).shape == (None, 6, 2)


def test_sizes_of_two_and_three_are_not_taken_for_the_batch() -> None:
    builder = Builder()
    x = builder.input("x", ("batch", 2, 3))
    assert builder.op.Add(x, np.ones((2, 3), np.float32)).shape == (None, 2, 3)
    assert builder.op.Expand(x, [1, 2, 3]).shape == (None, 2, 3)


def test_an_axis_without_numbers_is_no_open_batch() -> None:
    assert Builder().input("x", (0, 3)).shape == (0, 3)


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=3),
    st.sampled_from(
        [
            lambda op, x: op.Reshape(x, [-1, 1]),
            lambda op, x: op.Flatten(x),
            lambda op, x: op.Transpose(x),
            lambda op, x: op.Pad(x, [1, 2], None, [-1]),
            lambda op, x: op.Slice(x, [1], [9], [0], [2]),
            lambda op, x: op.Gather(x, np.array([[0, -1]]), axis=-1),
            lambda op, x: op.ReduceSum(
                x, op.Range(np.array(0), op.Size(op.Shape(x)), np.array(1)), keepdims=0
            ),
            lambda op, x: op.Expand(x, op.Concat([2], op.Shape(x), axis=0)),
            lambda op, x: op.Tile(
                x, op.ConstantOfShape(op.Shape(op.Shape(x)), value=helper.make_tensor("v", 7, [1], [2]))
            ),
        ]
    ),
)
@settings(max_examples=40, deadline=None)
def test_the_shape_is_that_of_the_result(shape: list[int], write: Callable[..., Tensor]) -> None:
    builder = Builder()
    y = write(builder.op, builder.input("x", shape))
    builder.output(y)
    (value,) = ReferenceEvaluator(builder.model()).run(None, {"x": np.zeros(shape, np.float32)})
    assert y.shape == np.shape(value)


# ---- what is not known


def test_sizes_that_depend_on_the_numbers() -> None:
    """The rank of what NonZero finds is known, how much it finds is not."""
    builder = Builder()
    x = builder.input("x", (5,))
    found = builder.op.NonZero(x)
    assert found.shape == (1, None) and found.value is None
    assert builder.op.Compress(x, builder.op.Greater(x, 0.0), axis=0).shape == (None,)


def test_an_unknown_rank_is_refused() -> None:
    builder = Builder()
    op = builder.op
    vague = op.Reshape(builder.input("x", (6,)), builder.input("sizes", ("n",), np.int64), name="vague")
    for tensor in (vague, op.Relu(vague, name="after")):
        with pytest.raises(ModelError) as refused:
            _ = tensor.rank
        assert str(refused.value) == (
            f"the shape of the tensor '{tensor}' does not follow from the graph and the size of its input; "
            "export the network with fixed sizes"
        )
    assert vague.dtype == np.float32


def test_nothing_is_known_of_an_operator_of_another_domain() -> None:
    node = helper.make_node("Swish", ["x"], ["y"], domain="acme")
    (fact,) = infer(node, {"x": Fact.of(np.float32, (2,))}, {"": 18, "acme": 1})
    assert fact == NOTHING
    y = Tensor("y", (fact, fact))
    with pytest.raises(ModelError, match="the type of the tensor 'y' does not follow from the graph"):
        _ = y.dtype
    assert not y.is_floating and y.value is None
    relu = helper.make_node("Relu", ["y"], ["z"])
    assert infer(relu, {"y": fact}, {"": 18}) == [NOTHING]


def test_a_node_that_cannot_be() -> None:
    """While building it is the programmer's error; in a foreign file nothing follows from it."""
    builder = Builder()
    x = builder.input("x", (2, 3))
    with pytest.raises(ValueError, match=r"MatMul does not take x \(2, 3\)"):
        builder.op.MatMul(x, x)
    node = helper.make_node("MatMul", ["x", "x"], ["y"])
    assert infer(node, {"x": Fact.of(np.float32, (2, 3))}, {"": 18}) == [NOTHING]


def test_large_values_and_random_ones_are_not_kept() -> None:
    builder = Builder()
    op = builder.op
    small, large = np.zeros(SMALL, np.float32), np.zeros(SMALL + 1, np.float32)
    assert op.Neg(small).value is not None and op.Neg(large).value is None
    assert op.Expand(np.float32(1), [SMALL + 1]).value is None
    assert op.ConstantOfShape([SMALL + 1]).shape == (SMALL + 1,)
    assert op.RandomNormal(shape=[2]).value is None
    assert op.Dropout(np.ones(3, np.float32), 0.5, np.array(True)).value is None


def test_a_value_that_cannot_be_had_is_not_known() -> None:
    """Dividing whole numbers by zero is no reason to fail before anything runs."""
    builder = Builder()
    quotient = builder.op.Gather(np.array([1, 2]), np.array(7))
    assert quotient.shape == () and quotient.value is None
