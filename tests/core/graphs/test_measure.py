"""Counts against closed forms."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from cnnkit import Builder, Graph, ModelError, measure


def test_a_small_network(small: onnx.ModelProto) -> None:
    graph = Graph.of(small)
    small.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 8
    measures = measure(graph, batch=2)
    conv, relu, *_, dense, probabilities = measures.rows
    assert (conv.shape, conv.parameters, conv.macs) == ((2, 4, 8, 6), 4 * 27 + 4, 2 * 4 * 8 * 6 * 27)
    assert (relu.shape, relu.parameters, relu.macs) == ((2, 4, 8, 6), 0, 0)
    assert (dense.shape, dense.parameters, dense.macs) == ((2, 3), 4 * 3 + 3, 2 * 4 * 3)
    assert (probabilities.parameters, probabilities.macs) == (0, 0)
    assert measures.parameters == 112 + 15
    assert measures.macs == conv.macs + dense.macs
    # The two largest tensors that live together are the outputs of conv and relu.
    assert measures.bytes_per_item == 4 * (4 * 8 * 6 + 4 * 8 * 6)


def test_transposed_and_grouped_convolutions_and_dense_products() -> None:
    b = Builder()
    x = b.input("x", (1, 3, 5, 7))
    weights = np.ones((3, 4, 2, 2), np.float32)
    x = b.op.ConvTranspose(x, weights, strides=[2, 2], name="up")
    x = b.op.Conv(x, np.ones((4, 1, 3, 3), np.float32), group=4, name="depthwise")
    x = b.op.MatMul(x, np.ones((12, 9), np.float32), name="product")
    b.output(x, (1, 4, 8, 9))
    up, depthwise, product = measure(Graph.of(b.model())).rows
    assert (up.shape, up.macs) == ((1, 4, 10, 14), 3 * 5 * 7 * 4 * 2 * 2)
    assert (depthwise.shape, depthwise.macs) == ((1, 4, 8, 12), 4 * 8 * 12 * 9)
    assert (product.shape, product.macs, product.parameters) == ((1, 4, 8, 9), 4 * 8 * 9 * 12, 12 * 9)


def vgg16() -> onnx.ModelProto:
    b = Builder("vgg16")
    x, channels = b.input("input", ("batch", 3, "height", "width")), 3
    for block, (width, convolutions) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)], 1):
        for number in range(1, convolutions + 1):
            kernel = np.zeros((width, channels, 3, 3), np.float32)
            name = f"block{block}_conv{number}"
            x = b.op.Conv(x, kernel, np.zeros(width, np.float32), pads=[1, 1, 1, 1], name=f"{name}/conv")
            x, channels = b.op.Relu(x, name=name), width
        x = b.op.MaxPool(x, kernel_shape=[2, 2], strides=[2, 2], name=f"block{block}_pool")
    b.output(x, ("batch", 512, None, None))
    return b.model()


def test_vgg16() -> None:
    measures = measure(Graph.of(vgg16()), 224, 224)
    assert measures.parameters == 14_714_688  # Keras, include_top=False
    assert measures.macs == 15_346_630_656
    assert measures.rows[-1].shape == (1, 512, 7, 7)


def test_a_symbolic_size_that_nobody_gives_leaves_shapes_open() -> None:
    measures = measure(Graph.of(vgg16()))
    assert measures.rows[0].shape == (1, 64, None, None)
    assert measures.rows[0].macs is None
    assert measures.parameters == 14_714_688


def test_numbers_that_are_read_again_and_again() -> None:
    """Sixty sums of a number with itself: 2^60 ways lead back to it, and it is counted once."""
    builder = Builder()
    scale = builder.constant(np.ones((1, 3, 1, 1), np.float32), "scale")
    for _ in range(60):
        scale = builder.op.Add(scale, scale)
    builder.output(builder.op.Mul(builder.input("input", ["N", 3, 4, 4]), scale, name="scaled"))
    [row] = measure(Graph.of(builder.model())).rows
    assert (row.layer.name, row.parameters) == ("scaled", 3)


def test_mobilenet_v2(data: Path) -> None:
    graph = Graph.load(data / "weights" / "mobilenet_v2_1.0_224.onnx")
    measures = measure(graph)
    assert measures.macs == 300_775_552
    assert measures.parameters == 3_489_097  # batch norms are folded into biases; 1001 classes
    with pytest.raises(ModelError, match="224 pixels high, not 128"):
        measure(graph, 128, 128)
