"""Smaller pieces of the arrays that a node reads, on which it is the same function."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from cnnkit.graphs.autodiff.reference import Array
from cnnkit.graphs.reads import POINTWISE

SIDE = 6
"""Pixels that are enough of a plane on which each is treated by itself."""
CHANNELS = 16
"""Channels that are enough where no weight belongs to them."""
FACTORS = 512
"""Rows and columns that are enough of a matrix larger than `LARGE`."""
LARGE = 1 << 20

_SLIDING = {"Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool"}
_POOLS = {"MaxPool", "AveragePool", "LpPool", "GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool"}
_NORMS = {"BatchNormalization", "InstanceNormalization", "GroupNormalization", "LRN"}


def cut(node: onnx.NodeProto, arrays: Sequence[Array | None]) -> list[Array | None]:
    """A part of each input, such that the node makes a smaller output of them in the same way.

    Channels with weights stay; planes become windows, and large matrices lose rows and columns.
    """
    pieces = list(arrays)
    first = pieces[0] if pieces else None
    if first is None or node.domain not in ("", "ai.onnx"):
        return pieces
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    kind = node.op_type
    if kind in _SLIDING and "output_shape" not in attributes:
        pieces[0] = _window(first, pieces[1] if "Conv" in kind else None, attributes, kind)
    elif kind in _NORMS | _POOLS and first.ndim > 2:
        pieces[0] = _middle(first, {axis: SIDE for axis in range(2, first.ndim)})
    elif kind in POINTWISE or (kind == "Concat" and attributes["axis"] == 1):
        pieces = _pixels(pieces)
    elif kind == "Resize":
        pieces = _corner(pieces)
    elif kind in ("MatMul", "Gemm"):
        pieces = _block(pieces, bool(attributes.get("transA")), bool(attributes.get("transB")))
    if (
        kind in ("MaxPool", "AveragePool", "LpPool", "GlobalMaxPool", "GlobalAveragePool")
        and pieces[0] is not None
    ):
        pieces[0] = pieces[0][:, :CHANNELS]
    return pieces


def _window(x: Array, kernel: Array | None, attributes: dict[str, Any], kind: str) -> Array:
    """A few positions of the kernel, between edges that lie towards its steps as they did."""
    rank = x.ndim - 2
    sides = kernel.shape[2:] if kernel is not None else attributes["kernel_shape"]
    sizes = {}
    for axis in range(rank):
        stride = attributes.get("strides", [1] * rank)[axis]
        reach = (sides[axis] - 1) * attributes.get("dilations", [1] * rank)[axis] + 1
        pads = attributes.get("pads", [0] * 2 * rank)
        wanted = 4 if kind == "ConvTranspose" else max(reach + 2 * stride, *pads)
        size = x.shape[axis + 2]
        sizes[axis + 2] = min(size, wanted + (size - wanted) % stride)
    return _middle(x, sizes)


def _pixels(arrays: list[Array | None]) -> list[Array | None]:
    """Axes behind the second are cut where an array has their whole length, counted from the last."""
    shapes = [array.shape for array in arrays if array is not None]
    rank = max(map(len, shapes))
    if rank < 4:
        return arrays
    whole = [
        max(shape[axis] if -axis <= len(shape) else 1 for shape in shapes) for axis in range(2 - rank, 0)
    ]
    pieces: list[Array | None] = []
    for array in arrays:
        if array is not None:
            axes = range(max(2 - rank, -array.ndim), 0)
            sizes = {axis: SIDE for axis in axes if array.shape[axis] == whole[axis]}
            array = _middle(array, sizes)
        pieces.append(array)
    return pieces


def _corner(arrays: list[Array | None]) -> list[Array | None]:
    """A few pixels of a few channels, to be resized by the same factors."""
    x, region, scales, sizes = [*arrays, None, None, None][:4]
    if x is None or x.ndim != 4 or (region is not None and region.size):
        return arrays
    piece = x[:, :2, :4, :4]
    if sizes is not None and len(sizes) == 4:
        sizes = np.maximum(1, sizes * np.array(piece.shape) // np.array(x.shape))
    elif scales is None or len(scales) != 4 or (scales[:2] != 1).any():
        return arrays
    return [piece, region, scales, sizes][: len(arrays)]


def _block(arrays: list[Array | None], a_turned: bool, b_turned: bool) -> list[Array | None]:
    """Fewer rows and columns of two large factors and, in a Gemm, of what is added."""
    a, b, *rest = arrays
    if a is None or b is None or b.ndim != 2 or b.size <= LARGE:
        return arrays
    part = slice(FACTORS)
    a = a[part] if a_turned else a[..., part]
    rest = [c[..., part] if c is not None and c.ndim and c.shape[-1] > 1 else c for c in rest]
    return [a, b[part, part], *rest]


def _middle(array: Array, sizes: dict[int, int]) -> Array:
    """These sizes along these axes, from the middle."""
    places = [slice(None)] * array.ndim
    for axis, size in sizes.items():
        start = max(0, math.ceil((array.shape[axis] - size) / 2))
        places[axis] = slice(start, start + size)
    return array[tuple(places)]
