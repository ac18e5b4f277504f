"""The networks that are built: their layers, and the real weights that there are."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

import cnnkit
from cnnkit import Image, Model, Preprocessing, Session, UsageError, gradient_model, measure
from cnnkit.models import mini_xception, mobilenet_v2, vgg, xception
from cnnkit.models.architecture import Parameter

Array = NDArray[Any]


def error(ours: Array, theirs: Array) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def noise(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


class Declared(Exception):
    """Ends a build when its parameters are known: those of VGG19 take half a gigabyte."""


def parameters_of(page: Any, build: Callable[[], Model]) -> Sequence[Parameter]:
    """The parameters of a network, without any values."""

    class Nothing:
        family = "keras"

        def fill(self, parameters: Sequence[Parameter], torch: Mapping[str, Sequence[str]]) -> Any:
            raise Declared(parameters)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Declared) as declared:
        patch.setattr(page, "read_weights", lambda text: Nothing())
        build()
    (parameters,) = declared.value.args
    return parameters


@pytest.mark.parametrize(
    "page, build, count",
    [
        (vgg, partial(vgg.vgg, "vgg16"), 138_357_544),
        (vgg, partial(vgg.vgg, "vgg16", top=False), 14_714_688),
        (vgg, partial(vgg.vgg, "vgg19"), 143_667_240),
        (vgg, partial(vgg.vgg, "vgg19", top=False), 20_024_384),
        (xception, xception.xception, 22_910_480),
        (xception, partial(xception.xception, top=False), 20_861_480),
        (mobilenet_v2, mobilenet_v2.mobilenet_v2, 3_538_984),
        (mobilenet_v2, partial(mobilenet_v2.mobilenet_v2, top=False), 2_257_984),
    ],
)
def test_as_many_parameters_as_keras(page: Any, build: Callable[[], Model], count: int) -> None:
    assert sum(math.prod(parameter.shape) for parameter in parameters_of(page, build)) == count


def test_the_layers_of_mobilenet_v2() -> None:
    model = mobilenet_v2.mobilenet_v2()
    rows = measure(model.graph, 224, 224).rows
    assert len(rows) == len(model.layers) == 156
    told = [(row.layer.index, row.layer.name, row.shape) for row in rows]
    assert told[0] == (0, "input_layer", (1, 3, 224, 224))
    assert told[12] == (12, "block_1_pad", (1, 96, 113, 113))
    assert told[153:] == [
        (153, "out_relu", (1, 1280, 7, 7)),
        (154, "global_average_pooling2d", (1, 1280)),
        (155, "predictions", (1, 1000)),
    ]
    assert (model.logits.tensor, model.probabilities.tensor) == ("predictions/dense", "predictions")


def test_both_sides_of_an_activation_have_names() -> None:
    model = vgg.vgg("vgg16", top=False)
    before, after = (model.find([name])[0].tensor for name in ("block2_conv1/conv", "block2_conv1"))
    found = Session(model, "cpu").run(noise(1, 3, 33, 34), [before, after])
    assert found[before].min() < 0
    np.testing.assert_array_equal(found[after], np.maximum(found[before], 0))


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("vgg16", {"size": (224, 31)}, "from 32x32 up, not 224x31"),
        ("xception", {"size": (70, 299)}, "from 71x71 up, not 70x299"),
        ("mobilenet_v2", {"size": (31, 31)}, "from 32x32 up"),
        ("mini-xception", {"size": (4, 64)}, "from 5x5 up"),
        ("mobilenet_v2", {"alpha": 0.0}, "alpha is the width as a factor, such as 0.5 or 1.4, not 0"),
        ("mobilenet_v2-notop", {"classes": 5}, "takes no classes; it takes alpha, size"),
        ("vgg19-notop", {"activation": None}, "takes no activation; it takes size"),
        ("xception", {"top": False}, "takes no top; it takes classes, size, activation"),
    ],
)
def test_what_a_network_cannot_be_asked(name: str, shape: Mapping[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        cnnkit.Host().build(name, "random:0", **shape)


@pytest.mark.parametrize("size", [5, 6])
def test_the_smallest_mini_xception(size: int) -> None:
    model = mini_xception.mini_xception(size=(size, size))
    (scores,) = Session(model).run(noise(1, 1, size, size)).values()
    assert float(scores.sum()) == pytest.approx(1)


@pytest.mark.parametrize("size", [(64, 47), (65, 50)])
def test_a_fixed_size_is_padded_as_an_open_one(size: tuple[int, int], tmp_path: Path) -> None:
    build = partial(mobilenet_v2.mobilenet_v2, alpha=0.35, top=False)
    weights = {
        parameter.name: np.ones(parameter.shape, np.float32)
        if parameter.variable in ("gamma", "moving_variance")
        else noise(*parameter.shape) / np.float32(np.sqrt(parameter.fan_in))
        for parameter in parameters_of(mobilenet_v2, build)
    }
    np.savez(tmp_path / "weights.npz", **weights)
    x = noise(1, 3, *size)
    found = []
    for fixed in (None, size):
        model = build(tmp_path / "weights.npz", size=fixed)
        values = Session(model, "cpu").run(x, ["block_1_pad", "block_13_pad", "out_relu"])
        gradient = Model.of(gradient_model(model, "out_relu", size=size))
        found.append(values | Session(gradient, "cpu").run(x, ["gradient"]))
    opened, settled = found
    assert opened["block_1_pad"].shape[2:] == {(64, 47): (33, 25), (65, 50): (35, 27)}[size]
    assert opened["block_13_pad"].shape[2:] == {(64, 47): (5, 5), (65, 50): (7, 5)}[size]
    for name, values in opened.items():
        assert values.any()
        assert error(settled[name], values) <= 1e-6


def test_activations_of_a_built_network_keep_their_limits() -> None:
    model = mobilenet_v2.mobilenet_v2(alpha=0.35)
    result = cnnkit.run("activations", "sample:portrait", model=model, max_layers=3)
    drawn = [(layer["index"], layer["name"], len(layer["shown"])) for layer in result.data["layers"]]
    assert drawn == [(3, "Conv1_relu", 16), (77, "block_8_depthwise_relu", 32), (153, "out_relu", 32)]
    assert result.data["shown"] == {
        "layers": 3, "of_layers": 156, "channels": 16 + 32 + 32, "of_channels": 16 + 144 + 1280
    }  # fmt: skip


def test_the_published_mobilenet_v2_with_its_batch_norms_unfolded(data: Path, tmp_path: Path) -> None:
    folded = Model.load(data / "weights" / "mobilenet_v2_1.0_224.onnx")
    weights = unfolded(folded, parameters_of(mobilenet_v2, partial(mobilenet_v2.mobilenet_v2, classes=1001)))
    np.savez(tmp_path / "weights.npz", **weights)
    model = mobilenet_v2.mobilenet_v2(tmp_path / "weights.npz", classes=1001)
    paths = sorted((data / "images" / "imagenet_val").glob("*.*[gG]"))
    assert len(paths) == 100
    pictures = np.concatenate([model.preprocessing.apply(Image.load(path)).tensor for path in paths])
    ours, theirs = Session(model, "cpu"), Session(folded, "cpu")

    pairs = {
        layer.tensor: node.tensor
        for layer, node in zip(
            [layer for layer in model.layers if layer.operator in ("BatchNormalization", "Clip", "Add")],
            [node for node in folded.layers if node.operator in ("Conv", "Clip", "Add")][:-1],
            strict=True,
        )
    }
    pairs |= {model.logits.tensor: folded.logits.tensor, "predictions": "output"}
    found, expected = ours.run(pictures[:2], list(pairs)), theirs.run(pictures[:2], list(pairs.values()))
    errors = {layer: error(found[layer], expected[node]) for layer, node in pairs.items()}
    assert {layer: wrong for layer, wrong in errors.items() if not wrong <= 1e-4} == {}

    def classes(session: Session, output: str) -> Array:
        runs = [session.run(batch, [output])[output] for batch in np.split(pictures, 10)]
        return np.concatenate(runs).argmax(axis=1)

    np.testing.assert_array_equal(classes(ours, "predictions"), classes(theirs, "output"))


def unfolded(folded: Model, parameters: Sequence[Parameter]) -> dict[str, Array]:
    """Weights of Keras that do what convolutions with folded batch norms do, in the order of the layers."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in folded.graph.proto.graph.initializer}
    nodes = [node for node in folded.graph.skeleton.graph.node if node.op_type == "Conv"]
    convolutions = ((arrays[node.input[1]], arrays[node.input[2]]) for node in nodes)
    weights: dict[str, Array] = {}
    bias = np.zeros(0)
    for parameter in parameters:
        match parameter.variable:
            case "kernel":
                kernel, bias = next(convolutions)
                order = (2, 3, 0, 1) if parameter.kind == "depthwise_conv2d" else (2, 3, 1, 0)
                array = kernel.transpose(order).reshape(parameter.shape)
            case "gamma":
                array = np.full(parameter.shape, math.sqrt(1 + 1e-3))
            case "bias" | "beta":
                array = bias
            case "moving_mean":
                array = np.zeros(parameter.shape)
            case _:
                array = np.ones(parameter.shape)
        weights[parameter.name] = array.astype(np.float32)
    assert next(convolutions, None) is None
    return weights


