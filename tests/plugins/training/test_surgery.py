"""A new head: what it computes by hand, on every kind of network, and what of it learns."""

from typing import Any

import numpy as np
import pytest
from small_network import small_network

from cnnkit import Builder, Model, ModelError, Preprocessing, Session, UsageError
from cnnkit.models.mini_xception import mini_xception
from cnnkit.models.mobilenet_v2 import mobilenet_v2
from cnnkit.models.vgg import vgg
from cnnkit.plugins.training.surgery import BIAS, FEATURES, KERNEL, base_of, weights_of, with_head

LABELS = ["a", "b", "c", "d"]


def made(model: Model) -> Model:
    return with_head(model, LABELS, np.random.default_rng(0))


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_the_mean_of_the_features_and_a_dense_layer(layout: str) -> None:
    """Of a network that ends in a plane."""
    model = small_network(layout)
    plane_of = model.find(["two"])[0].tensor
    model = Model.of(model.graph.extract([plane_of]), preprocessing=model.preprocessing)
    headed = made(model)
    assert headed.labels == tuple(LABELS) and headed.classes == 4
    x = np.random.default_rng(1).standard_normal((3, 3, 12, 16)).astype(np.float32)
    x = x if layout == "nchw" else np.moveaxis(x, 1, -1).copy()
    (plane,) = Session(model).run(x).values()
    features = plane.mean((2, 3))
    logits = features @ headed.graph.constant(KERNEL) + headed.graph.constant(BIAS)
    wanted = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = Session(headed).run(x, [FEATURES, "predictions", "probabilities"])
    np.testing.assert_allclose(found[FEATURES], features, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["probabilities"], wanted, rtol=1e-4)
    assert headed.logits.tensor == "predictions"


def test_a_head_in_place_of_a_head() -> None:
    """Transfer from a network that was trained here, for other classes."""
    once = made(small_network())
    twice = with_head(once, ["e", "f"], np.random.default_rng(1))
    assert twice.labels == ("e", "f") and twice.classes == 2
    x = np.random.default_rng(1).standard_normal((3, 3, 12, 16)).astype(np.float32)
    before, after = (Session(model).run(x, [FEATURES])[FEATURES] for model in (once, twice))
    np.testing.assert_array_equal(before, after)
    np.testing.assert_allclose(Session(twice).run(x)["probabilities"].sum(1), 1, rtol=1e-5)


def test_the_kernel_is_that_of_glorot() -> None:
    kernel = made(vgg("vgg16", top=False)).graph.constant(KERNEL)
    assert kernel is not None and kernel.shape == (512, 4)
    limit = np.sqrt(6 / 516)
    assert np.abs(kernel).max() <= limit and kernel.std() == pytest.approx(limit / np.sqrt(3), rel=0.05)


@pytest.mark.parametrize(
    "build, layer, channels",
    [
        (lambda: mobilenet_v2("random:0", alpha=0.35, size=(32, 32)), "global_average_pooling2d", 1280),
        (lambda: mini_xception("random:0"), "add_4", 128),
        (lambda: small_network(), "two", 8),
    ],
)  # fmt: skip
def test_the_features_are_what_the_last_layer_with_weights_reads(
    build: Any, layer: str, channels: int
) -> None:
    """Behind the pool of MobileNet; before the last convolution where the classes are its channels."""
    model = build()
    base = base_of(model)
    names = {part.tensor: part.name for part in model.parts}
    assert (names[base.tensor], base.channels) == (layer, channels)
    headed = made(model)
    kept = [found.name for found in headed.layers]
    assert kept[-3:] == [FEATURES, "predictions", "probabilities"]
    assert kept[:-3] == [found.name for found in model.layers][: len(kept) - 3]


def test_weights_that_learn() -> None:
    headed = made(mobilenet_v2("random:0", alpha=0.35, size=(32, 32)))
    head, everything, part = (weights_of(headed, first) for first in (None, "", "block_16_project"))
    assert [row.layer for row in head if row.trainable] == ["predictions"]
    assert sum(row.trainable for row in head) == 4 * 1280 + 4
    total = sum(row.trainable + row.frozen for row in everything)
    assert total == sum(row.trainable + row.frozen for row in head)
    assert all("moving" not in name for row in everything for name in row.trained)
    norms = [row for row in everything if row.operator == "BatchNormalization"]
    assert sum(row.frozen for row in everything) == sum(row.trainable for row in norms)
    assert [row.layer for row in part if row.trainable] == [
        "block_16_project", "block_16_project_BN", "Conv_1", "Conv_1_bn", "predictions",
    ]  # fmt: skip


def test_a_layer_that_is_none() -> None:
    with pytest.raises(UsageError, match="Did you mean 'Conv1'"):
        weights_of(made(mobilenet_v2("random:0", alpha=0.35, size=(32, 32))), "Conv1_")


def test_a_network_without_weights() -> None:
    b = Builder("plain")
    b.output(b.op.Flatten(b.op.GlobalAveragePool(b.input("input", ("batch", 3, 8, 8)))))
    model = Model.of(b.model(), preprocessing=Preprocessing(height=8, width=8))
    with pytest.raises(
        ModelError, match="needs the features under the last dense layer; 'model' has the picture"
    ):
        made(model)
