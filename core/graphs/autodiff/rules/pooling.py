"""Pooling: windows, whole planes, and neighbouring channels.

A maximum hands its whole gradient to the first cell of its window, in the order of memory, that attains
it; so does the maximum of a whole plane. A window with NaN or of -infinity alone has no defined gradient. A
norm has the gradient zero where it is zero, and |x|' is zero at 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnnkit.graphs.autodiff.rules.table import Gradients, Node, Operators, Tensor, rule


@dataclass(frozen=True)
class Windows:
    """Where the windows of a pooling node lie: a number for each axis of space, whatever the node left out.

    `before` is the padding in front, `after` the one behind that the node asks for; `sizes` are those of the
    plane and `counts` say how many windows there are. Windows may end behind both (ceil_mode) or before.
    """

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    before: list[int]
    after: list[int]
    sizes: list[int]
    counts: list[int]

    @staticmethod
    def of(node: Node, x: Tensor) -> "Windows":
        sizes, counts = ([size or 0 for size in tensor.shape[2:]] for tensor in (x, node.output))
        if None in x.shape[2:]:
            raise node.refusal("is not known where its windows slide over an open batch; fix its size")
        ones = [1] * len(sizes)
        kernel = node.attribute("kernel_shape")
        strides, dilations = node.attribute("strides", ones), node.attribute("dilations", ones)
        pads = node.attribute("pads", [0] * 2 * len(sizes))
        before, after = pads[: len(sizes)], pads[len(sizes) :]
        padding = node.attribute("auto_pad", "NOTSET")
        if padding != "NOTSET":
            reach = [
                (count - 1) * s + (k - 1) * d + 1
                for count, s, k, d in zip(counts, strides, kernel, dilations, strict=True)
            ]
            lacking = [max(0, end - size) for end, size in zip(reach, sizes, strict=True)]  # 0 for VALID
            before = [(lack + (padding == "SAME_LOWER")) // 2 for lack in lacking]
            after = [lack - front for lack, front in zip(lacking, before, strict=True)]
        return Windows(kernel, strides, dilations, before, after, sizes, counts)

    @property
    def spans(self) -> list[int]:
        """From the first to the last cell of a window."""
        return [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]

    @property
    def tile(self) -> bool:
        """Whether every cell of the plane is in exactly one window."""
        return (
            self.kernel == self.strides == self.spans
            and not any(self.before)
            and all(
                k * count == size for k, count, size in zip(self.kernel, self.counts, self.sizes, strict=True)
            )
        )

    def cells(self, padding: bool) -> NDArray[np.float64]:
        """How many cells each window has, with or without those in the padding."""
        product = np.ones(())
        for axis, size in enumerate(self.sizes):
            first, end = (-self.before[axis], size + self.after[axis]) if padding else (0, size)
            starts = np.arange(self.counts[axis])[:, None] * self.strides[axis] - self.before[axis]
            places = starts + np.arange(self.kernel[axis]) * self.dilations[axis]
            product = np.multiply.outer(product, np.sum((places >= first) & (places < end), axis=1))
        return product

    def spread(self, op: Operators, dy: Tensor, x: Tensor) -> Tensor:
        """Every cell's sum of dy over the windows that it is in: what the gradient of a window's sum is."""
        if self.tile:
            return enlarged(op, dy, self.kernel)
        behind = [  # by how much the last window reaches over the plane
            (count - 1) * s + span - front - size
            for count, s, span, front, size in zip(
                self.counts, self.strides, self.spans, self.before, self.sizes, strict=True
            )
        ]
        if set(self.strides + self.dilations) == {1}:  # then the windows around a cell are a pooling too
            pads = [k - 1 - pad for k, pad in zip(self.kernel * 2, self.before + behind, strict=True)]
            mean = op.AveragePool(dy, kernel_shape=self.kernel, pads=pads, count_include_pad=1)
            dx: Tensor = op.Mul(mean, float(np.prod(self.kernel)))
        else:
            planes = op.ConvTranspose(
                op.Reshape(dy, [-1, 1, *self.counts]),
                np.ones((1, 1, *self.kernel), dy.dtype),
                strides=self.strides,
                dilations=self.dilations,
                pads=self.before + [max(0, pad) for pad in behind],
                output_padding=[max(0, -pad) for pad in behind],
            )
            dx = op.Reshape(planes, op.shape(x))
        return dx


def enlarged(op: Operators, tensor: Tensor, factors: Sequence[int]) -> Tensor:
    """Every cell repeated along the axes of space."""
    scales = np.array([1, 1, *factors], np.float32)
    how = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
    repeated: Tensor = op.Resize(tensor, None, scales, **how)
    return repeated


@rule("MaxPool")
def max_pool(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    windows = Windows.of(node, x)
    if windows.tile:
        return (op.Where(first_of_tile(op, windows, node.output, x), enlarged(op, dy, windows.kernel), 0.0),)
    indices = node.outputs[1] if len(node.outputs) > 1 else None
    attributes = node.attributes
    if attributes.pop("storage_order", 0) or not indices:
        _, indices = op.MaxPool(x, **attributes, output=2)
    wide = np.promote_types(x.dtype, np.float32)  # ONNX Runtime's processors do not add up float16 here
    zeros, shares = op.zeros_like(op.cast(x, wide)), op.cast(dy, wide)
    zeros, indices, shares = (op.Reshape(tensor, [-1]) for tensor in (zeros, indices, shares))
    dx = op.ScatterElements(zeros, indices, shares, axis=0, reduction="add")
    return (op.cast(op.Reshape(dx, op.shape(x)), x.dtype),)


def first_of_tile(op: Operators, windows: Windows, y: Tensor, x: Tensor) -> Tensor:
    """Which cells are the first maxima of their windows: faster than asking MaxPool for indices.

    The cells of a window are numbered from the last to the first, so the first of several has the largest.
    """
    kernel = windows.kernel
    numbers = np.tile(np.arange(np.prod(kernel), 0, -1).reshape(kernel), windows.counts).astype(x.dtype)
    number = op.Mul(op.cast(op.Equal(x, enlarged(op, y, kernel)), x.dtype), numbers)
    largest = op.MaxPool(number, kernel_shape=kernel, strides=kernel)
    first: Tensor = op.Equal(number, enlarged(op, largest, kernel))
    return first


@rule("AveragePool")
def average_pool(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    windows = Windows.of(node, x)
    if node.attribute("ceil_mode", 0) and node.opset < 22:  # onnx may infer one window too many
        dy = op.Reshape(dy, [0, 0, *windows.counts])
    cells = windows.cells(padding=bool(node.attribute("count_include_pad", 0)))
    share = op.Mul(dy, (1 / (cells if np.ptp(cells) else cells.flat[0])).astype(dy.dtype))
    return (windows.spread(op, share, x),)


@rule("LpPool")
def lp_pool(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    p = node.attribute("p", 2)
    spread = Windows.of(node, x).spread(op, _over_norm(op, dy, node.output, p), x)
    return (op.Mul(spread, _slope_of_power(op, x, p)),)


@rule("GlobalLpPool")
def global_lp_pool(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    p = node.attribute("p", 2)
    return (op.Mul(_over_norm(op, dy, node.output, p), _slope_of_power(op, x, p)),)


def _over_norm(op: Operators, dy: Tensor, y: Tensor, p: int) -> Tensor:
    """dy / y^(p-1), zero where y is zero."""
    positive = op.Greater(y, 0.0)
    quotient: Tensor = op.Where(positive, op.Div(dy, op.Pow(op.Where(positive, y, 1.0), float(p - 1))), 0.0)
    return quotient


def _slope_of_power(op: Operators, x: Tensor, p: int) -> Tensor:
    """|x|^(p-1) with the sign of x."""
    slope: Tensor = op.Mul(op.Sign(x), op.Pow(op.Abs(x), float(p - 1)))
    return slope


@rule("GlobalAveragePool")
def global_average_pool(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    sizes = [size or 0 for size in x.shape[2:]]
    if all(sizes):
        share = op.Mul(dy, 1 / int(np.prod(sizes)))
    else:  # the batch was moved there
        share = op.Div(dy, op.cast(op.Div(op.Size(x), op.Size(dy)), dy.dtype))
    return (op.Expand(share, op.shape(x)),)


@rule("GlobalMaxPool")
def global_max_pool(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    sizes = [size or 0 for size in x.shape[2:]]
    first = op.ArgMax(op.Reshape(x, [0, 0, -1]), axis=2, keepdims=1)
    if all(sizes):
        number = np.arange(np.prod(sizes)).reshape(sizes)
    else:  # the batch was moved there
        plane = op.Shape(x, start=2)
        number = op.Reshape(op.Range(0, op.ReduceProd(plane, keepdims=0), 1), plane)
    return (op.Where(op.Equal(op.Reshape(first, [0, 0] + [1] * len(sizes)), number), dy, 0.0),)


@rule("LRN")
def lrn(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    """With y = x s^-beta and s = bias + alpha mean(x^2): dx = dy s^-beta - 2 alpha beta x mean'(dy y / s)."""
    size, alpha = node.attribute("size"), node.attribute("alpha", 1e-4)
    beta, bias = node.attribute("beta", 0.75), node.attribute("bias", 1.0)
    before = (size - 1) // 2

    def mean(values: Tensor, before: int) -> Tensor:
        """Over `size` channels, `before` of them in front; the missing ones at the ends count as zero."""
        columns = op.Unsqueeze(op.Reshape(values, [0, 0, -1]), [1])
        pads = [before, 0, size - 1 - before, 0]
        columns = op.AveragePool(columns, kernel_shape=[size, 1], pads=pads, count_include_pad=1)
        pooled: Tensor = op.Reshape(columns, op.shape(x))
        return pooled

    s = op.Add(op.Mul(mean(op.Mul(x, x), before), alpha), bias)
    falls = mean(op.Div(op.Mul(dy, node.output), s), size - 1 - before)
    return (op.Sub(op.Mul(dy, op.Pow(s, -beta)), op.Mul(op.Mul(x, falls), 2 * alpha * beta)),)
