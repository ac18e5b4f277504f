"""Writing a network as Keras has it: a method per layer, under Keras' names, in Keras' order.

A layer's name is that of its value. A layer that holds an activation is two nodes, `block1_conv1/conv` and
`block1_conv1`, so that the value before the ReLU has a name too; a separable convolution is
`block2_sepconv1/depthwise` and `block2_sepconv1`, a dense layer with a softmax `predictions/dense` and
`predictions`. Weights are declared while the network is written, and filled in at the end.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from cnnkit import Preprocessing, UsageError
from cnnkit.graphs.builder import Builder
from cnnkit.graphs.model import Model

if TYPE_CHECKING:
    from cnnkit.models.weights.filling import Weights

Padding = Literal["same", "valid", "symmetric"]
"""TensorFlow's two, and PyTorch's: half a window all around, whatever the stride and the size."""
Value = Any
"""A tensor of the graph."""


@dataclass(frozen=True)
class Parameter:
    """One array of weights, as Keras has it."""

    layer: str
    kind: str
    """Keras' class of the layer, in snake case: conv2d, separable_conv2d, batch_normalization, dense, …"""
    variable: str
    """Keras' name: kernel, bias, depthwise_kernel, pointwise_kernel, gamma, beta, moving_mean, …"""
    shape: tuple[int, ...]
    """Keras' layout: (height, width, inputs, outputs); depthwise (height, width, channels, 1); dense (inputs,
    outputs)."""
    flattened: tuple[int, ...] = ()
    """(height, width, channels) of the plane whose numbers, in this order, a dense kernel takes."""

    @property
    def name(self) -> str:
        """Of the tensor in the graph: block1_conv1.kernel."""
        return f"{self.layer}.{self.variable}"

    @property
    def onnx_shape(self) -> tuple[int, ...]:
        return tuple(self.shape[axis] for axis in self._axes)

    def to_onnx(self, array: NDArray[Any]) -> NDArray[np.float32]:
        """An array in Keras' layout, (shape), as the graph takes it."""
        return np.ascontiguousarray(np.asarray(array, np.float32).transpose(self._axes))

    @property
    def depthwise(self) -> bool:
        """Whether each channel has a kernel of its own."""
        return self.kind == "depthwise_conv2d" or self.variable == "depthwise_kernel"

    @property
    def fan_in(self) -> int:
        """How many numbers of the layer's input go into one of its output."""
        return math.prod(self.shape[: 2 if self.depthwise else -1])

    @property
    def _axes(self) -> tuple[int, ...]:
        if len(self.shape) < 4:
            return tuple(range(len(self.shape)))
        return (2, 3, 0, 1) if self.depthwise else (3, 2, 0, 1)


