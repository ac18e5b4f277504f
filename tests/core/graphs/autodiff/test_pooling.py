"""Rules of pooling, over windows, planes and channels.

onnx's reference implementation of pooling is wrong where ceil_mode or SAME padding makes windows reach over
the plane, and in a few one-dimensional cases; those are checked in float32 on ONNX Runtime instead, and there
against the definition: the first maximum for MaxPool, <A v, u> = <v, A' u> for the linear AveragePool.
"""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rulecheck import assert_as_torch, assert_slopes, run_gradients

from cnnkit.errors import ModelError
from cnnkit.graphs.autodiff.backward import gradients
from cnnkit.graphs.builder import Builder
from cnnkit.runtime.device import onnxruntime

quick = settings(max_examples=15, deadline=None)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def distinct(*shape: int) -> np.ndarray:
    """Numbers so far apart that a small step changes no maximum; none is zero."""
    return (np.random.default_rng(0).permutation(int(np.prod(shape))).reshape(shape) - 4.5) / 8


def pool(operator: str, attributes: dict[str, Any]) -> Any:
    return lambda op, x: getattr(op, operator)(x, **attributes)


@st.composite
def windows(draw: Any, dilations: bool = True) -> tuple[tuple[int, ...], dict[str, Any]]:
    """A shape and the attributes of a pooling of it, for one to three axes of space."""
    rank = draw(st.integers(1, 3))
    kernel = [draw(st.integers(1, 3)) for _ in range(rank)]
    padding = draw(st.sampled_from(["NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    spread = [1] * rank
    attributes: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": [draw(st.integers(1, k)) for k in kernel],
    }
    if padding != "NOTSET":
        attributes["auto_pad"] = padding
    else:
        attributes["pads"] = [draw(st.integers(0, k - 1)) for k in kernel * 2]
        attributes["ceil_mode"] = draw(st.integers(0, 1))
        if dilations:
            attributes["dilations"] = spread = [draw(st.integers(1, 2)) for _ in kernel]
    sizes = [(k - 1) * d + draw(st.integers(1, 4)) for k, d in zip(kernel, spread, strict=True)]
    return (2, 2, *sizes), attributes


def shape_of(
    operator: str, shape: tuple[int, ...], attributes: dict[str, Any], opset: int
) -> tuple[int, ...]:
    builder = Builder(opset=opset)
    return pool(operator, attributes)(builder.op, builder.input("x", shape)).shape


def slow_max_pool(x: np.ndarray, dy: np.ndarray, attributes: dict[str, Any]) -> np.ndarray:
    """The gradient, cell by cell: each window in the order of memory, all to the first maximum."""
    kernel, strides, rank = attributes["kernel_shape"], attributes["strides"], x.ndim - 2
    dilations, padding = attributes.get("dilations", [1] * rank), attributes.get("auto_pad", "")
    before = list(attributes.get("pads", [0] * rank))[:rank]
    if padding.startswith("SAME"):
        reach = [(n - 1) * s + k for n, s, k in zip(dy.shape[2:], strides, kernel, strict=True)]
        lack = [max(0, end - size) for end, size in zip(reach, x.shape[2:], strict=True)]
        before = [-(-n // 2) if padding == "SAME_LOWER" else n // 2 for n in lack]
    dx = np.zeros_like(x)
    for place in np.ndindex(dy.shape):
        cells = []
        for cell in np.ndindex(*kernel):
            at = np.array(place[2:]) * strides + np.array(cell) * dilations - before
            if (at >= 0).all() and (at < x.shape[2:]).all():
                cells.append((*place[:2], *at))
        dx[max(cells, key=lambda cell: x[cell])] += dy[place]  # max returns the first
    return dx


@quick
@given(windows(), st.integers(0, 1000))
def test_max_pool_to_the_first_maximum(case: tuple[tuple[int, ...], dict[str, Any]], seed: int) -> None:
    # few whole numbers: most windows have ties; none above zero: padding must not win
    x = np.random.default_rng(seed).integers(-3, 1, case[0]).astype(np.float32)
    dy = random(*shape_of("MaxPool", *case, opset=18), seed=seed)
    _, (dx,) = run_gradients(pool("MaxPool", case[1]), x, seed=dy)
    assert np.allclose(dx, slow_max_pool(x, dy, case[1]), atol=1e-5)


@pytest.mark.parametrize("kernel", [(2,), (2, 2), (3, 2), (2, 2, 3)])
def test_max_pool_of_windows_that_tile_the_plane(kernel: tuple[int, ...]) -> None:
    attributes = {"kernel_shape": list(kernel), "strides": list(kernel)}
    x = np.random.default_rng(0).integers(-2, 1, (2, 3, *(2 * k for k in kernel))).astype(np.float32)
    dy = random(2, 3, *(2 for _ in kernel))
    _, (dx,) = run_gradients(pool("MaxPool", attributes), x, seed=dy)
    assert np.array_equal(dx, slow_max_pool(x, dy, attributes))


@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel_shape": [2, 2], "strides": [2, 2]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
        {"kernel_shape": [2, 3], "dilations": [2, 1]},
    ],
)
@pytest.mark.parametrize("batch", [False, True])
def test_max_pool_slopes(attributes: dict[str, Any], batch: bool) -> None:
    assert_slopes(pool("MaxPool", attributes), distinct(2, 2, 6, 6), batch=batch)


def test_max_pool_by_hand() -> None:
    x = np.array([[[[0, 3, 3, 1]]]], np.float32)
    dy = np.array([[[[1, 10, 100]]]], np.float32)
    _, (dx,) = run_gradients(pool("MaxPool", {"kernel_shape": [1, 2]}), x, seed=dy)
    assert dx.ravel().tolist() == [0, 11, 100, 0]
    _, (dx,) = run_gradients(
        pool("MaxPool", {"kernel_shape": [1, 2], "strides": [1, 2]}), x * 0, seed=dy[..., :2]
    )
    assert dx.ravel().tolist() == [1, 0, 10, 0]


@pytest.mark.parametrize("stride", [1, 2])
def test_max_pool_in_half_precision(stride: int) -> None:
    attributes = {"kernel_shape": [2, 2], "strides": [stride, stride]}
    dy = random(1, 2, *[7 if stride == 1 else 4] * 2).astype(np.float16)
    x = np.random.default_rng(0).integers(-2, 2, (1, 2, 8, 8)).astype(np.float16)
    _, (dx,) = run_gradients(pool("MaxPool", attributes), x, seed=dy)
    assert dx.dtype == np.float16
    assert np.allclose(dx, slow_max_pool(x.astype(float), dy.astype(float), attributes), atol=4e-3)


@pytest.mark.parametrize("storage_order", [0, 1])
def test_max_pool_with_indices_of_its_own(storage_order: int) -> None:
    attributes = {"kernel_shape": [3, 3], "strides": [2, 2], "storage_order": storage_order}
    x, dy = random(1, 2, 7, 9), random(1, 2, 3, 4)
    _, (dx,) = run_gradients(lambda op, x: op.MaxPool(x, **attributes, output=2)[0], x, seed=dy)
    assert np.allclose(dx, slow_max_pool(x, dy, attributes), atol=1e-6)


@quick
@given(windows(), st.integers(0, 1), st.sampled_from([19, 22, 26]))
def test_average_pool_is_the_adjoint(
    case: tuple[tuple[int, ...], dict[str, Any]], padding: int, opset: int
) -> None:
    attributes = {**case[1], "count_include_pad": padding}
    v, u = random(*case[0]), random(*shape_of("AveragePool", case[0], attributes, opset), seed=1)
    value, (dx,) = run_gradients(pool("AveragePool", attributes), v, seed=u, opset=opset)
    assert np.isclose(np.sum(value * u, dtype=float), np.sum(v * dx, dtype=float), rtol=1e-4, atol=1e-4)


AVERAGES = [
    {"kernel_shape": [2, 2], "strides": [2, 2]},
    {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]},
    {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1},
    {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 0, 1]},
]


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("attributes", AVERAGES)
@pytest.mark.parametrize("operator", ["AveragePool", "LpPool"])
def test_sums_over_windows(operator: str, attributes: dict[str, Any], batch: bool) -> None:
    attributes = {name: value for name, value in attributes.items() if operator != "LpPool" or name[0] != "c"}
    assert_slopes(pool(operator, attributes), distinct(2, 3, 6, 8), batch=batch)


