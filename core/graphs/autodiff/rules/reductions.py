"""Reductions along axes, and running sums.

The gradient of a reduced number goes back to all the numbers that it was made of. So each rule puts the
reduced axes back with size 1 and multiplies by the slope of the reduction at each number.

Several greatest or smallest numbers share the gradient equally. That of ReduceL1 is 0 at 0, that of ReduceL2
is 0 at the zero vector. Without axes, `noop_with_empty_axes` leaves what a reduction does to a single number.
"""

import math
from collections.abc import Sequence

from cnnkit.graphs.autodiff.rules.table import Gradients, Node, Operators, Tensor, axes_of, rule


@rule("ReduceSum")
def reduce_sum(op: Operators, node: Node, dy: Tensor, x: Tensor, axes: Tensor | None = None) -> Gradients:
    return (op.Expand(_kept(op, node, dy), op.shape(x)),)


@rule("ReduceMean")
def reduce_mean(op: Operators, node: Node, dy: Tensor, x: Tensor, axes: Tensor | None = None) -> Gradients:
    sizes = [x.shape[axis] for axis in _axes(node, x)]
    count: Tensor | float = math.prod(size or 0 for size in sizes) + 0.0
    if None in sizes:
        count = op.cast(op.Div(op.Size(x), op.Size(dy)), x.dtype)
    return (op.Expand(_kept(op, node, op.Div(dy, count)), op.shape(x)),)


@rule("ReduceSumSquare")
def reduce_sum_square(
    op: Operators, node: Node, dy: Tensor, x: Tensor, axes: Tensor | None = None
) -> Gradients:
    return (op.Mul(_kept(op, node, op.Mul(dy, 2.0)), x),)


@rule("ReduceL1")
def reduce_l1(op: Operators, node: Node, dy: Tensor, x: Tensor, axes: Tensor | None = None) -> Gradients:
    return (op.Mul(_kept(op, node, dy), op.Sign(x)),)


@rule("ReduceL2")
def reduce_l2(op: Operators, node: Node, dy: Tensor, x: Tensor, axes: Tensor | None = None) -> Gradients:
    norm = op.Where(op.Greater(node.output, 0.0), node.output, math.inf)
    return (op.Mul(_kept(op, node, dy), op.Div(x, _kept(op, node, norm))),)


@rule("ReduceLogSum")
def reduce_log_sum(op: Operators, node: Node, dy: Tensor, x: Tensor, axes: Tensor | None = None) -> Gradients:
    """dy / sum(x)."""
    return (op.Expand(_kept(op, node, op.Mul(dy, op.Exp(op.Neg(node.output)))), op.shape(x)),)


@rule("ReduceLogSumExp")
def reduce_log_sum_exp(
    op: Operators, node: Node, dy: Tensor, x: Tensor, axes: Tensor | None = None
) -> Gradients:
    """By the softmax of x, whose logarithm is x - y."""
    return (op.Mul(_kept(op, node, dy), op.Exp(op.Sub(x, _kept(op, node, node.output)))),)


@rule("ReduceMax", "ReduceMin")
def reduce_max(op: Operators, node: Node, dy: Tensor, x: Tensor, axes: Tensor | None = None) -> Gradients:
    chosen = op.Equal(x, _kept(op, node, node.output))
    ones = op.cast(chosen, x.dtype)
    ties = op.ReduceSum(ones, _axes(node, x)) if _axes(node, x) else ones
    return (op.Where(chosen, op.Div(_kept(op, node, dy), ties), 0.0),)


@rule("ReduceProd")
def reduce_prod(op: Operators, node: Node, dy: Tensor, x: Tensor, axes: Tensor | None = None) -> Gradients:
    """One axis after the other; nothing is divided by x, which may be 0."""
    g, stages = _kept(op, node, dy), [x]
    for axis in _axes(node, x):
        stages.append(op.ReduceProd(stages[-1], [axis]))
    for axis, stage in reversed(list(zip(_axes(node, x), stages, strict=False))):
        g = op.Mul(g, _product_of_others(op, node, stage, axis))
    return (g,)


def _product_of_others(op: Operators, node: Node, x: Tensor, axis: int) -> Tensor:
    """Of the numbers in front, times that of the numbers behind; windows that double grow to all of them."""
    size = x.shape[axis]
    if size is None:
        raise node.refusal("would multiply over an open batch; give the network's input a fixed size")
    front, behind = _shifted(op, x, axis, size, 1), _shifted(op, x, axis, size, -1)
    window = 1
    while window < size - 1:
        front = op.Mul(front, _shifted(op, front, axis, size, window))
        behind = op.Mul(behind, _shifted(op, behind, axis, size, -window))
        window *= 2
    both: Tensor = op.Mul(front, behind)
    return both


def _shifted(op: Operators, x: Tensor, axis: int, size: int, by: int) -> Tensor:
    """Moved along an axis, ones coming in."""
    padded = op.pad(x, [max(by, 0)], [max(-by, 0)], [axis], 1.0)
    start = max(-by, 0)
    moved: Tensor = op.Slice(padded, [start], [start + size], [axis])
    return moved


@rule("CumSum")
def cum_sum(op: Operators, node: Node, dy: Tensor, x: Tensor, axis: Tensor) -> Gradients:
    """A number counts in all the sums behind it: the sums run the other way."""
    exclusive, reverse = node.attribute("exclusive", 0), 1 - node.attribute("reverse", 0)
    return (op.CumSum(dy, axis, exclusive=exclusive, reverse=reverse),)


def _axes(node: Node, x: Tensor) -> Sequence[int]:
    """The axes that are reduced, in their order; none where the node says that no axes mean none."""
    axes = node.constant(1)
    if axes is not None and axes.size:
        return axes_of(axes, x.rank)
    return [] if node.attribute("noop_with_empty_axes", 0) else axes_of(None, x.rank)


def _kept(op: Operators, node: Node, tensor: Tensor) -> Tensor:
    """What has the shape of the output, with the reduced axes in their places."""
    axes = _axes(node, Node.present(node.inputs[0]))
    if node.attribute("keepdims", 1) or not axes:
        return tensor
    kept: Tensor = op.Unsqueeze(tensor, axes)
    return kept
