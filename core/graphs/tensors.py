"""What is known of a tensor before anything runs: its type, its shape, and small values.

Shape arithmetic (Shape, Gather, Concat, ... in front of a Reshape) is carried out here, node by node, so a
graph whose inputs have known sizes has known sizes everywhere.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import DTypeLike, NDArray
from onnx import TensorProto, defs, helper, numpy_helper, shape_inference

from cnnkit.errors import ModelError

Shape = tuple[int | None, ...]

SMALL = 4096
"""Numbers up to which a constant's value is kept as known."""
BATCHES = (2, 3)
"""A symbolic batch is looked at as both: what then differs depends on it."""
_HINT = 64  # numbers up to which a value is shown to shape inference: sizes, pads, axes, scales
_READS_ONLY_THE_SHAPE = ("Shape", "Size")
_POOLS, _POOLS_AGREE = ("MaxPool", "AveragePool", "LpPool"), 22
_LIKE_INPUT = ("GroupNormalization", "MeanVarianceNormalization")  # onnx has no shape inference for them
RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Dropout")
"""Operators of which two with the same inputs differ."""


@dataclass(frozen=True)
class Fact:
    """What is known of one tensor: nothing, its type with or without sizes, its value."""

    type: onnx.TypeProto | None = None
    value: NDArray[Any] | None = None

    @staticmethod
    def of(dtype: DTypeLike, shape: Shape | None, value: NDArray[Any] | None = None) -> "Fact":
        """From an element type and a shape, None for what is open."""
        element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return Fact(helper.make_tensor_type_proto(element, shape), value)

    @staticmethod
    def of_array(array: NDArray[Any]) -> "Fact":
        return Fact.of(array.dtype, array.shape, array if array.size <= SMALL else None)

    @staticmethod
    def of_initializer(tensor: TensorProto) -> "Fact":
        kind = helper.make_tensor_type_proto(tensor.data_type, tuple(tensor.dims))
        inside = tensor.data_location != TensorProto.EXTERNAL and math.prod(tensor.dims) <= SMALL
        return Fact(kind, numpy_helper.to_array(tensor) if inside else None)

    @cached_property
    def shape(self) -> Shape | None:
        if self.type is None or not self.type.tensor_type.HasField("shape"):
            return None
        dims = self.type.tensor_type.shape.dim
        return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in dims)

    @cached_property
    def dtype(self) -> np.dtype[Any] | None:
        if self.type is None or not self.type.tensor_type.elem_type:
            return None
        return helper.tensor_dtype_to_np_dtype(self.type.tensor_type.elem_type)

    @cached_property
    def size(self) -> int | None:
        """How many numbers, where that is known."""
        if self.shape is None or None in self.shape:
            return None
        return math.prod(size for size in self.shape if size is not None)

    @property
    def bytes(self) -> int:
        """In memory; 0 where the shape or the type is not known."""
        return (self.size or 0) * self.dtype.itemsize if self.dtype else 0


NOTHING = Fact()