@pytest.mark.parametrize("attributes", AVERAGES)
def test_average_pool_exactly(attributes: dict[str, Any]) -> None:
    """<A v, u> = <v, A' u> in float64."""
    from onnx.reference import ReferenceEvaluator

    builder = Builder()
    y = builder.op.AveragePool(builder.input("v", [2, 3, 6, 8], np.float64), **attributes)
    u = builder.input("u", y.shape, np.float64)
    found = gradients(builder, y, ["v"], seed=u)["v"]
    builder.output(y)
    builder.output(found)
    feeds = {"v": random(2, 3, 6, 8).astype(float), "u": random(*y.shape, seed=1).astype(float)}
    value, dv = ReferenceEvaluator(builder.model()).run(None, feeds)
    assert abs(np.sum(value * feeds["u"]) - np.sum(dv * feeds["v"])) < 1e-10


def test_average_pool_by_hand() -> None:
    """A window that reaches into the padding has fewer cells to share with, unless the padding counts."""
    x, dy = np.ones((1, 1, 3), np.float32), np.array([[[6, 6, 6]]], np.float32)
    attributes = {"kernel_shape": [3], "pads": [1, 1]}
    _, (dx,) = run_gradients(pool("AveragePool", attributes), x, seed=dy)
    assert np.allclose(dx.ravel(), [5, 8, 5])
    _, (dx,) = run_gradients(pool("AveragePool", {**attributes, "count_include_pad": 1}), x, seed=dy)
    assert np.allclose(dx.ravel(), [4, 6, 4])


