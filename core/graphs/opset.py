"""One dialect: what graphs are written in before cnnkit adds to them."""

import onnx
from onnx import helper, inliner, version_converter

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
    Older files go through onnx's own converter first. Raises ModelError where that fails.
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
    fresh = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(fresh)
