"""Small networks whose explanations are known, for the tests of the operations that explain."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cnnkit import Builder, Model, Preprocessing

Head = Literal[
    "gemm",
    "gemm-transposed",
    "matmul",
    "conv",
    "none",
    "reduce-mean",
    "average-pool",
    "two-layers",
    "max-pool",
]


def one_convolution(second: NDArray[Any] | float = 0) -> Model:
    """captum's `BasicModel_ConvNet_One_Conv`; `second` is its other input, which is added to the picture."""
    b = Builder("one convolution")
    x = b.op.Identity(b.input("x", ["N", 1, 4, 4]), name="picture")
    x = b.op.Add(x, np.broadcast_to(second, (1, 1, 4, 4)).astype(np.float32))
    x = b.op.Conv(x, np.ones((2, 1, 3, 3), np.float32), np.array([-50, -75], np.float32), name="conv1")
    x = b.op.Flatten(b.op.Relu(x, name="relu1"))
    weight = np.repeat(np.array([[1] * 5 + [-1] * 3], np.float32), 4, axis=0)
    b.op.Relu(b.op.Gemm(x, weight, np.zeros(4, np.float32), transB=1), output="y")
    b.output("y", ["N", 4])
    return Model.of(b.model(), preprocessing=Preprocessing.preset("raw", channels="grey"))


ARANGE = np.arange(16, dtype=np.uint8).reshape(4, 4)


def classifier(
    head: Head = "gemm",
    layout: Literal["nchw", "nhwc"] = "nchw",
    batch: int | str = "N",
    size: tuple[int, int] = (12, 10),
    symmetric: bool = False,
    bias: bool = True,
    labels: tuple[str, ...] = ("cat, kitty", "dog", "bird", "fish"),
) -> Model:
    """Two convolutions, an average and a dense layer, in many spellings with the same seeded weights."""
    random = np.random.default_rng(7)

    def weights(*shape: int) -> NDArray[np.float32]:
        values = random.normal(size=shape).astype(np.float32) / np.sqrt(np.prod(shape[1:])) * 2
        if symmetric and len(shape) == 4:
            values = (values + values[..., ::-1]) / 2
        return values.astype(np.float32)

    first, second, dense = weights(6, 3, 3, 3), weights(8, 6, 3, 3), weights(4, 8)
    offsets = [
        random.normal(size=count).astype(np.float32) / 3 if bias else np.zeros(count, np.float32)
        for count in (6, 8, 4)
    ]
    b = Builder("classifier")
    op = b.op
    shape = [batch, 3, *size] if layout == "nchw" else [batch, *size, 3]
    x = b.input("x", shape)
    if layout == "nhwc":
        x = op.Transpose(x, perm=[0, 3, 1, 2])
    x = op.Relu(op.Conv(x, first, offsets[0], pads=[1, 1, 1, 1], name="first"), name="first_relu")
    x = op.Relu(op.Conv(x, second, offsets[1], pads=[1, 1, 1, 1], name="second"), name="second_relu")
    if head == "reduce-mean":
        x = op.ReduceMean(op.Transpose(x, perm=[0, 2, 3, 1]), [1, 2], keepdims=0)
    elif head == "average-pool":
        x = op.Flatten(op.AveragePool(x, kernel_shape=list(size)))
    elif head == "max-pool":
        x = op.Flatten(op.GlobalMaxPool(x))
    elif head == "none":
        x = op.Conv(x, dense.reshape(4, 8, 1, 1), offsets[2], name="scores")
        x = op.Flatten(op.GlobalAveragePool(x))
    elif head == "conv":
        x = op.Flatten(op.Conv(op.GlobalAveragePool(x), dense.reshape(4, 8, 1, 1), offsets[2]))
    else:
        x = op.Flatten(op.GlobalAveragePool(x))
    if head == "two-layers":
        x = op.Relu(op.Gemm(x, np.eye(8, dtype=np.float32), name="hidden"), name="hidden_relu")
    if head in ("gemm-transposed", "average-pool", "two-layers", "max-pool"):
        x = op.Gemm(x, dense, offsets[2], transB=1)
    elif head in ("matmul", "reduce-mean"):
        x = op.Add(op.MatMul(x, dense.T.copy()), offsets[2])
    elif head == "gemm":
        x = op.Gemm(x, dense.T.copy(), offsets[2])
    b.output(op.Softmax(op.Identity(x, name="logits"), axis=1, name="probabilities"), [batch, 4])
    return Model.of(
        b.model(), preprocessing=Preprocessing.preset("tf", height=size[0], width=size[1]), labels=labels
    )


def linear(size: tuple[int, int] = (5, 4), layout: str = "nchw") -> tuple[Model, NDArray[np.float32]]:
    """Scores that are dense products of the picture; and their weights, (classes, *input)."""
    shape = [3, *size] if layout == "nchw" else [*size, 3]
    weight = np.random.default_rng(5).normal(size=(3, *shape)).astype(np.float32)
    b = Builder("linear")
    b.op.Gemm(b.op.Flatten(b.input("x", ["N", *shape])), weight.reshape(3, -1), transB=1, output="y")
    b.output("y", ["N", 3])
    return Model.of(b.model(), preprocessing=Preprocessing.preset("tf"), name="linear"), weight


def function(of: Any, pixels: int, scale: float = 1.0) -> Model:
    """A network of one score, `of(op, x)` with x (N, pixels), on pictures of one row of grey pixels."""
    b = Builder("function")
    x = b.op.Reshape(b.input("x", ["N", 1, 1, pixels]), np.array([0, pixels]))
    b.output(b.op.Identity(of(b.op, x), output="y"), ["N", 1])
    return Model.of(b.model(), preprocessing=Preprocessing(scale=scale, channels="grey"))


def photograph(height: int, width: int, seed: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
