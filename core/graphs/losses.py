"""Losses: small graph pieces that turn a tensor into one number that is to become small.

Each is a function `(op, tensor, ...)` that appends nodes with `op` and returns a scalar of the tensor's type:

    def loss(builder, tap):
        label = builder.input("label", ["batch"], np.int64)
        return {"cross_entropy": losses.cross_entropy(builder.op, tap("logits"), label)}

A weight is multiplied outside: `op.Mul(losses.l2_penalty(op, x), 1e-4)`. A target may be a tensor, a number,
or an array of the tensor's type. N is the number of pictures, C that of channels or classes, H and W are
height and width; means and sums are over the pictures too. Where a loss has a kink its gradient is 0: |x| at
0, the cosine of the zero vector, the total variation of a flat place.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cnnkit.graphs.builder import Operators
from cnnkit.graphs.tensors import Tensor

Target = Tensor | NDArray[Any] | float
GramDivisor = Literal["1", "positions", "values"]
COVARIANCE_FLOOR = 1e-4
"""Added to every variance by `wasserstein`, whose roots would have no slope without it."""
NCHW = (2, 3)
"""The axes of height and width in a picture whose channels come first; else they are (1, 2)."""


def mean_squared_error(op: Operators, tensor: Tensor, target: Target) -> Tensor:
    """mean((x - target)²), the content loss of most style transfers. The shapes broadcast."""
    return _mean_square(op, op.Sub(tensor, target))


def cross_entropy(op: Operators, logits: Tensor, target: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """-log of the probability of the right class, on average, as torch.nn.functional.cross_entropy has it.

    `logits` are [N, C, ...], before the softmax. `target` are classes, integers [N, ...] from 0 to C - 1, or
    probabilities in the shape of the logits. `label_smoothing` s takes the share s of the probability away
    from the target and spreads it over all C classes.
    """
    logs = op.LogSoftmax(logits, axis=1)
    if target.is_floating:
        right = op.ReduceSum(op.Mul(target, logs), [1], keepdims=0)
    else:
        right = op.GatherElements(logs, op.Unsqueeze(target, [1]), axis=1)
    likely = op.ReduceMean(right, keepdims=0)
    if label_smoothing:
        spread = op.Mul(op.ReduceMean(logs, keepdims=0), label_smoothing)
        likely = op.Add(op.Mul(likely, 1.0 - label_smoothing), spread)
    return _only(op.Neg(likely))


def cosine_distance(op: Operators, tensor: Tensor, target: Target, axes: Sequence[int] = (1,)) -> Tensor:
    """1 - cos of the angle between two vectors along the axes, 0 to 2, on average over the other axes.

    As 1 - torch.nn.functional.cosine_similarity, but a vector shorter than 1e-8 counts as zero.
    """

    def direction(vector: Target) -> Tensor:
        length = op.ReduceL2(vector, list(axes))
        return _only(op.Div(vector, op.Where(op.Greater(length, 1e-8), length, np.inf)))

    cosine = op.ReduceSum(op.Mul(direction(tensor), direction(target)), list(axes), keepdims=0)
    return _only(op.Sub(1.0, op.ReduceMean(cosine, keepdims=0)))


def gram(op: Operators, features: Tensor, divided_by: GramDivisor = "positions") -> Tensor:
    """The Gram matrix of each picture, F·Fᵀ of shape [N, C, C], for features F of shape [N, C, H, W].

    It is divided by "positions" H·W (Gatys's code, TensorFlow's tutorial), by "values" C·H·W (jcjohnson,
    gordicaleksa, PyTorch's tutorial) or by "1" (Keras's example, before its own constants). Features minus 1
    give titu1994's shifted Gram matrix.
    """
    rows = op.Reshape(features, [0, 0, -1])
    _, channels, positions = rows.shape
    divisor = {"1": 1, "positions": positions, "values": channels * positions}[divided_by]
    products = op.MatMul(rows, op.Transpose(rows, perm=[0, 2, 1]))
    return _only(products if divisor == 1 else op.Mul(products, 1.0 / divisor))


def style(op: Operators, features: Tensor, target: Target, divided_by: GramDivisor = "positions") -> Tensor:
    """A quarter of the mean squared difference of Gram matrices.

    `target` is the Gram matrix of the style, [C, C] or [N, C, C], divided as `divided_by` says by its own
    sizes. With "positions" this is E of Gatys et al. 2015 (arXiv:1508.06576, equation 4), also for a style of
    another size; other programs' style losses are multiples of it.
    """
    return _only(op.Mul(mean_squared_error(op, gram(op, features, divided_by), target), 0.25))


def wasserstein(
    op: Operators, features: Tensor, mean: Target, covariance_root: Target, guide: Tensor | None = None
) -> Tensor:
    """The squared Wasserstein distance of two normal distributions of features, divided by the channels C.

    mean((μ - μ*)²) + mean diag(Σ + Σ* - 2·(Σ*^½·Σ·Σ*^½)^½), the style loss of crowsonkb's
    style-transfer-pytorch, for the mean μ [N, C] of features F of shape [N, C, H, W] over their M places and
    their covariance Σ = (F - μ)(F - μ)ᵀ/M + COVARIANCE_FLOOR. `mean` is μ*, [C] or [N, C], and
    `covariance_root` the symmetric root of Σ*, [C, C] or [N, C, C]; no gradient goes to either. In a `guide`,
    [1, 1, H, W] of a mean square of 1, places count by its square.

    Of the last root only the trace is needed. With fewer places than channels it is that of an M x M matrix,
    and Σ has no floor.
    """
    wide = op.cast(features, np.float32) if features.dtype == np.float16 else features
    goal, root = (
        op.fixed(op.cast(_tensor(op, target, wide), wide.dtype)) for target in (mean, covariance_root)
    )
    rows = op.Reshape(wide, [0, 0, -1])
    _, channels, places = rows.shape
    if guide is None:
        centre = op.ReduceMean(rows, [2])
        deviations = op.Sub(rows, centre)
    else:
        weights = op.Reshape(op.cast(guide, wide.dtype), [1, 1, -1])
        centre = op.ReduceMean(op.Mul(op.Mul(rows, weights), weights), [2])
        deviations = op.Mul(op.Sub(rows, centre), weights)
    variances = op.Mul(op.ReduceSumSquare(deviations, [1, 2], keepdims=0), 1.0 / places)
    if places < channels:
        seen = op.MatMul(root, deviations)
        matrices = op.Mul(op.MatMul(op.Transpose(seen, perm=[0, 2, 1]), seen), 1.0 / places)
    else:
        products = op.MatMul(deviations, op.Transpose(deviations, perm=[0, 2, 1]))
        floor = COVARIANCE_FLOOR * np.eye(channels)
        covariance = op.Add(op.Mul(products, 1.0 / places), floor.astype(wide.dtype))
        variances = op.Add(variances, channels * COVARIANCE_FLOOR)
        matrices = op.MatMul(op.MatMul(root, covariance), root)
    traces = op.Add(variances, op.ReduceSumSquare(root, [-2, -1], keepdims=0))
    apart = op.ReduceMean(op.Sub(traces, op.Mul(_trace_of_root(op, matrices), 2.0)), keepdims=0)
    shift = _mean_square(op, op.Sub(op.Squeeze(centre, [2]), goal))
    return op.cast(op.Add(shift, op.Mul(apart, 1.0 / channels)), features.dtype)


def total_variation_l1(op: Operators, picture: Tensor, axes: tuple[int, int] = NCHW) -> Tensor:
    """sum|dx| + sum|dy| of neighbouring pixels (tf.image.total_variation, neural-style-pt, gordicaleksa)."""
    down, right = (_differences(op, picture, axis) for axis in axes)
    return _only(op.Add(op.ReduceL1(down, keepdims=0), op.ReduceL1(right, keepdims=0)))


def total_variation_squared(op: Operators, picture: Tensor, axes: tuple[int, int] = NCHW) -> Tensor:
    """mean(dx²) + mean(dy²), each over its own number of neighbours (anishathalye)."""
    down, right = (_mean_square(op, _differences(op, picture, axis)) for axis in axes)
    return _only(op.Add(down, right))


def total_variation_power(
    op: Operators, picture: Tensor, power: float = 2.0, axes: tuple[int, int] = NCHW
) -> Tensor:
    """sum((dx² + dy²)^(power / 2)) over the pixels that have a neighbour to the right and one below.

    From Mahendran and Vedaldi 2015 (arXiv:1412.0035), whose beta is `power`. 1 is the isotropic variation of
    Rudin, Osher and Fatemi 1992, 2 is twice that of jcjohnson, 2.5 is that of Keras's example.
    """
    corner, right, below, _ = _corners(op, picture, axes)
    dx, dy = op.Sub(right, corner), op.Sub(below, corner)
    squares = op.Add(op.Mul(dx, dx), op.Mul(dy, dy))
    if power < 2:  # whose slope at 0 is infinite, times a slope of 0
        flat = op.Equal(squares, 0.0)
        squares = op.Where(flat, 0.0, op.Pow(op.Where(flat, 1.0, squares), power / 2))
    elif power > 2:
        squares = op.Pow(squares, power / 2)
    return _only(op.ReduceSum(squares, keepdims=0))


def total_variation_nine_point(op: Operators, picture: Tensor, axes: tuple[int, int] = NCHW) -> Tensor:
    """Squared differences to all eight neighbours, the border repeated outwards (crowsonkb).

    2·(mean(dx²)/3 + mean(dy²)/3 + mean(d↘²)/12 + mean(d↙²)/12), with dx and dy of all H·W pixels, of which
    the last have none, and the diagonal ones of the (H + 1)·(W + 1) corners between pixels.
    """
    margins = np.zeros((2, picture.rank), np.int64)
    margins[:, list(axes)] = 1
    corner, right, below, opposite = _corners(op, op.Pad(picture, margins.ravel(), mode="edge"), axes)
    diagonals = [_mean_square(op, op.Sub(*pair)) for pair in ((opposite, corner), (below, right))]
    straight = [_mean_square(op, _differences(op, picture, axis)) for axis in axes]
    shares = [2 / 3 * (1 - 1 / _size(picture, axis)) for axis in axes]
    parts = [op.Mul(part, share) for part, share in zip(straight, shares, strict=True)]
    return _only(op.Sum(*parts, *(op.Mul(part, 1 / 6) for part in diagonals)))


def l1_penalty(op: Operators, tensor: Tensor) -> Tensor:
    """sum|x|."""
    return _only(op.ReduceL1(tensor, keepdims=0))


def l2_penalty(op: Operators, tensor: Tensor) -> Tensor:
    """sum(x²), as in Keras; a `weight_decay` w of torch's optimizers is this times w / 2."""
    return _only(op.ReduceSumSquare(tensor, keepdims=0))


