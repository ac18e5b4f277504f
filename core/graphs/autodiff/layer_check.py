"""Is every gradient of a network right? Each node is checked by itself, with the network's own values.

The values come from a picture, so that roots, logarithms and variances are where they will be used. What
onnx's reference implementation would be slow on is cut to a window; nodes of the same operator, attributes
and shapes are checked once.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnx
from onnx import defs, helper, numpy_helper

from cnnkit.errors import ModelError
from cnnkit.graphs.autodiff.backward import between, gradients
from cnnkit.graphs.autodiff.check import TOLERANCE, WEIGHTS, measure
from cnnkit.graphs.autodiff.reference import Array, CannotCompute
from cnnkit.graphs.autodiff.rules import FLAT, RULES, Rule
from cnnkit.graphs.autodiff.rules.table import operator_of
from cnnkit.graphs.autodiff.windows import cut
from cnnkit.graphs.builder import IR_VERSION, Builder, declared_shape
from cnnkit.graphs.layers import read_by
from cnnkit.graphs.loading import array_of
from cnnkit.graphs.model import Model
from cnnkit.graphs.opset import modernised
from cnnkit.graphs.tensors import Shape
from cnnkit.graphs.training import picture_shape

ON_RUNTIME = 1e-3
"""Relative error up to which ONNX Runtime's float32 counts as the same."""
Run = Callable[[onnx.ModelProto, Mapping[str, Array]], Mapping[str, Array]]
"""Runs a model in float32, on ONNX Runtime."""
Verdict = Literal["good", "wrong", "no rule", "refused", "not checked"]

_SETTINGS = {"Clip", "Resize", "Upsample", "Pad", "Dropout"}  # all but their first input are settings
_FLOATING = [np.dtype(kind) for kind in (np.float16, np.float32, np.float64)]
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)


@dataclass
class LayerCheck:
    """The gradient of one node with respect to one of its inputs.

    `what` is "input" for what depends on the picture, "weight" for the rest; `index` counts the node's inputs
    and `tensor` is its name. `error` is the relative error in float64, `error_on_runtime` that of ONNX
    Runtime's float32, None where there is none. `kinks` of `outputs` numbers were left out. `reason` is the
    sentence for every verdict but "good". `alike` are the names of the other layers that this one stands for.
    """

    layer: str
    operator: str
    shape: Shape | None
    what: Literal["input", "weight"]
    index: int
    tensor: str
    verdict: Verdict = "good"
    error: float | None = None
    error_on_runtime: float | None = None
    kinks: int = 0
    outputs: int = 0
    reason: str = ""
    alike: list[str] = field(default_factory=list)


