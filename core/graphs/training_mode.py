"""A network as it is while it learns: batch norms use their batch, dropout drops."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper, numpy_helper

from cnnkit.errors import ModelError
from cnnkit.graphs.builder import Builder, Size, declared_shape
from cnnkit.graphs.opset import modernised
from cnnkit.graphs.tensors import Tensor


@dataclass(frozen=True)
class TrainingMode:
    """A network in training mode.

    `statistics` maps the initializer that holds a running mean or variance to the tensor of its next value.
    `masks` maps an input, which says what a dropout keeps (bool, of the shape of the tensor it is applied
    to), to that tensor and to the ratio that is dropped.
    """

    model: onnx.ModelProto
    statistics: dict[str, str] = field(default_factory=dict)
    masks: dict[str, tuple[Tensor, float]] = field(default_factory=dict)


def in_training_mode(model: onnx.ModelProto, sizes: Mapping[str, Sequence[Size]]) -> TrainingMode:
    """The network with its batch norms and dropouts in training mode.

    A batch norm normalises by its batch and moves its running statistics towards it, as ONNX and Keras define
    it: `running·momentum + batch·(1 - momentum)`, with the population variance (torch's is unbiased). A
    dropout's choice becomes an input, so that it can be repeated. `sizes` are the shapes of the inputs.
    Raises ModelError when two batch norms share their statistics.
    """
    mode = TrainingMode(modernised(model))
    graph = mode.model.graph
    constants = _constants(graph)
    _hold_statistics(graph, constants)
    plain = Builder.extending(model, sizes) if any(node.op_type == "Dropout" for node in graph.node) else None
    nodes = []
    for node in graph.node:
        if node.op_type == "BatchNormalization":
            _train_batch_norm(node, mode)
        if plain and node.op_type == "Dropout":
            nodes += _as_mask(node, mode, constants, plain.tensor(node.input[0]))
        else:
            nodes.append(node)
    fresh = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(fresh)
    return mode


def _constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Initializers, and what stands for one: a Constant of numbers, an Identity of an initializer."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in constants:
            constants[node.output[0]] = constants[node.input[0]]
        elif node.op_type == "Constant":
            value = helper.get_attribute_value(node.attribute[0])
            if node.attribute[0].name in ("value_float", "value_floats"):
                value = numpy_helper.from_array(np.array(value, np.float32))
            if isinstance(value, onnx.TensorProto):
                constants[node.output[0]] = value
    return constants


def _hold_statistics(graph: onnx.GraphProto, constants: Mapping[str, onnx.TensorProto]) -> None:
    """Make initializers of the statistics of batch norms that a Constant or an Identity puts out."""
    statistics = {s for node in graph.node if node.op_type == "BatchNormalization" for s in node.input[3:5]}
    statistics -= {tensor.name for tensor in graph.initializer}
    for position, node in reversed(list(enumerate(graph.node))):
        if statistics.intersection(node.output) and node.output[0] in constants:
            held = graph.initializer.add()
            held.CopyFrom(constants[node.output[0]])
            held.name = node.output[0]
            del graph.node[position]


def _train_batch_norm(node: onnx.NodeProto, mode: TrainingMode) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name != "training_mode"]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute("training_mode", 1)])
    for statistic in node.input[3:5]:
        if statistic in mode.statistics:
            raise ModelError(
                f"two batch norms of the network share the statistics '{statistic}', so they cannot be "
                "trained; export the network for training (see docs/export.md)"
            )
        mode.statistics[statistic] = f"{statistic}/next"
    del node.output[1:]
    node.output.extend(mode.statistics[statistic] for statistic in node.input[3:5])


def _as_mask(
    node: onnx.NodeProto, mode: TrainingMode, constants: Mapping[str, onnx.TensorProto], dropped: Tensor
) -> list[onnx.NodeProto]:
    """Dropout(x) written as Where(keep, x / (1 - ratio), 0), with `keep` an input of the graph."""
    ratio = 0.5
    if len(node.input) > 1 and node.input[1]:
        if node.input[1] not in constants:
            raise ModelError(
                f"the ratio of the dropout '{node.name}' is computed in the graph; make it a constant"
            )
        ratio = float(numpy_helper.to_array(constants[node.input[1]]))
    factor = 1 / (1 - ratio) if ratio < 1 else 0.0  # where all is dropped, nothing is left to scale
    x, y = node.input[0], node.output[0]
    keep, scale, zero = (f"{y}/{part}" for part in ("keep", "scale", "zero"))
    mode.masks[keep] = (dropped, ratio)
    mode.model.graph.input.append(
        helper.make_tensor_value_info(keep, onnx.TensorProto.BOOL, declared_shape(dropped))
    )
    made = [
        helper.make_node("Constant", [], [f"{scale}/float"], value_float=factor),
        helper.make_node("Constant", [], [f"{zero}/float"], value_float=0.0),
        helper.make_node("CastLike", [f"{scale}/float", x], [scale]),
        helper.make_node("CastLike", [f"{zero}/float", x], [zero]),
        helper.make_node("Mul", [x, scale], [f"{y}/scaled"]),
        helper.make_node("Where", [keep, f"{y}/scaled", zero], [y], name=node.name),
    ]
    if len(node.output) > 1 and node.output[1]:
        made.append(helper.make_node("Identity", [keep], [node.output[1]]))
    return made
