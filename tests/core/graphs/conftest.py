"""Small networks that the tests of graphs share."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from cnnkit import Builder


def small_network(
    batch: int | str = "batch", height: int | str = 8, width: int | str = 6, kernel: int = 3
) -> onnx.ModelProto:
    """conv (4 channels) -> relu -> pool -> flatten -> dense (3 classes) -> probabilities."""
    random = np.random.default_rng(0)
    graph = Builder("small")
    x = graph.input("input", (batch, 3, height, width))
    x = graph.op.Conv(
        x,
        graph.constant(random.standard_normal((4, 3, kernel, kernel), np.float32), "conv.kernel"),
        graph.constant(random.standard_normal(4, np.float32), "conv.bias"),
        pads=[kernel // 2] * 4,
        name="conv",
    )
    x = graph.op.Relu(x, name="relu")
    x = graph.op.GlobalAveragePool(x, name="pool")
    x = graph.op.Flatten(x, name="flatten")
    x = graph.op.Gemm(x, random.standard_normal((4, 3), np.float32), np.ones(3, np.float32), name="dense")
    graph.output(graph.op.Softmax(x, axis=1, name="probabilities"), (batch, 3))
    return graph.model()


@pytest.fixture
def small() -> onnx.ModelProto:
    return small_network()


@pytest.fixture
def write(tmp_path: Path) -> Callable[[onnx.ModelProto | bytes], Path]:
    """Puts a model, or bytes that pretend to be one, into a file."""

    def write(model: onnx.ModelProto | bytes) -> Path:
        path = tmp_path / "model.onnx"
        path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
        return path

    return write