def power_penalty(op: Operators, tensor: Tensor, power: float = 6.0) -> Tensor:
    """sum(|x|^power), for a power above 1: keeps pixels in range (Mahendran and Vedaldi 2015, with 6)."""
    return _only(op.ReduceSum(op.Pow(op.Abs(tensor), power), keepdims=0))


LOSSES: Mapping[str, Callable[..., Tensor]] = {
    loss.__name__.replace("_", "-"): loss
    for loss in (
        mean_squared_error,
        cross_entropy,
        cosine_distance,
        style,
        wasserstein,
        total_variation_l1,
        total_variation_squared,
        total_variation_power,
        total_variation_nine_point,
        l1_penalty,
        l2_penalty,
        power_penalty,
    )
}
"""The losses by name; those of plugins (hook `cnnkit_losses`) have the same form."""


_STEPS = 11
_SMALLEST = 1e-3
"""Of what converges in these steps: the root of an eigenvalue, as a share of the norm's."""


def _trace_of_root(op: Operators, matrices: Tensor) -> Tensor:
    """tr A^½ [N] of symmetric matrices A [N, K, K] without negative eigenvalues, as <A, A^-½>.

    Its gradient is ½·A^-½, so that nothing of the iteration that finds A^-½ is differentiated.
    """
    inverse = op.fixed(_inverse_root(op, matrices))
    half = op.Mul(op.ReduceSum(op.Mul(matrices, inverse), [-2, -1], keepdims=0), 0.5)
    return _only(op.Add(half, op.fixed(half)))