def test_the_published_mini_xception_sees_that_the_astronaut_is_happy(data: Path) -> None:
    model = mini_xception.mini_xception(data / "weights" / "mini_xception_fer2013.hdf5")
    left, top, right, bottom = 165, 60, 285, 180
    face = Image.load(data / "images" / "free" / "astronaut.png").pixels[top:bottom, left:right]
    result = cnnkit.run("cam", face, model=model)
    (target,) = result.data["targets"]
    assert (target["class"], target["label"], target["bias"]) == (3, "happy", 0)
    assert result.data["prediction"]["probability"] > 0.9
    assert target["score"] == pytest.approx(result.arrays["map"].mean(), rel=1e-5)


@pytest.mark.oracle
def test_the_published_vgg19_has_the_activations_of_torch(data: Path, tmp_path: Path) -> None:
    import torch

    with np.load(data / "weights" / "vgg19_block1_to_block3.npz") as arrays:
        published = dict(arrays)
    parameters = parameters_of(vgg, partial(vgg.vgg, "vgg19", top=False))
    missing = {p.name: np.zeros(p.shape, np.float32) for p in parameters if p.name not in published}
    np.savez(tmp_path / "weights.npz", **published, **missing)
    model = vgg.vgg("vgg19", tmp_path / "weights.npz", top=False)
    picture = Image.load(data / "images" / "content" / "tuebingen.jpg").resized(180, 241)
    bgr = picture.pixels[..., ::-1].astype(np.float32) - np.float32([103.939, 116.779, 123.68])
    x = bgr.transpose(2, 0, 1)[None]
    preprocessing = replace(model.preprocessing, height=None, width=None)
    np.testing.assert_allclose(preprocessing.apply(picture).tensor, x, atol=1e-4)

    expected: dict[str, Any] = {}
    plane = torch.from_numpy(x.copy())
    for block, convolutions in enumerate((2, 2, 4), 1):
        for number in range(1, convolutions + 1):
            layer = f"block{block}_conv{number}"
            kernel, bias = (torch.from_numpy(published[f"{layer}.{part}"]) for part in ("kernel", "bias"))
            expected[f"{layer}/conv"] = plane = torch.conv2d(
                plane, kernel.permute(3, 2, 0, 1), bias, padding=1
            )
            expected[layer] = plane = plane.relu()
        plane = torch.max_pool2d(plane, 2)
    found = Session(model, "cpu").run(x, list(expected))
    assert len(expected) == 16
    for layer, values in expected.items():
        assert error(found[layer], values.numpy()) <= 1e-4, layer


