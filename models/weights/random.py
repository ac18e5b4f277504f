"""Random weights for a network, under which no layer dies or explodes.

Kernels are He's: normal, of variance 2 / fan-in. In a deep network the activations still drift by orders of
magnitude, so that one layer drowns the others in a style loss (He, Wang, Hopcroft 2016, arXiv:1606.04801). So
the network is shown a picture, and every layer is settled by what it makes of it: batch norms take the mean
and the variance that they meet, and in a network without them each kernel is scaled until its layer's mean
activation is 1, as in the normalised VGG of Gatys et al. 2016.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from zlib import crc32

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from cnnkit import Graph, Image, Model, Session, UsageError
from cnnkit.models.architecture import Parameter
from cnnkit.models.weights.filling import Family

PICTURE = "sample:portrait"
SIDE = 224
"""Pixels that batch norms see at least: a plane of few places has no variance to speak of."""
_AXES = "measured/axes"


@dataclass(frozen=True)
class RandomWeights:
    """The weights of a seed. Kernels are the same on every machine; what is measured agrees to rounding."""

    seed: int
    picture: str = PICTURE
    family: Family = "random"

    @staticmethod
    def parse(text: str) -> "RandomWeights":
        """Of "random:SEED" or "random:SEED@PICTURE". Raises UsageError."""
        seed, _, picture = text.removeprefix("random:").partition("@")
        if not seed.isdecimal():
            raise UsageError(
                f"random weights are random:SEED or random:SEED@PICTURE, such as random:0, not '{text}'."
            )
        return RandomWeights(int(seed), picture or PICTURE)

    def fill(
        self, parameters: Sequence[Parameter], torch: Mapping[str, Sequence[str]]
    ) -> Iterator[tuple[Parameter, NDArray[Any]]]:
        """A kernel depends on the seed and its name only: a part of a network has those of the whole."""
        for parameter in parameters:
            yield parameter, self._array(parameter)

    def finish(self, model: Model) -> Model:
        """The model, settled on the picture. Raises ImageError."""
        picture = Image.load(self.picture)
        if any(node.op_type == "BatchNormalization" for node in model.graph.skeleton.graph.node):
            own = model.preprocessing
            large = replace(own, height=max(own.height or 0, SIDE), width=max(own.width or 0, SIDE))
            return _normed(model, large.apply(picture).tensor)
        return _scaled(model, model.preprocessing.apply(picture).tensor)

    def _array(self, parameter: Parameter) -> NDArray[np.float32]:
        shape = parameter.shape
        if len(shape) == 1:
            ones = parameter.variable in ("gamma", "moving_variance")
            return np.full(shape, float(ones), np.float32)
        generator = np.random.default_rng([self.seed, crc32(parameter.name.encode())])
        kernel = generator.standard_normal(shape, np.float32)
        kernel *= np.float32(np.sqrt(2 / parameter.fan_in))
        return kernel


def _normed(model: Model, batch: NDArray[np.float32]) -> Model:
    """Every batch norm with the statistics of what it meets, found in one run that measures as it goes."""
    moments: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.skeleton.graph.node:
        if node.op_type == "BatchNormalization":
            x, mean, variance = node.input[0], node.input[3], node.input[4]
            moments |= {mean: f"{mean}/measured", variance: f"{variance}/measured"}
            nodes += _moments(x, moments[mean], moments[variance])
            norm = onnx.NodeProto()
            norm.CopyFrom(node)
            norm.input[3], norm.input[4] = moments[mean], moments[variance]
            node = norm
        nodes.append(node)
    measuring = onnx.ModelProto()
    measuring.CopyFrom(model.graph.skeleton)
    del measuring.graph.node[:]
    measuring.graph.node.extend(nodes)
    for dimension, size in zip(measuring.graph.input[0].type.tensor_type.shape.dim, batch.shape, strict=True):
        dimension.dim_value = size
    measuring.graph.initializer.append(numpy_helper.from_array(np.array([0, 2, 3], np.int64), _AXES))
    graph = Graph(measuring, model.graph.files)
    found = Session(replace(model, graph=graph), device="cpu").run(batch, list(moments.values()))
    return _with_weights(model, {name: found[tensor] for name, tensor in moments.items()})


def _moments(x: str, mean: str, variance: str) -> list[onnx.NodeProto]:
    """Nodes for the mean and the variance of each channel."""
    square, of_squares, squared = (f"{variance}/{part}" for part in ("square", "of_squares", "of_mean"))
    return [
        helper.make_node("ReduceMean", [x, _AXES], [mean], keepdims=0),
        helper.make_node("Mul", [x, x], [square]),
        helper.make_node("ReduceMean", [square, _AXES], [of_squares], keepdims=0),
        helper.make_node("Mul", [mean, mean], [squared]),
        helper.make_node("Sub", [of_squares, squared], [variance]),
    ]


def _scaled(model: Model, batch: NDArray[np.float32]) -> Model:
    """Every kernel scaled until the mean activation of its layer is 1.

    The biases are zero and the layers follow one another, so scaling a kernel scales all that comes later:
    one run tells the factors of all.
    """
    means: dict[str, float] = {}
    taps = {part.tensor: node.input[1] for part in model.parts
            if (node := model.graph.producers[part.tensor]).op_type in ("Conv", "Gemm")}  # fmt: skip
    for tensor, value in Session(model, device="cpu").run(batch, list(taps)).items():
        followers = {node.op_type for node in model.graph.skeleton.graph.node if tensor in node.input}
        means[taps[tensor]] = float(np.abs(np.maximum(value, 0) if "Relu" in followers else value).mean())
    before = [1.0, *means.values()]
    return _with_weights(
        model,
        {
            kernel: model.graph.constant(kernel) * np.float32(last / mean)  # type: ignore[operator]
            for (kernel, mean), last in zip(means.items(), before, strict=False)
        },
    )


def _with_weights(model: Model, weights: Mapping[str, NDArray[Any]]) -> Model:
    """The model with other values of some weights."""
    skeleton = model.graph.skeleton
    for tensor in skeleton.graph.initializer:
        if tensor.name in weights:
            value = np.ascontiguousarray(weights[tensor.name], np.float32)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return replace(model, graph=Graph(skeleton, model.graph.files))
