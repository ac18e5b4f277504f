"""Which numbers of a plane a node reads for one number of its own, operator by operator."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import onnx
from onnx import helper

from cnnkit.graphs.graph import Graph
from cnnkit.graphs.opset import opset_of
from cnnkit.graphs.tensors import NOTHING, Fact

POINTWISE = set(
    "Relu LeakyRelu PRelu ThresholdedRelu Shrink HardSigmoid HardSwish Elu Selu Celu Sigmoid Softsign "
    "Softplus Swish Mish Gelu Tanh Erf Exp Log Sqrt Abs Neg Reciprocal Sin Cos Tan Asin Acos Atan Sinh Cosh "
    "Asinh Acosh Atanh Add Sub Mul Div Pow Mod Sum Mean Min Max Where Clip Identity Cast Dropout".split()
)
"""Operators that treat each number by itself, together with those at its place in other inputs."""

MOVES = set("Reshape Flatten Squeeze Unsqueeze Transpose Identity Cast".split())
"""Operators that keep every number, at another place."""

_LOCAL = set(
    "BatchNormalization LRN Expand CastLike Sign Floor Ceil Round IsNaN IsInf Not And Or Xor Equal Greater "
    "GreaterOrEqual Less LessOrEqual QuantizeLinear DequantizeLinear".split()
)
_WHOLE = set(
    "InstanceNormalization GroupNormalization GlobalAveragePool GlobalMaxPool GlobalLpPool Gemm Einsum "
    "Attention".split()
)

Pair = tuple[int, int]


class Whole(Exception):
    """What a node does that is no window; the message goes on from its name."""


class Window(NamedTuple):
    """For its number i a node reads stride·i + first … stride·i + last; fractions are bounds.

    `needs` is how many numbers the plane must have at least.
    """

    stride: Fraction = Fraction(1)
    first: Fraction = Fraction(0)
    last: Fraction = Fraction(0)
    needs: int = 1


SAME = Window()


@dataclass(frozen=True)
class Reader:
    """A node that reads a plane.

    `known` says what is known of each tensor, for pictures of two sizes; `planes` are the tensors that lie
    over the picture as the one does whose height and width are on `axes`, of `lengths` for each size.
    """

    node: onnx.NodeProto
    graph: Graph
    known: Sequence[Mapping[str, Fact]]
    planes: Collection[str]
    axes: Pair
    lengths: Sequence[Pair]

    def attribute(self, name: str, default: Any = None) -> Any:
        """As ONNX has it, texts decoded."""
        for attribute in self.node.attribute:
            if attribute.name == name:
                value = helper.get_attribute_value(attribute)
                return value.decode() if isinstance(value, bytes) else value
        return default

    def told(self, name: str, *places: int) -> Any:
        """A setting that is an attribute or, in other opsets, an input; None where it is absent.

        Raises Whole where it is only known when the network runs, or depends on the picture's size.
        """
        for place in places:
            if place < len(self.node.input) and self.node.input[place]:
                first, *others = (known[self.node.input[place]].value for known in self.known)
                if first is None or any(other is None or (other != first).any() for other in others):
                    raise Whole("is told what to do only when the network runs")
                if first.size:
                    return first.tolist()
        return self.attribute(name)

    def shape(self, name: str) -> Sequence[int | None]:
        return self.known[0].get(name, NOTHING).shape or ()

    @property
    def made(self) -> Pair:
        """(height, width) of the output, at the first size. Raises Whole."""
        shape = self.shape(self.node.output[0])
        height, width = (shape[axis] if len(shape) == 4 else None for axis in self.axes)
        if not height or not width:
            raise Whole("makes something else of the plane")
        return height, width


def windows(reader: Reader) -> tuple[Window, Window]:
    """How a node reads its plane, down and across. Raises Whole."""
    kind = reader.node.op_type
    if reader.node.domain not in ("", "ai.onnx"):
        raise Whole("is not known to look nearby only")
    if kind in _RULES:
        return _RULES[kind](reader)
    if kind in POINTWISE:
        return _at_each_place(reader)
    if kind in _LOCAL:
        return SAME, SAME
    raise Whole("looks at the whole picture" if kind in _WHOLE else "is not known to look nearby only")


def regained(before: Sequence[Pair], after: Sequence[Pair]) -> tuple[Window, Window] | None:
    """The windows of nodes that moved numbers, as a pixel shuffle does, by the lengths of both planes."""
    found = []
    for axis in (0, 1):
        factors = {Fraction(new[axis], old[axis]) for old, new in zip(before, after, strict=True)}
        factor = factors.pop()
        if factors or (factor.numerator != 1 and factor.denominator != 1):
            return None
        found.append(_blocks(factor))
    return found[0], found[1]


def _blocks(factor: Fraction) -> Window:
    """Each number becomes so many, or, where it is a fraction, so many become one."""
    return Window(1 / factor, min(Fraction(0), 1 / factor - 1), max(Fraction(0), 1 / factor - 1))


Two = tuple[Window, Window]


def _at_each_place(reader: Reader) -> Two:
    for name in set(reader.node.input) - set(reader.planes):
        shape = reader.shape(name)
        if any(axis - 4 >= -len(shape) and shape[axis - 4] != 1 for axis in reader.axes):
            raise Whole("has a number of its own for every place")
    return SAME, SAME


def _sliding(reader: Reader) -> Two:
    """A convolution or a pool."""
    found = []
    for axis, made in enumerate(reader.made):
        kernel, stride, dilation = _kernel(reader, axis)
        length = reader.lengths[0][axis]
        extent = (kernel - 1) * dilation + 1
        before, after = _pads(reader, axis, (made - 1) * stride + extent - length)
        needs = max(1, extent - before - after)
        found.append(Window(Fraction(stride), Fraction(-before), Fraction(extent - 1 - before), needs))
    return found[0], found[1]


def _spreading(reader: Reader) -> Two:
    """A transposed convolution: number o takes from the i for which o = stride·i - pad + one of the taps."""
    found = []
    for axis, made in enumerate(reader.made):
        kernel, stride, dilation = _kernel(reader, axis)
        length = reader.lengths[0][axis]
        extent = (kernel - 1) * dilation + 1
        added = reader.attribute("output_padding", [0, 0])[axis]
        before, _ = _pads(reader, axis, (length - 1) * stride + extent + added - made)
        first, last = Fraction(before - extent + 1, stride), Fraction(before, stride)
        found.append(Window(Fraction(1, stride), first, last))
    return found[0], found[1]


def _kernel(reader: Reader, axis: int) -> tuple[int, int, int]:
    """(size, stride, dilation) along an axis. Raises Whole."""
    if reader.axes != (2, 3):
        raise Whole("slides along the channels")
    sizes = reader.attribute("kernel_shape")
    if not sizes:
        sizes = reader.shape(reader.node.input[1])[2:]
    strides, dilations = (reader.attribute(name, [1, 1]) for name in ("strides", "dilations"))
    return sizes[axis], strides[axis], dilations[axis]


def _pads(reader: Reader, axis: int, missing: int) -> Pair:
    """Before and behind the plane; `missing` numbers are made up where the node counts them itself."""
    mode = reader.attribute("auto_pad", "NOTSET")
    if mode == "VALID":
        return 0, 0
    if mode == "NOTSET" and not reader.attribute("output_shape"):
        pads = reader.attribute("pads", [0] * 4)
        return pads[axis], pads[axis + 2]
    less = max(0, missing) // 2
    more = max(0, missing) - less
    return (less, more) if mode == "SAME_UPPER" else (more, less)


def _pad(reader: Reader) -> Two:
    pads = reader.told("pads", 1)
    axes = reader.told("axes", 3) or range(len(pads) // 2)
    mode = reader.attribute("mode", "constant")
    if mode == "wrap":
        raise Whole("puts the other side of the picture beside it")
    along = {axis % 4: (pads[n], pads[n + len(pads) // 2]) for n, axis in enumerate(axes)}
    found = []
    for axis in reader.axes:
        before, after = along.get(axis, (0, 0))
        found.append(_shifted(-before, max(before, after) + 1 if mode == "reflect" else 1))
    return found[0], found[1]


def _shifted(by: int, needs: int = 1) -> Window:
    return Window(first=Fraction(by), last=Fraction(by), needs=needs)


def _slice(reader: Reader) -> Two:
    starts, axes, steps = (
        reader.told(name, place) for name, place in (("starts", 1), ("axes", 3), ("steps", 4))
    )
    axes = [axis % 4 for axis in axes or range(len(starts))]
    found = []
    for which, axis in enumerate(reader.axes):
        if axis not in axes:
            found.append(SAME)
            continue
        place = axes.index(axis)
        start, step = starts[place], steps[place] if steps else 1
        if step < 0 or (start < 0 and -start < reader.lengths[0][which]):
            raise Whole("begins at the other side of the picture")
        found.append(Window(Fraction(step), Fraction(max(0, start)), Fraction(max(0, start))))
    return found[0], found[1]


def _resize(reader: Reader) -> Two:
    asymmetric = reader.node.op_type == "Upsample" or opset_of(reader.graph.skeleton) < 11
    grid = "asymmetric" if asymmetric else reader.attribute("coordinate_transformation_mode", "half_pixel")
    mode = reader.attribute("mode", "nearest")
    scales = None if len(reader.node.input) > 3 else reader.told("scales", *([1] if asymmetric else [2]))
    axes = [axis % 4 for axis in reader.attribute("axes", range(4))]
    along = dict(zip(axes, scales or (), strict=False))
    found = []
    for axis, length, made in zip(reader.axes, reader.lengths[0], reader.made, strict=True):
        scale = Fraction(along[axis]).limit_denominator(1000) if along else Fraction(made, length)
        if length == made:
            found.append(SAME)
            continue
        if grid not in _GRIDS:
            raise Whole("lays its grid by the size of the picture")
        centre = Fraction(0) if grid == "asymmetric" else 1 / (2 * scale) - Fraction(1, 2)
        apart = scale.numerator * (2 if centre else 1)  # places lie at such parts of a number
        before, behind = _mixed(reader, mode, asymmetric, 1 - Fraction(1, apart))
        wider = max(Fraction(1), 1 / scale) if reader.attribute("antialias", 0) else 1
        found.append(Window(1 / scale, centre - before * wider, centre + behind * wider))
    return found[0], found[1]


_GRIDS = {"half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric"}


def _mixed(reader: Reader, mode: str, old: bool, between: Fraction) -> tuple[Fraction, Fraction]:
    """How far from a place those numbers lie, before it and behind it, that are mixed there.

    `between` is how far behind a number a place can lie.
    """
    if mode == "nearest":
        rounding = "floor" if old else reader.attribute("nearest_mode", "round_prefer_floor")
        half = Fraction(1, 2)
        sides = {"floor": (between, Fraction(0)), "ceil": (Fraction(0), between)}
        return sides.get(rounding, (half, half))
    reach = Fraction(2 if mode == "cubic" else 1)
    return reach, reach


def _shuffle(reader: Reader) -> Two:
    block = Fraction(reader.attribute("blocksize"))
    window = _blocks(block if reader.node.op_type == "DepthToSpace" else 1 / block)
    return window, window


def _across(default: int | None = -1, behind: bool = False) -> Callable[[Reader], Two]:
    """An operator that mixes the numbers along its axes: those from one axis on (`behind`), or that one."""

    def rule(reader: Reader) -> Two:
        axis = reader.attribute("axis", default) % 4
        from_it_on = behind or ("Softmax" in reader.node.op_type and opset_of(reader.graph.skeleton) < 13)
        return _unless(reader, range(axis, 4) if from_it_on else [axis])

    return rule


def _reduced(reader: Reader) -> Two:
    return _unless(reader, reader.told("axes", 1) or range(4))


def _normalised(reader: Reader) -> Two:
    return _unless(reader, reader.attribute("axes", [0, 2, 3]))


def _repeated(reader: Reader) -> Two:
    return _unless(reader, [axis for axis, count in enumerate(reader.told("repeats", 1)) if count > 1])


def _unless(reader: Reader, mixed: Collection[int]) -> Two:
    """Each place by itself, unless the axes that are mixed are those of the picture."""
    if {axis % 4 for axis in mixed} & set(reader.axes):
        raise Whole("looks at the whole picture")
    return SAME, SAME


def _concat(reader: Reader) -> Two:
    _unless(reader, [reader.attribute("axis")])
    return _at_each_place(reader)


def _product(reader: Reader) -> Two:
    """A dense layer at every place: channels last, times a matrix."""
    weights = reader.shape(reader.node.input[1])
    if reader.node.input[0] in reader.planes and reader.axes == (1, 2) and len(weights) == 2:
        return SAME, SAME
    raise Whole("looks at the whole picture")


_RULES: Mapping[str, Callable[[Reader], Two]] = {
    **dict.fromkeys(("Conv", "MaxPool", "AveragePool", "LpPool"), _sliding),
    "ConvTranspose": _spreading,
    "Pad": _pad,
    "Slice": _slice,
    "Resize": _resize,
    "Upsample": _resize,
    "DepthToSpace": _shuffle,
    "SpaceToDepth": _shuffle,
    "Concat": _concat,
    "MatMul": _product,
    "Tile": _repeated,
    "MeanVarianceNormalization": _normalised,
    "LayerNormalization": _across(behind=True),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax", "LpNormalization"), _across()),
    **dict.fromkeys(("Split", "Gather", "ArgMax", "ArgMin"), _across(0)),
    **dict.fromkeys(
        (f"Reduce{name}" for name in "Max Min Mean Sum SumSquare Prod L1 L2 LogSum LogSumExp".split()),
        _reduced,
    ),
}
