"""Moving numbers without changing them: reshape, transpose, concatenate, slice, gather, pad.

The gradient moves them back: it is zero for a number that was left behind, and the sum over all places for
one that was copied. Much of what is here rests on two pieces: `_put_back` undoes a choice along one axis that
is known beforehand, `_scattered` one that is only known when the graph runs.
"""

from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cnnkit.graphs.autodiff.rules.table import Gradients, Node, Operators, Tensor, rule

Sizes = NDArray[np.int64]
Mode = Literal["reflect", "edge", "wrap"]

_END = int(np.iinfo(np.int64).max)  # of a Slice that runs to the last number
_FURTHEST_BACK = -_END  # of one that runs backwards to the first


# ---- the same numbers in the same order


@rule("Identity", "Expand")
def identity(op: Operators, node: Node, dy: Tensor, x: Tensor, shape: Tensor | None = None) -> Gradients:
    return (dy,)


@rule("Cast", "CastLike")
def cast(op: Operators, node: Node, dy: Tensor, x: Tensor, like: Tensor | None = None) -> Gradients:
    return (op.cast(dy, x.dtype),)


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(op: Operators, node: Node, dy: Tensor, x: Tensor, sizes: Tensor | None = None) -> Gradients:
    return (op.Reshape(dy, op.shape(x), allowzero=1),)


@rule("Dropout")
def dropout(
    op: Operators,
    node: Node,
    dy: Tensor,
    x: Tensor,
    ratio: Tensor | None = None,
    training_mode: Tensor | None = None,
) -> Gradients:
    """What was kept was divided by the share that is kept; without `training_mode` all is kept as it is."""
    if training_mode is None or not np.all(node.constant(2)):
        return (dy,)
    mask = node.outputs[1] if len(node.outputs) > 1 else None
    if mask is None:
        raise node.refusal(
            "needs to know which numbers were dropped, and its output 'mask' is left out; a TrainingSession "
            "draws the mask itself"
        )
    kept = 0.5 if ratio is None else op.Sub(1.0, op.cast(ratio, x.dtype))
    return (op.Where(mask, op.Div(dy, kept), 0.0),)


# ---- the same numbers in another order


