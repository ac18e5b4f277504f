"""Networks made of networks: cut at a layer, with batch norms folded, with weights of half the size."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from cnnkit.errors import ModelError, UsageError
from cnnkit.graphs import targets
from cnnkit.graphs.builder import declaration, declared_shape
from cnnkit.graphs.graph import Graph
from cnnkit.graphs.layers import read_by, read_inside
from cnnkit.graphs.loading import array_of
from cnnkit.graphs.measure import infer_shapes
from cnnkit.graphs.model import Model
from cnnkit.graphs.tensors import BATCHES, Tensor

SMALLEST_HALVED = 1024
"""Numbers from which on a kernel is stored as float16."""


def cut(model: Model, layer: str) -> Model:
    """The network up to a layer, or to a node inside of one, whose value is the output.

    The labels stay when that value still has one score per class. Raises UsageError when the pattern names no
    layer or several.
    """
    found = model.find([layer])
    if len(found) > 1:
        raise UsageError(f"'{layer}' names {len(found)} layers, but a network is cut at one")
    (end,) = found
    graph = model.graph.extract([end.tensor])
    if not graph.skeleton.graph.output[0].type.tensor_type.HasField("shape"):
        graph.skeleton.graph.output[0].CopyFrom(_declaration(graph, end.tensor))
    labels = model.labels if targets.holds_scores(model.graph, end.tensor) else ()
    names = {layer.name: layer.tensor for layer in [*model.layers, end]}
    return replace(model, graph=graph.with_layers(names), labels=labels, source=None)


def folded(model: Model) -> Model:
    """The network without the batch norms that can be part of the layer before them.

    That is a convolution or a dense layer (Conv, ConvTranspose, Gemm) with constant weights, whose value
    nobody else reads. Its node takes the place, the tensor and the layer name of the batch norm, and its
    weights, which are computed in float64, are called `LAYER.kernel` and `LAYER.bias`. Where both are parts
    of one layer, "block1_conv1/conv" and "block1_conv1/norm", it keeps its own names.
    """
    graph = model.graph
    nodes = graph.skeleton.graph.node
    outputs = [output.name for output in graph.outputs]
    readers = Counter([*outputs, *(name for node in nodes for name in read_by(node))])
    weights = {tensor.name: tensor for tensor in graph.skeleton.graph.initializer}
    names = {part.tensor: part.name for part in model.parts}
    inside = {name for node in nodes for name in read_inside(node)}
    kept = {*outputs, *(layer.tensor for layer in model.layers)} | inside
    known = infer_shapes(graph)
    instead: dict[str, onnx.NodeProto] = {}
    renamed: dict[str, str] = {}

    def constant(name: str) -> NDArray[Any] | None:
        value = graph.constant(name)
        return known[name].value if value is None else value

    for norm in nodes:
        layer = graph.producers.get(norm.input[0]) if _is(norm, "BatchNormalization") else None
        if layer is None or not _is(layer, "Conv", "ConvTranspose", "Gemm"):
            continue
        values = _folded_weights(layer, norm, constant)
        if values is None or readers[layer.output[0]] > 1:
            continue
        tensor = norm.output[0]
        named, inputs = norm, [f"{names.get(tensor, tensor)}.{part}" for part in ("kernel", "bias")]
        if not kept & {tensor, layer.output[0]}:
            own = [name for name in layer.input[1:] if name]
            named, inputs = layer, [*own, f"{own[0].removesuffix('.kernel')}.bias"][:2]
            renamed[tensor] = layer.output[0]
            for name in own:
                if readers[name] == 1:
                    weights.pop(name, None)
        made = []
        for name, value in zip(inputs, values, strict=True):
            while name in weights or name in graph.producers:
                name += "_folded"
            weights[name] = numpy_helper.from_array(value, name)
            made.append(name)
        instead[tensor] = _joined(layer, named, made)
    staying = [node for node in nodes if node.output[0] not in renamed.values()]
    read = [_reading(instead.get(node.output[0], node), renamed) for node in staying]
    result = graph.rebuilt(read, weights.values(), outputs)
    names = {layer.name: layer.tensor for layer in model.layers}
    return replace(model, graph=result.with_layers(names), source=None)


def stored_as_float16(model: Model) -> Model:
    """The network with its large kernels stored as float16, in half the space; it computes in float32.

    They are the float32 weights of two axes or more and 1024 numbers or more; vectors, such as the statistics
    of batch norms, stay exact. Each keeps its name and is cast where it is read, which ONNX Runtime does
    once, when it loads. A gradient with respect to one is float16 too.

    Raises ModelError for a number that float16 cannot hold.
    """
    graph = model.graph
    outputs = [output.name for output in graph.outputs]
    fixed = {name for node in graph.skeleton.graph.node for name in read_inside(node)}
    weights = {tensor.name: tensor for tensor in graph.skeleton.graph.initializer}
    cast: dict[str, str] = {}
    for name, tensor in weights.items():
        kernel = len(tensor.dims) > 1 and math.prod(tensor.dims) >= SMALLEST_HALVED
        if kernel and tensor.data_type == TensorProto.FLOAT and name not in fixed.union(outputs):
            weights[name] = numpy_helper.from_array(_halved(array_of(tensor, graph.files), name), name)
            cast[name] = f"{name}/float32"
    nodes: list[onnx.NodeProto] = []
    waiting = set(cast)
    for node in graph.skeleton.graph.node:
        for name in node.input:
            if name in waiting:
                waiting.remove(name)
                nodes.append(helper.make_node("Cast", [name], [cast[name]], cast[name], to=TensorProto.FLOAT))
        nodes.append(_reading(node, cast))
    return replace(model, graph=graph.rebuilt(nodes, weights.values(), outputs), source=None)


def _declaration(graph: Graph, name: str) -> onnx.ValueInfoProto:
    tensor = Tensor(name, tuple(infer_shapes(graph, batch=batch)[name] for batch in BATCHES))
    assert tensor.rank is not None  # raises ModelError where the shape does not follow
    return declaration(name, declared_shape(tensor), tensor.dtype)


def _folded_weights(
    layer: onnx.NodeProto, norm: onnx.NodeProto, constant: Callable[[str], NDArray[Any] | None]
) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Kernel and bias of a layer and the batch norm behind it in one; None where they cannot be."""
    had, settings = _attributes(layer), _attributes(norm)
    values = [constant(name) for name in [*layer.input[1:], *norm.input[1:5]] if name]
    constants = [value.astype(np.float64) for value in values if value is not None]
    trains, per_place = settings.get("training_mode"), not settings.get("spatial", 1)
    if trains or per_place or len(constants) < len(values):
        return None
    kernel, *biases, scale, shift, mean, variance = constants
    bias: NDArray[Any] = biases[0] * had.get("beta", 1.0) if biases else np.zeros(())
    if bias.size > 1 and bias.shape[-1] != bias.size:  # a Gemm may add a matrix
        return None
    factor = scale / np.sqrt(variance + settings.get("epsilon", 1e-5))
    if layer.op_type == "ConvTranspose":  # (inputs, outputs of a group, height, width)
        groups = had.get("group", 1)
        grouped = kernel.reshape(groups, -1, *kernel.shape[1:])
        along = factor.reshape(groups, 1, -1, *[1] * (kernel.ndim - 2))
        product = (grouped * along).reshape(kernel.shape)
    elif layer.op_type == "Gemm" and not had.get("transB"):
        product = kernel * factor
    else:
        product = kernel * factor.reshape(-1, *[1] * (kernel.ndim - 1))
    dtype = next(value.dtype for value in values if value is not None)
    return product.astype(dtype), ((bias.ravel() - mean) * factor + shift).astype(dtype)


