"""Counting: output shapes, parameters, multiply-accumulates and memory of a graph, without running it."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import onnx
from onnx import TensorProto

from cnnkit.errors import ModelError
from cnnkit.graphs.graph import Graph
from cnnkit.graphs.layers import Layer, read_by
from cnnkit.graphs.tensors import Fact, Shape, infer


@dataclass(frozen=True)
class LayerMeasure:
    """What one layer costs.

    `shape` is that of its output, as in the graph; `macs` are the multiply-accumulates of the whole batch.
    Both are None where they cannot be known without running. `weights` are the names of its own weights and
    statistics, that no layer before it reads.
    """

    layer: Layer
    shape: Shape | None
    parameters: int
    macs: int | None
    weights: tuple[str, ...]


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
    known = infer_shapes(graph, height, width, batch)
    weights = {tensor.name: math.prod(tensor.dims) for tensor in graph.skeleton.graph.initializer}
    trained = _trained(graph)
    owned: dict[int, tuple[str, ...]] = {}
    macs: dict[int, int | None] = {}
    counted: set[str] = set()
    for part in graph.parts:
        mine = dict.fromkeys(name for name in trained.get(part.tensor, ()) if name not in counted)
        counted.update(mine)
        owned[part.index] = owned.get(part.index, ()) + tuple(mine)
        before, own = macs.get(part.index, 0), _macs(graph.producers[part.tensor], known)
        macs[part.index] = None if before is None or own is None else before + own
    rows = [
        LayerMeasure(
            layer,
            known[layer.tensor].shape,
            sum(weights[name] for name in owned[layer.index]),
            macs[layer.index],
            owned[layer.index],
        )
        for layer in graph.layers
    ]
    items = graph.batch or batch
    return Measures(
        tuple(rows),
        sum(row.parameters for row in rows),
        sum(row.macs or 0 for row in rows),
        _peak(graph, known) // items,
    )


def infer_shapes(
    graph: Graph, height: int | None = None, width: int | None = None, batch: int = 1
) -> Mapping[str, Fact]:
    """What is known of every tensor for a batch of pictures of this size."""
    model = graph.skeleton
    sizes = [graph.batch or batch, *_settled(graph, height, width)]
    sizes.insert(1 if graph.layout == "nchw" else 3, graph.channels)
    known = {tensor.name: Fact.of_initializer(tensor) for tensor in model.graph.initializer}
    known[graph.input.name] = Fact.of(graph.input.dtype, tuple(sizes))
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    for node in model.graph.node:
        known |= zip(node.output, infer(node, known, opsets), strict=True)
    return known


def _settled(graph: Graph, height: int | None, width: int | None) -> list[int | None]:
    settled = []
    for axis, fixed, asked in zip(("high", "wide"), graph.size, (height, width), strict=True):
        if fixed and asked and fixed != asked:
            raise ModelError(f"the network takes pictures that are {fixed} pixels {axis}, not {asked}")
        settled.append(fixed or asked)
    return settled


def _trained(graph: Graph) -> dict[str, list[str]]:
    """Layer tensor -> the floating-point weights that its node reads, also through nodes that reshape them.

    A number without a dimension is a setting.
    """
    floating = {
        tensor.name
        for tensor in graph.skeleton.graph.initializer
        if tensor.dims and tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
    }
    layers = {part.tensor for part in graph.parts}

    @cache  # a graph, not a tree: its paths can be without number
    def weights(name: str) -> tuple[str, ...]:
        if name in floating:
            return (name,)
        node = graph.producers.get(name)
        if node is None or node.output[0] in layers:
            return ()
        return tuple(dict.fromkeys(weight for source in node.input for weight in weights(source)))

    return {
        tensor: [weight for source in node.input for weight in weights(source)]
        for tensor in layers
        if (node := graph.producers[tensor]).op_type not in _BOUNDED
    }


_BOUNDED = {"Clip", "Resize", "Upsample", "Pad"}  # their floating-point inputs are settings, not trained


def _macs(node: onnx.NodeProto, known: Mapping[str, Fact]) -> int | None:
    """Multiply-accumulates of a convolution or a dense product; 0 for every other operator."""
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return 0
    first, second, output = (known[name].shape for name in [node.input[0], node.input[1], node.output[0]])
    if node.op_type == "Conv":  # each output value sums over (channels of its group) x kernel
        factors = output and second and [*output, *second[1:]]
    elif node.op_type == "ConvTranspose":  # each input value goes to (outputs of its group) x kernel
        factors = first and second and [*first, *second[1:]]
    elif node.op_type == "Gemm":
        transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        factors = output and first and [*output, first[0 if transposed else 1]]
    else:
        factors = output and first and [*output, first[-1]]
    if not factors or None in factors:
        return None
    return math.prod(size or 0 for size in factors)


def _peak(graph: Graph, known: Mapping[str, Fact]) -> int:
    names = [graph.input.name, *graph.producers]
    sizes = {name: known[name].bytes for name in names}
    return peak(graph.skeleton.graph.node, sizes, [output.name for output in graph.outputs])


def peak(nodes: Sequence[onnx.NodeProto], sizes: Mapping[str, int], outputs: Iterable[str]) -> int:
    """The largest sum of the bytes of tensors that are alive at the same time while nodes run in their order.

    `sizes` are in bytes, by tensor; what no node computes is there from the start, what is not in it counts
    nothing.
    """
    last = {name: step for step, node in enumerate(nodes) for name in read_by(node)}
    last |= {name: len(nodes) for name in outputs}
    made = {name for node in nodes for name in node.output}
    alive = most = sum(size for name, size in sizes.items() if name in last and name not in made)
    for step, node in enumerate(nodes):
        alive += sum(sizes.get(name, 0) for name in node.output)
        most = max(most, alive)
        alive -= sum(sizes.get(name, 0) for name in read_by(node) if last[name] == step)
        alive -= sum(sizes.get(name, 0) for name in node.output if name not in last)
    return most
