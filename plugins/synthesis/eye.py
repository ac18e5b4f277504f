"""The eye: a network as a recipe wants it, cut behind the last layer that the recipe watches.

It takes x in the recipe's unit, and its outputs are the watched layers, under the names that the recipe has
for them and with the channels on axis 1. What the recipe asks of the pooling and of the first margin is done
by other nodes in the graph; weights stay where they are.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import onnx
from onnx import helper, numpy_helper

from cnnkit import Graph, Layer, Model, ModelError, Plane, Preprocessing, UsageError, planes
from cnnkit.plugins.explaining import per_model
from cnnkit.plugins.synthesis import units
from cnnkit.plugins.synthesis.recipe import Recipe

Tap = Literal["after", "before"]

ACTIVATIONS = {
    "Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "ThresholdedRelu", "Clip", "Sigmoid", "HardSigmoid",
    "HardSwish", "Tanh", "Softplus", "Softsign", "Gelu", "Mish",
}  # fmt: skip
PADDING = {"replicate": "edge", "reflect": "reflect"}
"""ONNX' names of what lies outside."""
POOLING = {"kernel_shape", "strides", "pads", "auto_pad", "ceil_mode", "dilations"}
"""What an AveragePool has of a MaxPool."""


def eye(model: Model, recipe: Recipe) -> Model:
    """The eye of a recipe, the same one each time while the network lives.

    Its `preprocessing` is that of x. A network that was written for one size takes any, where its layers do.
    Raises UsageError for a layer that does not exist or lies over no picture, and ModelError where the first
    convolution has no margin that is known.
    """
    layers = dict.fromkeys(name for name, _ in (*recipe.content_layers, *recipe.style_layers))
    edits = _Edits(
        tuple(layers),
        recipe.tap,
        recipe.pooling,
        recipe.padding,
        units.shown(model, recipe),
        units.unit(model, recipe),
    )
    made: Model = _made(model, edits)
    return made


def tapped(model: Model, layer: str, tap: Tap) -> Layer:
    """What is watched of a layer: its value, or with "before" what its activation is applied to.

    That is the convolution inside a layer of Keras. Raises UsageError for a layer that does not exist.
    """
    found = model.find([layer])
    if len(found) > 1:
        raise UsageError(f"'{layer}' names {len(found)} layers, of which a loss watches one: name it")
    (place,) = found
    if tap == "after" or place.operator not in ACTIVATIONS:
        return place
    source = model.graph.producers[place.tensor].input[0]
    return next(part for part in model.parts if part.tensor == source)


def watched(eye: Model, size: tuple[int, int]) -> Mapping[str, Plane]:
    """The planes of what an eye watches, by the recipe's names, for x of a size (height, width).

    Raises UsageError for a picture that is too small to reach a layer.
    """
    found = planes(eye.graph, *size)
    outputs = {output.name for output in eye.graph.outputs}
    layers = {layer.name: layer.tensor for layer in eye.layers if layer.tensor in outputs}
    for name, tensor in layers.items():
        if tensor not in found or not min(found[tensor][:3]):
            raise UsageError(
                f"{size[1]}x{size[0]} pixels are too few for the layer '{name}' of the network '{eye.name}': "
                "take a larger size, or layers in front of it"
            )
    return {name: found[tensor] for name, tensor in layers.items()}


@dataclass(frozen=True)
class _Edits:
    layers: tuple[str, ...]
    tap: Tap
    pooling: str
    padding: str
    shown: Preprocessing
    unit: Preprocessing


@per_model
def _made(model: Model, edits: _Edits) -> Model:
    places = {name: tapped(model, name, edits.tap).tensor for name in edits.layers}
    graph = _of_any_size(model.graph.extract(places.values()))
    over = planes(graph, *(fixed or 512 for fixed in graph.size))
    for name, tensor in places.items():
        if tensor not in over:
            raise UsageError(f"the layer '{name}' of '{model.name}' lies over no picture: take one before it")
    first = next((n for n in graph.skeleton.graph.node if n.op_type == "Conv"), None)
    nodes: list[onnx.NodeProto] = []
    weights = list(graph.skeleton.graph.initializer)
    picture = _in_front(graph, edits, nodes, weights)
    for node in graph.skeleton.graph.node:
        for other in _instead(graph, node, edits, is_first=node is first, weights=weights):
            other.input[:] = [picture if name == graph.input.name else name for name in other.input]
            nodes.append(other)
    for name, tensor in places.items():
        if over[tensor].axis == 3:
            places[name] = f"{tensor}/channels_first"
            nodes.append(helper.make_node("Transpose", [tensor], [places[name]], perm=[0, 3, 1, 2]))
    names = {layer.name: layer.tensor for layer in model.layers} | places
    changed = graph.rebuilt(nodes, weights, places.values()).with_layers(names)
    height, width = changed.size
    unit = replace(edits.unit, height=height, width=width)
    return replace(model, graph=changed, preprocessing=unit, labels=(), source=None)


