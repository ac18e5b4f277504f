"""Rules of reductions and of running sums."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rulecheck import assert_as_torch, assert_slopes, run_gradients

from cnnkit.errors import ModelError
from cnnkit.graphs.autodiff.backward import gradients
from cnnkit.graphs.builder import Builder, Operators
from cnnkit.graphs.tensors import Tensor

SMOOTH = ["ReduceSum", "ReduceMean", "ReduceSumSquare", "ReduceL2", "ReduceLogSumExp", "ReduceProd"]
CHOOSING = ["ReduceMax", "ReduceMin", "ReduceL1"]
ALL = [*SMOOTH, *CHOOSING, "ReduceLogSum"]


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape)


def apart(*shape: int) -> np.ndarray:
    """Numbers of which no two are closer than 0.1, and none is closer to 0."""
    count = int(np.prod(shape))
    numbers = np.random.default_rng(1).permutation(np.arange(count) - count // 2 + 0.5)
    return (numbers / 5).reshape(shape)


def reduce(operator: str, axes: list[int] | None, **attributes: int) -> Callable[..., Tensor]:
    inputs = [] if axes is None else [np.array(axes, np.int64)]
    return lambda op, x: getattr(op, operator)(x, *inputs, **attributes)


def gradient(write: Callable[..., Tensor], x: Any, dy: Any) -> np.ndarray:
    array = np.array(x, np.float32)
    return run_gradients(write, array, seed=np.array(dy, np.float32))[1][0]


def points(operator: str, shape: tuple[int, ...]) -> np.ndarray:
    x = apart(*shape)
    if operator == "ReduceProd":  # near 1, or the product of many has no square
        return np.sign(x) * (0.5 + np.abs(x) / np.abs(x).max())
    return np.abs(x) if operator == "ReduceLogSum" else x


@pytest.mark.parametrize("operator", ALL)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_slopes(operator: str, data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    rank = len(shape)
    axes = data.draw(st.none() | st.lists(st.integers(0, rank - 1), max_size=rank, unique=True))
    if axes is not None:
        axes = [axis - rank * data.draw(st.integers(0, 1)) for axis in axes]
    keepdims, noop = data.draw(st.integers(0, 1)), data.draw(st.integers(0, 1))
    batch = data.draw(st.booleans()) and operator != "ReduceProd"
    write = reduce(operator, axes, keepdims=keepdims, noop_with_empty_axes=noop)
    assert_slopes(write, points(operator, shape), batch=batch, opset=data.draw(st.sampled_from([18, 20, 26])))


@pytest.mark.parametrize(
    ("operator", "x", "dx"),
    [
        ("ReduceSum", [1, 2, 3], [6, 6, 6]),
        ("ReduceMean", [1, 2, 3], [2, 2, 2]),
        ("ReduceSumSquare", [1, -2, 3], [12, -24, 36]),
        ("ReduceL1", [1, -2, 0], [6, -6, 0]),
        ("ReduceL2", [3, -4, 0], [3.6, -4.8, 0]),
        ("ReduceL2", [0, 0, 0], [0, 0, 0]),
        ("ReduceLogSum", [1, 2, 3], [1, 1, 1]),
        ("ReduceLogSumExp", [5, 5, 5], [2, 2, 2]),
        ("ReduceLogSumExp", [1000, 0, 1000], [3, 0, 3]),
        ("ReduceLogSumExp", [-1000, -1000, -2000], [3, 3, 0]),
        ("ReduceMax", [1, 3, 2], [0, 6, 0]),
        ("ReduceMax", [3, 3, 2], [3, 3, 0]),
        ("ReduceMin", [1, 1, 1], [2, 2, 2]),
        ("ReduceMin", [2, -1, 2], [0, 6, 0]),
        ("ReduceProd", [2, 3, 4], [72, 48, 36]),
        ("ReduceProd", [0, 3, 4], [72, 0, 0]),
        ("ReduceProd", [0, 3, 0], [0, 0, 0]),
        ("ReduceProd", [1e-30, 1e-10, 1e30], [6e20, 6, 6e-40]),
        ("ReduceProd", [7], [6]),
    ],
)
@pytest.mark.parametrize("keepdims", [0, 1])
def test_by_hand(operator: str, x: list[float], dx: list[float], keepdims: int) -> None:
    found = gradient(reduce(operator, [-1], keepdims=keepdims), x, [6] if keepdims else 6)
    np.testing.assert_allclose(found, dx, rtol=4e-5, atol=1e-37)  # float32 knows log-sums of 1000 to 6e-5


@pytest.mark.parametrize(
    ("operator", "dx"),
    [
        ("ReduceSum", [1, 10, 100]),
        ("ReduceMean", [1, 10, 100]),
        ("ReduceProd", [1, 10, 100]),
        ("ReduceMax", [1, 10, 100]),
        ("ReduceLogSumExp", [1, 10, 100]),
        ("ReduceL1", [-1, 0, 100]),
        ("ReduceL2", [-1, 0, 100]),
        ("ReduceSumSquare", [-4, 0, 800]),
    ],
)
@pytest.mark.parametrize("axes", [None, []])
def test_no_axes_may_mean_none(operator: str, dx: list[float], axes: list[int] | None) -> None:
    write = reduce(operator, axes, noop_with_empty_axes=1, keepdims=0)
    np.testing.assert_allclose(gradient(write, [-2, 0, 4], [1, 10, 100]), dx, rtol=1e-6)


def test_products_of_many_numbers_over_two_axes() -> None:
    x = np.random.default_rng(3).uniform(0.5, 1.5, (2, 7, 3, 5))
    x[0, 2, :, 1] = [0, 1, 2]  # one product with a zero
    x[1, [3, 4], 0, 0] = 0  # one with two
    expected = np.zeros_like(x)
    for n, c, h, w in np.ndindex(*x.shape):
        others = x[n, :, h, :].copy()
        others[c, w] = 1
        expected[n, c, h, w] = (n + 1) * others.prod()
    seed = np.array([1.0, 2.0])[:, None].repeat(3, 1)
    found = gradient(reduce("ReduceProd", [1, 3], keepdims=0), x, seed)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_product_over_an_open_batch_is_refused() -> None:
    builder = Builder()
    x = builder.input("x", ["batch", 3])
    with pytest.raises(ModelError, match=r"gradient of ReduceProd .* open batch; give"):
        gradients(builder, builder.op.ReduceProd(x, [0]), [x])


@pytest.mark.parametrize("operator", ["ReduceSum", "ReduceMean"])
@pytest.mark.parametrize("batch", [False, True])
def test_linear_ones_are_adjoint(operator: str, batch: bool) -> None:
    assert_adjoint(reduce(operator, [0, 2], keepdims=0), (3, 2, 4), batch)


@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_running_sums_are_adjoint(exclusive: int, reverse: int, axis: int) -> None:
    def write(op: Operators, x: Tensor) -> Tensor:
        sums: Tensor = op.CumSum(x, np.array(axis), exclusive=exclusive, reverse=reverse)
        return sums

    assert_adjoint(write, (3, 2, 4), batch=True)
    assert_slopes(write, random(3, 2, 4))


def test_running_sum_by_hand() -> None:
    sums = gradient(lambda op, x: op.CumSum(x, np.array(0)), [5, 5, 5], [1, 10, 100])
    assert sums.tolist() == [111, 110, 100]
    behind = gradient(
        lambda op, x: op.CumSum(x, np.array(0), exclusive=1, reverse=1), [5, 5, 5], [1, 10, 100]
    )
    assert behind.tolist() == [0, 1, 11]


def assert_adjoint(write: Callable[..., Tensor], shape: tuple[int, ...], batch: bool) -> None:
    """<J v, u> = <v, Jᵀ u>, in float64."""
    from onnx.reference import ReferenceEvaluator

    builder = Builder()
    x = builder.input("x", ["batch" if batch else shape[0], *shape[1:]], np.float64)
    out = write(builder.op, x)
    seed = builder.input("seed", out.shape, np.float64)
    for name in (out, gradients(builder, out, [x], seed=seed)[x]):
        builder.output(name)
    run, random = ReferenceEvaluator(builder.model()), np.random.default_rng(4)
    v = random.standard_normal(shape)
    u = random.standard_normal([size or shape[0] for size in out.shape])
    jv, ju = run.run(None, {"x": v, "seed": u} if "x" in run.input_names else {"seed": u})
    assert np.sum(jv * u) == pytest.approx(np.sum(v * ju), rel=1e-10)


@pytest.mark.oracle
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize(
    ("operator", "in_torch"),
    [
        ("ReduceSum", lambda x, k: x.sum((1, 3), keepdim=k)),
        ("ReduceMean", lambda x, k: x.mean((1, 3), keepdim=k)),
        ("ReduceMax", lambda x, k: x.amax((1, 3), keepdim=k)),
        ("ReduceMin", lambda x, k: x.amin((1, 3), keepdim=k)),
        (
            "ReduceProd",
            lambda x, k: x.prod(3, keepdim=True).prod(1, keepdim=True).reshape((2, 1, 4, 1) if k else (2, 4)),
        ),
        ("ReduceL1", lambda x, k: x.abs().sum((1, 3), keepdim=k)),
        ("ReduceL2", lambda x, k: x.norm(dim=(1, 3), keepdim=k)),
        ("ReduceSumSquare", lambda x, k: x.square().sum((1, 3), keepdim=k)),
        ("ReduceLogSum", lambda x, k: x.sum((1, 3), keepdim=k).log()),
        ("ReduceLogSumExp", lambda x, k: x.logsumexp((1, 3), keepdim=k)),
    ],
)
@pytest.mark.parametrize("ties", [False, True])
def test_as_torch(operator: str, in_torch: Callable[..., Any], keepdims: int, ties: bool) -> None:
    x = random(2, 3, 4, 5)
    if ties and operator not in ("ReduceLogSum",):
        x = np.round(x)  # ties, and zeros
        x[0, :, 1] = 0
    if operator == "ReduceLogSum":
        x = np.abs(x) + 0.1
    assert_as_torch(
        reduce(operator, [1, -1], keepdims=keepdims),
        lambda x: in_torch(x, bool(keepdims)),
        x.astype(np.float32),
    )


@pytest.mark.oracle
@pytest.mark.parametrize("axis", [0, 2])
def test_running_sum_as_torch(axis: int) -> None:
    assert_as_torch(
        lambda op, x: op.CumSum(x, np.array(axis)),
        lambda x: x.cumsum(axis),
        random(3, 2, 4).astype(np.float32),
    )