class LayerChecker:
    """What of a network is differentiated, and the check of each piece.

    `of` is the tensor at the end, the first output by default; `layers` are patterns of the layers to check,
    all by default; `rules` are added to cnnkit's own. Raises UsageError for a pattern that names nothing.
    """

    def __init__(
        self,
        model: Model,
        of: str | None = None,
        layers: str | None = None,
        rules: Mapping[str, Rule] | None = None,
        seed: int = 0,
    ) -> None:
        graph = model.graph
        self._rules, self._seed = rules, seed
        self._table = {**RULES, **(rules or {})}
        self._picture = graph.input.name
        shape = picture_shape(model, None, None)
        modern = modernised(graph.skeleton)
        self._constants = {tensor.name: tensor for tensor in modern.graph.initializer}
        self._builder = Builder.extending(modern, {self._picture: shape}, graph.files)
        self._names = {part.tensor: part.name for part in model.parts}
        picked = {layer.tensor for layer in model.find(layers)} if layers else None
        end = of or graph.outputs[0].name
        flat = FLAT - self._table.keys()
        tensor = self._builder.tensor
        from_picture = between(self._builder, [tensor(self._picture)], tensor(end), flat)[1]
        weights = [tensor(name) for name in self._weights()]
        path, reached = between(self._builder, [tensor(self._picture), *weights], tensor(end), flat)
        self._from_picture, self._reached = from_picture, reached
        self._read = {end}.union(*map(read_by, path))
        self._path = [node for node in path if picked is None or picked.intersection(node.output)]
        self.checks = self._gather()

    def run(self, picture: Array, run: Run) -> Iterator[LayerCheck]:
        """Check everything, in the graph's order; `picture` is a batch for the network."""
        values = self._values(picture, run)
        for check, node in self.checks:
            self._judge(check, node, values, run)
            yield check

    def _weights(self) -> Iterator[str]:
        """What is trained: floating-point constants of one dimension or more; other numbers are settings."""
        kept = set(self._builder.weights)
        for node in self._builder.nodes:
            for index, name in enumerate(node.input):
                if name in kept and (index == 0 or node.op_type not in _SETTINGS):
                    tensor = self._builder.tensor(name)
                    if tensor.is_floating and tensor.rank:
                        kept.discard(name)
                        yield name

    def _gather(self) -> list[tuple[LayerCheck, onnx.NodeProto]]:
        """A check for each floating-point input of each node; those alike are joined."""
        found: dict[Any, tuple[LayerCheck, onnx.NodeProto]] = {}
        for node in self._path:
            name = self._names.get(node.output[0]) or node.name or node.output[0]
            for index, tensor in enumerate(node.input):
                setting = index and node.op_type in _SETTINGS
                if tensor not in self._reached or tensor in node.input[:index] or setting:
                    continue
                if self._builder.tensor(tensor).facts[0].dtype not in (None, *_FLOATING):
                    continue
                what: Literal["input", "weight"] = "input" if tensor in self._from_picture else "weight"
                key = (self._words(node), index, what)
                if key in found:
                    found[key][0].alike.append(name)
                else:
                    check = LayerCheck(
                        name, operator_of(node), self._shape(node.output[0]), what, index, tensor
                    )
                    found[key] = check, node
        return list(found.values())

    def _shape(self, name: str) -> Shape | None:
        tensor = self._builder.tensor(name)
        return None if tensor.facts[0].shape is None else tensor.shape

    def _words(self, node: onnx.NodeProto) -> Any:
        """What two nodes that are checked alike have in common: all but their names and their numbers."""
        bare = onnx.NodeProto(op_type=node.op_type, domain=node.domain)
        bare.attribute.extend(sorted(node.attribute, key=lambda attribute: attribute.name))
        described: list[Any] = []
        for name in node.input:
            if not name:
                described.append(None)
                continue
            fact, value = self._builder.tensor(name).facts[0], self._builder.tensor(name).value
            whole = value is not None and value.dtype.kind in "iub"
            described.append(
                (
                    list(node.input).index(name),
                    fact.shape,
                    fact.dtype,
                    name in self._from_picture,
                    name in self._reached,
                    value.tobytes() if value is not None and whole else None,
                )
            )
        return bare.SerializeToString(deterministic=True), len(node.output), repr(described)

    def _values(self, picture: Array, run: Run) -> dict[str, Array]:
        """What the nodes to be checked read, for a batch of pictures."""
        values, computed = {self._picture: picture}, []
        for _, node in self.checks:
            for name in dict.fromkeys(node.input):
                if not name or name in values:
                    continue
                known = self._builder.tensor(name).value
                if name in self._constants:
                    values[name] = array_of(self._constants[name], self._builder.files)
                elif known is not None:
                    values[name] = known
                elif self._builder.tensor(name).facts[0].dtype is not None:
                    computed.append(name)
        for name in dict.fromkeys(computed):
            self._builder.output(name)
        if computed:
            values |= run(self._builder.model(only=computed), {self._picture: picture})
        random = np.random.default_rng(self._seed)
        return {
            name: _without_zeros(value, random) if name in self._from_picture else value
            for name, value in values.items()
        }

    def _judge(self, check: LayerCheck, node: onnx.NodeProto, values: Mapping[str, Array], run: Run) -> None:
        """Fill in a check."""
        variable = self._from_picture if check.what == "input" else self._reached
        try:
            if check.operator not in self._table:
                check.verdict = "no rule"
            elif missing := [name for name in node.input if name and name not in values]:
                raise CannotCompute(f"the type of '{missing[0]}' does not follow from the graph")
            else:
                check.verdict = "refused"
            given = dict(zip(node.input, cut(node, [values.get(name) for name in node.input]), strict=True))
            exact, end = self._alone(node, variable, given, np.float64)
            if check.verdict == "no rule":
                gradients(exact, end, [check.tensor], exact.input(WEIGHTS, ()), self._rules)
            feeds = {name: _as(given[name], np.float64) for name in exact.inputs}
            found = measure(exact, end, feeds, [check.tensor], self._rules, seed=self._seed)
        except CannotCompute as error:
            check.verdict, check.reason = "not checked", str(error)
            return
        except ModelError as error:
            check.reason = str(error)
            return
        except Exception as error:  # a rule may be a stranger's
            check.verdict, check.reason = "wrong", f"the rule failed: {type(error).__name__}: {error}"
            return
        worst = max(found.slopes, key=lambda slope: slope.error)
        check.kinks, check.outputs, check.error = worst.kinks, worst.outputs, worst.error
        check.verdict = "good"
        if not worst.seen:
            check.verdict = "not checked"
            check.reason = f"{worst.kinks} of {worst.outputs} outputs lie at a kink or are rounded coarsely"
        elif worst.error > TOLERANCE and worst.drowned:
            check.verdict, check.reason = "not checked", "it is so flat here that rounding drowns its slope"
        on_runtime = self._on_runtime(check, node, variable, given, found.feeds, run)
        if isinstance(on_runtime, str):
            check.verdict, check.reason = "wrong", on_runtime
            return
        forward, check.error_on_runtime = (
            _apart(on_runtime[name], found.results[name]) for name in (end, f"gradient/{check.tensor}")
        )
        if forward > ON_RUNTIME:
            check.verdict = "not checked"
            check.reason = f"onnx.reference and ONNX Runtime compute different outputs, by {forward:.1e}"
        elif check.verdict == "good" and worst.error > TOLERANCE:
            check.verdict = "wrong"
            check.reason = f"slope {worst.measured:.9g}, by the gradient {worst.predicted:.9g}"
        elif check.verdict == "good" and check.error_on_runtime > ON_RUNTIME:
            check.verdict = "wrong"
            check.reason = f"ONNX Runtime's gradient is off by {check.error_on_runtime:.1e}"

    def _on_runtime(
        self,
        check: LayerCheck,
        node: onnx.NodeProto,
        variable: set[str],
        given: Mapping[str, Array],
        feeds: Mapping[str, Array],
        run: Run,
    ) -> Mapping[str, Array] | str:
        """The same in float32 on ONNX Runtime; or why not."""
        rough, end = self._alone(node, variable, given, np.float32)
        weights = rough.input(WEIGHTS, rough.tensor(end).shape, np.float32)
        found = gradients(rough, end, [check.tensor], weights, self._rules)
        for name in (end, found[check.tensor]):
            rough.output(name)
        read = {name: _as(feeds[name], np.float32) for name in rough.inputs if name in feeds}
        try:
            return run(rough.model(), read)
        except ModelError as error:
            return str(error)

    def _alone(
        self, node: onnx.NodeProto, variable: set[str], given: Mapping[str, Array], dtype: Any
    ) -> tuple[Builder, str]:
        """A graph of one node in another floating-point type, and the tensor of all its numbers.

        The number of pictures is open where it is in the network, unless sizes depend on it in other ways.
        """
        builder, end = self._piece(node, variable, given, dtype, "batch")
        sizes = declared_shape(builder.tensor(end)) or []
        if all(isinstance(size, int) for size in sizes[1:]) and sizes[:1] != [None]:
            return builder, end
        return self._piece(node, variable, given, dtype, None)

    def _piece(
        self,
        node: onnx.NodeProto,
        variable: set[str],
        given: Mapping[str, Array],
        dtype: Any,
        batch: str | None,
    ) -> tuple[Builder, str]:
        node = onnx.NodeProto.FromString(node.SerializeToString())
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i in _FLOATS:
                attribute.i = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        constants, inputs = [], []
        fixed = _fixed_types(node, self._builder.version(node.domain))
        for index, name in enumerate(node.input):
            if not name or name in node.input[:index]:
                continue
            array = given[name] if index in fixed else _as(given[name], dtype)
            tensor = self._builder.tensor(name)
            known = name in self._constants or tensor.value is not None
            if name in variable or not known:
                shape: list[Any] = list(array.shape)
                if (declared_shape(tensor) or [None])[0] == "batch":
                    shape[0] = batch or shape[0]
                kind = helper.np_dtype_to_tensor_dtype(array.dtype)
                inputs.append(helper.make_tensor_value_info(name, kind, shape))
            else:
                constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        opsets = [helper.make_opsetid(domain, self._builder.version(domain)) for domain in {"", node.domain}]
        graph = helper.make_graph([node], "layer", inputs, [], constants)
        made = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        builder = Builder.extending(made)
        ends = [
            builder.tensor(name)
            for name in node.output
            if name in self._read and builder.tensor(name).facts[0].dtype in (None, np.dtype(dtype))
        ]
        if len(ends) == 1:
            return builder, ends[0]
        op = builder.op
        return builder, op.Concat(*(op.Reshape(end, [-1]) for end in ends), axis=0)