@pytest.mark.parametrize("p", [1, 2, 3])
def test_norms(p: int) -> None:
    """onnx's reference implementation has no GlobalLpPool."""
    assert_slopes(lambda op, x: op.LpPool(x, kernel_shape=[2], strides=[2], p=p), distinct(2, 3, 8))
    x, dy = random(2, 3, 4, 2), random(2, 3, 1, 1, seed=1)
    y, (dx,) = run_gradients(lambda op, x: op.GlobalLpPool(x, p=p), x, seed=dy)
    assert np.allclose(dx, dy * np.sign(x) * (np.abs(x) / y) ** (p - 1), rtol=1e-5)


@pytest.mark.parametrize("operator", ["LpPool", "GlobalLpPool"])
def test_norms_have_no_slope_where_they_are_zero(operator: str) -> None:
    attributes = {"kernel_shape": [3]} if operator == "LpPool" else {}
    x, dy = np.array([[[0, 0, 0]]], np.float32), np.ones((1, 1, 1), np.float32)
    _, (dx,) = run_gradients(pool(operator, attributes), x, seed=dy)
    assert dx.ravel().tolist() == [0, 0, 0]


@pytest.mark.parametrize("operator", ["GlobalAveragePool", "GlobalMaxPool"])
@pytest.mark.parametrize("opset", [18, 22, 26])
def test_whole_planes(operator: str, opset: int) -> None:
    assert_slopes(pool(operator, {}), distinct(2, 3, 4, 2), batch=True, opset=opset)


@pytest.mark.parametrize("shape", [(2, 3, 5), (1, 2, 2, 3, 2)])
def test_whole_lines_and_volumes(shape: tuple[int, ...]) -> None:
    x, dy = distinct(*shape).astype(np.float32), random(*shape[:2], *[1] * (len(shape) - 2))
    axes = tuple(range(2, len(shape)))
    _, (dx,) = run_gradients(pool("GlobalMaxPool", {}), x, seed=dy)
    assert np.array_equal(dx, np.where(x == x.max(axes, keepdims=True), dy, 0))
    _, (dx,) = run_gradients(pool("GlobalAveragePool", {}), x, seed=dy)
    assert np.allclose(dx, np.broadcast_to(dy / np.prod(shape[2:]), shape))


def test_maximum_of_a_plane_to_the_first() -> None:
    x = np.array([[[[1, 2], [2, 2]]]], np.float32)
    _, (dx,) = run_gradients(pool("GlobalMaxPool", {}), x, seed=np.full((1, 1, 1, 1), 5, np.float32))
    assert dx.ravel().tolist() == [0, 5, 0, 0]


@quick
@given(st.sampled_from([1, 3, 5]), st.integers(1, 6), st.floats(0.1, 2), st.floats(0.3, 1.5))
def test_local_response_normalisation(size: int, channels: int, alpha: float, beta: float) -> None:
    # onnx's reference implementation sums as many channels as there are pictures
    x = random(channels, channels, 3, 2)
    assert_slopes(lambda op, x: op.LRN(x, size=size, alpha=alpha, beta=beta, bias=1.5), x, batch=False)


@pytest.mark.oracle
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(
    "how",
    [
        {"kernel_size": 2, "stride": 2},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": 3, "stride": 2, "ceil_mode": True},
        {"kernel_size": 3, "stride": 1, "padding": 1, "dilation": 1},
        {"kernel_size": 2, "stride": 1, "dilation": 2},
    ],
)
def test_max_pool_as_torch(how: dict[str, Any], ties: bool) -> None:
    from torch.nn.functional import max_pool2d

    k, pad = how["kernel_size"], how.get("padding", 0)
    attributes = {
        "kernel_shape": [k, k],
        "strides": [how["stride"]] * 2,
        "pads": [pad] * 4,
        "dilations": [how.get("dilation", 1)] * 2,
        "ceil_mode": int(how.get("ceil_mode", False)),
    }
    x = np.maximum(random(2, 4, 10, 10), 0.6) if ties else random(2, 4, 10, 10)
    assert_as_torch(pool("MaxPool", attributes), lambda x: max_pool2d(x, **how), x)


