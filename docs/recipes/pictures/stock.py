"""Networks for the pictures: those that were pulled, or made of the weights in a folder of data."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from cnnkit import Graph, Model
from cnnkit.host.store import stored_networks
from cnnkit.models.mobilenet_v2 import LICENCE, mobilenet_v2
from cnnkit.models.vgg import CONVOLUTIONS, WIDTHS, vgg

EPSILON = 1e-3
"""Of MobileNetV2's batch norms."""


def network(name: str, data: Path) -> Model:
    """A network as it was pulled, if it is stored on this machine; else the one of `MADE`."""
    path = stored_networks().get(name)
    return Model.load(path, name=name) if path else replace(MADE[name](data), name=name)


def mobilenet_v2_of_google(data: Path) -> Model:
    """MobileNetV2 of Google's release of 2018 under Keras' names; the release has its batch norms folded.

    A norm that adds only the bias stands behind each convolution. Class 0 of 1001, the background, is left
    out.
    """
    graph = Graph.load(data / "weights" / "mobilenet_v2_1.0_224.onnx")
    layers = [node for node in graph.proto.graph.node if node.op_type == "Conv"]
    *convolutions, dense = [_kernel_and_bias(graph, node) for node in layers]
    arrays: dict[str, NDArray[np.float32]] = {}
    for (name, norm, depthwise), (kernel, bias) in zip(_convolutions(), convolutions, strict=True):
        arrays[f"{name}.kernel"] = kernel.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))
        ones = np.ones_like(bias)
        arrays |= {f"{norm}.gamma": ones, f"{norm}.beta": bias}
        arrays |= {f"{norm}.moving_mean": 0 * ones, f"{norm}.moving_variance": (1 - EPSILON) * ones}
    kernel, bias = dense
    arrays["predictions.kernel"] = kernel[1:, :, 0, 0].T
    arrays["predictions.bias"] = bias[1:]
    model = _made(mobilenet_v2, arrays).adjusted(labels=data / "labels" / "imagenet_class_index.json")
    return replace(model, licence=LICENCE)


def vgg19_notop_in_part(data: Path, seed: int = 0) -> Model:
    """VGG19 without its dense layers: the blocks of which there are weights, the others random."""
    arrays = dict(np.load(data / "weights" / "vgg19_block1_to_block3.npz"))
    random = np.random.default_rng(seed)
    inputs = 3
    for block, (count, width) in enumerate(zip(CONVOLUTIONS["vgg19"], WIDTHS, strict=True), 1):
        for number in range(1, count + 1):
            layer = f"block{block}_conv{number}"
            if f"{layer}.kernel" not in arrays:
                kernel = random.standard_normal((3, 3, inputs, width), np.float32)
                arrays[f"{layer}.kernel"] = kernel * np.float32(np.sqrt(2 / (9 * inputs)))
                arrays[f"{layer}.bias"] = np.zeros(width, np.float32)
            inputs = width
    return _made(lambda file: vgg("vgg19", file, top=False), arrays)


def vgg16_notop_of_vgg19(data: Path) -> Model:
    """A network of VGG16's form, of the layers of VGG19 that have the same names."""
    vgg16, vgg19 = vgg("vgg16", top=False), network("vgg19-notop", data)
    proto = vgg16.graph.proto
    for weight in proto.graph.initializer:
        array = vgg19.graph.constant(weight.name)
        assert array is not None, weight.name
        weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    return replace(vgg16, graph=Graph.of(proto))


MADE: Mapping[str, Callable[[Path], Model]] = {
    "mobilenet_v2": mobilenet_v2_of_google,
    "vgg16-notop": vgg16_notop_of_vgg19,
    "vgg19-notop": vgg19_notop_in_part,
}
"""How the networks that were not pulled are made of a folder of data."""


def _convolutions() -> list[tuple[str, str, bool]]:
    """MobileNetV2's convolutions in order: name, name of the norm, and whether it is depthwise."""
    found = [("Conv1", "bn_Conv1", False)]
    for block in range(17):
        prefix = f"block_{block}_" if block else "expanded_conv_"
        parts = ("expand", "depthwise", "project") if block else ("depthwise", "project")
        found += [(prefix + part, f"{prefix}{part}_BN", part == "depthwise") for part in parts]
    return [*found, ("Conv_1", "Conv_1_bn", False)]


def _kernel_and_bias(graph: Graph, node: onnx.NodeProto) -> tuple[NDArray[np.float32], ...]:
    arrays = [graph.constant(name) for name in node.input[1:]]
    return tuple(array for array in arrays if array is not None)


def _made(build: Callable[[Path], Model], arrays: Mapping[str, Any]) -> Model:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "weights.npz"
        np.savez(file, **arrays)
        return build(file)
