"""Convolution and its transpose.

A convolution moves a kernel over a large plane and makes a small one, along every axis

    small[o] = sum over t of  kernel[t] * large[stride * o + dilation * t - pad]

so each position t of the kernel, a *tap*, joins the small plane with a shifted and thinned-out view of the
large one. Both gradients follow from this line (Dumoulin & Visin, "A guide to convolution arithmetic for deep
learning", 2016): that of the large plane sends `kernel[t] * small` back to where the tap looked; that of the
kernel is, tap by tap, the product of the small plane and what the tap saw. A transposed convolution is the
same line with the two planes exchanged, so it shares all that is here.

Each gradient can be written in several ways that are the same in numbers and far apart in speed. On planes of
a few positions, where a convolution picture by picture is a thin product, both put channels last and multiply
the positions of all pictures at once. Else the gradient of the large plane is

- a convolution of stride 1 with the kernel flipped and its channels exchanged, where the stride was 1: the
  fastest operator of the runtime, which also flips constant kernels beforehand;
- a transposed convolution, where the stride was another, or where there are only a few channels to make;

and that of the kernel a product of planes for each tap, summed over the pictures. Where the stride is 1, the
shift of a tap along the first axis may as well be that of the small plane, backwards. So a single product has
all the taps: that of the small plane in all shifts along the first axis, and the large one in all along the
others. It needs fewer copies, and is wider.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cnnkit.graphs.autodiff.rules.table import Gradients, Node, Operators, Tensor, rule
from cnnkit.graphs.autodiff.rules.window import Sizes, Window

FEW_POSITIONS = 64
"""Smaller planes than this are multiplied for all pictures at once."""
MANY_POSITIONS = 256
"""The same where several taps share the cost of putting channels last, for the gradient of the kernel."""
FEW_CHANNELS = 8
"""Up to so many channels, those of a picture say, a product for a single tap is too thin to be fast."""

_BEFORE_THE_START = -(2**31)  # the end of a Slice that runs backwards through the whole axis


@rule("Conv")
def conv(
    op: Operators, node: Node, dy: Tensor, x: Tensor, kernel: Tensor, bias: Tensor | None = None
) -> Gradients:
    window = Window.of_conv(node, kernel, large=x)
    return (
        large_gradient(op, dy, kernel, window),
        lambda: kernel_gradient(op, dy, x, kernel, window),
        bias_gradient(op, dy),
    )


@rule("ConvTranspose")
def conv_transpose(
    op: Operators, node: Node, dy: Tensor, x: Tensor, kernel: Tensor, bias: Tensor | None = None
) -> Gradients:
    window = Window.of_conv_transpose(node, kernel, small=x)
    return (
        small_gradient(op, dy, kernel, window),
        lambda: kernel_gradient(op, x, dy, kernel, window),
        bias_gradient(op, dy),
    )


# ---- the gradient of the planes


def large_gradient(op: Operators, dy: Tensor, kernel: Tensor, window: Window) -> Tensor:
    """That of what a convolution read, from that of what it made."""
    if window.groups == 1 and _share(kernel, 1) <= FEW_CHANNELS:
        return _by_transposed_convolution(op, dy, kernel, window)
    if window.groups == 1 and window.positions < FEW_POSITIONS:
        return _by_products(op, dy, kernel, window)
    if (window.strides == 1).all():
        return _by_convolution(op, dy, kernel, window)
    return _by_transposed_convolution(op, dy, kernel, window)


def small_gradient(op: Operators, dy: Tensor, kernel: Tensor, window: Window) -> Tensor:
    """That of what a transposed convolution read: the convolution itself."""
    return _conv(
        op,
        dy,
        kernel,
        before=window.begins,
        behind=window.covered - window.begins - window.large,
        strides=window.strides.tolist(),
        dilations=window.dilations.tolist(),
        group=window.groups,
    )


def _by_convolution(op: Operators, dy: Tensor, kernel: Tensor, window: Window) -> Tensor:
    """Every number of the large plane is seen by the last tap first: the kernel backwards."""
    before = window.reach - window.begins
    return _conv(
        op,
        dy,
        _exchanged(op, _flipped(op, kernel, window), window.groups),
        before=before,
        behind=window.large + window.reach - window.small - before,
        dilations=window.dilations.tolist(),
        group=window.groups,
    )


def _by_transposed_convolution(op: Operators, dy: Tensor, kernel: Tensor, window: Window) -> Tensor:
    unread = window.large + window.begins - window.covered
    return op.ConvTranspose(  # type: ignore[no-any-return]
        dy,
        kernel,
        strides=window.strides.tolist(),
        dilations=window.dilations.tolist(),
        group=window.groups,
        pads=[*window.begins.tolist(), *np.maximum(0, -unread).tolist()],
        output_padding=np.maximum(0, unread).tolist(),
    )


def _by_products(op: Operators, dy: Tensor, kernel: Tensor, window: Window) -> Tensor:
    """One product for each tap, and sums of the products where taps looked at the same number.

    Tap t of position o looked at stride * (o + step) + phase, where t - pad = stride * step + phase.
    Products of one phase are added up, each shifted by its steps; then the phases are interleaved.
    """
    makers, channels = (size or 0 for size in kernel.shape[:2])
    numbers = op.Reshape(_channels_last(op, dy), [-1, makers])
    axes = [*window.planes, 0, 1]
    count = int(window.kernel.prod())
    matrices = op.Split(
        op.Reshape(op.Transpose(kernel, perm=axes), [count * makers, channels]),
        num_outputs=count,
        output=count,
        axis=0,
    )
    first = -window.begins // window.strides
    last = (window.reach - window.begins) // window.strides
    phases: dict[tuple[int, ...], list[Tensor]] = {}
    for tap, matrix in zip(window.taps, matrices, strict=True):
        steps, phase = np.divmod(tap - window.begins, window.strides)
        product = op.Reshape(op.MatMul(numbers, matrix), [-1, *window.small, channels])
        shifted = _padded(op, product, steps - first, last - steps, first_axis=1)
        phases.setdefault(tuple(phase.tolist()), []).append(shifted)
    sums = {phase: op.Sum(*shifted) for phase, shifted in phases.items()}
    plane = _interleaved(op, sums, window.strides.tolist())
    start = -first * window.strides
    plane = _slice(op, plane, start, start + window.large, first_axis=1)
    missing = window.large - np.array(plane.shape[1:-1], np.int64)
    return _channels_first(op, _padded(op, plane, 0 * missing, missing, first_axis=1))


def _interleaved(op: Operators, phases: dict[tuple[int, ...], Tensor], strides: Sequence[int]) -> Tensor:
    """Planes, channels last, that hold every stride-th number each; zeros where there is none.

    Side by side along the next axis and read as one, the planes take turns along this one.
    """
    zeros = op.zeros_like(next(iter(phases.values())))
    planes = [phases.get(phase, zeros) for phase in np.ndindex(*strides)]
    for axis, stride in reversed(list(enumerate(strides, start=1))):
        sizes: list[Any] = list(planes[0].shape[1:])
        sizes[axis - 1] *= stride
        turns = [planes[start : start + stride] for start in range(0, len(planes), stride)]
        if stride > 1:
            planes = [op.Reshape(op.Concat(*turn, axis=axis + 1), [-1, *sizes]) for turn in turns]
    return planes[0]


# ---- the gradient of the kernel and of the bias


def kernel_gradient(op: Operators, small: Tensor, large: Tensor, kernel: Tensor, window: Window) -> Tensor:
    """That of the kernel, from two planes: in a convolution the gradient of its output and its input."""
    thinned_out = window.groups > 1 and (window.strides > 1).any()
    enough = FEW_POSITIONS if window.kernel.prod() == 1 else MANY_POSITIONS
    by_planes = window.positions >= enough and not thinned_out
    if by_planes and _shifts_are_fewer(small, large, window):
        return _taps_by_shifts(op, small, large, window)
    parts = (_taps_by_planes if by_planes else _taps_by_channels)(op, small, large, window)
    makers, channels, *sizes = kernel.shape
    joined = op.Concat(*parts, axis=-1) if len(parts) > 1 else parts[0]
    turned = op.Transpose(
        op.Reshape(joined, [makers, *sizes, channels]),
        perm=[0, len(sizes) + 1, *range(1, len(sizes) + 1)],
    )
    return turned  # type: ignore[no-any-return]


def bias_gradient(op: Operators, dy: Tensor) -> Tensor:
    return op.ReduceSum(dy, [0, *range(2, dy.rank)], keepdims=0)  # type: ignore[no-any-return]


def _taps_by_planes(op: Operators, small: Tensor, large: Tensor, window: Window) -> list[Tensor]:
    """[groups, makers, channels] for each tap: for each picture a product over the positions of its planes.

    Few channels are first collected from all taps, which makes one wider product.
    """
    groups, positions = window.groups, window.positions
    rows = op.Reshape(small, [-1, groups, _share(small, groups), positions])
    seen = [
        op.Reshape(view, [-1, groups, _share(large, groups), positions])
        for view in _views(op, large, window, first_axis=2)
    ]
    if groups == 1 and _share(large, groups) <= FEW_CHANNELS and len(seen) > 1:
        seen = [op.Concat(*seen, axis=2)]
    return [
        op.ReduceSum(op.MatMul(rows, op.Transpose(view, perm=[0, 1, 3, 2])), [0], keepdims=0) for view in seen
    ]


def _shifts_are_fewer(small: Tensor, large: Tensor, window: Window) -> bool:
    """Whether shifting both planes makes fewer copies than the view of each tap."""
    first, others = int(window.kernel[0]), int(window.kernel[1:].prod())
    makers, channels = _share(small, 1), _share(large, 1)
    furthest = np.maximum(window.begins, window.reach - window.begins)
    return bool(
        window.groups == 1
        and (window.strides == 1).all()
        and (furthest < np.minimum(window.small, window.large)).all()
        and first * makers + others * channels < first * others * channels
    )


def _taps_by_shifts(op: Operators, small: Tensor, large: Tensor, window: Window) -> Tensor:
    """[makers, channels, *kernel]: a product of the small plane, shifted along its first axis, and the other.

    Both are as long as the large plane along the first axis, as long as the small one along the others.
    """
    backwards = [tap[:1] for tap in window.taps if not tap[1:].any()]
    forwards = [tap[1:] for tap in window.taps if not tap[0]]
    begin, begins = np.split(window.begins, [1])
    smalls = [_moved(op, small, tap - begin, window.large[:1], axes=[2]) for tap in backwards]
    larges = [_moved(op, large, begins - tap, window.small[1:], axes=window.planes[1:]) for tap in forwards]
    makers, channels = _share(small, 1), _share(large, 1)
    length = int(window.large[0] * window.small[1:].prod())
    rows = op.Reshape(op.Concat(*smalls, axis=1), [-1, len(smalls) * makers, length])
    columns = op.Reshape(op.Concat(*larges, axis=1), [-1, len(larges) * channels, length])
    products = op.ReduceSum(op.MatMul(rows, op.Transpose(columns, perm=[0, 2, 1])), [0], keepdims=0)
    taps = op.Reshape(products, [len(smalls), makers, len(larges), channels])
    turned = op.Transpose(taps, perm=[1, 3, 0, 2])
    return op.Reshape(turned, [makers, channels, *window.kernel])  # type: ignore[no-any-return]


def _moved(op: Operators, tensor: Tensor, by: Sizes, sizes: Sizes, axes: Sequence[int]) -> Tensor:
    """Along some axes of new sizes, with zeros where nothing was."""
    before = np.array([tensor.shape[axis] for axis in axes])
    return op.pad(tensor, by, sizes - before - by, axes)


def _taps_by_channels(op: Operators, small: Tensor, large: Tensor, window: Window) -> list[Tensor]:
    """The same with channels last: a product over the positions of all pictures at once.

    Views then are runs of channels, which are cheap to collect even where strides thin them out. A group of
    one channel is no matrix: it is multiplied number by number.
    """
    groups, makers, channels = window.groups, _share(small, window.groups), _share(large, window.groups)
    seen = _views(op, _channels_last(op, large), window, first_axis=1)
    small = op.Reshape(_channels_last(op, small), [-1, groups, makers])
    if channels == 1 and groups > 1:
        views = [op.Reshape(view, [-1, groups, 1]) for view in seen]
        sums = [op.ReduceSum(op.Mul(small, view), [0], keepdims=0) for view in views]
        return [op.Reshape(total, [groups, makers, 1]) for total in sums]
    if groups == 1:
        rows = op.Reshape(small, [-1, makers])
        return [op.Gemm(rows, op.Reshape(view, [-1, channels]), transA=1) for view in seen]
    rows = op.Transpose(small, perm=[1, 2, 0])
    views = [op.Transpose(op.Reshape(view, [-1, groups, channels]), perm=[1, 0, 2]) for view in seen]
    return [op.MatMul(rows, view) for view in views]


def _views(op: Operators, large: Tensor, window: Window, first_axis: int) -> list[Tensor]:
    """What each tap saw of the large plane, a plane as small as the small one."""
    missing = np.maximum(0, window.covered - window.begins - window.large)
    large = _padded(op, large, window.begins, missing, first_axis)
    span = window.strides * (window.small - 1) + 1
    return [_slice(op, large, tap, tap + span, first_axis, window.strides) for tap in window.taps]


# ---- tools


def _share(tensor: Tensor, groups: int) -> int:
    """The channels of one group."""
    channels = tensor.shape[1]
    assert channels is not None
    return channels // groups


def _channels_last(op: Operators, tensor: Tensor) -> Tensor:
    return op.Transpose(tensor, perm=[0, *range(2, tensor.rank), 1])  # type: ignore[no-any-return]


def _channels_first(op: Operators, tensor: Tensor) -> Tensor:
    return op.Transpose(tensor, perm=[0, tensor.rank - 1, *range(1, tensor.rank - 1)])  # type: ignore[no-any-return]


def _flipped(op: Operators, kernel: Tensor, window: Window) -> Tensor:
    axes = [axis for axis, size in zip(window.planes, window.kernel, strict=True) if size > 1]
    ones = [-1] * len(axes)
    return op.Slice(kernel, ones, [_BEFORE_THE_START] * len(axes), axes, ones) if axes else kernel


def _exchanged(op: Operators, kernel: Tensor, groups: int) -> Tensor:
    """The kernel with what it reads and what it makes exchanged, within each group."""
    makers, channels, *sizes = kernel.shape
    assert makers is not None and channels is not None
    if groups == 1:
        return op.Transpose(kernel, perm=[1, 0, *range(2, kernel.rank)])  # type: ignore[no-any-return]
    if makers == groups and channels == 1:
        return kernel
    split = op.Reshape(kernel, [groups, makers // groups, channels, *sizes])
    turned = op.Transpose(split, perm=[0, 2, 1, *range(3, kernel.rank + 1)])
    return op.Reshape(turned, [groups * channels, makers // groups, *sizes])  # type: ignore[no-any-return]


def _conv(
    op: Operators, x: Tensor, kernel: Tensor, before: Sizes, behind: Sizes, **attributes: Any
) -> Tensor:
    """A convolution whose pads may be negative: those cut."""
    sizes = np.array(x.shape[2:])
    x = _slice(op, x, np.maximum(0, -before), sizes - np.maximum(0, -behind), first_axis=2)
    pads = np.maximum(0, [*before, *behind]).tolist()
    return op.Conv(x, kernel, pads=pads, **attributes)  # type: ignore[no-any-return]


def _padded(op: Operators, tensor: Tensor, before: Sizes, behind: Sizes, first_axis: int) -> Tensor:
    """With zeros around the planes, whose axes stand together."""
    return op.pad(tensor, before, behind, range(first_axis, first_axis + len(before)))


def _slice(
    op: Operators,
    tensor: Tensor,
    starts: Sizes,
    ends: Sizes,
    first_axis: int,
    strides: Sizes | None = None,
) -> Tensor:
    axes = list(range(first_axis, first_axis + len(starts)))
    sizes = np.array([tensor.shape[axis] for axis in axes])
    steps = np.ones_like(starts) if strides is None else strides
    if not starts.any() and (ends >= sizes).all() and (steps == 1).all():
        return tensor
    return op.Slice(tensor, starts, ends, axes, steps)  # type: ignore[no-any-return]