@pytest.mark.oracle
def test_the_others_as_torch() -> None:
    from torch.nn import functional

    x = random(2, 6, 8, 8)
    for attributes, how in zip(
        [*AVERAGES[:3], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4, "ceil_mode": 1}],
        [
            {"kernel_size": 2, "stride": 2},
            {"kernel_size": 3, "stride": 1, "padding": 1, "count_include_pad": False},
            {"kernel_size": 3, "stride": 1, "padding": 1},
            {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True, "count_include_pad": False},
        ],
        strict=True,
    ):
        assert_as_torch(
            pool("AveragePool", attributes), lambda x, how=how: functional.avg_pool2d(x, **how), x
        )
    assert_as_torch(pool("GlobalAveragePool", {}), lambda x: functional.adaptive_avg_pool2d(x, 1), x)
    assert_as_torch(
        pool("GlobalMaxPool", {}), lambda x: functional.adaptive_max_pool2d(x, 1), np.maximum(x, 1)
    )
    assert_as_torch(
        lambda op, x: op.LRN(x, size=5, alpha=0.3, beta=0.75, bias=2.0),
        lambda x: functional.local_response_norm(x, 5, 0.3, 0.75, 2.0),
        x,
    )


@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool", "LpPool"])
@pytest.mark.parametrize(
    "kernel, stride, pad, size", [(2, 3, 0, 9), (2, 3, 1, 5), (1, 3, 0, 8), (2, 2, 1, 3)]
)
@pytest.mark.parametrize("opset", [18, 22])
def test_no_window_starts_behind_the_plane(
    operator: str, kernel: int, stride: int, pad: int, size: int, opset: int
) -> None:
    """Before opset 22 onnx infers one more than ONNX Runtime and torch compute."""
    attributes = {"kernel_shape": [kernel], "strides": [stride], "pads": [pad, pad], "ceil_mode": 1}
    x = (1 + np.arange(2 * 3 * size, dtype=np.float32).reshape(2, 3, size)) ** 0.5
    builder = Builder(opset=opset)
    tensor = builder.input("x", ("batch", 3, size))
    y = pool(operator, attributes)(builder.op, tensor)
    dx = gradients(builder, builder.op.Mul(y, y), ["x"])["x"]
    builder.output(dx)
    builder.output(builder.op.Identity(y, name="y"), ("batch", 3, None))
    session = onnxruntime().InferenceSession(
        builder.model().SerializeToString(), providers=["CPUExecutionProvider"]
    )
    value, found = session.run(["y", dx], {"x": x})
    assert value.shape[2] == y.shape[2]

    expected = np.zeros_like(x)
    for place in range(value.shape[2]):
        start = place * stride - pad
        inside = slice(max(0, start), min(size, start + kernel))
        window, total = x[:, :, inside], value[:, :, place : place + 1]
        if operator == "MaxPool":
            slope = (window == total).astype(np.float32)
        elif operator == "AveragePool":
            slope = np.full_like(window, 1 / window.shape[2])
        else:
            slope = window / total
        expected[:, :, inside] += 2 * total * slope
    assert np.allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("operator", ["GlobalAveragePool", "GlobalMaxPool"])
def test_a_plane_that_is_the_batch(operator: str) -> None:
    def write(op: Any, x: Any) -> Any:
        return getattr(op, operator)(op.Unsqueeze(op.Transpose(x, perm=[1, 0, 2]), [0]))

    assert_slopes(write, distinct(5, 3, 4), batch=True)


def test_channels_that_are_the_batch() -> None:
    # as many channels as pictures, for onnx's reference implementation
    x = random(3, 3, 4, 4)
    assert_slopes(lambda op, x: op.LRN(op.Transpose(x, perm=[1, 0, 2, 3]), size=3), x, batch=True)


def test_windows_over_the_batch_are_refused() -> None:
    builder = Builder()
    x = builder.op.Unsqueeze(builder.op.Transpose(builder.input("x", ("batch", 3))), [0])
    y = builder.op.MaxPool(x, kernel_shape=[2])
    with pytest.raises(ModelError, match=r"MaxPool 'MaxPool_0' .* windows slide over an open batch"):
        gradients(builder, y, ["x"])
