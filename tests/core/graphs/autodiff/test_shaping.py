"""Rules that move numbers: nearly all are linear, so <J v, u> = <v, Jᵀ u> holds exactly.

onnx's reference implementation knows no negative pads; those are checked on ONNX Runtime alone.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from rulecheck import Write, assert_as_torch, assert_slopes, inputs_of, run_gradients

from cnnkit.errors import ModelError
from cnnkit.graphs.autodiff.backward import gradients
from cnnkit.graphs.builder import Builder
from cnnkit.runtime.device import onnxruntime

Array = NDArray[Any]
FAR = np.iinfo(np.int64).max
some = settings(max_examples=20, deadline=None)
sizes = st.lists(st.integers(1, 5), min_size=1, max_size=3)


def random(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape)


def counted(*shape: int) -> Array:
    return np.arange(1, 1 + np.prod(shape), dtype=np.float32).reshape(shape)


def in_reference(model: Any, feeds: Mapping[str, Array]) -> list[Array]:
    return [np.asarray(array) for array in ReferenceEvaluator(model).run(None, read_by(model, feeds))]


def in_runtime(model: Any, feeds: Mapping[str, Array]) -> list[Array]:
    session = onnxruntime().InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, read_by(model, feeds)))


def read_by(model: Any, feeds: Mapping[str, Array]) -> dict[str, Array]:
    return {value.name: feeds[value.name] for value in model.graph.input}


def assert_adjoint(
    write: Write, *arrays: Array, opset: int = 18, run: Callable[..., list[Array]] | None = None
) -> None:
    """<f(v), u> = <v, gradient with the seed u> for a linear f, in float64 and on ONNX Runtime in float32."""
    for evaluate, dtype, tolerance in ((in_reference, np.float64, 1e-10), (in_runtime, np.float32, 1e-5)):
        if run not in (None, evaluate):
            continue
        feeds = {f"x{index}": np.asarray(array) for index, array in enumerate(arrays)}
        feeds = {name: a.astype(dtype) if a.dtype.kind == "f" else a for name, a in feeds.items()}
        builder = Builder(opset=opset)
        out = write(builder.op, *inputs_of(builder, feeds))
        weights = builder.input("seed", builder.tensor(out).shape, dtype)
        wrt = [name for name, array in feeds.items() if array.dtype.kind == "f"]
        found = gradients(builder, out, wrt, seed=weights)
        for name in (out, *found.values()):
            builder.output(name)
        feeds["seed"] = np.random.default_rng(1).standard_normal(weights.shape).astype(dtype)
        value, *results = evaluate(builder.model(), feeds)
        for name, result in zip(wrt, results, strict=True):
            assert result.shape == feeds[name].shape and result.dtype == dtype
        predicted = sum(np.sum(feeds[name] * result) for name, result in zip(wrt, results, strict=True))
        scale = np.linalg.norm(value) * np.linalg.norm(feeds["seed"]) + 1e-30
        assert abs(np.sum(value * feeds["seed"]) - predicted) <= tolerance * scale


def gradient_of(write: Write, x: Array, seed: Sequence[Any] | Array, opset: int = 18) -> list[Any]:
    _, (found,) = run_gradients(write, x, seed=np.asarray(seed, x.dtype), opset=opset)
    return found.tolist()  # type: ignore[no-any-return]


# ---- the same numbers


@pytest.mark.parametrize(
    "write",
    [
        lambda op, x: op.Reshape(x, [0, -1]),
        lambda op, x: op.Reshape(x, [0, 4, 0, 1]),
        lambda op, x: op.Reshape(op.Reshape(x, op.Concat(op.Shape(x, end=1), [12], axis=0)), [0, 2, 6]),
        lambda op, x: op.Flatten(x),
        lambda op, x: op.Flatten(x, axis=-1),
        lambda op, x: op.Unsqueeze(x, [1, -1]),
        lambda op, x: op.Squeeze(op.Unsqueeze(x, [2]), [2]),
        lambda op, x: op.Identity(x),
        lambda op, x: op.Dropout(x),
        lambda op, x: op.Dropout(x, 0.3, np.array(False)),
        lambda op, x: op.Transpose(x, perm=[0, 2, 1, 3]),
        lambda op, x: op.Trilu(x, np.array(-1), upper=0),
        lambda op, x: op.Trilu(x),
        lambda op, x: op.Tile(x, [1, 2, 1, 3]),
        lambda op, x: op.Expand(x, [2, 1, 1, 1, 2]),
        lambda op, x: op.Concat(x, op.Mul(x, 2.0), axis=-2),
        lambda op, x: op.Concat(x, op.Mul(x, 2.0), op.Slice(x, [1], [3], [0]), axis=0),
        lambda op, x: op.Tile(op.Slice(x, [0], [1], [0]), op.Concat(op.Shape(x, end=1), [1, 2, 1], axis=0)),
        lambda op, x: op.Expand(op.Slice(x, [0], [1], [0]), op.Shape(x)),
        lambda op, x: op.Split(x, [1, 3], axis=1, output=2)[1],
        lambda op, x: op.Slice(x, [1, -FAR], [FAR, -1], [1, -2], [2, 1]),
        lambda op, x: op.Slice(x, [0], [1], [0]),
        lambda op, x: op.Slice(x, [-1], [-FAR], [0], [-1]),
        lambda op, x: op.Gather(x, np.array(0), axis=1),
        lambda op, x: op.Gather(x, [2, 0], axis=1),
        lambda op, x: op.Gather(x, np.array([[0, 2], [-1, 2]]), axis=1),
        lambda op, x: op.Pad(x, [0, 1, 2, 1, 0, 0, 1, 0]),
        lambda op, x: op.Pad(x, [2, 1], None, [0]),
        lambda op, x: op.Pad(x, [2, 1, 1, 0], None, [-3, 2], mode="reflect"),
        lambda op, x: op.Sum(*op.Split(x, axis=1, num_outputs=2, output=2)),
    ],
)
def test_a_batch_of_any_size(write: Write) -> None:
    """One graph whose first size is open gives for several what the graphs of these sizes give."""
    open_batch = squares(write, "batch")
    for batch in (1, 2, 5):
        feeds = {"x": random(batch, 4, 3, 1)}
        value, gradient = in_reference(open_batch, feeds)
        np.testing.assert_allclose(gradient, in_reference(squares(write, batch), feeds)[1], atol=1e-12)
        np.testing.assert_allclose(gradient, in_runtime(open_batch, feeds)[1], atol=1e-12)
        assert np.sum(feeds["x"] * gradient) == pytest.approx(2 * np.sum(value), rel=1e-10)


def squares(write: Write, batch: int | str) -> Any:
    """The squares of what a linear `write` makes of x, and the gradient of their sum."""
    builder = Builder()
    x = builder.input("x", (batch, 4, 3, 1), np.float64)
    y = write(builder.op, x)
    builder.output(builder.op.Mul(y, y))
    builder.output(gradients(builder, builder.op.Mul(y, y), [x])[x])
    return builder.model()


@pytest.mark.parametrize("opset", range(18, 27))
def test_every_opset(opset: int) -> None:
    """All of them in one graph, in the words of each version."""

    def write(op: Any, x: Any) -> Any:
        parts = op.Split(op.Pad(x, [1, 2], None, [1], mode="reflect"), num_outputs=2, axis=1, output=2)
        y = op.Concat(op.Identity(parts[1]), op.Squeeze(op.Unsqueeze(parts[0], [0]), [0]), axis=1)
        y = op.Transpose(op.Tile(op.Reshape(y, [0, 2, -1]), [1, 2, 1]))
        y = op.Flatten(op.Trilu(op.Slice(y, [0], [FAR], [0], [2]), np.array(0)))
        y = op.Pad(op.Expand(op.Unsqueeze(y, [0]), [2, 1, 1]), [1, -1], None, [2])
        return op.Dropout(op.Gather(op.CastLike(op.Cast(y, to=11), x), [1, 0], axis=0))

    assert_adjoint(write, random(3, 5), opset=opset, run=in_runtime)


def test_reshape_keeps_an_empty_axis_with_allowzero() -> None:
    """An axis without numbers has a gradient without numbers, of the right shape."""
    _, (found,) = run_gradients(
        lambda op, x: op.Reshape(x, [3, 0], allowzero=1),
        np.zeros((0, 3), np.float32),
        seed=np.zeros((3, 0), "f"),
    )
    assert found.shape == (0, 3)


@pytest.mark.parametrize("axes", [[0], [-1], [0, 2], None])
def test_squeeze(axes: list[int] | None) -> None:
    assert_adjoint(lambda op, x: op.Squeeze(x, axes), random(1, 3, 1))


@given(st.permutations([0, 1, 2, 3]), sizes)
@some
def test_transpose(permutation: list[int], shape: list[int]) -> None:
    assert_adjoint(lambda op, x: op.Transpose(x, perm=permutation), random(*shape, *[2] * (4 - len(shape))))
    assert_adjoint(lambda op, x: op.Transpose(x), random(*shape))


@given(sizes, st.data())
@some
def test_expand(shape: list[int], data: st.DataObject) -> None:
    """Sizes of one grow; the wanted shape may have ones of its own, fewer axes, or more."""
    thin = [data.draw(st.sampled_from([1, size])) for size in shape]
    wanted = [
        data.draw(st.sampled_from([1, size])) if size == t else size
        for size, t in zip(shape, thin, strict=True)
    ]
    wanted = data.draw(
        st.sampled_from([wanted, [2, *wanted], wanted[1:] if wanted[0] in (1, thin[0]) else wanted])
    )
    assert_adjoint(lambda op, x: op.Expand(x, np.array(wanted, np.int64)), random(*thin))


@given(sizes, st.lists(st.integers(1, 3), min_size=3, max_size=3))
@some
def test_tile(shape: list[int], repeats: list[int]) -> None:
    assert_adjoint(lambda op, x: op.Tile(x, repeats[: len(shape)]), random(*shape))


# ---- several tensors


@given(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.integers(-3, 2))
@some
def test_concat(lengths: list[int], axis: int) -> None:
    parts = []
    for index, length in enumerate(lengths):
        shape = [2, 3, 2]
        shape[axis] = length
        parts.append(np.random.default_rng(index).standard_normal(shape))
    assert_adjoint(lambda op, *x: op.Concat(*x, axis=axis), *parts)
    assert_adjoint(lambda op, *x: op.Concat(*x, x[0], axis=axis), *parts)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=4).filter(any), st.data())
@some
def test_split_where_some_parts_have_no_gradient(lengths: list[int], data: st.DataObject) -> None:
    used = data.draw(st.sets(st.sampled_from(range(len(lengths))), min_size=1))

    def write(op: Any, x: Any) -> Any:
        parts = op.Split(x, lengths, axis=1, output=len(lengths))
        return op.Concat(*[parts[index] for index in used], axis=1)

    assert_adjoint(write, random(2, sum(lengths), 3))


def test_split_into_equal_parts_with_a_smaller_last() -> None:
    def write(op: Any, x: Any) -> Any:
        first, _, last = op.Split(x, num_outputs=3, output=3)
        return op.Concat(last, op.Mul(first, 10.0), axis=0)

    assert gradient_of(write, counted(7), [1, 2, 3, 4]) == [20, 30, 40, 0, 0, 0, 1]


# ---- some of the numbers

ends = st.integers(-8, 8) | st.sampled_from([FAR, -FAR, -FAR - 1])


@given(sizes, st.data())
@some
def test_slice(shape: list[int], data: st.DataObject) -> None:
    axes = data.draw(st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True))
    each = st.lists(ends, min_size=len(axes), max_size=len(axes))
    steps = st.lists(st.sampled_from([1, 1, 2, 3, -1, -2, 9]), min_size=len(axes), max_size=len(axes))
    starts, stops, strides = data.draw(each), data.draw(each), data.draw(steps)
    for index, (axis, step) in enumerate(zip(axes, strides, strict=True)):
        if step < 0:  # the reference takes nothing from a start that lies before the first number; see below
            starts[index] = max(starts[index], -shape[axis])
            stops[index] = -FAR if stops[index] == FAR else stops[index]
    named = [axis - data.draw(st.sampled_from([0, len(shape)])) for axis in axes]
    assert_adjoint(lambda op, x: op.Slice(x, starts, stops, named, strides), random(*shape))


def test_slice_by_hand() -> None:
    x = counted(5)
    assert gradient_of(lambda op, x: op.Slice(x, [1], [3]), x, [7, 8]) == [0, 7, 8, 0, 0]
    assert gradient_of(lambda op, x: op.Slice(x, [-1], [-FAR], [0], [-2]), x, [7, 8, 9]) == [9, 0, 8, 0, 7]
    assert gradient_of(lambda op, x: op.Slice(x, [3], [4], [0], [-1]), x, np.zeros(0)) == [0] * 5
    assert gradient_of(lambda op, x: op.Slice(x, [-9], [-FAR], [0], [-1]), x, [7]) == [7, 0, 0, 0, 0]


def test_a_slice_that_is_only_known_when_it_runs_is_refused() -> None:
    builder = Builder()
    x, end = builder.input("x", (5,)), builder.input("end", (1,), np.int64)
    y = builder.op.Slice(x, [0], end)
    with pytest.raises(
        ModelError, match=r"of Slice 'Slice_0' \(opset 18\) needs to know .* 'end' before running"
    ):
        gradients(builder, y, [x], seed=builder.input("seed", (2,)))


@given(sizes, st.lists(st.integers(1, 3), max_size=2), st.booleans(), st.data())
@some
def test_gather(shape: list[int], places: list[int], known: bool, data: st.DataObject) -> None:
    """Indices of any rank, repeated and negative, as constants and as an input."""
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    count = int(np.prod(places))
    chosen = st.lists(st.integers(-shape[axis], shape[axis] - 1), min_size=count, max_size=count)
    indices = np.array(data.draw(chosen), np.int64).reshape(places)
    if len(shape) == 1 and not places:
        return  # a number; what follows wants an axis
    if known:
        assert_adjoint(lambda op, x: op.Gather(x, indices, axis=axis), random(*shape))
    else:
        assert_adjoint(lambda op, x, i: op.Gather(x, i, axis=axis), random(*shape), indices)


def test_gather_by_hand() -> None:
    x = counted(4)
    assert gradient_of(lambda op, x: op.Gather(x, [2, 0, 2]), x, [1, 2, 4]) == [2, 0, 5, 0]
    assert gradient_of(lambda op, x: op.Gather(x, [3, 0, -3]), x, [1, 2, 4]) == [2, 4, 0, 1]
    assert gradient_of(lambda op, x: op.Gather(x, [1, 1]), x, [1, 2]) == [0, 3, 0, 0]
    assert gradient_of(lambda op, x: op.Gather(x, np.array(-1)), x, 5) == [0, 0, 0, 5]


@pytest.mark.parametrize(
    "write",
    [
        lambda op, x: op.Gather(x, [2, 0, 2, 1]),
        lambda op, x: op.GatherElements(x, np.array([2, 0, 2, 1])),
        lambda op, x: op.GatherND(x, np.array([[2], [0], [2], [1]])),
    ],
)
def test_halves_are_added_too(write: Write) -> None:
    assert gradient_of(write, np.ones(3, np.float16), [1, 2, 4, 8]) == [2, 8, 5]


def test_the_token_of_a_vision_transformer_costs_one_pad() -> None:
    builder = Builder()
    x = builder.input("x", ("batch", 5, 8))
    found = gradients(builder, builder.op.Gather(x, np.array(0), axis=1), [x])
    builder.output(found[x])
    operators = [node.op_type for node in builder.model().graph.node]
    assert "Pad" in operators and not {"ScatterND", "ScatterElements"} & set(operators)


@given(st.integers(0, 1), st.booleans(), st.lists(st.permutations(range(4)), min_size=4, max_size=4))
@some
def test_elements_that_are_gathered_and_scattered(axis: int, negative: bool, rows: list[list[int]]) -> None:
    indices = np.array(rows)[:, :2] - 4 * negative
    again = np.zeros_like(indices)
    if axis == 0:
        indices, again = indices.T, again.T
    x, updates = random(4, 4), random(*indices.shape)
    assert_adjoint(lambda op, x: op.GatherElements(x, indices, axis=axis), x)
    assert_adjoint(lambda op, x: op.GatherElements(x, again, axis=axis), x)
    # the reference compares the wrong sizes for a negative axis
    assert_adjoint(lambda op, x: op.GatherElements(x, indices, axis=axis - 2), x, run=in_runtime)
    assert_adjoint(lambda op, x, u: op.ScatterElements(x, indices, u, axis=axis), x, updates)
    assert_adjoint(lambda op, x, u: op.ScatterElements(x, again, u, axis=axis, reduction="add"), x, updates)


def test_slices_that_are_gathered_and_scattered() -> None:
    places = np.array([[2, 1], [0, 3], [-1, 0]])
    assert_adjoint(lambda op, x: op.GatherND(x, places), random(3, 4, 2))
    assert_adjoint(lambda op, x: op.GatherND(x, places[:, :1]), random(3, 4, 2))
    assert_adjoint(lambda op, x: op.GatherND(x, np.array([[1, 1], [1, 1]])), random(3, 4))
    assert_adjoint(lambda op, x, u: op.ScatterND(x, places[:2], u), random(3, 4, 2), random(2, 2))
    again = np.array([[1], [1]])
    assert_adjoint(lambda op, x, u: op.ScatterND(x, again, u, reduction="add"), random(3, 4), random(2, 4))


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda op, x: op.GatherND(x, np.array([[0], [1]]), batch_dims=1), "GatherND .* without batch_dims"),
        (
            lambda op, x: op.ScatterND(x, [[0]], np.ones((1, 3), "f"), reduction="max"),
            "ScatterND .* not for max",
        ),
        (
            lambda op, x: op.Dropout(x, 0.5, np.array(True)),
            "Dropout .* TrainingSession draws the mask itself",
        ),
    ],
)
def test_what_is_refused(write: Write, says: str) -> None:
    builder = Builder(opset=19)
    x = builder.input("x", (2, 3))
    with pytest.raises(ModelError, match=says):
        gradients(builder, write(builder.op, x), [x])


def test_an_open_batch_is_not_padded_with_copies() -> None:
    builder = Builder()
    x = builder.input("x", ("batch", 3))
    with pytest.raises(ModelError, match="mode edge pads an open batch; fix its size"):
        gradients(builder, builder.op.Pad(x, [1, 0, 0, 0], mode="edge"), [x])


def test_top_k() -> None:
    x = np.array([[3, 1, 2, 5], [0, 9, 8, 7]], np.float32)
    values = lambda op, x: op.TopK(x, [2], output=2)[0]  # noqa: E731
    assert gradient_of(values, x, [[1, 2], [3, 4]]) == [[2, 0, 0, 1], [0, 3, 4, 0]]
    least = lambda op, x: op.TopK(x, [1], axis=0, largest=0, output=2)[0]  # noqa: E731
    assert gradient_of(least, x, [[1, 2, 3, 4]]) == [[0, 2, 3, 4], [1, 0, 0, 0]]
    assert_slopes(values, random(3, 6))


def test_the_gradient_follows_the_mask_of_a_dropout() -> None:
    x = counted(1, 200)
    builder = Builder()
    tensor = builder.input("x", x.shape)
    y, mask = builder.op.Dropout(tensor, 0.75, np.array(True), seed=3, output=2)
    found = gradients(builder, y, [tensor])
    for name in (y, mask, found[tensor]):
        builder.output(name)
    value, kept, gradient = in_runtime(builder.model(), {"x": x})
    assert 0 < kept.sum() < kept.size
    assert np.array_equal(gradient, np.where(kept, 4, 0)) and np.allclose(value, gradient * x)


def test_casts() -> None:
    """Back in the type it came from; what has been whole numbers in between has no gradient."""
    x = np.array([1.5, 2.5], np.float32)
    halves = lambda op, x: op.Cast(op.Mul(op.Cast(x, to=10), 3.0), to=1)  # noqa: E731
    assert gradient_of(halves, x, [1, 2]) == [3, 6]
    assert gradient_of(lambda op, x: op.Mul(op.Cast(op.Cast(x, to=7), to=1), x), x, [1, 2]) == [1, 4]
    assert gradient_of(lambda op, x: op.CastLike(op.CastLike(x, np.float16(0)), x), x, [1, 2]) == [1, 2]


# ---- pads

modes = st.sampled_from(["constant", "reflect", "edge", "wrap"])


@given(sizes, modes, st.booleans(), st.data())
@settings(max_examples=40, deadline=None)
def test_pad(shape: list[int], mode: str, named: bool, data: st.DataObject) -> None:
    before, after = (
        [data.draw(st.integers(0, {"reflect": size - 1, "wrap": size}.get(mode, 3))) for size in shape]
        for _ in range(2)
    )
    axes = np.arange(-len(shape), 0) if named else None
    assert_adjoint(
        lambda op, x: op.Pad(x, [*before, *after], None, axes, mode=mode), random(*shape), opset=19
    )


@given(st.lists(st.integers(4, 6), min_size=1, max_size=2), modes, st.data())
@some
def test_negative_pads(shape: list[int], mode: str, data: st.DataObject) -> None:
    """They cut off, and do so before the other side is padded."""
    pads = [data.draw(st.integers(-1, 1)) for _ in range(2 * len(shape))]
    assert_adjoint(lambda op, x: op.Pad(x, pads, mode=mode), random(*shape), opset=19, run=in_runtime)


@pytest.mark.parametrize("pads", [[1, 0, 2, 1], [-1, 1, 0, 2]])
def test_the_value_of_a_pad(pads: list[int]) -> None:
    run = in_runtime if min(pads) < 0 else None
    assert_adjoint(lambda op, x, value: op.Pad(x, pads, value), random(3, 4), random(1)[0], run=run)


def test_pads_by_hand() -> None:
    x = counted(3)
    for mode, expected in (
        ("constant", [4, 8, 16]),
        ("reflect", [4 + 32 * 0 + 64, 2 + 8 + 32, 1 + 16]),
        ("edge", [1 + 2 + 4, 8, 16 + 32 + 64]),
        ("wrap", [4 + 32, 1 + 8 + 64, 2 + 16]),
    ):
        pads = lambda op, x, mode=mode: op.Pad(x, [2, 2], mode=mode)  # noqa: E731
        assert gradient_of(pads, x, [1, 2, 4, 8, 16, 32, 64], opset=19) == expected


def test_a_padded_picture_costs_no_dense_product() -> None:
    """The margins are folded back as slices, so a large picture stays cheap."""
    builder = Builder()
    x = builder.input("x", (1, 3, 500, 400))
    padded = builder.op.Pad(x, [0, 0, 4, 4, 0, 0, 4, 4], mode="reflect")
    builder.output(gradients(builder, padded, [x])[x])
    model = builder.model()
    assert {node.op_type for node in model.graph.node} <= {"Expand", "Slice", "Add", "Concat", "Identity"}
    assert model.ByteSize() < 10_000


# ---- torch's own answers


@pytest.mark.oracle
@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
def test_pads_as_torch(mode: str) -> None:
    torch = pytest.importorskip("torch")
    name = {"edge": "replicate", "wrap": "circular"}.get(mode, mode)
    assert_as_torch(
        lambda op, x: op.Pad(x, [0, 0, 2, 1, 0, 0, 3, 4], mode=mode),
        lambda x: torch.nn.functional.pad(x, (1, 4, 2, 3), mode=name),
        random(2, 3, 7, 6).astype(np.float32),
        opset=19,
    )


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("write", "in_torch"),
    [
        (lambda op, x: op.Slice(x, [1], [FAR], [2], [2]), lambda x: x[:, :, 1::2]),
        (lambda op, x: op.Slice(x, [-1, 0], [-FAR, 2], [1, 0], [-1, 1]), lambda x: x.flip(1)[:2]),
        (lambda op, x: op.Gather(x, [2, 0, 2], axis=1), lambda x: x[:, [2, 0, 2]]),
        (lambda op, x: op.Gather(x, [2, 0], axis=2), lambda x: x[:, :, [2, 0]]),
        (lambda op, x: op.Gather(x, np.array(0), axis=1), lambda x: x[:, 0]),
        (lambda op, x: op.Tile(x, [2, 1, 3]), lambda x: x.repeat(2, 1, 3)),
        (lambda op, x: op.Transpose(x, perm=[2, 0, 1]), lambda x: x.permute(2, 0, 1)),
        (lambda op, x: op.Trilu(x, np.array(1), upper=0), lambda x: x.tril(1)),
        (lambda op, x: op.TopK(x, [2], axis=1, output=2)[0], lambda x: x.topk(2, dim=1).values),
        (
            lambda op, x: op.Concat(*op.Split(x, [1, 2], axis=1, output=2)[::-1], axis=1),
            lambda x: x.roll(-1, 1),
        ),
        (lambda op, x: op.Expand(op.Slice(x, [0], [1], [1]), [3, 1, 1]), lambda x: x[:, :1].expand(3, 1, 4)),
    ],
)
def test_as_torch(write: Write, in_torch: Callable[..., Any]) -> None:
    assert_as_torch(write, in_torch, random(3, 3, 4).astype(np.float32))


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("operator", ["Gather", "GatherElements", "ScatterElements"])
def test_indices_of_32_bits(operator: str, known: bool) -> None:
    x = np.random.default_rng(0).standard_normal((3, 2)).astype(np.float32)
    indices = np.array([[2, -3], [-1, 0]], np.int32)

    def write(op: Any, x: Any, i: Any) -> Any:
        more = (op.Mul(op.Gather(x, np.array([0, 1]), axis=0), 1.0),) if operator == "ScatterElements" else ()
        return getattr(op, operator)(x, indices if known else i, *more, axis=0)

    shape = {"Gather": (2, 2, 2), "GatherElements": (2, 2), "ScatterElements": (3, 2)}[operator]
    seed = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + 1
    _, (dx,) = run_gradients(write, x, indices, seed=seed)
    expected = {
        "Gather": [[3 + 7, 4 + 8], [0, 0], [1 + 5, 2 + 6]],
        "GatherElements": [[0, 2 + 4], [0, 0], [1 + 3, 0]],
        "ScatterElements": [[1 + 5, 0 + 2], [3 + 5, 4 + 2], [0, 6]],
    }[operator]
    assert dx.tolist() == expected


@pytest.mark.parametrize("operator", ["Gather", "GatherND"])
def test_nothing_is_lost_where_many_add_to_the_same_place(operator: str) -> None:
    """ONNX Runtime's ScatterND adds with several threads at once, and loses some."""
    indices = np.arange(300_000).reshape(-1, 1) % 3

    def write(op: Any, x: Any, i: Any) -> Any:
        return getattr(op, operator)(x, i)

    shape = (len(indices), 1, 2) if operator == "Gather" else (len(indices), 2)
    _, (dx,) = run_gradients(write, np.zeros((3, 2), np.float32), indices, seed=np.ones(shape, np.float32))
    assert dx.tolist() == [[100_000, 100_000]] * 3


def test_places_are_counted_along_an_open_axis_too() -> None:
    b = Builder()
    turned = b.op.Transpose(b.input("x", ["open", 3]), perm=[1, 0])
    read = b.op.GatherND(turned, np.array([[2, 1], [0, -1], [2, 1]], np.int64))
    b.output(gradients(b, b.op.ReduceSum(read, keepdims=0), ["x"])["x"])
    (found,) = in_runtime(b.model(), {"x": np.zeros((4, 3), np.float32)})
    assert found.tolist() == [[0, 0, 0], [0, 0, 2], [0, 0, 0], [1, 0, 0]]