class Tensor(str):
    """The name of a tensor in a graph, which also says what is known of it.

    A graph with a symbolic batch is looked at for two sizes of it: `facts` has an entry for each, and a size
    that differs between them depends on the batch.
    """

    facts: tuple[Fact, ...]

    def __new__(cls, name: str, facts: tuple[Fact, ...]) -> "Tensor":
        tensor = super().__new__(cls, name)
        tensor.facts = facts
        return tensor

    @property
    def shape(self) -> Shape:
        """Its sizes; None for one that depends on the batch. Raises ModelError when the rank is unknown."""
        shapes = [fact.shape for fact in self.facts]
        ranks = {None if shape is None else len(shape) for shape in shapes}
        if len(ranks) > 1 or None in ranks:
            raise ModelError(
                f"the shape of the tensor '{self}' does not follow from the graph and the size of its input; "
                "export the network with fixed sizes"
            )
        return tuple(
            sizes[0] if len(set(sizes)) == 1 else None
            for sizes in zip(*(shape or () for shape in shapes), strict=True)
        )

    def shape_for(self, batch: int) -> tuple[int, ...]:
        """Its sizes for a number of pictures, on which they depend linearly."""
        pairs = zip(*(fact.shape or () for fact in self.facts), strict=True)
        return tuple((a or 0) + (batch - BATCHES[0]) * ((b or 0) - (a or 0)) for a, b in pairs)

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The element type. Raises ModelError when it is unknown."""
        dtype = self.facts[0].dtype
        if dtype is None:
            raise ModelError(f"the type of the tensor '{self}' does not follow from the graph")
        return dtype

    @property
    def is_floating(self) -> bool:
        """Whether it can have a gradient."""
        return self.facts[0].dtype is not None and self.dtype.kind == "f"

    @property
    def value(self) -> NDArray[Any] | None:
        """Its value where that follows from the graph alone, is small, and is the same for every batch."""
        values = [fact.value for fact in self.facts]
        first = values[0]
        same = first is not None and all(v is not None and np.array_equal(first, v) for v in values[1:])
        return first if same else None


def infer(
    node: onnx.NodeProto, known: Mapping[str, Fact], opsets: Mapping[str, int], strict: bool = False
) -> list[Fact]:
    """What follows for the outputs of a node from what is known of its inputs.

    `opsets` is domain -> version. With `strict` a node that cannot be is a ValueError; else nothing follows.
    """
    inputs = [known.get(name, NOTHING) if name else NOTHING for name in node.input]
    domain = "" if node.domain == "ai.onnx" else node.domain
    version = opsets.get(domain, 1)
    if not domain and node.op_type in _LIKE_INPUT:
        return [Fact(inputs[0].type)]
    if _rounds_up(node):  # before opset 22 onnx counts a window that starts behind the plane; ORT never does
        schema = _schema(node.op_type, max(version, _POOLS_AGREE), domain)
    else:
        schema = _schema(node.op_type, version, domain)
    if schema is None:
        return [NOTHING] * len(node.output)
    types = _inferred_types(node, known, schema, opsets, strict)
    outputs = [Fact(types.get(name)) for name in node.output]
    values = _values(node, inputs, outputs, version)
    return [
        Fact.of_array(value) if value is not None and value.size <= SMALL else output
        for output, value in zip(outputs, values, strict=True)
    ]


def _rounds_up(node: onnx.NodeProto) -> bool:
    """Whether it is a pool with ceil_mode."""
    return (
        node.op_type in _POOLS
        and node.domain in ("", "ai.onnx")
        and any(attribute.name == "ceil_mode" and attribute.i for attribute in node.attribute)
    )


@cache
def _schema(operator: str, version: int, domain: str) -> defs.OpSchema | None:
    return defs.get_schema(operator, version, domain) if defs.has(operator, version, domain) else None


@cache
def _imports(opsets: tuple[tuple[str, int], ...]) -> list[onnx.OperatorSetIdProto]:
    return [helper.make_opsetid(domain, version) for domain, version in opsets]


def _inferred_types(
    node: onnx.NodeProto,
    known: Mapping[str, Fact],
    schema: defs.OpSchema,
    opsets: Mapping[str, int],
    strict: bool,
) -> Mapping[str, onnx.TypeProto]:
    has_graph = any(attribute.HasField("g") for attribute in node.attribute)
    names = known if has_graph else [name for name in node.input if name]
    types = {name: fact.type for name in names if (fact := known.get(name, NOTHING)).type is not None}
    if any(name and name not in types for name in node.input):
        return {}
    hints = {
        name: numpy_helper.from_array(np.asarray(value))
        for name in node.input
        if name and (value := known[name].value) is not None and value.size <= _HINT
    }
    imports = _imports(tuple(opsets.items()))
    try:
        return shape_inference.infer_node_outputs(schema, node, types, hints, opset_imports=imports)
    except Exception as error:  # the C++ inference of a damaged node can fail in any way
        if strict:
            shapes = ", ".join(f"{name} {known[name].shape}" for name in node.input if name)
            raise ValueError(f"{node.op_type} does not take {shapes}: {str(error).strip()}") from None
        return {}


def _values(
    node: onnx.NodeProto, inputs: Sequence[Fact], outputs: Sequence[Fact], version: int
) -> Sequence[NDArray[Any] | None]:
    """The outputs of a node whose inputs are all known and small; None where they are not."""
    unknown = [None] * len(node.output)
    if node.op_type == "Constant":
        value = helper.get_attribute_value(node.attribute[0])
        return [numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)]
    if node.domain not in ("", "ai.onnx") or node.op_type in RANDOM or _rounds_up(node):
        return unknown
    feeds = {}
    for name, fact in zip(node.input, inputs, strict=True):
        value = fact.value
        if node.op_type in _READS_ONLY_THE_SHAPE and fact.size is not None and fact.shape is not None:
            value = np.broadcast_to(np.zeros((), np.float32), [size or 0 for size in fact.shape])
        elif node.op_type == "CastLike" and name == node.input[1] and fact.dtype is not None:
            value = np.zeros((), fact.dtype)  # only its type is read
        if name and value is None:
            return unknown
        feeds[name] = value
    if any(fact.size is not None and fact.size > SMALL for fact in outputs):
        return unknown
    if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
        return unknown
    if any(fact.size is None for fact in outputs) and node.op_type != "NonZero":
        return unknown
    from onnx.reference import ReferenceEvaluator

    try:
        with np.errstate(all="ignore"):
            found = ReferenceEvaluator(node, opsets={"": version}).run(None, feeds)
        return [np.asarray(value) for value in found]
    except Exception:  # a value that cannot be had is simply not known
        return unknown
