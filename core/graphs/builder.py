"""Writing ONNX graphs as Python: `features = b.op.Relu(b.op.Conv(picture, kernel, bias))`."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
from numpy.typing import DTypeLike, NDArray
from onnx import defs, helper, numpy_helper

from cnnkit.errors import ModelError, did_you_mean
from cnnkit.graphs.checking import detached
from cnnkit.graphs.layers import read_by
from cnnkit.graphs.loading import Files, array_of
from cnnkit.graphs.opset import OPSET, modernised, opset_of
from cnnkit.graphs.tensors import BATCHES, RANDOM, Fact, Tensor, infer

IR_VERSION = 10
"""Of the files that cnnkit writes: any ONNX Runtime since 1.18 reads it."""

Size = int | str | None


class Builder:
    """Appends nodes one by one; every tensor is its name, which knows its shape and type.

    `op.<Operator>(*inputs, name=..., output=..., **attributes)` returns the node's output, or a tuple of them
    when `output` is a list (or a number: so many). An input may be a tensor, an array or numbers (they become
    a constant; plain floats take the type of the first floating-point input), or None for an optional input
    that is left out. A node without a name that is already there is not appended twice.
    """

    def __init__(self, name: str = "graph", opset: int = OPSET) -> None:
        self.opset = opset
        self.files: Files | None = None
        self.op = Operators(self)
        self._name = name
        self._opsets = {"": opset}
        self._ir_version = IR_VERSION
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._tensors: dict[str, Tensor] = {}
        self._known: tuple[dict[str, Fact], ...] = tuple({} for _ in BATCHES)
        self._fresh_numbers: Counter[str] = Counter()
        self._twins: dict[Any, Any] = {}
        self._fixed: set[str] = set()
        self._scope = ""

    @staticmethod
    def extending(
        model: onnx.ModelProto, sizes: Mapping[str, Sequence[Size]] | None = None, files: Files | None = None
    ) -> "Builder":
        """A builder that holds a model already and appends to it; the model has opset 18 or newer afterwards.

        `sizes` are the shapes of its inputs, where they are to differ from the declared ones. `files` are
        where its large weights stayed. Its outputs are not declared again. Raises ModelError.
        """
        model = modernised(model)
        builder = Builder(model.graph.name, opset_of(model))
        builder.files = files
        builder._ir_version = max(IR_VERSION, model.ir_version)
        builder._opsets = {_domain(entry.domain): entry.version for entry in model.opset_import}
        for tensor in model.graph.initializer:
            builder._initializers[tensor.name] = tensor
            builder._learn(tensor.name, [Fact.of_initializer(tensor)] * len(BATCHES))
        for value in model.graph.input:
            kind = value.type.tensor_type
            declared = [dim.dim_value or dim.dim_param for dim in kind.shape.dim]
            shape = (sizes or {}).get(value.name, declared)
            builder.input(value.name, shape, helper.tensor_dtype_to_np_dtype(kind.elem_type))
        for node in model.graph.node:
            builder._append_proto(node, strict=False)
        return builder

    @property
    def nodes(self) -> Sequence[onnx.NodeProto]:
        """The nodes so far, each after those whose outputs it reads."""
        return self._nodes

    @property
    def inputs(self) -> Sequence[str]:
        """The names of what the graph is fed."""
        return [value.name for value in self._inputs]

    @property
    def weights(self) -> Sequence[str]:
        """The names of the constants that the graph keeps as initializers."""
        return list(self._initializers)

    def version(self, domain: str = "") -> int:
        """Of the operators of a domain."""
        return self._opsets.get(_domain(domain), 1)

    def tensor(self, name: str) -> Tensor:
        """The tensor of this name. Raises ModelError when there is none."""
        if name not in self._tensors:
            raise ModelError(f"the graph has no tensor '{name}'")
        return self._tensors[name]

    def input(self, name: str, shape: Sequence[Size], dtype: DTypeLike = np.float32) -> Tensor:
        """Declare an input; a size is a number, a symbol, or None. A symbol in front is the batch."""
        self._inputs.append(declaration(name, shape, dtype))
        return self._learn(name, _facts(shape, dtype))

    def know(self, tensor: Tensor, shape: Sequence[Size]) -> Tensor:
        """The tensor, of whose shape more is known than follows from the graph; sizes are as in `input`."""
        self._set(tensor, _facts(shape, tensor.dtype))
        return tensor

    def constant(self, array: Any, name: str | None = None, dtype: DTypeLike = np.float32) -> Tensor:
        """Keep an array in the graph. A plain float, or floats in a list, become `dtype`.

        Equal unnamed numbers, lists and integer arrays are kept once; an array of floats may be a weight.
        """
        plain = not isinstance(array, np.ndarray) or array.dtype.kind in "iub" or not array.ndim
        array = _array(array, dtype)
        key = (array.dtype.str, array.shape, array.tobytes()) if name is None and plain else None
        if key in self._twins:
            return self._twins[key]  # type: ignore[no-any-return]
        name = name or self._fresh("constant")
        self._initializers[name] = numpy_helper.from_array(
            np.ascontiguousarray(array).reshape(array.shape), name
        )
        tensor = self._learn(name, [Fact.of_array(array)] * len(BATCHES))
        if key:
            self._twins[key] = tensor
        return tensor

    def weight(self, name: str, shape: Sequence[int], dtype: DTypeLike = np.float32) -> Tensor:
        """Declare a constant whose value `fill` gives later."""
        return self._learn(name, [Fact.of(dtype, tuple(shape))] * len(BATCHES))

    def fill(self, name: str, array: NDArray[Any]) -> None:
        """Give a declared weight its value, of the shape and type that were declared."""
        tensor = self.tensor(name)
        assert (array.shape, array.dtype) == (tensor.shape, tensor.dtype)
        self._initializers[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)

    def promote(self, name: str) -> NDArray[Any]:
        """Make an input of a constant; its value comes back."""
        tensor = self._initializers.pop(name, None)
        if tensor is None:
            raise ModelError(f"'{name}' is no weight of the network")
        value = array_of(tensor, self.files)
        self._inputs.append(declaration(name, value.shape, value.dtype))
        self._twins = {key: twin for key, twin in self._twins.items() if twin != name}
        self._relearn(name, [Fact.of(value.dtype, value.shape)] * len(BATCHES))
        return value

    def _relearn(self, name: str, facts: Sequence[Fact]) -> None:
        """Know something else of a tensor, and of all that followed from what was known."""
        self._set(name, facts)
        changed = {name}
        for node in self._nodes:
            if changed.isdisjoint(read_by(node)):
                continue
            for output, *now in zip(node.output, *self._inferred(node, strict=False), strict=True):
                both = list(zip(self._tensors[output].facts, now, strict=True)) if output else []
                if any(old.value is not None or old.type != new.type for old, new in both):
                    self._set(output, now)
                    changed.add(output)

    def _set(self, name: str, facts: Sequence[Fact]) -> None:
        for known, fact in zip(self._known, facts, strict=True):
            known[name] = fact
        self._tensors[name].facts = tuple(facts)

    def fixed(self, tensor: Tensor) -> Tensor:
        """The same numbers, which gradients take as given (`stop_gradient`, `detach`)."""
        twins = dict(self._twins)
        copy: Tensor = self.append("Identity", [tensor], output=self._fresh("fixed"))
        self._fixed.add(copy)
        self._twins = twins  # another Identity of the tensor is not fixed
        return copy

    def is_fixed(self, name: str) -> bool:
        return name in self._fixed

    def output(self, name: str, shape: Sequence[Size] | None = None, dtype: DTypeLike | None = None) -> str:
        """Declare a tensor as an output of the whole graph; shape and type are the inferred ones by
        default."""
        tensor = self.tensor(name)
        if any(output.name == name for output in self._outputs):
            return name
        self._outputs.append(declaration(name, shape or declared_shape(tensor), dtype or tensor.dtype))
        return name

    def model(
        self,
        metadata: Mapping[str, str] | None = None,
        only: Iterable[str] | None = None,
        given: Collection[str] = (),
    ) -> onnx.ModelProto:
        """The finished model, of only what its outputs need, checked by onnx.

        `only` picks some of the outputs; tensors in `given` are inputs in place of being computed.
        """
        wanted = set(only) if only is not None else {output.name for output in self._outputs}
        outputs = [output for output in self._outputs if output.name in wanted]
        nodes = needed_nodes(self._nodes, wanted, given)
        inputs = [
            *self._inputs,
            *(declaration(name, declared_shape(t := self._tensors[name]), t.dtype) for name in given),
        ]
        read = {name for node in nodes for name in read_by(node)} | wanted
        model = onnx.ModelProto(ir_version=self._ir_version, producer_name="cnnkit")
        model.opset_import.extend(helper.make_opsetid(*entry) for entry in self._opsets.items())
        helper.set_model_props(model, dict(metadata or {}))
        graph = model.graph
        graph.name = self._name
        graph.node.extend(nodes)
        graph.input.extend(value for value in inputs if value.name in read)
        graph.output.extend(outputs)
        graph.initializer.extend(tensor for name, tensor in self._initializers.items() if name in read)
        if self.files is None:
            onnx.checker.check_model(detached(model))
        return model

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Within it, the names of nodes without a name of their own begin with this one."""
        before, self._scope = self._scope, f"{self._scope}{name}/"
        try:
            yield
        finally:
            self._scope = before

    def append(
        self,
        operator: str,
        inputs: Sequence[Any],
        name: str | None = None,
        output: str | int | Sequence[str] | None = None,
        domain: str = "",
        **attributes: Any,
    ) -> Any:
        """What `op` does, for operators whose name is only known at run time. Raises ValueError."""
        if not _domain(domain) and not defs.has(operator, self.opset):
            known = {schema.name for schema in defs.get_all_schemas() if not schema.domain}
            hint = did_you_mean(operator, (name for name in known if defs.has(name, self.opset)))
            raise ValueError(f"ONNX (opset {self.opset}) has no operator '{operator}'.{hint}")
        floating = next((v.dtype for v in inputs if isinstance(v, Tensor) and v.is_floating), np.float32)
        names = [
            value if isinstance(value, str) else "" if value is None else self.constant(value, dtype=floating)
            for value in inputs
        ]
        while names and not names[-1]:
            names.pop()
        made = helper.make_node(operator, names, [], domain=domain, **attributes)
        if name is None and (output is None or isinstance(output, int)) and operator not in RANDOM:
            twin = self._twins.get(_words(made, output or 1))
            if twin:
                return twin[0] if output is None else twin
        if output is None:
            output = name if name and name not in self._tensors else self._fresh(name or operator)
            name = output
        elif isinstance(output, int):
            output = [self._fresh(operator) for _ in range(output)]
        made.output.extend([output] if isinstance(output, str) else output)
        made.name = name or made.output[0]
        tensors = self._append_proto(made, strict=True)
        return tensors[0] if isinstance(output, str) else tensors

    def _append_proto(self, node: onnx.NodeProto, strict: bool) -> tuple[Tensor, ...]:
        facts = self._inferred(node, strict)
        self._nodes.append(node)
        tensors = tuple(
            self._learn(name, list(facts_of_one)) if name else Tensor("", ())
            for name, *facts_of_one in zip(node.output, *facts, strict=True)
        )
        if all(tensors):
            self._twins.setdefault(_words(node, len(tensors)), tensors)
        return tensors

    def _inferred(self, node: onnx.NodeProto, strict: bool) -> list[list[Fact]]:
        """What follows for its outputs, for each number of pictures."""
        first, *others = self._known
        facts = [infer(node, first, self._opsets, strict)]
        for known in others:
            same = all(known.get(name) is first.get(name) for name in read_by(node))
            facts.append(facts[0] if same else infer(node, known, self._opsets, strict))
        return facts

    def _learn(self, name: str, facts: Sequence[Fact]) -> Tensor:
        if name in self._tensors:
            raise ModelError(f"the graph has two tensors called '{name}'; give one of them another name")
        self._tensors[name] = Tensor(name, ())
        self._set(name, facts)
        return self._tensors[name]

    def _fresh(self, stem: str) -> str:
        stem = self._scope + stem
        while True:
            name = f"{stem}_{self._fresh_numbers[stem]}"
            self._fresh_numbers[stem] += 1
            if name not in self._tensors:
                return name