@rule("Transpose")
def transpose(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    """Without `perm` the axes are reversed, which undoes itself."""
    permutation = node.attribute("perm")
    return (op.Transpose(dy, perm=np.argsort(permutation).tolist()) if permutation else op.Transpose(dy),)


@rule("Concat")
def concat(op: Operators, node: Node, dy: Tensor, *parts: Tensor) -> Gradients:
    axis = node.attribute("axis") % dy.rank
    sizes: Any = [part.shape[axis] for part in parts]
    if None in sizes:
        sizes = op.Concat(*[op.Shape(part, start=axis, end=axis + 1) for part in parts], axis=0)
    pieces: Gradients = op.Split(dy, sizes, axis=axis, output=len(parts))
    return pieces


@rule("Split")
def split(op: Operators, node: Node, dy: Tensor | None, x: Tensor, sizes: Tensor | None = None) -> Gradients:
    """A part that nobody asked about counts as zeros."""
    pieces = [
        op.zeros_like(node.present(part)) if gradient is None else gradient
        for part, gradient in zip(node.outputs, node.gradients, strict=True)
    ]
    return (op.Concat(*pieces, axis=node.attribute("axis", 0)),)


# ---- some of the numbers


@rule("Trilu")
def trilu(op: Operators, node: Node, dy: Tensor, x: Tensor, diagonal: Tensor | None = None) -> Gradients:
    return (op.Trilu(dy, diagonal, upper=node.attribute("upper", 1)),)


@rule("Slice")
def slice_(op: Operators, node: Node, dy: Tensor, data: Tensor, *where: Tensor | None) -> Gradients:
    """One axis after the other."""
    starts, ends, axes, steps = (node.constant(index) for index in range(1, 5))
    assert starts is not None and ends is not None
    axes = np.arange(len(starts)) if axes is None else axes % data.rank
    steps = np.ones_like(starts) if steps is None else steps
    cuts = np.stack([axes, starts, ends, steps], axis=1).tolist()
    for axis, start, end, step in cuts:
        size = data.shape[axis]
        if size is not None:
            if step < 0:  # unlike in Python, a start in front of the first number means that one
                start = max(start, -size)
            dy = _put_back(op, dy, axis, size, np.arange(size)[start:end:step])
        else:
            count = op.Shape(data, start=axis, end=axis + 1)
            places = op.Slice(op.Range(0, op.Squeeze(count), 1), [start], [end], [0], [step])
            dy = _scattered(op, dy, axis, count, places)
    return (dy,)


@rule("Gather")
def gather(op: Operators, node: Node, dy: Tensor, data: Tensor, indices: Tensor) -> Gradients:
    axis = node.attribute("axis", 0) % data.rank
    size, places = data.shape[axis], indices.value
    if indices.rank == 0:
        dy = op.Unsqueeze(dy, [axis])
    elif indices.rank > 1:
        behind = op.Shape(dy, start=axis + indices.rank)
        dy = op.Reshape(dy, op.Concat(op.Shape(dy, end=axis), [-1], behind, axis=0))
    if size is not None and places is not None:
        return (_put_back(op, dy, axis, size, places.ravel().astype(np.int64) % size),)
    count = op.Shape(data, start=axis, end=axis + 1)
    return (_scattered(op, dy, axis, count, op.Reshape(op.cast(indices, np.int64), [-1])),)


@rule("GatherElements")
def gather_elements(op: Operators, node: Node, dy: Tensor, data: Tensor, indices: Tensor) -> Gradients:
    axis, indices = node.attribute("axis", 0), op.cast(indices, np.int64)
    return (_added(op, op.shape(data), indices, dy, axis),)


@rule("GatherND")
def gather_nd(op: Operators, node: Node, dy: Tensor, data: Tensor, indices: Tensor) -> Gradients:
    if node.attribute("batch_dims", 0):
        raise node.refusal("is only known without batch_dims; write the indices of the batch out")
    depth = indices.shape[-1]
    assert depth is not None  # or the rank of what is read would be open
    sizes = op.Slice(op.shape(data), [0], [depth], [0])
    found = op.cast(indices, np.int64)
    found = op.Where(op.Less(found, 0), op.Add(found, sizes), found)
    places = op.Slice(found, [0], [1], [-1])
    for axis in range(1, depth):
        size = op.Shape(data, start=axis, end=axis + 1)
        places = op.Add(op.Mul(places, size), op.Slice(found, [axis], [axis + 1], [-1]))
    places = op.Reshape(places, [-1])
    slices = op.Reshape(dy, op.Concat(op.Shape(places), [-1], axis=0))
    added = _scattered(op, slices, 0, op.ReduceProd(sizes, [0]), places)
    return (op.Reshape(added, op.shape(data)),)


@rule("ScatterElements", "ScatterND")
def scatter(
    op: Operators, node: Node, dy: Tensor, data: Tensor, indices: Tensor, updates: Tensor
) -> Gradients:
    """What was overwritten has no influence; what was added to has its own."""
    reduction = node.attribute("reduction", "none")
    if reduction not in ("none", "add"):
        raise node.refusal(f"is known for the reductions none and add, not for {reduction}")
    zeros, indices = op.zeros_like(updates), op.cast(indices, np.int64)
    if node.operator == "ScatterND":
        kept, read = op.ScatterND(dy, indices, zeros), op.GatherND(dy, indices)
    else:
        axis = node.attribute("axis", 0)
        kept = op.ScatterElements(dy, indices, zeros, axis=axis)
        read = op.GatherElements(dy, indices, axis=axis)
    return dy if reduction == "add" else kept, None, read


@rule("TopK")
def top_k(op: Operators, node: Node, dy: Tensor, x: Tensor, count: Tensor) -> Gradients:
    axis = node.attribute("axis", -1)
    return (op.ScatterElements(op.zeros_like(x), node.present(node.outputs[1]), dy, axis=axis),)


# ---- more numbers than there were


@rule("Tile")
def tile(op: Operators, node: Node, dy: Tensor, x: Tensor, repeats: Tensor) -> Gradients:
    """An axis of `size` numbers that was repeated is one of `repeats` and one of `size`."""
    sizes = op.Concat(op.Unsqueeze(repeats, [1]), op.Unsqueeze(op.shape(x), [1]), axis=1)
    copies = op.Reshape(dy, op.Reshape(sizes, [-1]))
    return (op.ReduceSum(copies, list(range(0, 2 * x.rank, 2)), keepdims=0),)


@rule("Pad")
def pad(
    op: Operators,
    node: Node,
    dy: Tensor,
    data: Tensor,
    pads: Tensor,
    value: Tensor | None = None,
    axes: Tensor | None = None,
) -> Gradients:
    """Off with the margins, and back to where they were copied from; what a negative pad cut off is zero."""
    before, after = _pads(node, data)
    added, cut = (before.clip(0), after.clip(0)), (-before.clip(max=0), -after.clip(max=0))
    mode = node.attribute("mode", "constant")
    if mode != "constant":
        return (op.pad(_folded(op, node, mode, dy, *added), *cut),)
    inner = _without_margins(op, dy, *added)
    kept = op.pad(inner, *cut)
    if value is None:
        return (kept,)
    margins = op.Sub(dy, op.pad(inner, *added))
    return kept, None, op.Reshape(op.ReduceSum(margins, keepdims=0), op.shape(value))


def _pads(node: Node, data: Tensor) -> tuple[Sizes, Sizes]:
    """What is added in front and behind, for every axis."""
    given, axes = node.constant(1), node.constant(3)
    assert given is not None
    pads = np.zeros((2, data.rank), np.int64)
    pads[:, slice(None) if axes is None else axes] = given.reshape(2, -1)
    return pads[0], pads[1]


def _folded(op: Operators, node: Node, mode: Mode, dy: Tensor, before: Sizes, after: Sizes) -> Tensor:
    """Adds margins that are copies of the inside to what they copied, one axis after the other.

    Only the strips that were copied are touched, so a narrow margin of a large picture is cheap.
    """
    for axis in np.flatnonzero(before + after).tolist():
        length, first, last = dy.shape[axis], int(before[axis]), int(after[axis])
        if length is None:
            raise node.refusal(f"is not known where the mode {mode} pads an open batch; fix its size")
        size = length - first - last
        if mode != "edge" and max(first, last) > size:
            raise node.refusal(f"is not known for a margin that copies its {size} numbers more than once")
        sources = np.pad(np.arange(size), (first, last), mode=mode)  # its modes are called as those of ONNX
        margins = [np.arange(first), np.arange(first + size, length)]
        copied = [sources[margin] for margin in margins if len(margin)]
        cuts = np.unique([0, size, *(cut for taken in copied for cut in (taken.min(), taken.max() + 1))])
        strips = []
        for low, high in pairwise(cuts.tolist()):
            strip = op.Slice(dy, [first + low], [first + high], [axis])
            for margin in margins:
                part = margin[(low <= sources[margin]) & (sources[margin] < high)]
                if len(part):
                    piece = op.Slice(dy, part[:1], part[-1:] + 1, [axis])
                    strip = op.Add(strip, _put_back(op, piece, axis, high - low, sources[part] - low))
            strips.append(strip)
        dy = op.Concat(*strips, axis=axis)
    return dy


# ---- what they share


def _put_back(op: Operators, dy: Tensor, axis: int, size: int, taken: Sizes) -> Tensor:
    """The gradient of the `size` numbers along an axis, from that of those `taken`, in their order."""
    result: Tensor
    steps = set(np.diff(taken).tolist())
    if steps <= {1}:
        start = int(taken[0]) if len(taken) else 0
        return op.pad(dy, [start], [size - start - len(taken)], [axis])
    if steps == {-1}:
        forwards = op.Slice(dy, [-1], [_FURTHEST_BACK], [axis], [-1])
        return _put_back(op, forwards, axis, size, taken[::-1])
    if steps == {0}:
        return _put_back(op, op.ReduceSum(dy, [axis], keepdims=1), axis, size, taken[:1])
    if len(set(taken.tolist())) < len(taken):
        return _scattered(op, dy, axis, [size], taken)
    places = np.full(size, len(taken))  # where each number went; those left behind find a zero at the end
    places[taken] = np.arange(len(taken))
    result = op.Gather(op.pad(dy, [0], [1], [axis]), places, axis=axis)
    return result


def _scattered(op: Operators, dy: Tensor, axis: int, size: Any, places: Any) -> Tensor:
    """The same where places repeat in any way, or are only known when the graph runs."""
    shape = op.Concat(op.Shape(dy, end=axis), size, op.Shape(dy, start=axis + 1), axis=0)
    column = op.Reshape(places, [-1, *[1] * (dy.rank - axis - 1)])
    return _added(op, shape, op.Expand(column, op.shape(dy)), dy, axis)


def _added(op: Operators, shape: Any, indices: Any, dy: Tensor, axis: int) -> Tensor:
    """`dy` scattered into zeros, in float32 at least: ONNX Runtime has no sum of halves on the processor.

    Not with ScatterND, whose threads lose what they add to the same place at the same time.
    """
    wide = np.result_type(dy.dtype, np.float32)
    zeros = op.Expand(np.zeros((), wide), shape)
    added = op.ScatterElements(zeros, indices, op.cast(dy, wide), reduction="add", axis=axis)
    return op.cast(added, dy.dtype)


def _without_margins(op: Operators, x: Tensor, before: Sizes, after: Sizes) -> Tensor:
    axes = np.flatnonzero(before + after)
    ends = np.where(after > 0, -after, _END)
    result: Tensor = op.Slice(x, before[axes], ends[axes], axes) if len(axes) else x
    return result
