"""Rules of normalisations."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops import _op_list, load_op, op_lp_normalization
from rulecheck import Write, assert_as_torch, run_gradients

from cnnkit.errors import ModelError
from cnnkit.graphs.autodiff.backward import gradients
from cnnkit.graphs.autodiff.check import slopes
from cnnkit.graphs.builder import Builder, Operators
from cnnkit.graphs.tensors import Tensor
from cnnkit.runtime.device import onnxruntime, session_options

quick = settings(max_examples=15, deadline=None)
seeds = st.integers(1, 2**31)  # 0 are the weights that the check itself draws
opsets = st.sampled_from([18, 21, 22, 23, 26])


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def single(*shape: int, seed: int = 0) -> np.ndarray:
    return random(*shape, seed=seed).astype(np.float32)


class MeanVariance(OpRun):
    """Of onnx there is only the function body, in float32."""

    op_domain = ""

    def _run(self, x: np.ndarray, axes: list[int] | None = None) -> tuple[np.ndarray]:
        centred = x - x.mean(tuple(axes or ()), keepdims=True)
        return (centred / (np.sqrt((centred**2).mean(tuple(axes or ()), keepdims=True)) + 1e-9),)


def norm(self: Any, x: np.ndarray, axis: int | None = None, p: int | None = None) -> tuple[np.ndarray]:
    """LpNormalization with |x| for p = 1, where onnx's forgets the bars."""
    axis, p = self.axis if axis is None else axis, p or self.p
    return (x / np.power(np.power(np.abs(x), p).sum(axis=axis, keepdims=True), 1 / p),)


@pytest.fixture(scope="module", autouse=True)
def mended_reference() -> Iterator[None]:
    """What is wrong in float64 in onnx 1.23's reference implementation."""
    load_op("", "Add", 18)  # fills the table
    with pytest.MonkeyPatch.context() as patch:
        table: Any = _op_list._registered_operators
        patch.setitem(table, "MeanVarianceNormalization", {None: MeanVariance, 13: MeanVariance})
        patch.setattr(op_lp_normalization.LpNormalization, "_run", norm)
        yield


def assert_right(
    write: Write, x: np.ndarray, *weights: np.ndarray, batch: bool = False, opset: int = 18
) -> None:
    """As `assert_slopes`; with `batch` only the first size of x stays open."""
    feeds = {"x": x, **{f"weight{index}": weight for index, weight in enumerate(weights)}}
    builder = Builder(opset=opset)
    tensors = [
        builder.input(name, ["batch", *a.shape[1:]] if batch and name == "x" else a.shape, np.float64)
        for name, a in feeds.items()
    ]
    for slope in slopes(builder, write(builder.op, *tensors), feeds, list(feeds)):
        assert slope.good, f"{slope} is wrong by {slope.error:.2e}"


# Over a batch


def batch_norm(op: Operators, *inputs: Tensor, training: int = 0, **attributes: float) -> Tensor:
    y: Tensor
    y, *_ = op.BatchNormalization(*inputs, training_mode=training, output=1 + 2 * training, **attributes)
    return y


def of_batch(op: Operators, x: Tensor, scale: Tensor, bias: Tensor, **attributes: float) -> Tensor:
    """The running statistics that come in play no part in the output."""
    old = np.full(scale.shape, 0.5, scale.dtype)
    return batch_norm(op, x, scale, bias, old, old, training=1, **attributes)


pictures = st.lists(st.integers(1, 4), min_size=2, max_size=5).map(lambda sizes: (sizes[0] + 2, *sizes[1:]))


@quick
@given(pictures, st.sampled_from([1e-5, 0.1]), st.booleans(), opsets, seeds)
def test_batch_normalization_of_a_batch(
    shape: tuple[int, ...], epsilon: float, batch: bool, opset: int, seed: int
) -> None:
    weights = random(2, shape[1], seed=seed + 1)
    assert_right(
        partial(of_batch, epsilon=epsilon), random(*shape, seed=seed) + 2, *weights, batch=batch, opset=opset
    )


@quick
@given(pictures, st.booleans(), opsets, seeds)
def test_batch_normalization_by_constants(shape: tuple[int, ...], batch: bool, opset: int, seed: int) -> None:
    weights = random(4, shape[1], seed=seed + 1)
    weights[3] = weights[3] ** 2 + 0.2
    assert_right(batch_norm, random(*shape, seed=seed), *weights, batch=batch, opset=opset)


