"""A network of an ONNX file, rebuilt node by node in torch: what the oracles of other libraries run on."""

import copy
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional


class OnnxInTorch(nn.Module):
    """Runs the operators that MobileNets and VGGs are made of; returns the tensor `output`."""

    def __init__(self, proto: onnx.ModelProto, output: str | None = None) -> None:
        super().__init__()
        graph = proto.graph
        self.nodes = [copy.deepcopy(node) for node in graph.node]  # a node keeps the model that it is part of
        self.input_name = graph.input[0].name
        self.output_name = output or graph.output[0].name
        self.weights = {
            tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy())
            for tensor in graph.initializer
        }

    def forward(self, x: Tensor) -> Tensor:
        values: dict[str, Tensor | None] = {"": None, **self.weights, self.input_name: x}
        for node in self.nodes:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            inputs = (values[name] for name in node.input)
            values[node.output[0]] = _OPERATORS[node.op_type](*inputs, **attributes)
            if node.output[0] == self.output_name:
                break
        result = values[self.output_name]
        assert result is not None
        return result


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, **attributes: Any) -> Tensor:
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    strides, dilations = attributes.get("strides", (1, 1)), attributes.get("dilations", (1, 1))
    padding = (top, left)
    if (top, left) != (bottom, right):
        x, padding = functional.pad(x, (left, right, top, bottom)), (0, 0)
    return functional.conv2d(x, weight, bias, strides, padding, dilations, attributes.get("group", 1))


def _max_pool(x: Tensor, **attributes: Any) -> Tensor:
    assert not any(attributes.get("pads", ()))
    return functional.max_pool2d(x, attributes["kernel_shape"], attributes["strides"])


def _gemm(x: Tensor, weight: Tensor, bias: Tensor, **attributes: Any) -> Tensor:
    return functional.linear(x, weight if attributes.get("transB") else weight.T, bias)


_OPERATORS: dict[str, Any] = {
    "Add": lambda x, y: x + y,
    "Clip": lambda x, low, high: torch.clamp(x, low, high),
    "Conv": _conv,
    "Flatten": lambda x, axis=1: x.flatten(axis),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda x: x.mean((2, 3), keepdim=True),
    "Identity": lambda x: x,
    "MaxPool": _max_pool,
    "Mul": lambda x, y: x * y,
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Softmax": lambda x, axis=-1: x.softmax(axis),
}
