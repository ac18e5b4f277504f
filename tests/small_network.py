"""A small network in the manner of VGG, and pictures for it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnkit import Builder, Model, Preprocessing


def small_network(layout: str = "nchw", size: tuple[Any, Any] = ("height", "width"), **window: Any) -> Model:
    """Two convolutions with a max pool between, seeded; layers `one`, `pool`, `two` and `scores`."""
    random = np.random.default_rng(5)

    def kernel(*shape: int) -> NDArray[np.float32]:
        return random.standard_normal(shape, np.float32) / np.float32(np.sqrt(np.prod(shape[1:])))

    b = Builder("small")
    channels_first = layout == "nchw"
    shape = ["batch", 3, *size] if channels_first else ["batch", *size, 3]
    x = b.input("picture", shape)
    if not channels_first:
        x = b.op.Transpose(x, perm=[0, 3, 1, 2], name="to_nchw")
    bias = random.standard_normal(6, np.float32)
    weights = b.constant(kernel(6, 3, 3, 3), "one.kernel")
    window = window or {"pads": [1, 1, 1, 1]}
    x = b.op.Relu(b.op.Conv(x, weights, bias, name="one/conv", **window), name="one")
    x = b.op.MaxPool(x, kernel_shape=[2, 2], strides=[2, 2], name="pool")
    two = b.op.Conv(x, b.constant(kernel(8, 6, 3, 3), "two.kernel"), pads=[1, 1, 1, 1], name="two/conv")
    x = b.op.Relu(two, name="two")
    if not channels_first:
        x = b.op.Transpose(x, perm=[0, 2, 3, 1], name="to_nhwc")
    b.output(b.op.Flatten(b.op.ReduceMean(x, [2, 3]), name="scores"))
    named = '[["one", "one"], ["pool", "pool"], ["two", "two"], ["scores", "scores"]]'
    made = b.model({"cnnkit.layers": named})
    return Model.of(made, preprocessing=Preprocessing.preset("caffe", layout=layout), name="small")


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.float32]:
    """Pixels (height, width, 3) in 0..255, smooth enough to look like something."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    waves = [
        np.sin(rows * random.uniform(0.1, 0.5) + columns * random.uniform(0.1, 0.5) + random.uniform(0, 6))
        for _ in range(3)
    ]
    return np.asarray(
        127.5 + 100 * np.stack(waves, -1) + random.uniform(-20, 20, (height, width, 3)), np.float32
    )