@pytest.mark.parametrize("channels", [[0], [0, 1]])
def test_a_batch_of_two_numbers_has_no_slope(channels: list[int]) -> None:
    """They become -1 and 1 whatever they were; the scale gets the difference of what arrives."""
    x = single(2, 2)[:, channels]
    dy = np.array([[3, 5], [10, 20]], np.float32)[:, channels]
    weights = np.ones(len(channels), np.float32)
    _, (dx, dscale, dbias) = run_gradients(partial(of_batch, epsilon=0.0), x, weights, weights, seed=dy)
    assert np.abs(dx).max() < 1e-4
    np.testing.assert_allclose(dscale, ((dy[1] - dy[0]) * np.sign(x[1] - x[0])), rtol=1e-5)
    np.testing.assert_allclose(dbias, dy.sum(0))


def test_constant_statistics_by_hand() -> None:
    def write(op: Operators, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        return batch_norm(
            op, x, scale, bias, np.array([1], np.float32), np.array([3], np.float32), epsilon=1.0
        )

    arrays = [np.array(a, np.float32) for a in ([[[5, 1, -3]]], [6], [0])]
    y, (dx, dscale, dbias) = run_gradients(write, *arrays, seed=np.array([[[1, 10, 100]]], np.float32))
    assert y.ravel().tolist() == [12, 0, -12]
    assert dx.ravel().tolist() == [3, 30, 300]
    assert (dscale.tolist(), dbias.tolist()) == ([2 - 200], [111])


def test_a_loss_on_running_statistics_is_refused() -> None:
    builder = Builder()
    x, numbers = builder.input("x", [2, 3, 4]), np.ones(3, np.float32)
    _, mean, _ = builder.op.BatchNormalization(x, *[numbers] * 4, training_mode=1, output=["y", "m", "v"])
    with pytest.raises(ModelError, match=r"BatchNormalization .* running statistics; let the loss"):
        gradients(builder, mean, [x])


def test_an_open_batch_gives_the_same_numbers() -> None:
    """On ONNX Runtime, where its sums are written in another way."""
    arrays, seed = [single(5, 3, 4, 2) + 2, single(3, seed=1), single(3, seed=2)], single(5, 3, 4, 2, seed=3)
    builder = Builder()
    x = builder.input("x", ["batch", 3, 4, 2])
    scale, bias = (builder.input(name, [3]) for name in ("scale", "bias"))
    y = of_batch(builder.op, x, scale, bias)
    found = gradients(builder, y, [x, scale, bias], seed=builder.input("seed", ["batch", 3, 4, 2]))
    for gradient in found.values():
        builder.output(gradient)
    session = onnxruntime().InferenceSession(builder.model().SerializeToString(), session_options(1))
    feeds = {"x": arrays[0], "scale": arrays[1], "seed": seed}
    _, fixed = run_gradients(of_batch, *arrays, seed=seed)
    for got, want in zip(session.run(None, feeds), fixed, strict=True):
        assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()


@pytest.mark.oracle
@pytest.mark.parametrize("shape", [(8, 3), (4, 3, 5), (4, 3, 5, 6), (2, 3, 2, 3, 4)])
@pytest.mark.parametrize("offset", [0, 30])
def test_batch_normalization_as_torch(shape: tuple[int, ...], offset: float) -> None:
    from torch.nn.functional import batch_norm as in_torch

    arrays = [single(*shape) + np.float32(offset), single(3, seed=1), single(3, seed=2)]
    assert_as_torch(of_batch, lambda x, s, b: in_torch(x, None, None, s, b, True, eps=1e-5), *arrays)


def test_large_means_do_not_cancel() -> None:
    """Against float64: numbers around 100 with deviation 1, where E[x²] - E[x]² would leave three digits."""
    arrays = [single(32, 4, 8, 8) + np.float32(100), single(4, seed=1), single(4, seed=2)]
    dy = single(32, 4, 8, 8, seed=3)
    _, found = run_gradients(of_batch, *arrays, seed=dy)
    x = arrays[0].astype(np.float64)
    inverse = 1 / np.sqrt(x.var((0, 2, 3), keepdims=True) + 1e-5)
    normal = (x - x.mean((0, 2, 3), keepdims=True)) * inverse
    lost = dy.mean((0, 2, 3), keepdims=True) + normal * (dy * normal).mean((0, 2, 3), keepdims=True)
    expected = [
        arrays[1][:, None, None] * inverse * (dy - lost),
        (dy * normal).sum((0, 2, 3)),
        dy.sum((0, 2, 3)),
    ]
    for got, want in zip(found, expected, strict=True):
        assert np.abs(got - want).max() <= 2e-5 * np.abs(want).max()


# Within each picture


def instance_norm(op: Operators, *inputs: Tensor, **attributes: float) -> Tensor:
    result: Tensor = op.InstanceNormalization(*inputs, **attributes)
    return result


def group_norm(op: Operators, *inputs: Tensor, groups: int = 2, **attributes: int) -> Tensor:
    result: Tensor = op.GroupNormalization(*inputs, num_groups=groups, **attributes)
    return result


def layer_norm(op: Operators, *inputs: Tensor, axis: int = -1, **attributes: float) -> Tensor:
    result: Tensor = op.LayerNormalization(*inputs, axis=axis, **attributes)
    return result


def rms_norm(op: Operators, *inputs: Tensor, axis: int = -1) -> Tensor:
    result: Tensor = op.RMSNormalization(*inputs, axis=axis, epsilon=1e-3)
    return result


def lp_norm(op: Operators, x: Tensor, **attributes: int) -> Tensor:
    result: Tensor = op.LpNormalization(x, **attributes)
    return result


@quick
@given(st.lists(st.integers(1, 4), min_size=3, max_size=5), st.booleans(), opsets, seeds)
def test_instance_normalization(sizes: list[int], batch: bool, opset: int, seed: int) -> None:
    sizes[-1] += 2
    weights = random(2, sizes[1], seed=seed + 1)
    assert_right(instance_norm, random(*sizes, seed=seed), *weights, batch=batch, opset=opset)


@quick
@given(
    st.sampled_from([(1, 2), (2, 2), (2, 4), (3, 6), (4, 4)]),
    st.lists(st.integers(3, 4), min_size=1, max_size=3),
    st.booleans(),
    st.sampled_from([21, 22, 26]),
    seeds,
)
def test_group_normalization(
    split: tuple[int, int], sizes: list[int], batch: bool, opset: int, seed: int
) -> None:
    groups, channels = split
    x, weights = random(2, channels, *sizes, seed=seed), random(2, channels, seed=seed + 1)
    assert_right(
        partial(group_norm, groups=groups, stash_type=onnx.TensorProto.DOUBLE),
        x,
        *weights,
        batch=batch,
        opset=opset,
    )


@pytest.mark.parametrize("opset", [18, 20])
def test_group_normalization_with_a_scale_for_each_group(opset: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The older form, which onnx's checker calls deprecated while runtimes run it."""
    monkeypatch.setattr(onnx.checker, "check_model", lambda model: None)
    assert_right(group_norm, random(2, 6, 2, 3), *random(2, 2, seed=1), opset=opset)


layers = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(lambda sizes: [*sizes, 3])


@quick
@given(layers, st.data(), st.booleans(), opsets, seeds)
def test_layer_normalization(
    shape: list[int], data: st.DataObject, batch: bool, opset: int, seed: int
) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    batch = batch and axis % len(shape) != 0
    start = data.draw(st.integers(axis % len(shape), len(shape) - 1))  # a scale may leave axes out
    weights = random(2, *shape[start:], seed=seed + 1)[: data.draw(st.integers(1, 2))]
    x = random(*shape, seed=seed)
    assert_right(partial(layer_norm, axis=axis), x, *weights, batch=batch, opset=opset)


def test_layer_normalization_saves_numbers_without_a_gradient() -> None:
    builder = Builder()
    x, scale = builder.input("x", [2, 3]), np.ones(3, np.float32)
    y, mean, _ = builder.op.LayerNormalization(x, scale, output=["y", "mean", "inverse"])
    assert gradients(builder, y, [x])[x].shape == (2, 3)
    with pytest.raises(ModelError, match=r"LayerNormalization .* saved Mean and InvStdDev; let"):
        gradients(builder, mean, [x])


@quick
@given(layers, st.data(), st.booleans(), seeds)
def test_rms_normalization(shape: list[int], data: st.DataObject, batch: bool, seed: int) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    batch = batch and axis % len(shape) != 0
    weight = random(*shape[axis % len(shape) :], seed=seed + 1)
    assert_right(partial(rms_norm, axis=axis), random(*shape, seed=seed), weight, batch=batch, opset=23)


@quick
@given(st.sampled_from([None, [0, 2, 3], [2, 3], [1], [-1, 0]]), st.booleans(), opsets, seeds)
def test_mean_variance_normalization(axes: list[int] | None, batch: bool, opset: int, seed: int) -> None:
    attributes = {} if axes is None else {"axes": axes}
    x = random(3, 4, 2, 3, seed=seed)
    assert_right(lambda op, x: op.MeanVarianceNormalization(x, **attributes), x, batch=batch, opset=opset)


@quick
@given(st.sampled_from([1, 2]), st.integers(-3, 2), st.booleans(), opsets, seeds)
def test_lp_normalization(p: int, axis: int, batch: bool, opset: int, seed: int) -> None:
    x = random(3, 4, 2, seed=seed)
    x += 0.1 * np.sign(x)
    assert_right(partial(lp_norm, p=p, axis=axis), x, batch=batch, opset=opset)


@pytest.mark.parametrize(
    ("p", "x", "dx"),
    [
        (1, [3, 4, 0], [4 / 49, -3 / 49, 0]),
        (1, [3, -4, 0], [4 / 49, 3 / 49, 0]),
        (2, [3, 4, 0], [16 / 125, -12 / 125, 0]),
        (1, [0, 0, 0], [0, 0, 0]),
        (2, [0, 0, 0], [0, 0, 0]),
    ],
)
def test_lp_normalization_by_hand(p: int, x: list[float], dx: list[float]) -> None:
    """Of the first coordinate of the output."""
    write = partial(lp_norm, p=p)
    _, (found,) = run_gradients(write, np.array(x, np.float32), seed=np.array([1, 0, 0], np.float32))
    np.testing.assert_allclose(found, dx, rtol=1e-6, atol=1e-8)


def mean_variance_in_torch(x: Any) -> Any:
    centred = x - x.mean((0, 2, 3), keepdim=True)
    return centred / centred.square().mean((0, 2, 3), keepdim=True).sqrt()


@pytest.mark.oracle
@pytest.mark.parametrize("offset", [0, 30])
def test_within_each_picture_as_torch(offset: float) -> None:
    torch = pytest.importorskip("torch.nn.functional")

    x, c, last = single(3, 4, 5, 6) + np.float32(offset), single(2, 4, seed=1), single(2, 6, seed=2)
    assert_as_torch(instance_norm, lambda x, s, b: torch.instance_norm(x, weight=s, bias=b), x, *c)
    assert_as_torch(layer_norm, lambda x, s, b: torch.layer_norm(x, (6,), s, b), x, *last)
    assert_as_torch(rms_norm, lambda x, s: torch.rms_norm(x, (6,), s, 1e-3), x, last[0], opset=23)
    assert_as_torch(lambda op, x: op.MeanVarianceNormalization(x), mean_variance_in_torch, x)
    for p in (1, 2):
        assert_as_torch(partial(lp_norm, p=p, axis=1), lambda x, p=p: torch.normalize(x, p=p, dim=1), x)


@pytest.mark.oracle
def test_group_normalization_as_torch() -> None:
    """ONNX Runtime's forward takes E[x²] - E[x]², which has few digits left where the mean is large."""
    from torch.nn.functional import group_norm as in_torch

    arrays = [single(3, 4, 5, 6), single(4, seed=1), single(4, seed=2)]
    assert_as_torch(group_norm, lambda x, s, b: in_torch(x, 2, s, b), *arrays, opset=21)


@pytest.mark.parametrize(
    ("write", "shapes"),
    [
        (of_batch, [(4, 3, 2, 2), (3,), (3,)]),
        (instance_norm, [(2, 3, 4, 4), (3,), (3,)]),
        (group_norm, [(2, 4, 3, 3), (4,), (4,)]),
        (layer_norm, [(2, 3, 8), (8,), (8,)]),
    ],
)
def test_half_precision(write: Write, shapes: list[tuple[int, ...]]) -> None:
    """In float16, by the reference implementation, the gradients are those of float64, rounded."""
    found = []
    for dtype in (np.float16, np.float64):
        builder = Builder(opset=21)
        feeds = {
            f"x{i}": random(*shape, seed=i).astype(np.float16).astype(dtype) for i, shape in enumerate(shapes)
        }
        out = write(builder.op, *(builder.input(name, a.shape, dtype) for name, a in feeds.items()))
        seed = builder.input("seed", out.shape, dtype)
        for gradient in gradients(builder, out, list(feeds), seed=seed).values():
            builder.output(gradient)
        feeds["seed"] = random(*shapes[0], seed=5).astype(np.float16).astype(dtype)
        run = ReferenceEvaluator(builder.model())
        found.append(run.run(None, {name: feeds[name] for name in run.input_names}))
    for half, double in zip(*found, strict=True):
        assert half.dtype == np.float16
        assert np.abs(half - double).max() <= 2e-3 * np.abs(double).max()


def test_running_statistics_that_look_like_constants() -> None:
    """ONNX Runtime keeps equal short constants once; a batch norm in training overwrites its statistics."""
    r = np.random.default_rng(0)
    x, scale = r.standard_normal((6, 4, 5)) + 3, r.standard_normal(4)

    def in_one_mode(mean: float, var: float) -> Any:
        def write(op: Any, x: Any, s: Any) -> Any:
            b, m, v = (np.full(4, value, np.float32) for value in (0.5, mean, var))
            y = op.BatchNormalization(x, s, b, m, v, training_mode=1, output=3)[0]
            return op.Mul(y, y)  # whose gradient has to wait for y

        arrays = [array.astype(np.float32) for array in (x, scale)]
        seed = np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)
        return run_gradients(write, *arrays, seed=seed)[1]

    for got, want in zip(in_one_mode(0, 1), in_one_mode(0.3, 2), strict=True):
        assert np.allclose(got, want, rtol=1e-4, atol=1e-5)
