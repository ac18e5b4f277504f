"""Running a graph in float64: onnx's own reference implementation, which is slow and says what is right.

Some of its operators are replaced (seen in onnx 1.23): `Erf`, and `Gelu` with it, rounds to float32,
`Pad` cannot cut, `ConvTranspose` takes minutes for many channels and is wrong for some groups, `MaxPool`
forgets the planes in its indices when it steps by one, and pools are wrong where ceil_mode lets windows reach
over the edge.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from cnnkit.errors import ModelError

Array = NDArray[Any]
Computes = Callable[..., Any]
"""What an operator computes, in numpy: its inputs as arguments, its attributes as keywords."""


class CannotCompute(ModelError):
    """There is nothing to compare a gradient with."""


class Reference:
    """A model, evaluated node by node in numpy.

    `computes` says what operators compute that onnx's reference implementation does not know, under the names
    that the table of rules has for them. Raises CannotCompute for an operator that nobody knows.
    """

    def __init__(self, model: onnx.ModelProto, computes: Mapping[str, Computes] | None = None) -> None:
        operators: list[type[OpRun]] = [
            Erf,
            Gelu,
            Pad,
            ConvTranspose,
            MaxPool,
            AveragePool,
            *(_operator(*entry) for entry in (computes or {}).items()),
        ]
        self.inputs = [value.name for value in model.graph.input]
        self.outputs = [value.name for value in model.graph.output]
        try:
            self._evaluator = ReferenceEvaluator(model, new_ops=operators)
        except Exception as error:  # it complains in many ways
            raise CannotCompute(f"onnx.reference cannot run it: {_sentence(error)}") from None

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs by name; of the feeds only the inputs are read. Raises CannotCompute."""
        try:
            with np.errstate(all="ignore"):
                values = self._evaluator.run(None, {name: feeds[name] for name in self.inputs})
        except Exception as error:
            raise CannotCompute(f"onnx.reference cannot run it: {_sentence(error)}") from None
        return {name: np.asarray(value) for name, value in zip(self.outputs, values, strict=True)}


_erf = np.vectorize(math.erf, otypes=["d"])


class Erf(OpRun):
    op_domain = ""

    def _run(self, x: Array) -> tuple[Array]:
        return (_erf(x).astype(x.dtype),)


class Gelu(OpRun):
    op_domain = ""

    def _run(self, x: Array, approximate: str | None = None) -> tuple[Array]:
        if approximate == "tanh":
            inner = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
        else:
            inner = _erf(x / math.sqrt(2))
        return ((x * (1 + inner) / 2).astype(x.dtype),)


class Pad(OpRun):
    op_domain = ""

    def _run(
        self,
        data: Array,
        pads: Array,
        value: Array | None = None,
        axes: Array | None = None,
        mode: str | None = None,
    ) -> tuple[Array]:
        """Margins first; then what negative pads cut off."""
        both = np.zeros((2, data.ndim), np.int64)
        both[:, slice(None) if axes is None else axes] = pads.reshape(2, -1)
        added = both.clip(min=0).T
        filled = {"constant_values": 0 if value is None else value} if mode in (None, "constant") else {}
        wide = np.pad(data, added, mode or "constant", **filled)  # type: ignore[call-overload]
        start, end = -both.clip(max=0)
        return (wide[tuple(slice(s, n - e) for s, e, n in zip(start, end, wide.shape, strict=True))],)


