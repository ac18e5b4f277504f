"""Activation functions.

Wherever the output tells enough, the slope is written with it: the next layer keeps it anyway, and the input
can be forgotten. Masks stay bool, a quarter of the memory of numbers.

At a kink the gradient is that of the flat side, where there is one: 0 for Relu at 0, for ThresholdedRelu at
alpha, for Shrink at ±lambd, for HardSigmoid at both of its ends; HardSwish has that of its straight sides, 0
at -3 and 1 at 3. Else it is that of the left: alpha for LeakyRelu, PRelu, Elu at 0, alpha gamma for Selu.
"""

import math

from cnnkit.graphs.autodiff.rules.table import Gradients, Node, Operators, Tensor, rule

# Straight pieces


@rule("Relu")
def relu(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    return (op.Where(op.Greater(node.output, 0.0), dy, 0.0),)


@rule("LeakyRelu")
def leaky_relu(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    alpha = node.attribute("alpha", 0.01)
    sign = node.output if alpha >= 0 else x
    return (op.Where(op.Greater(sign, 0.0), dy, op.Mul(dy, alpha)),)


@rule("PRelu")
def prelu(op: Operators, node: Node, dy: Tensor, x: Tensor, slope: Tensor) -> Gradients:
    positive = op.Greater(x, 0.0)
    return op.Where(positive, dy, op.Mul(dy, slope)), op.Where(positive, 0.0, op.Mul(dy, x))


@rule("ThresholdedRelu")
def thresholded_relu(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    return (op.Where(op.Greater(x, node.attribute("alpha", 1.0)), dy, 0.0),)


@rule("Shrink")
def shrink(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    return (op.Where(op.Greater(op.Abs(x), node.attribute("lambd", 0.5)), dy, 0.0),)


@rule("HardSigmoid")
def hard_sigmoid(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    rising = op.And(op.Greater(node.output, 0.0), op.Less(node.output, 1.0))
    return (op.Where(rising, op.Mul(dy, node.attribute("alpha", 0.2)), 0.0),)


@rule("HardSwish")
def hard_swish(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    bend = op.Mul(dy, op.Add(op.Div(x, 3.0), 0.5))  # of x · (x + 3) / 6
    return (op.Where(op.Less(x, 3.0), op.Where(op.Greater(x, -3.0), bend, 0.0), dy),)


# An exponential on the left: the slope there is y plus a constant, up to a factor


@rule("Elu")
def elu(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    alpha = node.attribute("alpha", 1.0)
    sign = node.output if alpha >= 0 else x
    return (op.Where(op.Greater(sign, 0.0), dy, op.Mul(dy, op.Add(node.output, alpha))),)


@rule("Selu")
def selu(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    alpha, gamma = node.attribute("alpha", 1.6732631921768188), node.attribute("gamma", 1.0507010221481323)
    sign = node.output if alpha >= 0 and gamma > 0 else x
    left = op.Add(node.output, alpha * gamma)
    return (op.Mul(dy, op.Where(op.Greater(sign, 0.0), gamma, left)),)


@rule("Celu")
def celu(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    left = op.Add(op.Div(node.output, node.attribute("alpha", 1.0)), 1.0)
    return (op.Where(op.Greater(node.output, 0.0), dy, op.Mul(dy, left)),)


# Smooth steps


@rule("Sigmoid")
def sigmoid(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    return (op.Mul(op.Mul(dy, node.output), op.Sub(1.0, node.output)),)


@rule("Softsign")
def softsign(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    width = op.Add(op.Abs(x), 1.0)
    return (op.Div(op.Div(dy, width), width),)


@rule("Softplus")
def softplus(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    return (op.Mul(dy, op.Sigmoid(x)),)


# x times a smooth step: the slope is the step itself, and x times the step's slope


@rule("Swish")
def swish(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    alpha = node.attribute("alpha", 1.0)
    step = op.Sigmoid(op.Mul(x, alpha))
    return (op.Mul(dy, op.Add(step, op.Mul(op.Mul(node.output, alpha), op.Sub(1.0, step)))),)


@rule("Mish")
def mish(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    step = op.Tanh(op.Softplus(x))
    rise = op.Mul(op.Sub(1.0, op.Mul(step, step)), op.Sigmoid(x))
    return (op.Mul(dy, op.Add(step, op.Mul(x, rise))),)


@rule("Gelu")
def gelu(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    slope = _tanh_gelu_slope if node.attribute("approximate", "none") == "tanh" else _gelu_slope
    return (op.Mul(dy, slope(op, x)),)


def _gelu_slope(op: Operators, x: Tensor) -> Tensor:
    """Φ(x) + x φ(x), with the normal distribution Φ and its density φ."""
    step = op.Mul(op.Add(op.Erf(op.Mul(x, math.sqrt(0.5))), 1.0), 0.5)
    density = op.Mul(op.Exp(op.Mul(op.Mul(x, x), -0.5)), 1 / math.sqrt(2 * math.pi))
    slope: Tensor = op.Add(step, op.Mul(x, density))
    return slope


def _tanh_gelu_slope(op: Operators, x: Tensor) -> Tensor:
    """s + x s (1 - s) u' for x s, with the step s = (1 + tanh(u / 2)) / 2 = sigmoid(u).

    u = √(8/π) x (1 + 0.044715 x²), from Hendrycks and Gimpel 2016, section 2.
    """
    near = op.Clip(x, -10.0, 10.0)  # beyond, nothing changes any more, and x² may be infinite in float16
    scaled, square = op.Mul(near, math.sqrt(8 / math.pi)), op.Mul(near, near)
    step = op.Sigmoid(op.Mul(scaled, op.Add(op.Mul(square, 0.044715), 1.0)))
    stretch = op.Mul(scaled, op.Add(op.Mul(square, 3 * 0.044715), 1.0))  # x u'
    slope: Tensor = op.Add(step, op.Mul(op.Mul(step, op.Sub(1.0, step)), stretch))
    return slope
