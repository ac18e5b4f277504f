"""Random weights: the same everywhere, and no layer dies under them."""

import numpy as np
import pytest

from cnnkit import Image, Model, Preprocessing, Session, UsageError
from cnnkit.models.architecture import Architecture
from cnnkit.models.mobilenet_v2 import mobilenet_v2
from cnnkit.models.vgg import vgg
from cnnkit.models.weights.filling import read_weights
from cnnkit.models.weights.random import RandomWeights


def chain(weights: str, layers: int = 6) -> Model:
    """Convolutions one behind the other, and a dense layer."""
    net = Architecture("chain", (32, 32))
    x = net.input()
    for number in range(layers):
        x = net.convolution(x, f"conv{number}", 8 + number, 3, activation="relu")
    x = net.global_average_pool(x, "pool")
    x = net.dense(x, "predictions", 5, "softmax")
    return net.model(x, read_weights(weights), Preprocessing.preset("caffe", height=32, width=32))


def normed(weights: str, side: int) -> Model:
    """With batch norms, an addition and a separable convolution."""
    net = Architecture("normed", (side, side))
    x = net.convolution(net.input(), "conv", 6, 3, stride=2, bias=False)
    x = net.activation(net.batch_norm(x, "conv_bn"), "conv_relu", "relu6")
    y = net.batch_norm(net.separable(x, "sepconv", 6), "sepconv_bn")
    x = net.add(x, y, "add")
    x = net.activation(net.batch_norm(net.depthwise(x, "depthwise", 3), "depthwise_bn"), "relu", "relu")
    return net.model(x, read_weights(weights), Preprocessing.preset("tf", height=side, width=side))


def picture(model: Model, name: str = "sample:portrait") -> np.ndarray:
    return model.preprocessing.apply(Image.load(name)).tensor


def test_kernels_are_the_same_on_every_machine() -> None:
    net = Architecture("one")
    net.convolution(net.input(), "block1_conv1", 64, 3)
    (_, kernel), (_, bias) = RandomWeights(0).fill(net.parameters, {})
    assert kernel.shape == (3, 3, 3, 64) and not bias.any()
    golden = [-0.42179239, 0.1157916, 0.10590983, -0.19258988]
    assert kernel.ravel()[:4].tolist() == pytest.approx(golden, rel=1e-7)
    assert kernel.std() == pytest.approx(np.sqrt(2 / 27), rel=0.03)


def test_depthwise_kernels_have_the_fan_in_of_one_channel() -> None:
    net = Architecture("one")
    net.depthwise(net.separable(net.input(), "separable", 4000, 3), "depthwise", 3)
    kernels = {parameter.name: array for parameter, array in RandomWeights(1).fill(net.parameters, {})}
    assert kernels["depthwise.kernel"].std() == pytest.approx(np.sqrt(2 / 9), rel=0.02)
    assert kernels["separable.pointwise_kernel"].std() == pytest.approx(np.sqrt(2 / 3), rel=0.02)


@pytest.mark.parametrize("where", ["sample:portrait", "sample:stripes"])
def test_every_layer_has_a_mean_activation_of_one(where: str) -> None:
    model = chain(f"random:7@{where}")
    taps = [f"conv{number}" for number in range(6)]
    found = Session(model).run(picture(model, where), [*taps, "predictions/dense"])
    assert [found[tap].mean() for tap in taps] == pytest.approx([1.0] * 6, abs=1e-5)
    assert np.abs(found["predictions/dense"]).mean() == pytest.approx(1.0, abs=1e-5)


def test_batch_norms_have_the_statistics_of_what_they_meet() -> None:
    model = normed("random:7", 224)
    met = {"conv_bn": "conv", "sepconv_bn": "sepconv", "depthwise_bn": "depthwise"}
    found = Session(model).run(picture(model), list(met.values()))
    for norm, before in met.items():
        values = found[before].astype(np.float64)
        mean = model.graph.constant(f"{norm}.moving_mean")
        variance = model.graph.constant(f"{norm}.moving_variance")
        np.testing.assert_allclose(mean, values.mean((0, 2, 3)), atol=1e-5)
        np.testing.assert_allclose(variance, values.var((0, 2, 3)), rtol=1e-3, atol=1e-6)


def test_a_part_of_a_network_has_the_kernels_of_the_whole() -> None:
    whole, part = chain("random:3", 6), chain("random:3", 4)
    for number in range(4):
        name = f"conv{number}.kernel"
        np.testing.assert_allclose(part.graph.constant(name), whole.graph.constant(name), rtol=1e-5)
    other = chain("random:4", 4).graph.constant("conv0.kernel")
    assert not np.allclose(part.graph.constant("conv0.kernel"), other, rtol=0.1)


def test_a_deep_network_lives() -> None:
    model = vgg("vgg19", "random:0", top=False, size=(64, 64))
    names = [layer.tensor for layer in model.layers if "conv" in layer.name]
    found = Session(model).run(picture(model), names)
    assert [found[name].mean() for name in names] == pytest.approx([1.0] * 16, abs=1e-4)


def test_a_network_for_small_pictures_lives() -> None:
    small, usual = normed("random:7", 24), normed("random:7", 224)
    for name in ("conv_bn.moving_variance", "depthwise_bn.moving_mean"):
        np.testing.assert_array_equal(small.graph.constant(name), usual.graph.constant(name))
    model = mobilenet_v2("random:0", size=(32, 32))
    values = Session(model).run(picture(model, "sample:stripes"), ["Conv_1_bn"])["Conv_1_bn"]
    assert 0.1 < values.std() < 10


@pytest.mark.parametrize("text", ["random:", "random:x", "random:-1", "random:1.5"])
def test_what_is_no_seed_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"random:SEED or random:SEED@PICTURE, such as random:0, not"):
        read_weights(text)
