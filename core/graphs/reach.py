"""How far a network looks: which part of the picture each number of a plane can see.

Along one axis, number i of a plane sees the picture from step·i + low to step·i + high. A convolution, a pool
or a resize reads, for its number i, those from stride·i + first to stride·i + last of the plane before it;
`reads.py` has these windows. So both bounds follow from node to node, with fractions where a plane is finer
than the picture. Nodes for which they do not hold, as they mix all places, are noted and passed over.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

import onnx

from cnnkit.errors import ModelError
from cnnkit.graphs.graph import Graph
from cnnkit.graphs.layers import picture_nodes
from cnnkit.graphs.measure import infer_shapes
from cnnkit.graphs.reads import MOVES, POINTWISE, Reader, Whole, Window, regained, windows
from cnnkit.graphs.tensors import NOTHING

PROBES = ((960, 1920), (1920, 2880))
"""Sizes at which a graph of any size is looked at: multiples of every stride that networks have."""
LARGEST_STRIDE = 64

Axes = tuple[int, int]
Item = TypeVar("Item")


@dataclass(frozen=True)
class View:
    """Along one axis: number i sees the pixels from step·i + low to step·i + high."""

    step: Fraction = Fraction(1)
    low: Fraction = Fraction(0)
    high: Fraction = Fraction(0)

    def through(self, window: Window) -> "View":
        """The view of what reads this plane through a window."""
        return View(
            self.step * window.stride,
            self.low + self.step * window.first,
            self.high + self.step * window.last,
        )

    def up_to_the_ends(self, length: int, size: int) -> "View":
        """The view where the numbers that were cut off `length` others of a picture of a size count as seen.

        What a node puts in their place is not theirs.
        """
        return View(self.step, min(self.low, self.step - 1), max(self.high, size - self.step * length))

    def joined(self, other: "View") -> "View":
        """The view of a number that is made of both. Raises Whole where they do not lie over each other."""
        if self.step != other.step:
            raise Whole("joins planes of different sizes")
        return View(self.step, min(self.low, other.low), max(self.high, other.high))


@dataclass(frozen=True)
class Reach:
    """How a plane lies over the picture; pairs are (height, width).

    Number o of the plane is made of those pixels only that lie within `halo` pixels of what it covers, from
    o/scale to (o + 1)/scale. A part of the picture that begins at a multiple of `stride` makes the same
    numbers as the whole, up to the halo from where it was cut. Of sides that are multiples of `stride` the
    plane has scale·side - missing numbers. `whole` are the nodes for which this does not hold, by name, and
    what they do; the rest is then true of the other nodes.
    """

    scale: tuple[Fraction, Fraction]
    """Numbers of the plane to a pixel of the picture."""
    halo: tuple[int, int]
    """Pixels."""
    stride: tuple[int, int]
    """Pixels."""
    missing: tuple[int, int]
    """Numbers; negative where there are more than pixels."""
    smallest: tuple[int, int]
    """Pixels that the picture needs at least, for its margins to be mirrored and its kernels to be filled."""
    channels: int
    axis: int
    """Of the channels: 1 or 3."""
    whole: Mapping[str, str]


def reach(graph: Graph, tensor: str | None = None) -> Reach:
    """How far a plane of the graph looks: a tensor's, or its first output's.

    Raises ModelError when it does not lie over the picture.
    """
    name = tensor or graph.outputs[0].name
    walk = _Walk(graph.extract([name]))
    shape = walk.known[0][name].shape
    if name not in walk.planes or walk.planes[name].axes is None or shape is None:
        sizes = ", ".join("?" if size is None else str(size) for size in shape or ())
        raise ModelError(f"the tensor '{name}', ({sizes}), does not lie over the picture")
    plane = walk.planes[name]
    axis = 1 if plane.axes == (2, 3) else 3
    return Reach(
        scale=_pair(1 / view.step for view in plane.views),
        halo=_pair(_halo(view) for view in plane.views),
        stride=_pair(walk.strides),
        missing=_pair(
            math.floor(size / view.step) - length
            for size, view, length in zip(walk.sizes[0], plane.views, plane.lengths[0], strict=True)
        ),
        smallest=_pair(walk.smallest),
        channels=shape[axis] or 0,
        axis=axis,
        whole=walk.whole,
    )


def _halo(view: View) -> int:
    before, behind = math.floor(-view.low), math.floor(view.high - view.step) + 1  # pixels are whole
    return max(0, before, behind)


@dataclass(frozen=True)
class _Plane:
    """A tensor that lies over the picture, or one that was made of it by moving its numbers around.

    `axes` are those of height and width, None when they were lost, and `lengths` the (height, width) that
    they have, or had, for each probe. `mixed` says that a node looked at all of it since they were lost.
    """

    axes: Axes | None
    views: tuple[View, View]
    lengths: Sequence[tuple[int, int]]
    mixed: bool = False


class _Walk:
    """Goes through the nodes in their order and learns which of their outputs are planes."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        height, width = graph.size
        self.sizes = [(height or high, width or wide) for high, wide in PROBES]
        self.known = [infer_shapes(graph, *size) for size in self.sizes]
        self.names = {part.tensor: part.name for part in graph.parts}
        axes = (2, 3) if graph.layout == "nchw" else (1, 2)
        self.planes = {graph.input.name: _Plane(axes, (View(), View()), self.sizes)}
        self.whole: dict[str, str] = {}
        self.strides = [1, 1]
        self.smallest = [1, 1]
        for node in picture_nodes(graph.skeleton.graph, graph.input.name):
            self._visit(node)
        for axis in (0, 1):
            if not graph.size[axis]:
                self._settle(axis)

    def _visit(self, node: onnx.NodeProto) -> None:
        read = [self.planes[name] for name in node.input if name in self.planes]
        if not read:  # only its inner graphs do
            return
        planes = [plane for plane in read if plane.axes]
        made, mixed = None, not planes and all(plane.mixed for plane in read)
        try:
            if planes and node.op_type not in MOVES:
                made = self._through(node, planes)
            elif not planes and not mixed and node.op_type not in MOVES | POINTWISE:
                raise Whole("looks at the whole picture")
        except Whole as reason:
            self._note(node.output[0], str(reason))
            mixed = True
        for name in filter(None, node.output):
            found = self._of_size(name, *made) if made else None
            plane = found or self._moved(node, name, (planes or read)[0], mixed)
            self.planes[name] = plane
            if plane.axes:
                self._heed(plane.views)

    def _through(self, node: onnx.NodeProto, planes: Sequence[_Plane]) -> tuple[Axes, tuple[View, View]]:
        """Where the output of a node lies. Raises Whole."""
        first = planes[0]
        assert first.axes
        reader = Reader(node, self.graph, self.known, self.planes, first.axes, first.lengths)
        views = list(first.views)
        for other in planes[1:]:
            if other.axes != first.axes:
                raise Whole("joins planes of different axes")
            views = [view.joined(another) for view, another in zip(views, other.views, strict=True)]
        for axis, window in enumerate(windows(reader)):
            size, length = self.sizes[0][axis], first.lengths[0][axis]
            missing = math.floor(size / views[axis].step) - length
            needed = math.ceil((window.needs + missing) * views[axis].step)
            self.smallest[axis] = max(self.smallest[axis], needed)
            if window.first < 0 or window.last > length - 1 - window.stride * (reader.made[axis] - 1):
                views[axis] = views[axis].up_to_the_ends(length, size)
            views[axis] = views[axis].through(window)
        return first.axes, _pair(views)

    def _of_size(self, name: str, axes: Axes, views: tuple[View, View]) -> _Plane | None:
        """The plane of an output, if its size follows that of the picture as its views say."""
        lengths = self._lengths(name, axes)
        if lengths is None:
            return None
        (small, large), (before, after) = self.sizes, lengths
        grown = all(
            (large[axis] - small[axis]) / views[axis].step == after[axis] - before[axis] for axis in (0, 1)
        )
        if not grown:
            self._note(name, "has a size that does not follow the picture's")
        return _Plane(axes, views, lengths) if grown else None

    def _moved(self, node: onnx.NodeProto, name: str, before: _Plane, mixed: bool) -> _Plane:
        """What becomes of a plane whose numbers were moved around, or mixed."""
        if before.axes and node.op_type == "Transpose":
            told = (list(attribute.ints) for attribute in node.attribute if attribute.name == "perm")
            order = next(told, [3, 2, 1, 0])
            axes = (order.index(before.axes[0]), order.index(before.axes[1]))
            if axes in ((1, 2), (2, 3)):
                return _Plane(axes, before.views, before.lengths)
        if before.axes and node.op_type in ("Identity", "Cast"):
            return before
        for axes in ((2, 3), (1, 2)):
            lengths = self._lengths(name, axes)
            found = lengths and regained(before.lengths, lengths)
            if lengths and found and not (mixed and (1, 1) in lengths):  # one number for all places
                views = _pair(view.through(part) for view, part in zip(before.views, found, strict=True))
                return _Plane(axes, views, lengths)
        return _Plane(None, before.views, before.lengths, mixed)

    def _lengths(self, name: str, axes: Axes) -> Sequence[tuple[int, int]] | None:
        """(height, width) of a tensor of four axes, for each probe."""
        shapes = [known.get(name, NOTHING).shape or () for known in self.known]
        if any(len(shape) != 4 or None in (shape[axes[0]], shape[axes[1]]) for shape in shapes):
            return None
        return [(shape[axes[0]] or 0, shape[axes[1]] or 0) for shape in shapes]

    def _note(self, tensor: str, what: str) -> None:
        self.whole.setdefault(self.names.get(tensor, tensor), what)

    def _heed(self, views: tuple[View, View]) -> None:
        """Parts of the picture have to begin where a number of each plane does."""
        for axis, view in enumerate(views):
            self.strides[axis] = math.lcm(self.strides[axis], view.step.numerator)

    def _settle(self, axis: int) -> None:
        """A network may pad or resize the picture to multiples of a number: that is its stride, then."""
        misfit, least = None, self.strides[axis]
        strides = range(least, LARGEST_STRIDE + 1, least)
        for stride in (stride for stride in strides if self.sizes[0][axis] % stride == 0):
            misfit = self._misfit(axis, stride)
            if misfit is None:
                self.strides[axis] = stride
                return
        if misfit:
            self._note(misfit, "has a size that does not follow the picture's")

    def _misfit(self, axis: int, by: int) -> str | None:
        """The first plane, if any, that does not grow as the picture does when it grows by so many pixels."""
        known = infer_shapes(
            self.graph, *(size + by * (axis == one) for one, size in enumerate(self.sizes[0]))
        )
        for name, plane in self.planes.items():
            shape = known[name].shape
            grown = plane.lengths[0][axis] + by / plane.views[axis].step
            if plane.axes and (shape is None or shape[plane.axes[axis]] != grown):
                return name
        return None


def _pair(items: Iterable[Item]) -> tuple[Item, Item]:
    first, second = items
    return first, second