@pytest.mark.oracle
@pytest.mark.parametrize("size", [(64, 47), (65, 50)])
def test_weights_of_torchvision_are_padded_as_torch_pads(size: tuple[int, int], tmp_path: Path) -> None:
    import torch
    from networks import models  # torchvision's

    torch.manual_seed(0)
    theirs = models.mobilenet_v2(num_classes=5)
    theirs.train()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0.2, 0.3)
            module.momentum = 1.0
    with torch.no_grad():
        theirs(torch.from_numpy(noise(8, 3, *size)))  # the batch norms measure what they meet
    theirs.eval()
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    model = mobilenet_v2.mobilenet_v2(tmp_path / "weights.pth", classes=5)
    x = noise(2, 3, *size)
    outputs = {"Conv1_relu": 0, "block_1_project_BN": 2, "block_16_project_BN": 17, "out_relu": 18}
    expected: dict[str, Array] = {}
    plane = torch.from_numpy(x)
    with torch.no_grad():
        for position, module in enumerate(theirs.features):
            plane = module(plane)
            expected |= {layer: plane.numpy() for layer, number in outputs.items() if number == position}
        expected["predictions/dense"] = theirs.classifier(plane.mean((2, 3))).numpy()
    found = Session(model, "cpu").run(x, list(expected))
    for layer, values in expected.items():
        assert values.std() > 0.02
        assert error(found[layer], values) <= 1e-4, layer
    assert model.preprocessing == Preprocessing.preset("torch", height=224, width=224)