def _of_any_size(graph: Graph) -> Graph:
    """The graph without a fixed size, if its layers can do without: most can, without the dense ones.

    It is tried out, by inferring the shapes for two other sizes.
    """
    if (graph.size, graph.batch) == ((None, None), None):
        return graph
    skeleton = onnx.ModelProto()
    skeleton.CopyFrom(graph.skeleton)
    axes = (0, 2, 3) if graph.layout == "nchw" else (0, 1, 2)
    shape = skeleton.graph.input[0].type.tensor_type.shape
    for axis, symbol in zip(axes, ("batch", "height", "width"), strict=True):
        shape.dim[axis].dim_param = symbol
    del skeleton.graph.value_info[:]
    for output in skeleton.graph.output:
        output.ClearField("type")
    opened = Graph(skeleton, graph.files)
    try:
        smaller, larger = (
            planes(opened, *(factor * (side or 224) for side in graph.size)) for factor in (2, 3)
        )
    except ModelError:
        return graph
    names = {output.name for output in graph.outputs}
    follow = names <= smaller.keys() & larger.keys() and all(
        smaller[name].height < larger[name].height and smaller[name].width < larger[name].width
        for name in names
    )
    return opened if follow else graph


def _in_front(graph: Graph, edits: _Edits, nodes: list[Any], weights: list[Any]) -> str:
    """From x to the network's input, value = (x · scale - mean) / std; what changes nothing is left out."""
    name = graph.input.name
    if edits.shown == edits.unit:
        return name
    steps = [
        ("Mul", (edits.shown.scale / edits.unit.scale,), 1.0),
        ("Sub", edits.shown.mean, 0.0),
        ("Div", edits.shown.std, 1.0),
    ]
    for operator, values, nothing in steps:
        if set(values) == {nothing}:
            continue
        array = np.array(values, graph.input.dtype).reshape((-1, 1, 1) if graph.layout == "nchw" else (-1,))
        made = f"{graph.input.name}/{operator.lower()}"
        weights.append(numpy_helper.from_array(array, f"{made}/by"))
        nodes.append(helper.make_node(operator, [name, f"{made}/by"], [made], name=made))
        name = made
    return name


def _instead(
    graph: Graph, node: onnx.NodeProto, edits: _Edits, is_first: bool, weights: list[Any]
) -> Iterator[onnx.NodeProto]:
    """The node, or what stands in its place."""
    changed = onnx.NodeProto()
    changed.CopyFrom(node)
    if node.op_type == "MaxPool" and edits.pooling == "average":
        changed.op_type = "AveragePool"
        del changed.output[1:], changed.attribute[:]
        changed.attribute.extend(a for a in node.attribute if a.name in POOLING)
    elif edits.padding != "zero" and node.op_type == "Pad" and _leads_to_first(graph, node):
        _set(changed, mode=PADDING[edits.padding])
    elif edits.padding != "zero" and is_first:
        pads = _margin(graph, node)
        if any(pads):
            made = f"{node.output[0]}/pad"
            half = len(pads) // 2
            every = np.array([0, 0, *pads[:half], 0, 0, *pads[half:]], np.int64)
            weights.append(numpy_helper.from_array(every, f"{made}/by"))
            mode = PADDING[edits.padding]
            yield helper.make_node("Pad", [node.input[0], f"{made}/by"], [made], name=made, mode=mode)
            changed.input[0] = made
            _set(changed, pads=[0] * len(pads), auto_pad="NOTSET")
    yield changed


def _leads_to_first(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether a Pad is the margin of the first convolution, as Keras' ZeroPadding2D in MobileNet."""
    first = next(n for n in graph.skeleton.graph.node if n.op_type == "Conv")
    return bool(first.input[0] == node.output[0])


def _margin(graph: Graph, convolution: onnx.NodeProto) -> list[int]:
    """The rows and columns of zeros that a convolution adds: top, left, bottom, right."""
    settings = {a.name: helper.get_attribute_value(a) for a in convolution.attribute}
    automatic = settings.get("auto_pad", b"NOTSET")
    if automatic == b"NOTSET":
        return list(settings.get("pads", [0, 0, 0, 0]))
    if automatic == b"VALID":
        return [0, 0, 0, 0]
    if max(settings.get("strides", [1])) > 1:
        raise ModelError(
            f"the margin of the first convolution, '{convolution.output[0]}', depends on the picture's size, "
            "so it cannot be filled with anything but zeros: take --padding zero"
        )
    kernel = graph.constant(convolution.input[1])
    sides = settings.get("kernel_shape") or (kernel.shape[2:] if kernel is not None else ())
    around = [(side - 1) * step for side, step in zip(sides, settings.get("dilations", [1, 1]), strict=True)]
    small, large = [total // 2 for total in around], [total - total // 2 for total in around]
    return [*small, *large] if automatic == b"SAME_UPPER" else [*large, *small]


def _set(node: onnx.NodeProto, **attributes: Any) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name not in attributes]
    del node.attribute[:]
    node.attribute.extend(kept + [helper.make_attribute(*item) for item in attributes.items()])
