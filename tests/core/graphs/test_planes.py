"""Which tensors lie over the picture, where their channels are, and the layer that the rule picks."""

import numpy as np
import pytest

from cnnkit import Builder, Graph, Plane, UsageError, last_plane, planes

KERNEL = np.ones((5, 3, 3, 3), np.float32)


def transposed() -> Graph:
    """A picture with its channels last, dense layers at every place, and tokens behind."""
    b = Builder()
    x = b.op.Transpose(b.input("x", ["N", 8, 6, 3]), perm=[0, 3, 1, 2], name="first")
    x = b.op.Conv(x, KERNEL, strides=[2, 2], name="conv")
    x = b.op.Transpose(x, perm=[0, 2, 3, 1], name="last")
    x = b.op.Relu(b.op.MatMul(x, np.ones((5, 7), np.float32), name="everywhere"), name="relu")
    tokens = b.op.Reshape(x, [0, 1, 6, 7], name="tokens")
    b.output(b.op.ReduceMean(tokens, [1, 2], keepdims=0, name="scores"), ["N", 7])
    return Graph.of(b.model())


def test_channels_are_followed() -> None:
    found = planes(transposed())
    assert found["x"] == Plane(8, 6, 3, axis=3)
    assert found["first"] == Plane(8, 6, 3, axis=1)
    assert found["conv"] == Plane(3, 2, 5, axis=1)
    assert found["last"] == Plane(3, 2, 5, axis=3)
    assert found["relu"] == Plane(3, 2, 7, axis=3) and found["relu"].axes == (1, 2)
    assert "tokens" not in found and "scores" not in found


def test_the_last_plane_lies_before_what_loses_it() -> None:
    choice = last_plane(transposed())
    assert choice.layer.name == "relu"
    assert choice.reason == "layer 'relu': the last with a plane, 3x2x7"


def test_single_pixels_and_other_heads_do_not_count() -> None:
    b = Builder()
    x = b.op.Relu(b.op.Conv(b.input("x", ["N", 3, 8, 6]), KERNEL, name="conv"), name="relu")
    gate = b.op.Sigmoid(b.op.GlobalAveragePool(x), name="gate")
    x = b.op.Mul(x, gate, name="gated")
    b.output(b.op.Flatten(b.op.Conv(b.op.GlobalMaxPool(x), np.ones((4, 5, 1, 1), np.float32))), ["N", 4])
    b.output(b.op.Relu(x, name="beside"), ["N", 5, 6, 4])
    assert last_plane(Graph.of(b.model())).layer.name == "gated"


def test_where_no_plane_is_larger_it_is_a_single_pixel() -> None:
    b = Builder()
    x = b.op.Relu(b.op.Conv(b.input("x", ["N", 3, "h", "w"]), KERNEL, name="conv"), name="relu")
    b.output(b.op.Flatten(b.op.GlobalAveragePool(x, name="pool")), ["N", 5])
    graph = Graph.of(b.model())
    assert last_plane(graph, 9, 4).layer.name == "relu"
    assert last_plane(graph, 3, 3).reason.endswith("1x1x5; none is larger than one pixel")


def test_a_network_without_a_plane() -> None:
    b = Builder()
    b.output(b.op.Gemm(b.op.Flatten(b.input("x", ["N", 3, 2, 2])), np.ones((12, 2), np.float32)), ["N", 2])
    with pytest.raises(UsageError, match="no layer of the network lies over the picture"):
        last_plane(Graph.of(b.model()))
