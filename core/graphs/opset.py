"""One dialect: what graphs are written in before cnnkit adds to them."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, inliner, numpy_helper, version_converter

from cnnkit.errors import ModelError
from cnnkit.graphs.loading import is_elsewhere

OPSET = 18
"""The lowest version in which rules and losses are written: reductions take their axes as an input,
scattering can add."""
_OLDEST = 13
_IR_VERSION = 8


def modernised(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network with opset 18 or newer, its functions inlined; the argument is left as it is.

    From opset 13 on only a few operators changed how they say the same thing, and those are reworded here.
    Older files go through onnx's own converter first. Raises ModelError where that fails. Pieces that are put
    into a sequence only to be taken out again, as torch exports `chunk`, are cut out directly.
    """
    if model.functions:
        model = inliner.inline_local_functions(model)
    version = opset_of(model)
    if version < _OLDEST:
        model, version = _converted(model), _OLDEST
    result = onnx.ModelProto()
    result.CopyFrom(model)
    result.ir_version = max(result.ir_version, _IR_VERSION)
    weights = {tensor.name for tensor in result.graph.initializer}
    pictures = [value for value in result.graph.input if value.name not in weights]
    del result.graph.input[:]
    result.graph.input.extend(pictures)
    if version < OPSET:
        _reword(result.graph, version)
        next(entry for entry in result.opset_import if entry.domain in ("", "ai.onnx")).version = OPSET
    _take_pieces_directly(result.graph)
    return result


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the standard operators that a model uses."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)


def _converted(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        if any(is_elsewhere(tensor) for tensor in model.graph.initializer):
            raise ValueError("its weights are too large for the converter")
        return version_converter.convert_version(model, _OLDEST)
    except Exception as error:  # the C++ converter raises in many ways
        raise ModelError(
            f"the network uses ONNX opset {opset_of(model)}, gradients need {_OLDEST} or newer, and the "
            f"conversion failed ({' '.join(str(error).split())[:120]}); export it again with opset 17"
        ) from None


def _reword(graph: onnx.GraphProto, version: int) -> None:
    nodes = []
    for node in graph.node:
        attributes = {attribute.name: attribute for attribute in node.attribute}
        if node.op_type.startswith("Reduce") and "axes" in attributes:
            axes = f"{node.output[0]}/axes"
            nodes.append(helper.make_node("Constant", [], [axes], value_ints=attributes["axes"].ints))
            node.attribute.remove(attributes["axes"])
            node.input.append(axes)
        elif node.op_type == "Split" and len(node.input) < 2:
            node.attribute.append(helper.make_attribute("num_outputs", len(node.output)))
        elif node.op_type == "RoiAlign" and version < 16:
            node.attribute.append(
                helper.make_attribute("coordinate_transformation_mode", "output_half_pixel")
            )
        for attribute in node.attribute:
            for inner in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
                _reword(inner, version)
        nodes.append(node)
    _replace(graph, nodes)


def _take_pieces_directly(graph: onnx.GraphProto) -> None:
    """SequenceAt(SplitToSequence(x)) says Slice(x) or Gather(x), where it is known which piece is taken."""
    known = {tensor.name: tensor for tensor in graph.initializer if not is_elsewhere(tensor)}
    split = {}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            known[node.output[0]] = node.attribute[0].t
        elif node.op_type == "SplitToSequence":
            split[node.output[0]] = node
        instead = []
        if node.op_type == "SequenceAt" and node.input[0] in split and node.input[1] in known:
            position = int(numpy_helper.to_array(known[node.input[1]]))
            instead = _piece(split[node.input[0]], position, known, node.output[0])
        nodes += instead or [node]
    if len(nodes) > len(graph.node):
        _replace(graph, nodes)


def _piece(
    split: onnx.NodeProto, position: int, known: Mapping[str, onnx.TensorProto], output: str
) -> list[onnx.NodeProto]:
    """The nodes that compute a piece of what is split; none where its bounds are not known."""
    attributes = {attribute.name: attribute.i for attribute in split.attribute}
    x, axis = split.input[0], attributes.get("axis", 0)
    if len(split.input) < 2:
        index = [position] if attributes.get("keepdims", 1) else position
        return [
            _constant(f"{output}/index", index),
            helper.make_node("Gather", [x, f"{output}/index"], [output], axis=axis),
        ]
    if split.input[1] not in known:
        return []
    sizes = numpy_helper.to_array(known[split.input[1]])
    if sizes.ndim == 0 and position < 0:  # how many pieces there are is not known
        return []
    start = position * int(sizes) if sizes.ndim == 0 else int(sizes[: position % len(sizes)].sum())
    end = start + int(sizes if sizes.ndim == 0 else sizes[position])
    where = {"start": [start], "end": [end], "axis": [axis]}
    return [
        *(_constant(f"{output}/{name}", value) for name, value in where.items()),
        helper.make_node("Slice", [x, *(f"{output}/{name}" for name in where)], [output]),
    ]


def _constant(name: str, value: int | Sequence[int]) -> onnx.NodeProto:
    tensor = numpy_helper.from_array(np.array(value, np.int64), name)
    return helper.make_node("Constant", [], [name], value=tensor)


def _replace(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    fresh = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(fresh)
