"""Arithmetic, number by number: sums, products, powers, choices, elementary functions.

Where y = f(x), the gradient of x is dy · f'(x). The slope f' is written with y where that is possible: one
tensor less to keep.

Conventions, torch's unless said otherwise: Abs'(0) = 0. Inputs of Min and Max that are equal share the
gradient equally. Clip' = 0 at its bounds (as torch's relu6 and hardtanh; its clamp has 1), and a bound has
the gradient of what was moved to it. x^0 has slope 0 everywhere, and 0^p with p >= 0 does not change with p;
the gradient of an exponent above a negative x is no number.
"""

import math

import numpy as np

from cnnkit.graphs.autodiff.rules.table import Gradients, Node, Operators, Tensor, rule


@rule("Add")
def add(op: Operators, node: Node, dy: Tensor, a: Tensor, b: Tensor) -> Gradients:
    return dy, dy


@rule("Sub")
def sub(op: Operators, node: Node, dy: Tensor, a: Tensor, b: Tensor) -> Gradients:
    return dy, op.Neg(dy)


@rule("Mul")
def mul(op: Operators, node: Node, dy: Tensor, a: Tensor, b: Tensor) -> Gradients:
    return op.Mul(dy, b), op.Mul(dy, a)


@rule("Div")
def div(op: Operators, node: Node, dy: Tensor, a: Tensor, b: Tensor) -> Gradients:
    share = op.Div(dy, b)
    return share, op.Neg(op.Mul(share, node.output))


@rule("Mod")
def mod(op: Operators, node: Node, dy: Tensor, a: Tensor, b: Tensor) -> Gradients:
    times = op.Div(op.Sub(a, node.output), b)  # y = a - times · b
    return dy, op.Neg(op.Mul(dy, times))


@rule("Sum")
def sum_(op: Operators, node: Node, dy: Tensor, *inputs: Tensor) -> Gradients:
    return (dy,) * len(inputs)


@rule("Mean")
def mean(op: Operators, node: Node, dy: Tensor, *inputs: Tensor) -> Gradients:
    return (op.Div(dy, float(len(inputs))),) * len(inputs)


# Choices


@rule("Min", "Max")
def extremum(op: Operators, node: Node, dy: Tensor, *inputs: Tensor) -> Gradients:
    chosen = [op.Equal(x, node.output) for x in inputs]
    ties = op.Sum(*(op.cast(mask, dy.dtype) for mask in chosen))
    return tuple(op.Where(mask, op.Div(dy, ties), 0.0) for mask in chosen)


@rule("Where")
def where(op: Operators, node: Node, dy: Tensor, condition: Tensor, a: Tensor, b: Tensor) -> Gradients:
    return None, op.Where(condition, dy, 0.0), op.Where(condition, 0.0, dy)


@rule("Clip")
def clip(
    op: Operators, node: Node, dy: Tensor, x: Tensor, low: Tensor | None = None, high: Tensor | None = None
) -> Gradients:
    d_low = None if low is None else op.Where(op.Less(x, low), dy, 0.0)
    d_high = None if high is None else op.Where(op.Greater(x, high), dy, 0.0)
    inside = [] if low is None else [op.Greater(node.output, low)]
    inside += [] if high is None else [op.Less(node.output, high)]
    if len(inside) == 2:
        inside = [op.And(*inside)]
    return op.Where(inside[0], dy, 0.0) if inside else dy, d_low, d_high


@rule("Abs")
def abs_(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    return (op.Mul(dy, op.Sign(x)),)


@rule("Neg")
def neg(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    return (op.Neg(dy),)


# Powers


@rule("Pow")
def pow_(op: Operators, node: Node, dy: Tensor, x: Tensor, exponent: Tensor) -> Gradients:
    p = op.cast(exponent, x.dtype)
    if p.value is not None and np.all(p.value == 2):
        slope = op.Add(x, x)
    else:  # for p = 0 the power is x^0, not x^-1: 0 · x^-1 is no number at x = 0
        slope = op.Mul(p, op.Pow(x, op.Where(op.Equal(p, 0.0), 0.0, op.Sub(p, 1.0))))
    still = op.And(op.Equal(x, 0.0), op.GreaterOrEqual(p, 0.0))
    growth = op.Mul(node.output, op.Log(op.Where(still, 1.0, x)))
    return op.Mul(dy, slope), op.cast(op.Mul(dy, growth), exponent.dtype)


@rule("Sqrt")
def sqrt(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    return (op.Div(op.Mul(dy, 0.5), node.output),)


@rule("Reciprocal")
def reciprocal(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    return (op.Neg(op.Mul(op.Mul(dy, node.output), node.output)),)


@rule("Exp")
def exp(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    return (op.Mul(dy, node.output),)


@rule("Log")
def log(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    return (op.Div(dy, x),)


@rule("Erf")
def erf(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    bell = op.Exp(op.Neg(op.Mul(x, x)))
    return (op.Mul(op.Mul(dy, 2 / math.sqrt(math.pi)), bell),)


# Circles and hyperbolas


@rule("Sin")
def sin(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    return (op.Mul(dy, op.Cos(x)),)


@rule("Cos")
def cos(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    return (op.Neg(op.Mul(dy, op.Sin(x))),)


@rule("Tan")
def tan(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    return (op.Mul(dy, op.Add(op.Mul(node.output, node.output), 1.0)),)


@rule("Asin")
def asin(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    return (op.Div(dy, op.Sqrt(_one_minus_square(op, x))),)


@rule("Acos")
def acos(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    return (op.Neg(op.Div(dy, op.Sqrt(_one_minus_square(op, x)))),)


@rule("Atan")
def atan(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    return (op.Div(dy, op.Add(op.Mul(x, x), 1.0)),)


@rule("Sinh")
def sinh(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    return (op.Mul(dy, op.Cosh(x)),)


@rule("Cosh")
def cosh(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    return (op.Mul(dy, op.Sinh(x)),)


@rule("Tanh")
def tanh(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    return (op.Mul(dy, _one_minus_square(op, node.output)),)


@rule("Asinh")
def asinh(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    return (op.Div(dy, op.Sqrt(op.Add(op.Mul(x, x), 1.0))),)


@rule("Acosh")
def acosh(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    return (op.Div(dy, op.Sqrt(op.Neg(_one_minus_square(op, x)))),)


@rule("Atanh")
def atanh(op: Operators, node: Node, dy: Tensor, x: Tensor) -> Gradients:
    return (op.Div(dy, _one_minus_square(op, x)),)


def _one_minus_square(op: Operators, x: Tensor) -> Tensor:
    """1 - x², factored: exact where x is near 1 and the plain difference would be mostly rounding."""
    product: Tensor = op.Mul(op.Sub(1.0, x), op.Add(x, 1.0))
    return product