def _fixed_types(node: onnx.NodeProto, version: int) -> set[int]:
    """The inputs that are float32 whatever the others are."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    if not defs.has(node.op_type, version, domain):
        return set()
    inputs = defs.get_schema(node.op_type, version, domain).inputs
    return {index for index, value in enumerate(inputs) if value.type_str == "tensor(float)"}


def _as(array: Array, dtype: Any) -> Array:
    return array.astype(dtype) if array.dtype.kind == "f" else array


def _without_zeros(array: Array, random: np.random.Generator) -> Array:
    """Zeros become small numbers above it: what a Relu leaves would be ties and kinks for the next layer."""
    if array.dtype.kind != "f" or not (zeros := array == 0).any():
        return array
    size = float(np.sqrt(np.mean(np.square(array, dtype=np.float64)))) or 1.0
    return np.where(zeros, 1e-3 * size * random.uniform(0.1, 1, array.shape), array).astype(array.dtype)


def _apart(found: Array, expected: Array) -> float:
    """The relative distance of two arrays."""
    length = float(np.linalg.norm(expected))
    return float(np.linalg.norm(found - expected)) / length if length else float(np.linalg.norm(found))


def worst_of(checks: Sequence[LayerCheck]) -> LayerCheck | None:
    """The check with the largest error, among those that have one."""
    return max(
        (check for check in checks if check.error is not None), key=lambda c: c.error or 0.0, default=None
    )
