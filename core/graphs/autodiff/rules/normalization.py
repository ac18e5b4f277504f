"""Normalisation over a batch, an instance, a group, a layer; softmax and the losses that end in it.

A normalisation takes the mean from numbers and divides them by their deviation:

    x̂ = (x - mean(x)) / s,    s² = mean((x - mean(x))²) + epsilon

Shifting all x, or stretching their differences, leaves x̂ as it is. So the gradient of x is that of x̂ without
its share along 1 and its share along x̂, over s:

    dx = (g - mean(g) - x̂ mean(g x̂)) / s        (Ioffe and Szegedy 2015, arXiv 1502.03167, section 3)

The statistics are computed again from x, whose mean is subtracted first: nothing cancels where it is large.
Half precision is widened to float32 for them, as the operators themselves do. LpNormalization's gradient is 0
at the zero vector.
"""

import math
from collections.abc import Sequence

import numpy as np

from cnnkit.graphs.autodiff.rules.table import Gradients, Node, Operators, Tensor, axes_of, rule

_MERGED = 8  # numbers up to which ONNX Runtime keeps equal constants once

# Over a batch


@rule("BatchNormalization")
def batch_normalization(
    op: Operators, node: Node, dy: Tensor, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor
) -> Gradients:
    """In training the batch's own statistics are used; the running ones that are put out have no gradient."""
    if any(gradient is not None for gradient in node.gradients[1:]):
        raise node.refusal(
            "would pass through its running statistics; let the loss read its first output only"
        )
    written = _through_batch if node.attribute("training_mode", 0) else _through_constants
    inputs = (x, scale, bias, mean, var)
    found = written(op, node.attribute("epsilon", 1e-5), _wide(op, dy), *(_wide(op, t) for t in inputs))
    return tuple(op.cast(gradient, tensor.dtype) for gradient, tensor in zip(found, inputs, strict=False))


def _through_constants(
    op: Operators,
    epsilon: float,
    dy: Tensor,
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    var: Tensor,
) -> tuple[Tensor, ...]:
    inverse = _inverse(op, var, epsilon)
    factor = op.Mul(scale, inverse)
    total = _sum(op, dy)
    along = op.Mul(_sum(op, op.Mul(dy, _affine(op, x, None, op.Neg(mean)))), inverse)
    dvar = op.Mul(op.Mul(along, factor), op.Mul(inverse, -0.5))
    return _affine(op, dy, factor), along, total, op.Neg(op.Mul(total, factor)), dvar


def _through_batch(
    op: Operators, epsilon: float, dy: Tensor, x: Tensor, scale: Tensor, *_: Tensor
) -> tuple[Tensor, ...]:
    """Ordered for few passes over memory: x̂ is never written, dx = factor dy + offset - pull (x - mean)."""
    count = _count(op, x)
    centred = _affine(op, x, None, op.Neg(op.Div(_sum(op, x), count)))
    inverse = _inverse(op, op.Div(_sum(op, op.Mul(centred, centred)), count), epsilon)
    total, along = _sum(op, dy), op.Mul(_sum(op, op.Mul(dy, centred)), inverse)
    factor = op.Mul(scale, inverse)
    offset = op.Neg(op.Mul(factor, op.Div(total, count)))
    pull = op.Mul(op.Mul(factor, inverse), op.Div(along, count))
    return op.Sub(_affine(op, dy, factor, offset), _affine(op, centred, pull)), along, total


def _affine(op: Operators, x: Tensor, factor: Tensor | None, offset: Tensor | None = None) -> Tensor:
    """x factor + offset with a number for each channel, in one pass over x.

    BatchNormalization is the operator that can do that; Mul and Add take two passes, and are slow where
    planes are small. They are right for few channels, though: ONNX Runtime merges equal constants of up to 8
    numbers, and where a batch norm in training mode overwrites one as its running mean, zeros are none.
    """
    result: Tensor
    channels = x.shape[1] or 0
    if channels <= _MERGED:
        along = [-1] + [1] * (x.rank - 2)
        result = op.Mul(x, op.Reshape(factor, along)) if factor else x
        result = op.Add(result, op.Reshape(offset, along)) if offset else result
    else:
        zeros, ones = [0.0] * channels, [1.0] * channels
        result = op.BatchNormalization(x, factor or ones, offset or zeros, zeros, ones, epsilon=0.0)
    return result


