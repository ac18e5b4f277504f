"""Rules of elementwise arithmetic."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, mutually_broadcastable_shapes
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from rulecheck import assert_as_torch, assert_slopes, inputs_of, run_gradients

from cnnkit.graphs.autodiff.backward import gradients
from cnnkit.graphs.builder import Builder

pytestmark = pytest.mark.usefixtures("exact_erf")
QUICK = settings(max_examples=15, deadline=None)
Array = NDArray[Any]


def operator(name: str, **attributes: Any) -> Callable[..., Any]:
    return lambda op, *inputs: getattr(op, name)(*inputs, **attributes)


def between(low: float, high: float, *shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).uniform(low, high, shape)


def apart(*shapes: tuple[int, ...], seed: int = 0) -> list[Array]:
    """Arrays in which no number comes twice, nor any near another, or near 0."""
    sizes = [math.prod(shape) for shape in shapes]
    numbers = np.random.default_rng(seed).permutation(sum(sizes)) * 0.1 - 0.05 * sum(sizes) + 0.037
    parts = np.split(numbers, np.cumsum(sizes)[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def slope_at(name: str, *inputs: Any, **attributes: Any) -> list[list[float]]:
    """The gradients of all inputs, in float32 on ONNX Runtime, for a gradient of 1 of the output."""
    arrays = [np.array(x, np.float32) for x in inputs]
    size = np.broadcast_shapes(*(array.shape for array in arrays))
    return [
        found.tolist()
        for found in run_gradients(operator(name, **attributes), *arrays, seed=np.ones(size, np.float32))[1]
    ]


UNARY = {
    "Neg": (-3, 3),
    "Abs": (0.1, 3),
    "Sqrt": (0.5, 4),
    "Reciprocal": (0.5, 3),
    "Exp": (-3, 3),
    "Log": (0.5, 4),
    "Erf": (-3, 3),
    "Sin": (-4, 4),
    "Cos": (-4, 4),
    "Tan": (-1.2, 1.2),
    "Asin": (-0.8, 0.8),
    "Acos": (-0.8, 0.8),
    "Atan": (-3, 3),
    "Sinh": (-3, 3),
    "Cosh": (-3, 3),
    "Tanh": (-3, 3),
    "Asinh": (-3, 3),
    "Acosh": (1.3, 4),
    "Atanh": (-0.8, 0.8),
}
"""Where each function is tame."""

shapes_of_one = array_shapes(min_dims=0, max_dims=4, max_side=3)
shapes_of_two = mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=3, min_side=1)
shapes_of_three = mutually_broadcastable_shapes(num_shapes=3, max_dims=3, max_side=3, min_side=1)
seeds = st.integers(0, 2**31)


@pytest.mark.parametrize("name", UNARY)
@QUICK
@given(shape=shapes_of_one, seed=seeds)
def test_functions_of_one_input(name: str, shape: tuple[int, ...], seed: int) -> None:
    assert_slopes(operator(name), between(*UNARY[name], *shape, seed=seed))


@QUICK
@given(shape=shapes_of_one, seed=seeds)
def test_abs_left_of_zero(shape: tuple[int, ...], seed: int) -> None:
    assert_slopes(operator("Abs"), between(-3, -0.1, *shape, seed=seed))


@pytest.mark.parametrize("name", ["Add", "Sub", "Mul", "Div", "Pow"])
@QUICK
@given(shapes=shapes_of_two, seed=seeds)
def test_broadcasting(name: str, shapes: Any, seed: int) -> None:
    first, second = shapes.input_shapes
    assert_slopes(operator(name), between(0.5, 3, *first, seed=seed), between(0.5, 3, *second, seed=seed + 1))


@pytest.mark.parametrize("name", ["Sum", "Mean", "Min", "Max"])
@QUICK
@given(shapes=shapes_of_three, count=st.integers(1, 3), seed=seeds)
def test_any_number_of_inputs(name: str, shapes: Any, count: int, seed: int) -> None:
    arrays = apart(*shapes.input_shapes[:count], seed=seed)
    if name == "Mean":  # onnx's reference adds in place, which the first input must have room for
        arrays[0] = np.broadcast_to(arrays[0], np.broadcast_shapes(*(array.shape for array in arrays)))
    assert_slopes(operator(name), *arrays)


@QUICK
@given(shapes=shapes_of_three, seed=seeds)
def test_where(shapes: Any, seed: int) -> None:
    asked, first, second = shapes.input_shapes
    mask = np.random.default_rng(seed).random(asked) < 0.5
    assert_slopes(operator("Where"), np.asarray(mask), *apart(first, second, seed=seed))


@QUICK
@given(shape=shapes_of_one, low=st.booleans(), high=st.booleans(), seed=seeds)
def test_clip_with_and_without_bounds(shape: tuple[int, ...], low: bool, high: bool, seed: int) -> None:
    bounds = [np.asarray(-0.31) if low else None, np.asarray(0.42) if high else None]

    def write(op: Any, x: Any, *given: Any) -> Any:
        given_bounds = iter(given)
        return op.Clip(x, *(None if bound is None else next(given_bounds) for bound in bounds))

    [x] = apart(shape, seed=seed)
    assert_slopes(write, x, *(bound for bound in bounds if bound is not None))


@QUICK
@given(shapes=shapes_of_two, seed=seeds)
def test_mod(shapes: Any, seed: int) -> None:
    first, second = shapes.input_shapes
    b = between(1, 1.2, *second, seed=seed)
    times = np.random.default_rng(seed).integers(0, 3, first)  # a = (times + a rest far from its ends) · b
    assert_slopes(operator("Mod", fmod=1), (times + 0.5) * 1.1 + between(-0.05, 0.05, *first, seed=seed), b)


@pytest.mark.parametrize("name", ["Add", "Sub", "Sum", "Mean", "Neg", "Where"])
def test_of_linear_operators_it_is_the_adjoint(name: str) -> None:
    """<f(v), u> = <v, f^T(u)>."""
    shapes = {"Neg": [(2, 3, 4)], "Sum": [(2, 3, 4), (4,), (3, 1)], "Mean": [(2, 3, 4), (4,), (3, 1)]}
    v = [between(-1, 1, *shape, seed=9) for shape in shapes.get(name, [(2, 3, 4), (3, 1)])]
    feeds = {f"x{index}": array for index, array in enumerate(v)}
    builder = Builder()
    condition = [builder.constant(np.arange(4) % 2 == 0)] if name == "Where" else []
    out = builder.append(name, [*condition, *inputs_of(builder, feeds)])
    found = gradients(builder, out, list(feeds), seed=builder.input("u", (2, 3, 4), np.float64))
    for tensor in (out, *found.values()):
        builder.output(tensor)
    u = between(-1, 1, 2, 3, 4, seed=10)
    value, *transposed = ReferenceEvaluator(builder.model()).run(None, {**feeds, "u": u})
    expected = np.sum(value * u)
    assert abs(expected) > 1e-3
    assert abs(expected - sum(np.sum(a * b) for a, b in zip(v, transposed, strict=True))) < 1e-10


@pytest.mark.parametrize(
    ("name", "inputs", "slopes"),
    [
        ("Sub", (5, 3), (1, -1)),
        ("Mul", (5, 3), (3, 5)),
        ("Div", (6, 2), (0.5, -1.5)),
        ("Pow", (3, 2), (6, 9 * math.log(3))),
        ("Pow", (4, 0.5), (0.25, 2 * math.log(4))),
        ("Sum", (1, 2, 3), (1, 1, 1)),
        ("Mean", (1, 2, 3, 4), (0.25,) * 4),
        ("Max", (1, 2, 3), (0, 0, 1)),
        ("Min", (1, 2, 3), (1, 0, 0)),
        ("Neg", (7,), (-1,)),
        ("Abs", (-7,), (-1,)),
        ("Sqrt", (4,), (0.25,)),
        ("Reciprocal", (2,), (-0.25,)),
        ("Exp", (2,), (math.exp(2),)),
        ("Log", (4,), (0.25,)),
        ("Erf", (1,), (2 / math.sqrt(math.pi) / math.e,)),
        ("Sin", (1,), (math.cos(1),)),
        ("Cos", (1,), (-math.sin(1),)),
        ("Tan", (math.pi / 4,), (2,)),
        ("Asin", (0.6,), (1.25,)),
        ("Acos", (0.6,), (-1.25,)),
        ("Atan", (2,), (0.2,)),
        ("Sinh", (1,), (math.cosh(1),)),
        ("Cosh", (1,), (math.sinh(1),)),
        ("Tanh", (0,), (1,)),
        ("Asinh", (0.75,), (0.8,)),
        ("Acosh", (1.25,), (4 / 3,)),
        ("Atanh", (0.5,), (4 / 3,)),
        ("Clip", (5, 0, 3), (0, 0, 1)),
        ("Clip", (-5, 0, 3), (0, 1, 0)),
        ("Clip", (2, 0, 3), (1, 0, 0)),
    ],
)
def test_by_hand(name: str, inputs: tuple[float, ...], slopes: tuple[float, ...]) -> None:
    assert slope_at(name, *inputs) == pytest.approx(slopes, rel=2e-6, abs=1e-7)


def test_mod_by_hand() -> None:
    assert slope_at("Mod", [7.5, -7.5], [2.0, 2.0], fmod=1) == [[1, 1], [-3, 3]]


def test_kinks_and_ties() -> None:
    assert slope_at("Abs", [-1, 0, 1]) == [[-1, 0, 1]]
    assert slope_at("Clip", [-2, -1, 0, 1, 2], -1, 1) == [[0, 0, 1, 0, 0], 1, 1]
    assert slope_at("Max", [1, 2, 3], [3, 2, 1]) == [[0, 0.5, 1], [1, 0.5, 0]]
    assert slope_at("Min", [1, 2, 3], [3, 2, 1]) == [[1, 0.5, 0], [0, 0.5, 1]]
    quarters = [[0.25, 0.5], [0.25, 0.5], [0.25, 0], [0.25, 0]]
    assert slope_at("Max", [6, 6], [6, 6], [6, 0], [6, 0]) == quarters
    assert slope_at("Min", [6, 6], [6, 6], [6, 9], [6, 9]) == quarters


def test_a_tensor_that_is_read_twice() -> None:
    x = np.array([1, -2, 3], np.float32)
    for name, expected in {"Max": [1, 1, 1], "Sub": [0, 0, 0], "Mul": [2, -4, 6], "Div": [0, 0, 0]}.items():
        _, [found] = run_gradients(lambda op, x, n=name: getattr(op, n)(x, x), x, seed=np.ones(3, np.float32))
        assert found.tolist() == expected, name


POWERS = [-2.0, -1.0, 0.0, 0.5, 1.0, 2.0, 2.5, 3.0]


@pytest.mark.parametrize("exponent", POWERS)
def test_base_of_a_power_at_every_sign(exponent: float) -> None:
    """p x^(p-1) wherever it is finite: at 0 from p = 1 on, left of 0 for whole p."""
    x = np.array([-2, -0.5, 0, 0.5, 2], np.float32)
    finite = (x > 0) | (x == 0) & ((exponent >= 1) | (exponent == 0)) | (x < 0) & (exponent % 1 == 0)
    for kind in (np.float32, np.int64, np.float64) if exponent % 1 == 0 else (np.float32, np.float64):

        def write(op: Any, x: Any, kind: Any = kind) -> Any:
            return op.Pow(x, np.array(exponent, kind))

        _, [found] = run_gradients(write, x, seed=np.ones(5, np.float32))
        expected = [exponent * float(value) ** (exponent - 1) if exponent else 0 for value in x[finite]]
        assert found[finite] == pytest.approx(expected, rel=1e-6)
        assert not np.isfinite(found[~finite]).any()


def test_exponent_of_a_power_at_zero_and_below() -> None:
    _, growth = slope_at("Pow", [0, 0, 0, 1, -2], [0, 0.5, 2, 3, 2])
    assert growth[:4] == [0, 0, 0, 0]
    assert math.isnan(growth[4])


def test_constant_exponents() -> None:
    for exponent in (2.0, [2.0, 3.0, 0.5]):
        assert_slopes(lambda op, x, p=exponent: op.Pow(x, p), between(0.5, 3, 2, 3))


def test_whole_exponents_have_no_gradient_but_let_their_base_have_one() -> None:
    x = between(-2, 2, 2, 3)
    assert_slopes(operator("Pow"), x, np.array([2, 3, 0]))


def test_an_exponent_of_another_type_keeps_it() -> None:
    x, p = np.array([2, 3], np.float32), np.array([3, 2], np.float64)
    _, [base, exponent] = run_gradients(operator("Pow"), x, p, seed=np.ones(2, np.float32))
    assert (base.dtype, exponent.dtype) == (np.float32, np.float64)
    assert base.tolist() == pytest.approx([12, 6])
    assert exponent.tolist() == pytest.approx([8 * math.log(2), 9 * math.log(3)], rel=1e-6)


@pytest.mark.parametrize("name", ["Asin", "Acos", "Atanh"])
def test_near_one_nothing_is_lost_to_cancellation(name: str) -> None:
    x = np.float32(1 - 2896 * 2**-24)  # x² lies in the middle between two numbers
    exact = (1 - float(x)) * (1 + float(x))
    wanted = {"Asin": exact**-0.5, "Acos": -(exact**-0.5), "Atanh": 1 / exact}[name]
    assert slope_at(name, x) == pytest.approx([wanted], rel=1e-6)


@pytest.mark.parametrize("name", ["Add", "Sub", "Mul", "Div", "Pow", "Sum", "Mean", "Min", "Max"])
def test_an_open_batch(name: str) -> None:
    assert_slopes(operator(name), *(a + 2 for a in apart((2, 3), (2, 1))), batch=True)
    write: Any = lambda op, x: getattr(op, name)(x, np.array([[2.3, 1.7, 0.4]]))  # noqa: E731
    assert_slopes(write, apart((4, 3))[0] + 2, batch=True)


def test_an_open_batch_is_summed_over() -> None:
    """A number for all pictures: its gradient has lost the axis whose size is open."""
    builder = Builder()
    x = builder.input("x", ["batch", 2], np.float64)
    scale = builder.input("scale", (1, 2), np.float64)
    found = gradients(builder, builder.op.Mul(x, scale), ["scale"])
    builder.output(found["scale"])
    feeds = {"x": np.arange(10.0).reshape(5, 2), "scale": np.ones((1, 2))}
    assert ReferenceEvaluator(builder.model()).run(None, feeds)[0].tolist() == [[20, 25]]


IN_TORCH: dict[str, Callable[..., Any]] = {
    "Neg": lambda x: -x,
    "Abs": lambda x: x.abs(),
    "Sqrt": lambda x: x.sqrt(),
    "Reciprocal": lambda x: x.reciprocal(),
    "Exp": lambda x: x.exp(),
    "Log": lambda x: x.log(),
    "Erf": lambda x: x.erf(),
    "Sin": lambda x: x.sin(),
    "Cos": lambda x: x.cos(),
    "Tan": lambda x: x.tan(),
    "Asin": lambda x: x.asin(),
    "Acos": lambda x: x.acos(),
    "Atan": lambda x: x.atan(),
    "Sinh": lambda x: x.sinh(),
    "Cosh": lambda x: x.cosh(),
    "Tanh": lambda x: x.tanh(),
    "Asinh": lambda x: x.asinh(),
    "Acosh": lambda x: x.acosh(),
    "Atanh": lambda x: x.atanh(),
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Div": lambda a, b: a / b,
    "Pow": lambda a, b: a**b,
    "Sum": lambda a, b: a + b,
    "Mean": lambda a, b: (a + b) / 2,
    "Min": lambda a, b: a.minimum(b),
    "Max": lambda a, b: a.maximum(b),
    "Clip": lambda x, low, high: x.clamp(low, high),
}


def samples(name: str) -> list[Array]:
    if name == "Clip":
        arrays = [*apart((4, 7)), np.asarray(-0.5), np.asarray(0.7)]
    elif name in UNARY:
        arrays = [between(*UNARY[name], 4, 7)]
    else:
        arrays = [array % 3 + 0.5 for array in apart((2, 3, 4), (3, 1))]
    return [array.astype(np.float32) for array in arrays]


@pytest.mark.oracle
@pytest.mark.parametrize("opset", [18, 22, 26])  # 22 gave the functions of circles and hyperbolas bfloat16
@pytest.mark.parametrize("name", IN_TORCH)
def test_as_torch(name: str, opset: int) -> None:
    assert_as_torch(operator(name), IN_TORCH[name], *samples(name), opset=opset)


@pytest.mark.oracle
def test_as_torch_at_kinks_and_ties() -> None:
    a, b = np.array([[0, 1, 2], [-1, 0, 1]], np.float32), np.array([0, 1, 1], np.float32)
    assert_as_torch(operator("Max"), lambda a, b: a.maximum(b), a, b)
    assert_as_torch(operator("Min"), lambda a, b: a.minimum(b), a, b)
    assert_as_torch(operator("Abs"), lambda a: a.abs(), a)
    x, p = np.array([0, 0, 0, 0, 2], np.float32), np.array([0, 1, 1.5, 3, 0], np.float32)
    assert_as_torch(operator("Pow"), lambda x, p: x**p, x, p)


@pytest.mark.oracle
def test_where_as_torch() -> None:
    a, b = (array.astype(np.float32) for array in apart((2, 3, 4), (3, 1)))
    mask = np.arange(4) % 2 == 0
    assert_as_torch(operator("Where"), lambda mask, a, b: a.where(mask, b), mask, a, b)


@pytest.mark.oracle
def test_clip_at_its_bounds_as_relu6_of_torch() -> None:
    torch = pytest.importorskip("torch")
    x = np.array([-1, 0, 3, 6, 7], np.float32)
    assert_as_torch(lambda op, x: op.Clip(x, 0.0, 6.0), torch.nn.functional.relu6, x)


@pytest.mark.oracle
def test_mod_as_fmod_of_torch() -> None:
    a, b = np.array([7.5, -7.5, 2.25], np.float32), np.array([2, 2, -0.7], np.float32)
    assert_as_torch(operator("Mod", fmod=1), lambda a, b: a.fmod(b), a, b)


@pytest.mark.parametrize("name", IN_TORCH)
def test_half_precision(name: str) -> None:
    halves = [array.astype(np.float16) for array in samples(name)]
    whole = [array.astype(np.float32) for array in halves]
    seed = np.ones(np.broadcast_shapes(*(array.shape for array in halves)), np.float16)
    _, rough = run_gradients(operator(name), *halves, seed=seed)
    _, fine = run_gradients(operator(name), *whole, seed=seed.astype(np.float32))
    for got, want in zip(rough, fine, strict=True):
        assert got.dtype == np.float16
        assert np.abs(got - want).max() <= 5e-3 * np.abs(want).max()
