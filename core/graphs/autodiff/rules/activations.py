"""Activation functions. At a kink the gradient is that of the side where the function is flat."""

from cnnkit.graphs.autodiff.rules.table import Gradients, Node, Operators, Tensor, rule


@rule("Relu")
def relu(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    return (op.Where(op.Greater(node.output, 0.0), dy, 0.0),)
