"""Sums, products, powers, choices: elementwise operators of two and more inputs, and of one."""

from cnnkit.graphs.autodiff.rules.table import Gradients, Node, Operators, Tensor, rule


@rule("Add")
def add(op: Operators, node: Node, dy: Tensor, a: Tensor, b: Tensor) -> Gradients:
    return dy, dy


@rule("Mul")
def mul(op: Operators, node: Node, dy: Tensor, a: Tensor, b: Tensor) -> Gradients:
    return op.Mul(dy, b), op.Mul(dy, a)