class Operators:
    """`op.Conv(x, w)` appends a Conv; the methods in lower case are what rules and losses often need."""

    def __init__(self, builder: Builder) -> None:
        self._builder = builder

    def __getattr__(self, operator: str) -> Callable[..., Any]:
        def append(*inputs: Any, **attributes: Any) -> Any:
            return self._builder.append(operator, inputs, **attributes)

        return append

    def shape(self, tensor: Tensor) -> Any:
        """The shape of a tensor as an int64 tensor or a list; a constant unless it depends on the batch."""
        return self.Shape(tensor) if None in tensor.shape else np.array(tensor.shape, np.int64)

    def cast(self, tensor: Tensor, dtype: DTypeLike) -> Tensor:
        """The tensor in another element type; itself when it has it already."""
        if tensor.dtype == np.dtype(dtype):
            return tensor
        converted: Tensor = self.Cast(tensor, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
        return converted

    def pad(
        self,
        tensor: Tensor,
        before: Sequence[int] | NDArray[Any],
        after: Sequence[int] | NDArray[Any],
        axes: Sequence[int] | None = None,
        value: float | None = None,
    ) -> Tensor:
        """The tensor with a margin, of zeros by default, along some axes; itself where there is none.

        Every axis is written down: ONNX Runtime 1.31 mixes up the axes of a Pad that names some of them when
        it moves a Transpose past it.
        """
        pads = np.zeros((2, tensor.rank), np.int64)
        pads[:, range(tensor.rank) if axes is None else axes] = before, after
        padded: Tensor = self.Pad(tensor, pads.ravel(), value) if pads.any() else tensor
        return padded

    def fixed(self, tensor: Tensor) -> Tensor:
        """The same numbers, which gradients take as given (`stop_gradient`, `detach`)."""
        return self._builder.fixed(tensor)

    def zeros_like(self, tensor: Tensor) -> Tensor:
        zeros: Tensor = self.Expand(np.zeros((), tensor.dtype), self.shape(tensor))
        return zeros


def needed_nodes(
    nodes: Sequence[onnx.NodeProto], tensors: Iterable[str], given: Collection[str] = ()
) -> list[onnx.NodeProto]:
    """Those of the nodes, in their order, that these tensors need; those in `given` are there already."""
    needed = set(tensors)
    kept = []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            kept.append(node)
            needed |= read_by(node).difference(given)
    return kept[::-1]


def _words(node: onnx.NodeProto, outputs: int) -> tuple[bytes, int]:
    """What a node computes: the same for two nodes that differ in their names only."""
    bare = onnx.NodeProto(op_type=node.op_type, domain=_domain(node.domain))
    bare.input.extend(node.input)
    bare.attribute.extend(sorted(node.attribute, key=lambda attribute: attribute.name))
    return bare.SerializeToString(deterministic=True), outputs


def _domain(name: str) -> str:
    """The standard operators have two names for their domain."""
    return "" if name == "ai.onnx" else name


def _facts(shape: Sequence[Size], dtype: DTypeLike) -> list[Fact]:
    """What is known of a tensor of this shape, for each number of pictures."""
    sizes = tuple(size if isinstance(size, int) else None for size in shape)
    if sizes and sizes[0] is None:
        return [Fact.of(dtype, (batch, *sizes[1:])) for batch in BATCHES]
    return [Fact.of(dtype, sizes)] * len(BATCHES)


def _array(value: Any, floating: DTypeLike) -> NDArray[Any]:
    """Numbers as an array; plain floats in the floating-point type given."""
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value)
    array = np.asarray(value)
    if not array.size:
        return array.astype(np.int64)
    return array.astype(floating) if array.dtype == np.float64 else array


def declared_shape(tensor: Tensor) -> list[Size] | None:
    """The shape of a tensor as a file declares it: "batch" where it is the number of pictures."""
    shapes = [fact.shape for fact in tensor.facts]
    if any(shape is None for shape in shapes):
        return None
    columns = zip(*(shape or () for shape in shapes), strict=True)
    return [sizes[0] if len(set(sizes)) == 1 else "batch" if sizes == BATCHES else None for sizes in columns]


def declaration(name: str, shape: Sequence[Size] | None, dtype: DTypeLike) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)