def _sum(op: Operators, x: Tensor) -> Tensor:
    """The sum of each channel. ONNX Runtime adds up the pictures fastest as a matrix product."""
    batch, channels = x.shape[:2]
    total: Tensor
    if batch is None:
        total = op.ReduceSum(x, [0, *range(2, x.rank)], keepdims=0)
    else:
        picture = op.MatMul([[1.0] * batch], op.Reshape(x, [batch, -1]))
        total = op.ReduceSum(op.Reshape(picture, [channels, -1]), [1], keepdims=0)
    return total


def _count(op: Operators, x: Tensor) -> Tensor | float:
    """How many numbers each channel has."""
    batch, channels, *sizes = x.shape
    if batch is None:
        return op.cast(op.Div(op.Size(x), np.array(channels)), x.dtype)
    return float(batch * math.prod(size or 0 for size in sizes))


# Within each picture


@rule("InstanceNormalization")
def instance_normalization(
    op: Operators, node: Node, dy: Tensor, x: Tensor, scale: Tensor, bias: Tensor
) -> Gradients:
    return _group(op, node, dy, x, scale, x.shape[1] or 0)


@rule("GroupNormalization")
def group_normalization(
    op: Operators, node: Node, dy: Tensor, x: Tensor, scale: Tensor, bias: Tensor
) -> Gradients:
    return _group(op, node, dy, x, scale, node.attribute("num_groups"))