def _inverse_root(op: Operators, matrices: Tensor) -> Tensor:
    """A^-½ of symmetric matrices [N, K, K], by coupled Newton-Schulz steps.

    Each is stretched so that all roots from the smallest one to 1 come as near to 1 as a step can bring them
    (Chen and Chow 2014): what takes 11 steps takes 23 otherwise, and float32 bears no more. A root at 0, or
    a little below it by rounding, stays near 0.
    """
    norm = op.Add(op.ReduceL2(matrices, [-2, -1]), 1e-20)
    size = matrices.shape[-1]
    assert size is not None
    identity = np.eye(size, dtype=matrices.dtype)
    root, inverse = op.Div(matrices, norm), None
    for stretch in _stretches(_STEPS, _SMALLEST):
        product = root if inverse is None else op.MatMul(inverse, root)
        change = op.Sub(identity * identity.dtype.type(1.5 * stretch), op.Mul(product, 0.5 * stretch**3))
        root = op.MatMul(root, change)
        inverse = change if inverse is None else op.MatMul(change, inverse)
    return _only(op.Div(inverse, op.Sqrt(norm)))


def _stretches(steps: int, smallest: float) -> list[float]:
    """Of x in x·(3 - x²)/2, where all x lie between `smallest` and 1; 1.6977 keeps them away from 0."""
    found = []
    for _ in range(steps):
        found.append(min(math.sqrt(3 / (1 + smallest + smallest**2)), 1.69770248526))
        smallest *= found[-1] * (3 - (found[-1] * smallest) ** 2) / 2
    return found


def _tensor(op: Operators, target: Target, like: Tensor) -> Tensor:
    return target if isinstance(target, Tensor) else _only(op.Identity(np.asarray(target, like.dtype)))


def _mean_square(op: Operators, tensor: Tensor) -> Tensor:
    return _only(op.ReduceMean(op.Mul(tensor, tensor), keepdims=0))


def _differences(op: Operators, tensor: Tensor, axis: int) -> Tensor:
    """Between neighbours along an axis."""
    size = _size(tensor, axis)
    return _only(op.Sub(op.Slice(tensor, [1], [size], [axis]), op.Slice(tensor, [0], [size - 1], [axis])))


def _corners(op: Operators, tensor: Tensor, axes: tuple[int, int]) -> list[Tensor]:
    """Each square of 2 by 2's upper left, upper right, lower left and lower right pixel."""
    ends = np.array([_size(tensor, axis) - 1 for axis in axes])
    moves = np.array([(0, 0), (0, 1), (1, 0), (1, 1)])
    return [op.Slice(tensor, move, ends + move, list(axes)) for move in moves]


def _size(tensor: Tensor, axis: int) -> int:
    size = tensor.shape[axis]
    assert size is not None, "height and width are always known"
    return size


def _only(tensor: Any) -> Tensor:
    """What a node with one output returned."""
    assert isinstance(tensor, Tensor)
    return tensor
