"""A network whose pictures are (height, width, channels) and whose first node transposes them."""

from typing import Any

import numpy as np
import pytest

import cnnkit


def network(layout: str) -> cnnkit.Model:
    random = np.random.default_rng(0)
    b = cnnkit.Builder()
    if layout == "nhwc":
        x = b.op.Transpose(b.input("input", ("batch", 16, 12, 3)), perm=[0, 3, 1, 2], name="first")
    else:
        x = b.input("input", ("batch", 3, 16, 12))
    kernel = random.standard_normal((5, 3, 3, 3), np.float32)
    x = b.op.Relu(b.op.Conv(x, kernel, pads=[1] * 4, strides=[2, 2], name="conv"), name="relu")
    x = b.op.Flatten(b.op.GlobalAveragePool(x, name="pool"), name="flatten")
    b.output(b.op.Gemm(x, random.standard_normal((5, 4), np.float32), name="logits"))
    return cnnkit.Model.of(b.model(), preprocessing=cnnkit.Preprocessing.preset("torch", height=16, width=12))


@pytest.mark.parametrize(
    ("operation", "options"),
    [
        ("activations", {"layers": "relu"}),
        ("occlusion", {"patch": "4", "stride": "2", "target": "all"}),
        ("grad-cam", {"target": "all"}),
        ("cam", {"target": "all"}),
        ("saliency", {"target": "all"}),
        ("integrated-gradients", {"target": "1", "steps": 8}),
    ],
)
def test_it_is_explained_like_one_with_channels_first(operation: str, options: dict[str, Any]) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (32, 20, 3), dtype=np.uint8)
    one, other = (
        cnnkit.run(operation, pixels, model=network(layout), **options) for layout in ("nchw", "nhwc")
    )
    assert one.arrays.keys() == other.arrays.keys()
    for name, expected in one.arrays.items():
        found = other.arrays[name]
        if found.shape != expected.shape:  # that of the picture itself, as the network has it
            found = np.moveaxis(found, -1, -3)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_it_has_the_same_planes() -> None:
    first, last = network("nchw").graph, network("nhwc").graph
    assert cnnkit.last_plane(first).layer.name == cnnkit.last_plane(last).layer.name == "relu"
    assert cnnkit.planes(first)["relu"] == cnnkit.planes(last)["relu"]
    assert cnnkit.planes(last)["input"] == (16, 12, 3, 3)
