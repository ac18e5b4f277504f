"""Reverse mode: the gradient of one tensor with respect to others, as nodes appended to the same graph.

The graph is walked from its end. Each node on the way from the tensors asked about is handed to the rule of
its operator, which turns the gradient of its output into those of its inputs. `docs/gradients.md` builds the
same thing from nothing.
"""

from collections.abc import Iterable, Mapping, Sequence, Set

import onnx

from cnnkit.errors import ModelError
from cnnkit.graphs.autodiff.rules import FLAT, RULES, Node, Rule
from cnnkit.graphs.autodiff.rules.table import Gradients, operator_of
from cnnkit.graphs.builder import Builder, needed_nodes
from cnnkit.graphs.layers import read_by
from cnnkit.graphs.tensors import Tensor


def gradients(
    builder: Builder,
    of: str,
    wrt: Iterable[str],
    seed: Tensor | None = None,
    rules: Mapping[str, Rule] | None = None,
) -> dict[str, Tensor]:
    """Append the gradient of the sum of a tensor with respect to others, and return it by their names.

    Each gradient has the shape and type of its tensor; its name is `gradient/` and that of the tensor.
    `seed`, of the shape of `of`, are weights in place of a plain sum. `rules` are added to cnnkit's own and
    win over them. Only nodes between `wrt` and `of` are differentiated.

    Raises ModelError for a tensor in `wrt` that has no influence on `of`, for an operator without a rule, and
    for one that cannot be differentiated as it is used.
    """
    op = builder.op
    end, starts = builder.tensor(of), [builder.tensor(name) for name in dict.fromkeys(wrt)]
    table = {**RULES, **(rules or {})}
    path, reached = between(builder, starts, end, FLAT - table.keys())
    for start in starts:
        if start not in reached or not start.is_floating:
            raise ModelError(f"'{of}' does not depend on '{start}' in a way that has a gradient")
    with builder.scope("gradient"):
        if seed is None:
            seed = op.Expand(_one(end), op.shape(end)) if end.shape else builder.constant(_one(end))
    sums: dict[str, Tensor] = {end: seed}
    for node in reversed(path):
        arriving = tuple(sums.get(name) if name else None for name in node.output)
        if all(gradient is None for gradient in arriving):
            continue
        with builder.scope(f"gradient/{node.name or node.output[0]}"):
            view = _view(builder, node, arriving)
            for tensor, gradient in zip(view.inputs, _apply(builder, view, table), strict=False):
                if tensor is not None and gradient is not None and tensor in reached:
                    gradient = gradient() if callable(gradient) else gradient
                    gradient = _summed_to(builder, view, gradient, tensor)
                    sums[tensor] = op.Add(sums[tensor], gradient) if tensor in sums else gradient
    for start in starts:
        if start not in sums:
            raise ModelError(f"'{of}' does not depend on '{start}' in a way that has a gradient")
    return {start: op.Identity(sums[start], name=f"gradient/{start}") for start in starts}


def between(
    builder: Builder, starts: Sequence[Tensor], end: Tensor, flat: Set[str]
) -> tuple[list[onnx.NodeProto], set[str]]:
    """The nodes that carry a change of `starts` on to `end`, and the tensors that feel it."""
    reached: set[str] = set(starts)
    path = []
    for node in needed_nodes(builder.nodes, [end]):
        if operator_of(node) not in flat and reached.intersection(read_by(node)):
            changed = [name for name in node.output if name and _can_change(builder, name)]
            reached.update(changed)
            if changed:
                path.append(node)
    return path, reached


def _can_change(builder: Builder, name: str) -> bool:
    """Whether a small change can show in a tensor. One of unknown type counts, or its share would be lost."""
    dtype = builder.tensor(name).facts[0].dtype
    return not builder.is_fixed(name) and (dtype is None or dtype.kind not in "biuOSU")


def _view(builder: Builder, node: onnx.NodeProto, arriving: tuple[Tensor | None, ...]) -> Node:
    inputs, outputs = (
        tuple(builder.tensor(name) if name else None for name in names) for names in (node.input, node.output)
    )
    return Node(node, inputs, outputs, arriving, builder.version(node.domain))


def _apply(builder: Builder, node: Node, table: Mapping[str, Rule]) -> Gradients:
    if node.operator not in table:
        raise ModelError(
            f"there is no gradient rule for the operator {node.operator} (opset {node.opset}), which the "
            f"node '{node.name}' uses; a plugin adds one under the entry point '{node.operator}' of "
            "cnnkit.gradient_rules (see docs/plugins.md)"
        )
    found = table[node.operator](builder.op, node, node.gradients[0], *node.inputs)
    if not isinstance(found, tuple | list):
        raise ModelError(
            f"the rule of {node.operator} returned {found!r}; it has to return a tuple with a gradient, or "
            "None, for each input of the node"
        )
    return tuple(found)


def _summed_to(builder: Builder, node: Node, gradient: Tensor, tensor: Tensor) -> Tensor:
    """A gradient summed over the axes along which the tensor was broadcast."""
    op = builder.op
    if not isinstance(gradient, Tensor):
        raise ModelError(f"the rule of {node.operator} returned a gradient that is no tensor: {gradient!r}")
    if gradient.dtype != tensor.dtype:
        raise ModelError(
            f"the rule of {node.operator} returned a gradient of type {gradient.dtype} for '{tensor}', which "
            f"is {tensor.dtype}"
        )
    if gradient.shape == tensor.shape:
        return gradient
    extra = gradient.rank - tensor.rank
    axes = [
        axis
        for axis, size in enumerate(gradient.shape)
        if axis < extra or (tensor.shape[axis - extra] == 1 and size != 1)
    ]
    summed = gradient
    if axes:
        summed = op.ReduceSum(gradient, axes, keepdims=1)
        if extra > 0:
            summed = op.Squeeze(summed, list(range(extra)))
    if summed.shape != tensor.shape:
        raise ModelError(
            f"the rule of {node.operator} returned a gradient of shape {gradient.shape} for '{tensor}', "
            f"whose shape is {tensor.shape}"
        )
    return summed


def _one(tensor: Tensor) -> object:
    return tensor.dtype.type(1)
