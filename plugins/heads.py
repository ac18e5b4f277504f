"""Heads that class activation mapping can read: an average over the last plane, at most one dense layer."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from cnnkit import Model, ModelError, Plane, planes
from cnnkit.plugins.explaining import per_model

_PASSES_THROUGH = {
    "Identity", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Cast", "Dropout", "Transpose"
}  # fmt: skip


@dataclass(frozen=True)
class Head:
    """logits = weights @ (mean of the features over their plane) + bias.

    `tensor` are the features, `plane` what they lie on; `weights` (classes, channels), None where each class
    has its own channel; `bias` is (classes,) or one number.
    """

    tensor: str
    plane: Plane
    weights: NDArray[np.float64] | None
    bias: NDArray[np.float64]

    def map(self, features: NDArray[Any], target: int) -> NDArray[np.float32]:
        """Of one class, (height, width), from one picture's features in the layout of the network."""
        channels = np.moveaxis(features, self.plane.axis - 1, 0)
        if self.weights is None:
            return np.asarray(channels[target], np.float32)
        return np.tensordot(self.weights[target], channels.astype(np.float64), axes=1).astype(np.float32)

    def bias_of(self, target: int) -> float:
        return float(np.broadcast_to(self.bias, max(self.bias.size, target + 1))[target])


@per_model
def head_of(model: Model, size: tuple[int, int]) -> Head:
    """Walk from the logits back to the average. Raises ModelError for another kind of head."""
    graph, known = model.graph, planes(model.graph, *size)
    tensor, bias = model.logits.tensor, np.zeros(1)
    weights: NDArray[np.float64] | None = None
    while node := graph.producers.get(tensor):
        if _averages_all(node, model, known):
            return Head(node.input[0], known[node.input[0]], weights, bias)
        if node.op_type in _PASSES_THROUGH:
            tensor = node.input[0]
        elif node.op_type == "Add" and weights is None and (constants := _constants(node, model)):
            ((place, added),) = constants.items()
            bias = bias + added.ravel()
            tensor = node.input[1 - place]
        elif weights is None and (dense := _dense(node, model, known)):
            weights, own = dense
            bias = bias + own
            tensor = node.input[0]
        else:
            break
    found = f"{node.op_type} '{node.name or node.output[0]}'" if node else "the picture"
    raise ModelError(
        "cam needs a network that averages its last plane and goes to the classes through at most one dense "
        f"layer; '{model.name}' has {found} there. grad-cam maps any network: cnnkit run grad-cam"
    )


def _averages_all(node: onnx.NodeProto, model: Model, known: Any) -> bool:
    plane = known.get(node.input[0]) if node.input else None
    if plane is None:
        return False
    if node.op_type == "ReduceMean":
        axes = _attribute(node, "axes")
        if axes is None and len(node.input) > 1 and node.input[1]:
            axes = model.graph.constant(node.input[1])
        return axes is not None and tuple(sorted(int(axis) % 4 for axis in axes)) == plane.axes
    if node.op_type == "AveragePool":
        whole = list(_attribute(node, "kernel_shape")) == [plane.height, plane.width]
        return whole and not any(_attribute(node, "pads") or ())
    return node.op_type == "GlobalAveragePool"


def _dense(
    node: onnx.NodeProto, model: Model, known: Any
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Weights (classes, channels) and bias of a node that multiplies the averages with constants."""
    if node.op_type not in ("Gemm", "MatMul", "Conv"):
        return None
    kernel = _constant(model, node.input[1])
    if kernel is None or _attribute(node, "transA"):
        return None
    bias = _constant(model, node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1)
    if bias is None:
        return None
    if node.op_type == "Conv":
        plane = known.get(node.input[0])
        single = (
            plane is not None and plane.height * plane.width == 1 and (_attribute(node, "group") or 1) == 1
        )
        return (kernel[:, :, 0, 0], bias) if single and kernel.shape[2:] == (1, 1) else None
    if kernel.ndim != 2:
        return None
    alpha, beta = (1.0 if (value := _attribute(node, name)) is None else value for name in ("alpha", "beta"))
    weights = kernel if _attribute(node, "transB") else kernel.T
    return alpha * weights, beta * bias.ravel()


def _constants(node: onnx.NodeProto, model: Model) -> dict[int, NDArray[np.float64]]:
    """The one constant input of a sum, by its place; none where it has another number of them."""
    values = {place: _constant(model, name) for place, name in enumerate(node.input)}
    found = {place: value for place, value in values.items() if value is not None}
    return found if len(found) == 1 else {}


def _constant(model: Model, name: str) -> NDArray[np.float64] | None:
    value = model.graph.constant(name)
    if value is not None:
        return value.astype(np.float64)
    maker = model.graph.producers.get(name)
    if maker is not None and maker.op_type == "Identity":
        return _constant(model, maker.input[0])
    if maker is not None and maker.op_type == "Transpose":
        inner = _constant(model, maker.input[0])
        return None if inner is None else inner.transpose(_attribute(maker, "perm"))
    return None


def _attribute(node: onnx.NodeProto, name: str) -> Any:
    return next((helper.get_attribute_value(one) for one in node.attribute if one.name == name), None)
