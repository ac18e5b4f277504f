"""Planes: which tensors of a graph still lie over the picture, and on which axis their channels are.

An ONNX convolution has its channels on axis 1 whatever the layout of the picture, and a Transpose moves them,
so they are followed from the picture on. A Reshape loses the plane, as tokens and attention maps are none;
the next convolution has one again.
"""

from collections.abc import Mapping
from typing import NamedTuple

import onnx

from cnnkit.graphs.graph import Graph
from cnnkit.graphs.layers import picture_nodes
from cnnkit.graphs.measure import infer_shapes

CHANNELS_FIRST = {
    "Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool",
    "GlobalLpPool", "BatchNormalization", "InstanceNormalization", "GroupNormalization", "LRN",
    "DepthToSpace", "SpaceToDepth",
}  # fmt: skip
_LOSES_THE_PLANE = {"Reshape", "Flatten", "Gemm", "Einsum", "Shape", "Size", "GatherND", "NonZero"}


class Plane(NamedTuple):
    """A tensor of four axes that lies over the picture: its channels are on `axis`, 1 or 3."""

    height: int
    width: int
    channels: int
    axis: int

    def __str__(self) -> str:
        return f"{self.height}x{self.width}x{self.channels}"

    @property
    def axes(self) -> tuple[int, int]:
        """Those of height and width."""
        return (2, 3) if self.axis == 1 else (1, 2)


def planes(graph: Graph, height: int | None = None, width: int | None = None) -> Mapping[str, Plane]:
    """The planes of a graph by their tensors, for pictures of this size where the graph leaves it open."""
    shapes = {name: fact.shape for name, fact in infer_shapes(graph, height, width).items()}
    axes = {graph.input.name: 1 if graph.layout == "nchw" else 3}
    for node in picture_nodes(graph.skeleton.graph, graph.input.name):
        axis = _channel_axis(node, axes, shapes)
        axes |= {name: axis for name in node.output if name and axis in (1, 3)}
    found = {}
    for name, axis in axes.items():
        shape = shapes.get(name) or ()
        if len(shape) == 4 and None not in shape[1:]:
            down, across = (2, 3) if axis == 1 else (1, 2)
            found[name] = Plane(shape[down] or 0, shape[across] or 0, shape[axis] or 0, axis)
    return found


def _channel_axis(
    node: onnx.NodeProto, axes: Mapping[str, int], shapes: Mapping[str, tuple[int | None, ...] | None]
) -> int | None:
    inherited = next((axes[name] for name in node.input if name in axes), None)
    if node.op_type in CHANNELS_FIRST:
        return 1
    if inherited is None or node.op_type in _LOSES_THE_PLANE:
        return None
    if node.op_type == "Transpose":
        moved = [list(attribute.ints) for attribute in node.attribute if attribute.name == "perm"]
        return moved[0].index(inherited) if moved and len(moved[0]) == 4 else None
    if node.op_type == "MatMul":  # a dense layer at every place
        weights = shapes.get(node.input[1]) or ()
        return inherited if len(weights) == 2 and inherited == 3 else None
    return inherited