class ConvTranspose(OpRun):
    op_domain = ""

    def _run(
        self,
        x: Array,
        kernel: Array,
        bias: Array | None = None,
        auto_pad: str | None = None,
        dilations: Sequence[int] | None = None,
        group: int | None = None,
        kernel_shape: Sequence[int] | None = None,
        output_padding: Sequence[int] | None = None,
        output_shape: Sequence[int] | None = None,
        pads: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
    ) -> tuple[Array]:
        """Each input value adds its multiple of the kernel: one offset in the kernel at a time."""
        rank, groups = x.ndim - 2, group or 1
        strides, dilations = strides or [1] * rank, dilations or [1] * rank
        sizes = [
            stride * (size - 1) + dilation * (side - 1) + 1 + extra
            for size, side, stride, dilation, extra in zip(
                x.shape[2:], kernel.shape[2:], strides, dilations, output_padding or [0] * rank, strict=True
            )
        ]
        batch, channels = x.shape[:2]
        columns = x.reshape(batch, groups, channels // groups, -1)
        kernels = kernel.reshape(groups, channels // groups, *kernel.shape[1:])
        whole = np.zeros((batch, groups * kernel.shape[1], *sizes), x.dtype)
        for offset in itertools.product(*map(range, kernel.shape[2:])):
            share = _part(kernels, offset).swapaxes(1, 2) @ columns
            places = (
                slice(at * dilation, at * dilation + stride * (size - 1) + 1, stride)
                for at, dilation, stride, size in zip(offset, dilations, strides, x.shape[2:], strict=True)
            )
            part = _part(whole, places)
            part += share.reshape(batch, -1, *x.shape[2:])
        if auto_pad in ("SAME_UPPER", "SAME_LOWER") and not output_shape:
            output_shape = [size * stride for size, stride in zip(x.shape[2:], strides, strict=True)]
        first, last = (pads or [0] * 2 * rank)[:rank], (pads or [0] * 2 * rank)[rank:]
        if output_shape:
            surplus = [size - wanted for size, wanted in zip(sizes, output_shape, strict=True)]
            first = [s // 2 if auto_pad == "SAME_UPPER" else s - s // 2 for s in surplus]
            last = [s - before for s, before in zip(surplus, first, strict=True)]
        cut = _part(whole, (slice(a, n - b) for a, b, n in zip(first, last, sizes, strict=True)))
        return (cut if bias is None else cut + bias.reshape(-1, *[1] * rank),)


class MaxPool(OpRun):
    op_domain = ""

    def _run(self, x: Array, storage_order: int | None = None, **attributes: Any) -> tuple[Array, ...]:
        values = _windows(x, attributes, fill=-np.inf)
        largest = values.argmax(axis=0)  # the first of several
        y = np.take_along_axis(values, largest[None], axis=0)[0]
        if len(self.onnx_node.output) < 2:
            return (y,)
        planes = np.arange(math.prod(x.shape)).reshape(x.shape)
        if storage_order:
            plane = np.arange(math.prod(x.shape[2:])).reshape(x.shape[:1:-1]).T
            planes = (
                planes.reshape(*x.shape[:2], -1)[..., :1].reshape(*x.shape[:2], *[1] * plane.ndim) + plane
            )
        places = _windows(planes, attributes, fill=-1)
        return y, np.take_along_axis(places, largest[None], axis=0)[0].astype(np.int64)


class AveragePool(OpRun):
    op_domain = ""

    def _run(self, x: Array, count_include_pad: int | None = None, **attributes: Any) -> tuple[Array]:
        inside = np.ones((1, 1, *x.shape[2:]), x.dtype)
        counts = _windows(inside, attributes, 0, pads_count=bool(count_include_pad)).sum(axis=0)
        return (_windows(x, attributes, 0).sum(axis=0) / counts,)


def _windows(x: Array, attributes: Mapping[str, Any], fill: float, pads_count: bool = False) -> Array:
    """The cells of all windows: their place in the window comes first. Beyond the padding nothing counts."""
    rank, kernel = x.ndim - 2, attributes["kernel_shape"]
    strides, dilations = (attributes.get(name) or [1] * rank for name in ("strides", "dilations"))
    pads, padding = attributes.get("pads") or [0] * 2 * rank, attributes.get("auto_pad") or "NOTSET"
    counts, before, after, behind = [], [], [], []
    for axis, size in enumerate(x.shape[2:]):
        stride, span = strides[axis], (kernel[axis] - 1) * dilations[axis] + 1
        front, back = pads[axis], pads[axis + rank]
        if padding.startswith("SAME"):
            count = -(-size // stride)
            lacking = max(0, (count - 1) * stride + span - size)
            front = (lacking + (padding == "SAME_LOWER")) // 2
            back = lacking - front
        else:
            steps = (size + front + back - span) / stride
            count = (math.ceil(steps) if attributes.get("ceil_mode") else math.floor(steps)) + 1
            if (count - 1) * stride >= size + front:
                count -= 1
        counts.append(count)
        before.append(front)
        after.append(back)
        behind.append(max(0, (count - 1) * stride + span - size - front - back))
    edges = [(0, 0), (0, 0), *zip(before, after, strict=True)]
    whole = np.pad(x, edges, constant_values=1 if pads_count else fill)
    whole = np.pad(whole, [(0, 0), (0, 0), *((0, more) for more in behind)], constant_values=fill)
    cells = []
    for offset in itertools.product(*map(range, kernel)):
        places = (
            slice(at * dilation, at * dilation + stride * (count - 1) + 1, stride)
            for at, dilation, stride, count in zip(offset, dilations, strides, counts, strict=True)
        )
        cells.append(_part(whole, places))
    return np.stack(cells)


def _part(array: Array, places: Iterable[int | slice]) -> Array:
    """What lies at these places along the last axes."""
    where: Any = (..., *places)
    part: Array = array[where]
    return part


def _operator(name: str, compute: Computes) -> type[OpRun]:
    domain, _, kind = name.rpartition(".")

    def run(self: Any, *inputs: Any, **attributes: Any) -> tuple[Any, ...]:
        given = {a.name: onnx.helper.get_attribute_value(a) for a in self.onnx_node.attribute}
        found = compute(*inputs, **given)
        return found if isinstance(found, tuple) else (np.asarray(found),)

    return type(kind, (OpRun,), {"op_domain": domain, "_run": run})


def _sentence(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
