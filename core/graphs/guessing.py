"""What pictures a network wants whose file does not say it, as far as its graph tells."""

from typing import Any, TypeGuard

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from cnnkit.graphs.graph import Graph
from cnnkit.graphs.layers import read_by
from cnnkit.images.preprocessing import Preprocessing

_CARRIES_ON = {"Transpose", "Cast", "Identity", "Resize"}
_DARKEST, _BRIGHTEST = 0.2, 0.8
"""Between these lies the mean of pictures, in 0..1, that a network may take off."""


def guess(graph: Graph) -> tuple[Preprocessing, str]:
    """The values that pictures are likely to need, and a sentence for the user that says why."""
    channels: dict[str, Any] = {"channels": "grey"} if graph.channels == 1 else {}
    order = "grey" if channels else "RGB"
    raw, unit = Preprocessing(**channels), Preprocessing(scale=1 / 255, **channels)
    if graph.input.dtype == np.uint8:
        return raw, _sentence(f"'raw' (0..255, {order})", "the network takes whole numbers (uint8)")
    with np.errstate(all="ignore"):  # what a damaged file holds is no number, and tells nothing
        white = _white(graph)
    if white == 255:
        return raw, _sentence(f"'raw' (0..255, {order})", "the network begins by scaling such pictures")
    if white == 1:
        return unit, _sentence(f"x/255 (0..1, {order})", "the network begins by scaling such pictures")
    if graph.skeleton.producer_name == "pytorch":
        if channels:
            return unit, _sentence("x/255 (0..1, grey)", "PyTorch wrote the file")
        meaning = "'torch' (x/255, then ImageNet's mean and deviation, RGB)"
        return Preprocessing.preset("torch"), _sentence(meaning, "PyTorch wrote the file")
    return Preprocessing.preset("tf", **channels), _sentence(
        f"'tf' (x/127.5 - 1, {order})", "nothing in it tells more"
    )


def _sentence(assumed: str, reason: str) -> str:
    return f"preprocessing is not in the file: assumed {assumed}, as {reason}; say --preprocess otherwise"


def _white(graph: Graph) -> int | None:
    """The brightest number of a picture, 255 or 1, if the first nodes scale it as suits that; else None."""
    slope, offset = np.ones(1), np.zeros(1)
    tensor = graph.input.name
    while step := _scaling(graph, tensor):
        tensor, factor, shift = step
        slope, offset = slope * factor, offset * factor + shift
    mean, steepness = float(-np.mean(offset / slope)), float(np.mean(np.abs(slope)))
    if mean > 1 or (mean == 0 and steepness < 0.1):
        return 255
    return 1 if _DARKEST < mean < _BRIGHTEST or (mean == 0 and steepness > 10) else None


def _scaling(graph: Graph, tensor: str) -> tuple[str, NDArray[Any], NDArray[Any]] | None:
    """The only reader of a tensor as (its output, factor, shift), one number or one for each channel."""
    readers = [node for node in graph.skeleton.graph.node if tensor in read_by(node)]
    if len(readers) != 1:
        return None
    (node,) = readers
    output, nothing = node.output[0], np.zeros(1)
    if node.op_type in _CARRIES_ON and node.input[0] == tensor:
        return output, np.ones(1), nothing
    values = [graph.constant(name) for name in node.input if name != tensor]
    constants = [value.astype(np.float64).ravel() for value in values if _is_numeric(value)]
    if len(constants) < len(values) or not all(value.size in (1, graph.channels) for value in constants):
        return None
    if node.op_type == "BatchNormalization" and len(constants) == 4:
        scale, shift, mean, variance = constants
        factor = scale / np.sqrt(variance + _epsilon(node))
        return (output, factor, shift - mean * factor) if factor.all() else None
    if len(constants) != 1 or (node.input[0] != tensor and node.op_type in ("Sub", "Div")):
        return None
    (value,) = constants
    match node.op_type:
        case "Add":
            return output, np.ones(1), value
        case "Sub":
            return output, np.ones(1), -value
        case "Mul" if value.all():
            return output, value, nothing
        case "Div" if value.all():
            return output, 1 / value, nothing
    return None


def _is_numeric(value: NDArray[Any] | None) -> TypeGuard[NDArray[Any]]:
    return value is not None and value.dtype.kind in "fiu"


def _epsilon(node: onnx.NodeProto) -> float:
    found = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    return float(found.get("epsilon", 1e-5))