class Architecture:
    """A network that takes pictures of `size` (height, width), None for any, and `channels` channels.

    Every layer method takes the value before and the layer's name, and returns the layer's value. Raises
    UsageError for a size below `smallest`, with which no plane would be left.
    """

    def __init__(
        self,
        name: str,
        size: tuple[int | None, int | None] = (None, None),
        channels: int = 3,
        smallest: int = 1,
    ) -> None:
        if any(fixed is not None and fixed < smallest for fixed in size):
            raise UsageError(
                f"the network '{name}' takes pictures from {smallest}x{smallest} up, not {size[0]}x{size[1]}."
            )
        self.name = name
        self.parameters: list[Parameter] = []
        self._builder = Builder(name)
        self._op = self._builder.op
        self._layers: list[tuple[str, str]] = []
        height, width = (fixed or axis for fixed, axis in zip(size, ("height", "width"), strict=True))
        self._picture = self._builder.input("input", ("batch", channels, height, width))

    def input(self, name: str = "input_layer") -> Value:
        """The picture, which Keras counts as a layer."""
        return self._layer(name, self._op.Identity(self._picture, name=name))

    def convolution(
        self,
        x: Value,
        name: str,
        filters: int,
        kernel: int,
        stride: int = 1,
        padding: Padding = "same",
        bias: bool = True,
        activation: str | None = None,
    ) -> Value:
        """Conv2D."""
        inputs = x.shape[1]
        weights = [self._parameter(name, "conv2d", "kernel", (kernel, kernel, inputs, filters))]
        if bias:
            weights.append(self._parameter(name, "conv2d", "bias", (filters,)))
        inner = f"{name}/conv" if activation else name
        x = self._op.Conv(x, *weights, **_window(kernel, stride, padding), name=inner)
        return self._layer(name, self._activation(x, name, activation))

    def depthwise(
        self, x: Value, name: str, kernel: int, stride: int = 1, padding: Padding = "same"
    ) -> Value:
        """DepthwiseConv2D without a bias."""
        channels = x.shape[1]
        weights = self._parameter(name, "depthwise_conv2d", "kernel", (kernel, kernel, channels, 1))
        window = _window(kernel, stride, padding)
        return self._layer(name, self._op.Conv(x, weights, group=channels, **window, name=name))

    def separable(self, x: Value, name: str, filters: int, kernel: int = 3) -> Value:
        """SeparableConv2D: depthwise, then 1x1; no bias."""
        channels, kind = x.shape[1], "separable_conv2d"
        depthwise = self._parameter(name, kind, "depthwise_kernel", (kernel, kernel, channels, 1))
        pointwise = self._parameter(name, kind, "pointwise_kernel", (1, 1, channels, filters))
        window = _window(kernel, 1, "same")
        x = self._op.Conv(x, depthwise, group=channels, **window, name=f"{name}/depthwise")
        return self._layer(name, self._op.Conv(x, pointwise, kernel_shape=[1, 1], name=name))

    def batch_norm(self, x: Value, name: str, epsilon: float = 1e-3) -> Value:
        """BatchNormalization in inference mode."""
        variables = "gamma", "beta", "moving_mean", "moving_variance"
        weights = [self._parameter(name, "batch_normalization", v, (x.shape[1],)) for v in variables]
        return self._layer(name, self._op.BatchNormalization(x, *weights, epsilon=epsilon, name=name))

    def normalised(self, x: Value, name: str, filters: int, kernel: int) -> Value:
        """A convolution, its batch norm and its ReLU as one layer."""
        weights = self._parameter(name, "conv2d", "kernel", (kernel, kernel, x.shape[1], filters))
        x = self._op.Conv(x, weights, **_window(kernel, 1, "same"), name=f"{name}/conv")
        variables = "gamma", "beta", "moving_mean", "moving_variance"
        norm = [self._parameter(name, "batch_normalization", variable, (filters,)) for variable in variables]
        x = self._op.BatchNormalization(x, *norm, epsilon=1e-3, name=f"{name}/norm")
        return self._layer(name, self._activation(x, name, "relu"))

    def activation(self, x: Value, name: str, activation: str) -> Value:
        """relu, relu6 or softmax as a layer of its own."""
        return self._layer(name, self._activation(x, name, activation))

    def max_pool(self, x: Value, name: str, size: int, stride: int, padding: Padding = "valid") -> Value:
        """MaxPooling2D."""
        return self._layer(name, self._op.MaxPool(x, **_window(size, stride, padding), name=name))

    def zero_pad(self, x: Value, name: str, padding: Padding) -> Value:
        """ZeroPadding2D in front of a 3x3 window with a stride of 2: the margin that `padding` asks for."""
        after = np.ones(2, np.int64)
        before = self._op.Mod(self._op.Shape(x, start=2), 2) if padding == "same" else after
        pads = self._op.Concat(np.zeros(2, np.int64), before, np.zeros(2, np.int64), after, axis=0)
        padded = self._op.Pad(x, pads if pads.value is None else pads.value, name=name)
        return self._layer(name, self._builder.know(padded, ("batch", x.shape[1], *padded.shape[2:])))

    def add(self, x: Value, y: Value, name: str) -> Value:
        """Add."""
        return self._layer(name, self._op.Add(x, y, name=name))

    def concatenate(self, values: Sequence[Value], name: str) -> Value:
        """Concatenate, of the channels."""
        return self._layer(name, self._op.Concat(*values, axis=1, name=name))

    def global_average_pool(self, x: Value, name: str) -> Value:
        """GlobalAveragePooling2D: (batch, channels)."""
        pooled = self._op.GlobalAveragePool(x, name=f"{name}/pool")
        return self._layer(name, self._op.Flatten(pooled, name=name))

    def flatten(self, x: Value, name: str) -> Value:
        """Flatten: (batch, height x width x channels), in this order as in Keras."""
        moved = self._op.Transpose(x, perm=[0, 2, 3, 1], name=f"{name}/transpose")
        return self._layer(name, self._op.Flatten(moved, name=name))

    def dense(
        self,
        x: Value,
        name: str,
        units: int,
        activation: str | None = None,
        flattened: Sequence[int] = (),
    ) -> Value:
        """Dense; `flattened` is (height, width, channels) of the plane when a `flatten` came before."""
        kernel = self._parameter(name, "dense", "kernel", (x.shape[1], units), tuple(flattened))
        bias = self._parameter(name, "dense", "bias", (units,))
        x = self._op.Gemm(x, kernel, bias, name=f"{name}/dense" if activation else name)
        return self._layer(name, self._activation(x, name, activation))

    def model(
        self,
        output: Value,
        weights: "Weights",
        preprocessing: Preprocessing,
        torch: Mapping[str, Sequence[str]] | None = None,
    ) -> Model:
        """The network up to `output`, its parameters filled.

        `torch` says what the modules are called, from which files of PyTorch may have each layer's weights.
        Raises ModelError when the weights do not fit.
        """
        for parameter, array in weights.fill(self.parameters, torch or {}):
            self._builder.fill(parameter.name, parameter.to_onnx(array))
        self._builder.output(output)
        layers = {"cnnkit.layers": json.dumps(self._layers)}
        model = Model.of(self._builder.model(layers), preprocessing=preprocessing, name=self.name)
        return weights.finish(model)

    def _parameter(
        self, layer: str, kind: str, variable: str, shape: tuple[int, ...], flattened: tuple[int, ...] = ()
    ) -> Value:
        parameter = Parameter(layer, kind, variable, shape, flattened)
        self.parameters.append(parameter)
        return self._builder.weight(parameter.name, parameter.onnx_shape)

    def _activation(self, x: Value, name: str, activation: str | None) -> Value:
        if activation is None:
            return x
        if activation == "relu6":
            return self._op.Clip(x, 0.0, 6.0, name=name)
        if activation == "softmax":
            return self._op.Softmax(x, axis=1, name=name)
        return self._builder.append({"relu": "Relu", "sigmoid": "Sigmoid"}[activation], [x], name=name)

    def _layer(self, name: str, value: Value) -> Value:
        self._layers.append((name, str(value)))
        return value


def _window(kernel: int, stride: int, padding: Padding) -> dict[str, Any]:
    """The attributes of a window."""
    window: dict[str, Any] = {"kernel_shape": [kernel, kernel], "strides": [stride, stride]}
    if padding == "same" and stride > 1:
        window["auto_pad"] = "SAME_UPPER"
    elif padding != "valid":
        window["pads"] = [kernel // 2] * 4
    return window
