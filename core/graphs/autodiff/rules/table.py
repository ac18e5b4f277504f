"""What a gradient rule is, and the table that the rules of this folder enter themselves into.

A rule says, for one operator, how the gradient of its output becomes the gradients of its inputs:

    @rule("Mul")
    def mul(op, node, dy, a, b):
        return op.Mul(dy, b), op.Mul(dy, a)

It gets `op`, which appends nodes; the node; the gradient `dy` of the first output; and the inputs, None for
one that is left out. It returns one gradient for each input, None where there is none to have; gradients
behind the last input may be left off. The driver does the rest: it adds up the gradients of a tensor that is
read twice, sums a gradient over the axes along which its input was broadcast, and drops what nobody needs. So
a rule computes everything and thinks of one node only. A gradient of many nodes may be returned as a function
that appends them, which is only called when somebody needs it.

`dy` is None when only a later output of the node has a gradient; `node.gradients` holds them all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from cnnkit.errors import ModelError
from cnnkit.graphs.builder import Operators
from cnnkit.graphs.tensors import Tensor

Gradients = tuple[Tensor | Callable[[], Tensor] | None, ...]
Rule = Callable[..., Gradients]

RULES: dict[str, Rule] = {}
"""Operator type -> rule; for other domains than ONNX's own the key is `domain.Type`."""

FLAT = frozenset(
    "Shape Size Constant ConstantOfShape Range NonZero OneHot EyeLike Floor Ceil Round Sign Not And Or Xor "
    "Equal Greater GreaterOrEqual Less LessOrEqual IsNaN IsInf ArgMax ArgMin RandomNormal RandomUniform "
    "RandomNormalLike RandomUniformLike Bernoulli Multinomial".split()
)
"""Operators whose outputs do not change under small changes of their inputs: no gradient passes them."""


@dataclass(frozen=True)
class Node:
    """The node that a rule is asked about.

    `inputs` and `outputs` are its tensors, None for one that is left out; `gradients` those of its outputs,
    None where there is none. `opset` is the version of the operator's domain.
    """

    proto: onnx.NodeProto
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor | None, ...]
    gradients: tuple[Tensor | None, ...]
    opset: int

    @property
    def name(self) -> str:
        return self.proto.name or self.proto.output[0]

    @property
    def operator(self) -> str:
        return operator_of(self.proto)

    @property
    def output(self) -> Tensor:
        """The first output."""
        return self.present(self.outputs[0])

    def attribute(self, name: str, default: Any = None) -> Any:
        """The value of an attribute: a number, a text, a list of numbers, an array."""
        for attribute in self.proto.attribute:
            if attribute.name == name:
                value = helper.get_attribute_value(attribute)
                if isinstance(value, onnx.TensorProto):
                    return onnx.numpy_helper.to_array(value)
                return value.decode() if isinstance(value, bytes) else value
        return default

    @property
    def attributes(self) -> dict[str, Any]:
        """All that are set, ready to be given to `op` again."""
        return {attribute.name: self.attribute(attribute.name) for attribute in self.proto.attribute}

    def constant(self, index: int) -> NDArray[Any] | None:
        """The value of an input; None when it is left out. Raises ModelError when it is not known."""
        tensor = self.inputs[index] if index < len(self.inputs) else None
        if tensor is None:
            return None
        if tensor.value is None:
            raise self.refusal(f"needs to know the value of its input '{tensor}' before running")
        return tensor.value

    def refusal(self, reason: str) -> ModelError:
        """An error that names the node: "the gradient of Resize 'up' (opset 18) " and the reason."""
        return ModelError(f"the gradient of {self.operator} '{self.name}' (opset {self.opset}) {reason}")

    @staticmethod
    def present(tensor: Tensor | None) -> Tensor:
        """The tensor of an input or output that the operator always has."""
        assert tensor is not None
        return tensor


def operator_of(node: onnx.NodeProto) -> str:
    """What the table of rules calls the operator of a node."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def rule(*operators: str) -> Callable[[Rule], Rule]:
    """Enter a rule for these operators."""

    def enter(function: Rule) -> Rule:
        for operator in operators:
            assert operator not in RULES, f"two rules for {operator}"
            RULES[operator] = function
        return function

    return enter


def axes_of(axes: NDArray[Any] | Sequence[int] | None, rank: int) -> list[int]:
    """Axes counted from the front and sorted; all of them for None."""
    return list(range(rank)) if axes is None else sorted(int(axis) % rank for axis in np.atleast_1d(axes))


__all__ = [
    "FLAT",
    "RULES",
    "Gradients",
    "Node",
    "Operators",
    "Rule",
    "Tensor",
    "axes_of",
    "operator_of",
    "rule",
]