def _joined(layer: onnx.NodeProto, named: onnx.NodeProto, weights: Sequence[str]) -> onnx.NodeProto:
    """The layer with other weights, under the names of the layer or of its batch norm."""
    node = onnx.NodeProto(
        op_type=layer.op_type, name=named.name, input=[layer.input[0], *weights], output=named.output[:1]
    )
    node.attribute.extend(attribute for attribute in layer.attribute if attribute.name != "beta")
    node.metadata_props.extend(named.metadata_props)
    return node


def _reading(node: onnx.NodeProto, renamed: Mapping[str, str]) -> onnx.NodeProto:
    """The node with other names of what it reads."""
    reading = onnx.NodeProto()
    reading.CopyFrom(node)
    reading.input[:] = [renamed.get(name, name) for name in node.input]
    return reading


def _halved(value: NDArray[Any], name: str) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):
        half: NDArray[np.float16] = value.astype(np.float16)
    if np.any(np.isinf(half) & np.isfinite(value)):
        raise ModelError(
            f"the weight '{name}' holds {np.abs(value).max():.4g}, and float16 ends at 65504; "
            "keep this network in float32"
        )
    return half


def _is(node: onnx.NodeProto, *operators: str) -> bool:
    return node.op_type in operators and node.domain in ("", "ai.onnx")


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
