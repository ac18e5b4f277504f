"""Moving pixels between resolutions: Resize, DepthToSpace, SpaceToDepth.

Resize is linear and goes axis by axis, each with a matrix [new, old] of interpolation weights. The gradient
is the product with their transposes. They are worked out while the graph is built, by the formulas of
https://onnx.ai/onnx/operators/onnx__Resize.html.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnkit.graphs.autodiff.rules.table import Gradients, Node, Operators, Tensor, rule

Array = NDArray[np.floating[Any]]

NEAREST: Mapping[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda places: np.ceil(places - np.float32(0.5)),
    "round_prefer_ceil": lambda places: np.floor(places + np.float32(0.5)),
    "floor": np.floor,
    "ceil": np.ceil,
}


@rule("Resize")
def resize(op: Operators, node: Node, dy: Tensor, x: Tensor, *_: Tensor | None) -> Gradients:
    if x.shape == node.output.shape:  # whatever the scales: ONNX Runtime copies
        return (dy,)
    lengths = zip(x.shape, node.output.shape, _scales(node, x), strict=True)
    matrices = {
        axis: interpolation(node, old or 0, new or 0, scale)
        for axis, (old, new, scale) in enumerate(lengths)
        if old != new or scale != 1
    }
    factors = [matrix.shape[0] // matrix.shape[1] for matrix in matrices.values()]
    if list(matrices) == list(range(2, x.rank)) and all(map(_repeats, matrices.values(), factors)):
        mean = op.AveragePool(dy, kernel_shape=factors, strides=factors)
        return (op.Mul(mean, float(np.prod(factors))),)
    for axis, matrix in matrices.items():
        dy = _along(op, dy, axis, matrix.T)
    return (dy,)


def _scales(node: Node, x: Tensor) -> list[float]:
    """By how much each axis is enlarged: as the node says, or as follows from the sizes that it asks for."""
    axes = [axis % x.rank for axis in node.attribute("axes", range(x.rank))]
    told = node.constant(2)
    if told is not None and told.size:
        scales = dict(zip(axes, told.tolist(), strict=True))
    elif node.attribute("keep_aspect_ratio_policy", "stretch") == "stretch":
        scales = {axis: (node.output.shape[axis] or 1) / (x.shape[axis] or 1) for axis in axes}
    else:
        sizes = np.asarray(node.constant(3))
        asked = [size / (x.shape[axis] or 1) for axis, size in zip(axes, sizes.tolist(), strict=True)]
        larger = node.attribute("keep_aspect_ratio_policy") == "not_smaller"
        scales = dict.fromkeys(axes, max(asked) if larger else min(asked))
    return [scales.get(axis, 1.0) for axis in range(x.rank)]


def _repeats(matrix: Array, factor: int) -> bool:
    """Whether a matrix only repeats every number."""
    return np.array_equal(matrix, np.repeat(np.eye(matrix.shape[1]), factor, axis=0))


def _along(op: Operators, tensor: Tensor, axis: int, matrix: Array) -> Tensor:
    """The product of a matrix [new, old] with a tensor along one axis."""
    matrix = matrix.astype(tensor.dtype)
    if axis == tensor.rank - 1:
        product: Tensor = op.MatMul(tensor, matrix.T)
    else:
        new, old = matrix.shape
        behind = [size or 0 for size in tensor.shape[axis + 1 :]]
        columns = op.MatMul(matrix, op.Reshape(tensor, [-1, old, int(np.prod(behind))]))
        product = op.Reshape(columns, [*[size or -1 for size in tensor.shape[:axis]], new, *behind])
    return product


def interpolation(node: Node, old: int, new: int, scale: float) -> Array:
    """The weights [new, old] with which Resize mixes the numbers of one axis."""
    mode, cubic = node.attribute("mode", "nearest"), node.attribute("cubic_coeff_a", -0.75)
    if mode == "nearest":  # rounding decides which number is nearest: in float32, as ONNX Runtime does
        places = _places(node, old, new, np.float32(scale))
        nearest = NEAREST[node.attribute("nearest_mode", "round_prefer_floor")](places)
        matrix: Array = np.eye(old)[np.clip(nearest, 0, old - 1).astype(int)]
        return matrix
    places = _places(node, old, new, np.float64(scale))
    stretch = min(1.0, scale) if node.attribute("antialias", 0) else 1.0
    reach = int(np.ceil((1 if mode == "linear" else 2) / stretch))
    neighbours = np.floor(places)[:, None].astype(int) + np.arange(1 - reach, reach + 1)
    distance = np.abs(neighbours - places[:, None]) * stretch
    weights = np.maximum(0, 1 - distance) if mode == "linear" else _cubic(distance, cubic)
    if node.attribute("exclude_outside", 0):
        weights = np.where((neighbours >= 0) & (neighbours < old), weights, 0)
    weights /= weights.sum(axis=1, keepdims=True)
    matrix = np.zeros((new, old))
    np.add.at(matrix, (np.arange(new)[:, None], np.clip(neighbours, 0, old - 1)), weights)
    return matrix


def _places(node: Node, old: int, new: int, scale: np.floating[Any]) -> Array:
    """Where the new numbers lie among the old ones, in the type of `scale`."""
    number: Array = np.arange(new, dtype=scale.dtype)
    mode = node.attribute("coordinate_transformation_mode", "half_pixel")
    corners: Array = number / scale
    centres: Array = (number + 0.5) / scale - 0.5
    if mode == "half_pixel":
        return centres
    if mode == "half_pixel_symmetric":
        offset = old / 2 * (1 - new / (scale * old))
        return (offset + (np.arange(new) + 0.5) / np.float64(scale) - 0.5).astype(scale.dtype)
    if mode == "pytorch_half_pixel":
        return centres if new > 1 else number
    if mode == "asymmetric":
        return corners
    if mode == "align_corners":
        return number * (old - 1) / max(1, new - 1)
    raise node.refusal(f"does not know the coordinate mode {mode}; export with half_pixel or align_corners")


def _cubic(distance: Array, a: float) -> Array:
    """Keys' cubic convolution kernel (doi:10.1109/TASSP.1981.1163711, eq. 4)."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))


@rule("DepthToSpace")
def depth_to_space(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    block = node.attribute("blocksize")
    dx = op.SpaceToDepth(dy, blocksize=block)
    if node.attribute("mode", "DCR") == "CRD":  # the place within a block counts fastest, not slowest
        _, channels, *sizes = [size or 0 for size in x.shape]
        split = op.Reshape(dx, [-1, block * block, channels // block**2, int(np.prod(sizes))])
        dx = op.Reshape(op.Transpose(split, perm=[0, 2, 1, 3]), op.shape(x))
    return (dx,)


@rule("SpaceToDepth")
def space_to_depth(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    return (op.DepthToSpace(dy, blocksize=node.attribute("blocksize")),)
