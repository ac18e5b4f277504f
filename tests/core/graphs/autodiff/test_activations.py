"""Rules of activation functions."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from rulecheck import assert_as_torch, assert_slopes, run_gradients

from cnnkit.graphs.autodiff.backward import gradients
from cnnkit.graphs.builder import Builder

pytestmark = pytest.mark.usefixtures("exact_erf")
QUICK = settings(max_examples=20, deadline=None)
Array = NDArray[Any]

OPSETS = {"Gelu": 20, "Swish": 24}
"""The first version that has the operator, where that is later than 18."""


def activation(name: str, **attributes: Any) -> Callable[..., Any]:
    return lambda op, *inputs: getattr(op, name)(*inputs, **attributes)


def slope_at(name: str, x: Any, dtype: Any = np.float32, **attributes: Any) -> list[float]:
    """The gradient of the input, on ONNX Runtime, for a gradient of 1 of the output."""
    x = np.array(x, dtype)
    opset = OPSETS.get(name, 18)
    _, [found] = run_gradients(activation(name, **attributes), x, seed=np.ones(x.shape, dtype), opset=opset)
    assert found.dtype == dtype
    return found.tolist()  # type: ignore[no-any-return]


size = st.floats(0.1, 3).map(lambda value: float(np.float32(value)))
either = st.one_of(size, size.map(lambda value: -value))

ATTRIBUTES: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "Relu": {},
    "LeakyRelu": {"alpha": either},
    "ThresholdedRelu": {"alpha": either},
    "Shrink": {"lambd": either, "bias": either},
    "HardSigmoid": {"alpha": size, "beta": either},
    "HardSwish": {},
    "Elu": {"alpha": either},
    "Selu": {"alpha": either, "gamma": size.map(lambda value: value + 1)},
    "Sigmoid": {},
    "Softsign": {},
    "Softplus": {},
    "Swish": {"alpha": either},
    "Mish": {},
    "Gelu": {"approximate": st.sampled_from(["none", "tanh"])},
}

KINKS: dict[str, Callable[..., list[float]]] = {
    "Relu": lambda: [0],
    "LeakyRelu": lambda alpha=0.01: [0],
    "ThresholdedRelu": lambda alpha=1.0: [alpha],
    "Shrink": lambda lambd=0.5, bias=0.0: [-lambd, lambd],
    "HardSigmoid": lambda alpha=0.2, beta=0.5: [-beta / alpha, (1 - beta) / alpha],
    "HardSwish": lambda: [-3, 3],
    "Elu": lambda alpha=1.0: [0],
    "Selu": lambda alpha=1.67, gamma=1.05: [0],
}


def beside(x: Array, kinks: list[float]) -> Array:
    """The numbers, those within 0.01 of a kink moved away from it."""
    for kink in kinks:
        x = np.where(np.abs(x - kink) < 0.01, kink + np.where(x < kink, -0.02, 0.02), x)
    return np.asarray(x)


@pytest.mark.parametrize("name", ATTRIBUTES)
@QUICK
@given(data=st.data(), shape=array_shapes(min_dims=1, max_dims=4, max_side=3), seed=st.integers(0, 2**31))
def test_slopes(name: str, data: Any, shape: tuple[int, ...], seed: int) -> None:
    given_some = {key: value for key, value in ATTRIBUTES[name].items() if data.draw(st.booleans())}
    attributes = {key: data.draw(value) for key, value in given_some.items()}
    x = np.asarray(np.random.default_rng(seed).uniform(-5, 5, shape))
    if name in KINKS:
        x = beside(x, KINKS[name](**attributes))
    assert_slopes(activation(name, **attributes), x, opset=OPSETS.get(name, 18))


@QUICK
@given(data=st.data(), shape=array_shapes(min_dims=1, max_dims=4, max_side=3), seed=st.integers(0, 2**31))
def test_slope_of_prelu_is_broadcast_to_the_input(data: Any, shape: tuple[int, ...], seed: int) -> None:
    kept = shape[data.draw(st.integers(0, len(shape))) :]
    slope_shape = tuple(length if data.draw(st.booleans()) else 1 for length in kept)
    random = np.random.default_rng(seed)
    x = beside(random.uniform(-5, 5, shape), [0])
    assert_slopes(activation("PRelu"), x, np.asarray(random.uniform(-2, 2, slope_shape)))


@QUICK
@given(alpha=either, seed=st.integers(0, 2**31))
def test_slope_of_celu(alpha: float, seed: int) -> None:
    """In closed form: the operator is there in float32 only, so there is no checking it in float64."""
    x = np.random.default_rng(seed).uniform(-5, 5, 20).astype(np.float32)
    x = x[x / alpha < 5]  # with a negative alpha it explodes on the left
    expected = np.where(x > 0, 1, np.exp(np.minimum(x / alpha, 5)))
    assert slope_at("Celu", x, alpha=alpha) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_prelu_by_hand() -> None:
    x = np.array([[[1.0], [-2.0]], [[-3.0], [0.0]]], np.float32)  # two pictures of two channels
    slope = np.array([[0.5], [2.0]], np.float32)
    _, [dx, d_slope] = run_gradients(activation("PRelu"), x, slope, seed=np.full((2, 2, 1), 10, np.float32))
    assert dx.ravel().tolist() == [10, 20, 5, 20]
    assert d_slope.tolist() == [[-30], [-20]]


BY_HAND: list[tuple[str, dict[str, Any], list[float], list[float]]] = [
    # the kinks, and a point on each side
    ("Relu", {}, [-1, 0, 1], [0, 0, 1]),
    ("LeakyRelu", {}, [-1, 0, 1], [0.01, 0.01, 1]),
    ("LeakyRelu", {"alpha": -0.5}, [-1, 0, 1], [-0.5, -0.5, 1]),
    ("LeakyRelu", {"alpha": 0.0}, [-1, 0, 1], [0, 0, 1]),
    ("ThresholdedRelu", {}, [-1, 0.5, 1, 2], [0, 0, 0, 1]),
    ("ThresholdedRelu", {"alpha": -1.0}, [-2, -1, -0.5, 0, 2], [0, 0, 1, 1, 1]),
    ("Shrink", {}, [-1, -0.5, 0, 0.5, 1], [1, 0, 0, 0, 1]),
    ("Shrink", {"lambd": 1.5, "bias": 1.5}, [-2, -1.5, 0, 1.5, 2], [1, 0, 0, 0, 1]),
    ("HardSigmoid", {"alpha": 0.25}, [-3, -2, 0, 2, 3], [0, 0, 0.25, 0, 0]),
    ("HardSwish", {}, [-4, -3, -1.5, 0, 1.5, 3, 4], [0, 0, 0, 0.5, 1, 1, 1]),
    ("Elu", {}, [-1, 0, 1], [math.exp(-1), 1, 1]),
    ("Elu", {"alpha": 0.5}, [-1, 0, 1], [0.5 * math.exp(-1), 0.5, 1]),
    ("Elu", {"alpha": -2.0}, [-1, 0, 1], [-2 * math.exp(-1), -2, 1]),
    ("Selu", {"alpha": 2.0, "gamma": 3.0}, [-1, 0, 1], [6 * math.exp(-1), 6, 3]),
    ("Celu", {"alpha": 2.0}, [-2, 0, 1], [math.exp(-1), 1, 1]),
    # smooth
    ("Sigmoid", {}, [0, math.log(3)], [0.25, 3 / 16]),
    ("Softsign", {}, [-1, 0, 3], [0.25, 1, 1 / 16]),
    ("Softplus", {}, [0, math.log(3)], [0.5, 0.75]),
    ("Swish", {}, [0, math.log(3)], [0.5, 0.75 + math.log(3) * 3 / 16]),
    ("Swish", {"alpha": 2.0}, [math.log(3) / 2], [0.75 + math.log(3) * 3 / 16]),
    ("Mish", {}, [0], [0.6]),
    ("Gelu", {}, [0, 1], [0.5, (1 + math.erf(0.5**0.5)) / 2 + math.exp(-0.5) / math.sqrt(2 * math.pi)]),
    ("Gelu", {"approximate": "tanh"}, [0], [0.5]),
]


@pytest.mark.parametrize(("name", "attributes", "x", "slopes"), BY_HAND)
def test_by_hand(name: str, attributes: dict[str, Any], x: list[float], slopes: list[float]) -> None:
    assert slope_at(name, x, **attributes) == pytest.approx(slopes, rel=3e-6, abs=1e-7)


FAR = {
    "Relu": [0, 1],
    "LeakyRelu": [0.01, 1],
    "ThresholdedRelu": [0, 1],
    "Shrink": [1, 1],
    "HardSigmoid": [0, 0],
    "HardSwish": [0, 1],
    "Elu": [0, 1],
    "Selu": [0, 1.0507],
    "Celu": [0, 1],
    "Sigmoid": [0, 0],
    "Softplus": [0, 1],
    "Softsign": [101**-2, 101**-2],
    "Swish": [0, 1],
    "Mish": [0, 1],
    "Gelu": [0, 1],
}


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("name", FAR)
def test_far_from_zero(name: str, dtype: Any) -> None:
    if (name, dtype) == ("Celu", np.float16):
        return  # the operator has float32 only
    rounding = 5e-4 if dtype == np.float16 else 3e-6  # of y near -alpha gamma, in Selu
    assert slope_at(name, [-100, 100], dtype) == pytest.approx(FAR[name], rel=1e-3, abs=rounding)


@pytest.mark.parametrize("stop", ["Relu", "Clip"])
def test_what_is_stopped_may_be_infinite(stop: str) -> None:
    """As the slope of a root at zero is: a product with zero would be no number."""

    def root(op: Any, x: Any) -> Any:
        return op.Sqrt(op.Relu(x) if stop == "Relu" else op.Clip(x, 0.0, 9.0))

    x = np.array([-1, 0, 4, 10 if stop == "Clip" else 9], np.float32)
    _, [found] = run_gradients(root, x, seed=np.ones(4, np.float32))
    assert found.tolist() == [0, 0, 0.25, 0 if stop == "Clip" else pytest.approx(1 / 6)]


@pytest.mark.parametrize("name", ["Gelu", "Mish", "Swish", "Softplus", "Softsign"])
def test_where_the_square_is_infinite(name: str) -> None:
    """Computed in float16 throughout, as a graphics card does."""
    kinds = [{"approximate": "none"}, {"approximate": "tanh"}] if name == "Gelu" else [{}]
    for attributes in kinds:
        builder = Builder(opset=24)
        x = builder.input("x", (2,), np.float16)
        found = gradients(builder, activation(name, **attributes)(builder.op, x), ["x"])["x"]
        builder.output(found)
        with np.errstate(all="ignore"):
            [got] = ReferenceEvaluator(builder.model()).run(None, {"x": np.array([-1000, 1000], np.float16)})
        assert got.tolist() == pytest.approx([0, float(name != "Softsign")], abs=1e-5)


def test_log_of_sigmoid_far_from_zero() -> None:
    x = np.array([-100, -20, 0, 20, 100], np.float32)
    _, [found] = run_gradients(lambda op, x: op.Neg(op.Softplus(op.Neg(x))), x, seed=np.ones(5, np.float32))
    assert found.tolist() == pytest.approx([1, 1, 0.5, 0, 0], abs=1e-6)


@pytest.mark.parametrize("name", [*ATTRIBUTES, "PRelu"])
def test_an_open_batch(name: str) -> None:
    x = np.random.default_rng(0).uniform(-5, 5, (2, 3, 4))
    slope = [np.random.default_rng(1).uniform(-2, 2, (1, 3, 1))] if name == "PRelu" else []

    def write(op: Any, x: Any) -> Any:
        return getattr(op, name)(x, *slope)

    assert_slopes(write, x, batch=True, opset=OPSETS.get(name, 18))


IN_TORCH: list[tuple[str, dict[str, Any], Callable[[Any, Any], Any]]] = [
    ("Relu", {}, lambda f, x: f.relu(x)),
    ("LeakyRelu", {"alpha": 0.2}, lambda f, x: f.leaky_relu(x, 0.2)),
    ("ThresholdedRelu", {"alpha": 0.5}, lambda f, x: f.threshold(x, 0.5, 0)),
    ("Shrink", {"lambd": 0.5}, lambda f, x: f.hardshrink(x, 0.5)),
    ("Shrink", {"lambd": 0.5, "bias": 0.5}, lambda f, x: f.softshrink(x, 0.5)),
    ("HardSigmoid", {"alpha": 1 / 6}, lambda f, x: f.hardsigmoid(x)),
    ("HardSwish", {}, lambda f, x: f.hardswish(x)),
    ("Elu", {"alpha": 0.7}, lambda f, x: f.elu(x, 0.7)),
    ("Selu", {}, lambda f, x: f.selu(x)),
    ("Celu", {"alpha": 0.7}, lambda f, x: f.celu(x, 0.7)),
    ("Sigmoid", {}, lambda f, x: f.sigmoid(x)),
    ("Softplus", {}, lambda f, x: f.softplus(x)),
    ("Softsign", {}, lambda f, x: f.softsign(x)),
    ("Swish", {}, lambda f, x: f.silu(x)),
    ("Mish", {}, lambda f, x: f.mish(x)),
    ("Gelu", {}, lambda f, x: f.gelu(x)),
    ("Gelu", {"approximate": "tanh"}, lambda f, x: f.gelu(x, approximate="tanh")),
]


@pytest.mark.oracle
@pytest.mark.parametrize("opset", [18, 22, 26])  # 22 gave most of them bfloat16, and ORT other kernels
@pytest.mark.parametrize(("name", "attributes", "in_torch"), IN_TORCH)
def test_as_torch(
    name: str, attributes: dict[str, Any], in_torch: Callable[[Any, Any], Any], opset: int
) -> None:
    """At kinks too: 0 and ±0.5 and ±3 are among the numbers."""
    functional = pytest.importorskip("torch").nn.functional
    x = np.concatenate([np.random.default_rng(0).uniform(-6, 6, 60), [0, 0.5, -0.5, 3, -3]])
    opset = 24 if name == "Swish" else max(opset, OPSETS.get(name, 18))  # ORT 1.31 has Swish in 24 alone
    written = activation(name, **attributes)
    assert_as_torch(written, lambda x: in_torch(functional, x), x.astype(np.float32), opset=opset)


@pytest.mark.oracle
def test_prelu_as_torch() -> None:
    functional = pytest.importorskip("torch").nn.functional
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
    x[0, :, 0, 0] = 0
    slope = np.array([0.2, -0.5, 2], np.float32).reshape(3, 1, 1)
    assert_as_torch(activation("PRelu"), lambda x, slope: functional.prelu(x, slope.flatten()), x, slope)


@pytest.mark.parametrize("opset", [18, 22, 24, 26])
@pytest.mark.parametrize("name", ATTRIBUTES)
def test_every_version_has_the_same_gradient(name: str, opset: int) -> None:
    x = np.linspace(-4, 4, 24)  # no kinks among them
    assert_slopes(activation(name), x, opset=max(opset, OPSETS.get(name, 18)))


def test_the_output_is_enough() -> None:
    """The gradient does not keep the input where the output tells the slope."""
    for name in ("Relu", "LeakyRelu", "HardSigmoid", "Elu", "Selu", "Celu", "Sigmoid", "Tanh", "Exp", "Sqrt"):
        builder = Builder()
        inside = builder.op.Identity(builder.input("x", (3,)))
        out = getattr(builder.op, name)(inside)
        before = len(builder.nodes)
        gradients(builder, out, ["x"])
        read = {tensor for node in builder.nodes[before:] for tensor in node.input}
        assert out in read and inside not in read, name