def _group(op: Operators, node: Node, dy: Tensor, x: Tensor, scale: Tensor, groups: int) -> Gradients:
    """`scale` has a number for each group (before opset 21) or for each channel."""
    channels = x.shape[1] or 0
    view = [0, groups, channels // groups, -1]
    wide, g = (op.Reshape(_wide(op, tensor), view) for tensor in (x, dy))
    normal, inverse = _standard(op, wide, [2, 3], node.attribute("epsilon", 1e-5))
    weight = op.Reshape(_wide(op, scale), [groups, -1, 1])
    dx = op.Reshape(_through(op, op.Mul(g, weight), normal, inverse, [2, 3]), op.shape(x))
    alike = [0, 3] if scale.shape == (channels,) else [0, 2, 3]
    dscale, dbias = (
        op.Reshape(op.ReduceSum(gradient, alike, keepdims=0), [-1]) for gradient in (op.Mul(g, normal), g)
    )
    return op.cast(dx, x.dtype), op.cast(dscale, scale.dtype), op.cast(dbias, scale.dtype)


@rule("LayerNormalization")
def layer_normalization(
    op: Operators, node: Node, dy: Tensor, x: Tensor, scale: Tensor, bias: Tensor | None = None
) -> Gradients:
    if any(gradient is not None for gradient in node.gradients[1:]):
        raise node.refusal(
            "would pass through its saved Mean and InvStdDev; let the loss read its first output"
        )
    axes = list(range(node.attribute("axis", -1) % x.rank, x.rank))
    normal, inverse = _standard(op, _wide(op, x), axes, node.attribute("epsilon", 1e-5))
    g = _wide(op, dy)
    dx = _through(op, op.Mul(g, _wide(op, scale)), normal, inverse, axes)
    return op.cast(dx, x.dtype), op.cast(op.Mul(g, normal), x.dtype), dy


@rule("RMSNormalization")
def rms_normalization(op: Operators, node: Node, dy: Tensor, x: Tensor, scale: Tensor) -> Gradients:
    """Nothing is subtracted, so nothing is lost along 1."""
    axes = list(range(node.attribute("axis", -1) % x.rank, x.rank))
    wide, g = _wide(op, x), _wide(op, dy)
    inverse = _inverse(op, op.ReduceMean(op.Mul(wide, wide), axes), node.attribute("epsilon", 1e-5))
    normal, weighted = op.Mul(wide, inverse), op.Mul(g, _wide(op, scale))
    lost = op.Mul(normal, op.ReduceMean(op.Mul(weighted, normal), axes))
    dx = op.Mul(op.Sub(weighted, lost), inverse)
    return op.cast(dx, x.dtype), op.cast(op.Mul(g, normal), scale.dtype)


@rule("MeanVarianceNormalization")
def mean_variance_normalization(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    """Its epsilon of 1e-9 is added to the deviation, not to its square."""
    axes = axes_of(node.attribute("axes", [0, 2, 3]), x.rank)
    centred = op.Sub(x, op.ReduceMean(x, axes))
    deviation = op.Sqrt(op.ReduceMean(op.Mul(centred, centred), axes))
    return (_through(op, dy, node.output, op.Reciprocal(op.Add(deviation, 1e-9)), axes),)


@rule("LpNormalization")
def lp_normalization(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    """What stretches x is lost; the norm grows along sign(x) for p = 1, along y for p = 2."""
    axis = [node.attribute("axis", -1)]
    first = node.attribute("p", 2) == 1
    norm = op.ReduceL1(x, axis) if first else op.ReduceL2(x, axis)
    lost = op.Mul(op.Sign(x) if first else node.output, op.ReduceSum(op.Mul(dy, node.output), axis))
    return (op.Div(op.Sub(dy, lost), op.Where(op.Greater(norm, 0.0), norm, math.inf)),)


def _standard(op: Operators, x: Tensor, axes: Sequence[int], epsilon: float) -> tuple[Tensor, Tensor]:
    """x̂ and 1/s."""
    centred = op.Sub(x, op.ReduceMean(x, axes))
    inverse = _inverse(op, op.ReduceMean(op.Mul(centred, centred), axes), epsilon)
    return op.Mul(centred, inverse), inverse


def _inverse(op: Operators, variance: Tensor, epsilon: float) -> Tensor:
    result: Tensor = op.Reciprocal(op.Sqrt(op.Add(variance, epsilon)))
    return result


def _through(op: Operators, g: Tensor, normal: Tensor, inverse: Tensor, axes: Sequence[int]) -> Tensor:
    """(g - mean(g) - x̂ mean(g x̂)) / s."""
    lost = op.Mul(normal, op.ReduceMean(op.Mul(g, normal), axes))
    result: Tensor = op.Mul(op.Sub(op.Sub(g, op.ReduceMean(g, axes)), lost), inverse)
    return result


def _wide(op: Operators, tensor: Tensor) -> Tensor:
    """In float32 at least."""
    return op.cast(tensor, np.promote_types(tensor.dtype, np.float32))


# Over classes


@rule("Softmax")
def softmax(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    y = node.output
    return (op.Mul(y, op.Sub(dy, op.ReduceSum(op.Mul(dy, y), [node.attribute("axis", -1)]))),)


@rule("LogSoftmax")
def log_softmax(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    return (_through_log_softmax(op, dy, node.output, node.attribute("axis", -1)),)


@rule("NegativeLogLikelihoodLoss")
def negative_log_likelihood_loss(
    op: Operators, node: Node, dy: Tensor, x: Tensor, target: Tensor, weight: Tensor | None = None
) -> Gradients:
    """The weights of the classes are taken as given: no gradient goes to them."""
    return (_of_likelihoods(op, node, dy, x, target, weight),)


@rule("SoftmaxCrossEntropyLoss")
def softmax_cross_entropy_loss(
    op: Operators, node: Node, dy: Tensor | None, x: Tensor, target: Tensor, weight: Tensor | None = None
) -> Gradients:
    """The weights of the classes are taken as given: no gradient goes to them."""
    log = op.LogSoftmax(x, axis=1)
    direct = node.gradients[1] if len(node.gradients) > 1 else None
    if dy is None:
        return (_through_log_softmax(op, Node.present(direct), log, 1),)
    g = _of_likelihoods(op, node, dy, x, target, weight)
    return (_through_log_softmax(op, op.Add(g, direct) if direct else g, log, 1),)


def _through_log_softmax(op: Operators, dy: Tensor, y: Tensor, axis: int) -> Tensor:
    result: Tensor = op.Sub(dy, op.Mul(op.Exp(y), op.ReduceSum(dy, [axis])))
    return result


def _of_likelihoods(
    op: Operators, node: Node, dy: Tensor, x: Tensor, target: Tensor, weight: Tensor | None
) -> Tensor:
    """Of log-likelihoods [N, C, ...]: minus the weight of the target's class there, 0 elsewhere."""
    classes, ignored = x.shape[1] or 0, node.attribute("ignore_index")
    target = op.cast(target, np.int64)
    counts = None if ignored is None else op.Not(op.Equal(target, np.array(ignored)))
    known = target if counts is None else op.Where(counts, target, np.array(0))
    share = op.Gather(weight or np.ones(classes, x.dtype), known)
    if counts is not None:
        share = op.Where(counts, share, np.zeros((), x.dtype))
    if node.attribute("reduction", "mean") == "mean":
        share = op.Div(share, op.ReduceSum(share, keepdims=0))
    columns = np.arange(classes).reshape(-1, *[1] * (x.rank - 2))
    hit = op.Equal(op.Unsqueeze(known, [1]), columns)
    result: Tensor = op.Where(hit, op.Unsqueeze(op.Neg(op.Mul(share, dy)), [1]), np.zeros((), x.dtype))
    return result
