"""Counting: output shapes, parameters, multiply-accumulates and memory of a graph, without running it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from cnnkit.errors import ModelError
from cnnkit.graphs.graph import Graph
from cnnkit.graphs.layers import Layer, read_by

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class LayerMeasure:
    """What one layer costs.

    `shape` is that of its output, as in the graph; `macs` are the multiply-accumulates of the whole batch.
    Both are None where they cannot be known without running.
    """

    layer: Layer
    shape: Shape | None
    parameters: int
    macs: int | None


@dataclass(frozen=True)
class Measures:
    """What a network costs.

    `parameters` counts every trained number once, wherever it is used; `macs` are the multiply-accumulates of
    the batch, as far as shapes are known; `bytes_per_item` is the largest sum of activations that are alive
    at the same time, for one picture.
    """

    rows: tuple[LayerMeasure, ...]
    parameters: int
    macs: int
    bytes_per_item: int


def measure(graph: Graph, height: int | None = None, width: int | None = None, batch: int = 1) -> Measures:
    """Measure a graph for pictures of a size, which it may leave open; its own fixed sizes stay.

    Raises ModelError when the size of the graph's input is fixed to another, and when the size does not suit
    it.
    """
    inferred = infer_shapes(graph, height, width, batch)
    shapes, sizes = inferred.shapes, inferred.bytes
    weights = {tensor.name: math.prod(tensor.dims) for tensor in graph.skeleton.graph.initializer}
    weight_shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.skeleton.graph.initializer}
    known = {**weight_shapes, **shapes}
    trained = _trained(graph)
    rows, counted = [], set()
    for layer in graph.layers:
        node = graph.producers[layer.tensor]
        mine = [name for name in trained.get(layer.tensor, ()) if name not in counted]
        counted.update(mine)
        rows.append(
            LayerMeasure(
                layer, shapes.get(layer.tensor), sum(weights[name] for name in mine), _macs(node, known)
            )
        )
    items = graph.batch or batch
    return Measures(
        tuple(rows),
        sum(row.parameters for row in rows),
        sum(row.macs or 0 for row in rows),
        _peak(graph, sizes) // items,
    )


@dataclass(frozen=True)
class Inferred:
    """Shapes of the tensors, and the bytes of those whose shape is fully known."""

    shapes: Mapping[str, Shape]
    bytes: Mapping[str, int]


def infer_shapes(
    graph: Graph, height: int | None = None, width: int | None = None, batch: int = 1
) -> Inferred:
    """The shape of every tensor for a batch of pictures of this size, as far as it follows from the graph."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.skeleton)
    del model.graph.value_info[:]
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    sizes = [graph.batch or batch, *_settled(graph, height, width)]
    sizes.insert(1 if graph.layout == "nchw" else 3, graph.channels)
    picture = next(value for value in model.graph.input if value.name == graph.input.name)
    for dim, size in zip(picture.type.tensor_type.shape.dim, sizes, strict=True):
        dim.Clear()
        if size:
            dim.dim_value = size
    try:
        model = onnx.shape_inference.infer_shapes(model, strict_mode=False, data_prop=True)
    except Exception as error:  # the inference of a damaged graph can fail in any way
        raise ModelError(
            f"the shapes in the network do not fit together: {str(error).splitlines()[0]}"
        ) from None
    shapes: dict[str, Shape] = {}
    amounts: dict[str, int] = {}
    picture = next(value for value in model.graph.input if value.name == graph.input.name)
    for value in [picture, *model.graph.value_info, *model.graph.output]:
        kind = value.type.tensor_type
        if not kind.HasField("shape"):
            continue
        shape = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim)
        shapes[value.name] = shape
        known = [size for size in shape if size is not None]
        if len(known) == len(shape):
            amounts[value.name] = math.prod(known) * _item_size(kind.elem_type)
    return Inferred(shapes, amounts)


def _settled(graph: Graph, height: int | None, width: int | None) -> list[int | None]:
    settled = []
    for axis, fixed, asked in zip(("high", "wide"), graph.size, (height, width), strict=True):
        if fixed and asked and fixed != asked:
            raise ModelError(f"the network takes pictures that are {fixed} pixels {axis}, not {asked}")
        settled.append(fixed or asked)
    return settled


def _item_size(element: int) -> int:
    try:
        return int(helper.tensor_dtype_to_np_dtype(element).itemsize)
    except (KeyError, TypeError):
        return 4


def _trained(graph: Graph) -> dict[str, list[str]]:
    """Layer tensor -> the floating-point weights that its node reads, also through nodes that reshape them.

    A number without a dimension is a setting.
    """
    floating = {
        tensor.name
        for tensor in graph.skeleton.graph.initializer
        if tensor.dims and tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
    }
    layers = {layer.tensor for layer in graph.layers}

    def weights(name: str) -> list[str]:
        if name in floating:
            return [name]
        node = graph.producers.get(name)
        if node is None or node.output[0] in layers:
            return []
        return [weight for source in node.input for weight in weights(source)]

    return {
        tensor: [weight for source in node.input for weight in weights(source)]
        for tensor in layers
        if (node := graph.producers[tensor]).op_type not in _BOUNDED
    }


_BOUNDED = {"Clip", "Resize", "Upsample", "Pad"}  # their floating-point inputs are settings, not trained


def _macs(node: onnx.NodeProto, shapes: Mapping[str, Any]) -> int | None:
    """Multiply-accumulates of a convolution or a dense product; 0 for every other operator."""
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return 0
    first, second, output = (shapes.get(name) for name in [node.input[0], node.input[1], node.output[0]])
    if node.op_type == "Conv":  # each output value sums over (channels of its group) x kernel
        factors = output and second and [*output, *second[1:]]
    elif node.op_type == "ConvTranspose":  # each input value goes to (outputs of its group) x kernel
        factors = first and second and [*first, *second[1:]]
    elif node.op_type == "Gemm":
        transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        factors = output and first and [*output, first[0 if transposed else 1]]
    else:
        factors = output and first and [*output, first[-1]]
    return None if not factors or None in factors else int(np.prod(factors, dtype=object))


def _peak(graph: Graph, sizes: Mapping[str, int]) -> int:
    """The largest sum of the bytes of tensors that are alive at the same time."""
    nodes = graph.skeleton.graph.node
    last = {name: step for step, node in enumerate(nodes) for name in read_by(node)}
    last |= {output.name: len(nodes) for output in graph.outputs}
    alive = peak = sizes.get(graph.input.name, 0)
    for step, node in enumerate(nodes):
        alive += sum(sizes.get(name, 0) for name in node.output)
        peak = max(peak, alive)
        alive -= sum(sizes.get(name, 0) for name in read_by(node) if last[name] == step)
        alive -= sum(sizes.get(name, 0) for name in node.output if name not in last)
    return peak
