"""Is this model one that cnnkit can run? A sentence for every reason why not."""

import math
from collections.abc import Iterator

import onnx
from onnx import TensorProto, defs

from cnnkit.errors import ModelError
from cnnkit.graphs.loading import is_elsewhere
from cnnkit.graphs.saving import described, is_large, without

OPSETS = range(7, 27)
"""Versions of the ONNX operators that ONNX Runtime 1.28 to 1.31 run."""

LARGEST_INPUT = 1 << 28
"""Numbers in one input: a gigabyte of float32, or a picture of 9459 by 9459 pixels."""

_PICTURE_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8)
_RUNTIME_DOMAIN = "com.microsoft"  # ONNX Runtime's own operators, which onnx does not know


def check_model(model: onnx.ModelProto, what: str) -> None:
    """Raise ModelError, naming the model as `what`, unless it is a sound network that takes one picture."""
    if not model.graph.node:
        raise ModelError(f"{what} holds no network: its graph has no nodes")
    if model.ir_version > onnx.IR_VERSION:
        raise ModelError(
            f"{what} has ONNX file version {model.ir_version}; this installation reads up to "
            f"{onnx.IR_VERSION}: update onnx and onnxruntime, or export with an older version"
        )
    _check_operators(model, what)
    _check_input(model.graph, what)
    try:
        onnx.checker.check_model(detached(model))
    except Exception as error:  # a damaged file can break the checker in any way
        raise ModelError(f"{what} is not a valid ONNX model: {_sentence(error)}") from None


def detached(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model for onnx's checker: with references that it does not follow in place of large weights.

    It would serialise them once more, or look for their files in the working directory.
    """
    if not any(is_large(tensor) for tensor in model.graph.initializer):
        return model
    bare: onnx.ModelProto = without(model, "graph")
    bare.graph.CopyFrom(without(model.graph, "initializer"))
    for tensor in model.graph.initializer:
        kept = bare.graph.initializer.add()
        kept.CopyFrom(described(tensor) if is_large(tensor) else tensor)
        if is_large(tensor):
            kept.data_location = TensorProto.EXTERNAL
            kept.external_data.add(key="location", value="#")
    return bare


def _check_operators(model: onnx.ModelProto, what: str) -> None:
    versions = {
        "" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in model.opset_import
    }
    version = versions.get("", OPSETS[-1])
    if version not in OPSETS:
        raise ModelError(
            f"{what} uses ONNX opset {version}; cnnkit runs {OPSETS[0]} to {OPSETS[-1]}: "
            "export it again with an opset between these (17 is a good choice)"
        )
    own = {(function.domain, function.name) for function in model.functions}
    for node in _all_nodes(model.graph):
        domain = "" if node.domain == "ai.onnx" else node.domain
        if domain == _RUNTIME_DOMAIN or (node.domain, node.op_type) in own:
            continue
        if not defs.has(node.op_type, versions.get(domain, 1), domain):
            reason = (
                f"is no standard ONNX (domain '{domain}')" if domain else f"opset {version} does not have"
            )
            raise ModelError(
                f"{what} uses the operator '{node.op_type}', which {reason}; "
                "export the network with standard ONNX operators"
            )
        if any(is_elsewhere(attribute.t) for attribute in node.attribute):
            raise ModelError(
                f"{what} keeps the constant '{node.name or node.output[0]}' in another file: inline it"
            )


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
                if any(is_elsewhere(tensor) for tensor in inner.initializer):
                    raise ModelError(
                        f"the inner graph of '{node.name}' keeps weights in another file: inline them"
                    )
                yield from _all_nodes(inner)


def _check_input(graph: onnx.GraphProto, what: str) -> None:
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1:
        found = ", ".join(f"'{value.name}'" for value in inputs) or "none"
        raise ModelError(f"{what} has {len(inputs)} inputs ({found}); cnnkit needs exactly one, the picture")
    if not graph.output:
        raise ModelError(f"{what} has no output")
    value = inputs[0]
    kind = value.type.tensor_type
    shape = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in kind.shape.dim]
    described = f"its input '{value.name}' has shape ({', '.join(map(str, shape))})"
    if kind.elem_type not in _PICTURE_TYPES:
        name = (
            TensorProto.DataType.Name(kind.elem_type)
            if kind.elem_type in TensorProto.DataType.values()
            else "?"
        )
        raise ModelError(
            f"{what} takes no picture: its input '{value.name}' is {name.lower()}, not float or uint8"
        )
    if len(shape) != 4 or any(isinstance(size, int) and size < 1 for size in shape):
        raise ModelError(f"{what} takes no picture: {described}, not (batch, channels, height, width)")
    if math.prod(size for size in shape if isinstance(size, int)) > LARGEST_INPUT:
        raise ModelError(f"{what} takes no picture of a usable size: {described}")
    if shape[1] not in (1, 3) and shape[3] not in (1, 3):
        raise ModelError(
            f"{what} takes no picture: {described}, and neither the second nor the last size is 1 or 3"
        )


def _sentence(error: Exception) -> str:
    """The checker's text on one line, without the node that it prints behind it."""
    text = " ".join(str(error).partition("==>")[0].split()) or type(error).__name__
    return text[:200].rstrip(". ") + "."
