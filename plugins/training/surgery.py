"""A new head on a network: one dense layer from its last pooled features to other classes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cnnkit import Model, ModelError, Plane, measure, planes
from cnnkit.plugins.explaining import per_model

KERNEL, BIAS = "predictions.kernel", "predictions.bias"
LOGITS, OUTPUT = "predictions", "probabilities"
FEATURES = "features"
"""Names in the network that comes of it."""

_WEIGHTED = {"Gemm", "MatMul", "Conv"}
_PASSES_THROUGH = {
    "Identity", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Cast", "Dropout", "Transpose", "Add",
    "Softmax", "LogSoftmax", "Sigmoid", "GlobalAveragePool", "ReduceMean", "AveragePool",
}  # fmt: skip


@dataclass(frozen=True)
class Base:
    """What stays of a network: `tensor` are its features, (N, C) or (N, C, H, W), of so many `channels`.

    `axis` is where the channels of a plane are; None for features without a plane.
    """

    tensor: str
    channels: int
    axis: int | None


def with_head(model: Model, labels: Sequence[str], random: np.random.Generator) -> Model:
    """The network up to its last features, their mean over the plane, and a dense layer to these classes.

    The kernel is uniform after Glorot and Bengio 2010 and the bias zero, as in Keras. Layers are called
    `features` (N, C), `predictions` (N, classes), before the softmax, and `probabilities`. Raises ModelError
    for a network without features.
    """
    base = base_of(model)
    kept = model.graph.extract([base.tensor])
    limit = math.sqrt(6 / (base.channels + len(labels)))
    kernel = random.uniform(-limit, limit, (base.channels, len(labels))).astype(np.float32)
    weights = [
        *kept.skeleton.graph.initializer,
        numpy_helper.from_array(kernel, KERNEL),
        numpy_helper.from_array(np.zeros(len(labels), np.float32), BIAS),
    ]
    nodes = [*kept.skeleton.graph.node]
    tensor = base.tensor
    if base.axis == 3:
        nodes.append(helper.make_node("Transpose", [tensor], [f"{FEATURES}/first"], perm=[0, 3, 1, 2]))
        tensor = f"{FEATURES}/first"
    if base.axis is not None:
        nodes.append(helper.make_node("GlobalAveragePool", [tensor], [f"{FEATURES}/mean"]))
        tensor = f"{FEATURES}/mean"
    if tensor != FEATURES:  # as in a network with a head of ours for other classes
        nodes.append(helper.make_node("Flatten", [tensor], [FEATURES], FEATURES))
    nodes += [
        helper.make_node("Gemm", [FEATURES, KERNEL, BIAS], [LOGITS], LOGITS),
        helper.make_node("Softmax", [LOGITS], [OUTPUT], OUTPUT, axis=1),
    ]
    graph = kept.rebuilt(nodes, weights, [OUTPUT])
    batch = model.graph.batch or "batch"
    graph.skeleton.graph.output[0].CopyFrom(
        helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [batch, len(labels)])
    )
    names = {layer.name: layer.tensor for layer in model.layers if layer.tensor in kept.producers}
    names |= {name: name for name in (FEATURES, LOGITS, OUTPUT)}
    return replace(model, graph=graph.with_layers(names), labels=tuple(labels), source=None)


def has_head(model: Model) -> bool:
    """Whether the network ends as `with_head` makes it, so that its head can go on learning."""
    names = {tensor.name for tensor in model.graph.skeleton.graph.initializer}
    return {KERNEL, BIAS} <= names and {FEATURES, LOGITS} <= model.graph.producers.keys()


@per_model
def base_of(model: Model) -> Base:
    """Walk from the scores back to the last layer with weights; what it reads are the features.

    A plane at the end, or one that an activation made, has no classes: it is the features itself. Raises
    ModelError.
    """
    graph = model.graph
    known = planes(graph, *_size(model))
    tensor = graph.outputs[0].name
    if tensor in known and min(known[tensor][:2]) > 1:
        return Base(tensor, known[tensor].channels, known[tensor].axis)
    while node := graph.producers.get(tensor):
        if node.op_type in _WEIGHTED:
            return _features(model, node, known)
        if node.op_type not in _PASSES_THROUGH and tensor in known:
            return Base(tensor, known[tensor].channels, known[tensor].axis)
        if node.op_type not in _PASSES_THROUGH:
            break
        tensor = next((name for name in node.input if name in graph.producers), graph.input.name)
    found = f"{node.op_type} '{node.name or node.output[0]}'" if node else "the picture"
    raise ModelError(
        f"a new head needs the features under the last dense layer; '{model.name}' has {found} there: cut it "
        "behind its last convolution (cnnkit models export --to LAYER)."
    )


def _features(model: Model, node: onnx.NodeProto, known: Mapping[str, Plane]) -> Base:
    """What a layer with weights reads."""
    tensor = node.input[0]
    if tensor in known:
        return Base(tensor, known[tensor].channels, known[tensor].axis)
    kernel = model.graph.constant(node.input[1])
    if kernel is None or kernel.ndim != 2:
        raise ModelError(
            f"a new head needs the features under the last dense layer; that of '{model.name}', "
            f"'{node.name or node.output[0]}', computes its kernel in the graph."
        )
    transposed = any(one.name == "transB" and one.i for one in node.attribute)
    return Base(tensor, kernel.shape[1 if transposed else 0], None)


@dataclass(frozen=True)
class Weights:
    """Those of a layer: the names and the numbers that are trained, and how many stay as they are."""

    layer: str
    operator: str
    output: str
    trained: tuple[str, ...]
    trainable: int
    frozen: int


def weights_of(model: Model, first: str | None) -> list[Weights]:
    """Of all layers that have some, in order; those from the layer `first` on are trained, "" means all.

    None trains the new head alone. Statistics of batch norms are never trained. Raises UsageError for a layer
    that does not exist.
    """
    statistics = {
        name
        for node in model.graph.skeleton.graph.node
        if node.op_type == "BatchNormalization"
        for name in node.input[3:5]
    }
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in model.graph.skeleton.graph.initializer}
    begins = model.find([LOGITS if first is None else first])[0].index if first != "" else 0
    found = []
    for row in measure(model.graph, *_size(model)).rows:
        if not row.weights:
            continue
        trained = tuple(n for n in row.weights if n not in statistics and row.layer.index >= begins)
        trainable = sum(sizes[name] for name in trained)
        shape = "x".join("?" if side is None else str(side) for side in (row.shape or ())[1:])
        found.append(
            Weights(row.layer.name, row.layer.operator, shape, trained, trainable, row.parameters - trainable)
        )
    return found


def _size(model: Model) -> tuple[int, int]:
    return model.preprocessing.height or 224, model.preprocessing.width or 224
