"""Convolution and its transpose: every geometry, in every formulation that a gradient can have."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multilinear import assert_multilinear
from rulecheck import assert_as_torch, assert_slopes, run_gradients

from cnnkit.errors import ModelError
from cnnkit.graphs.autodiff.backward import gradients
from cnnkit.graphs.autodiff.rules import convolution
from cnnkit.graphs.builder import Builder

WAYS = list(itertools.product((0, 8), (0, 64), (0, 256)))
"""FEW_CHANNELS, FEW_POSITIONS, MANY_POSITIONS: together every formulation on small planes."""


@contextmanager
def formulation(way: tuple[int, int, int]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, number in zip(("FEW_CHANNELS", "FEW_POSITIONS", "MANY_POSITIONS"), way, strict=True):
            patch.setattr(convolution, name, number)
        yield


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def operator(kind: str, **attributes: Any) -> Callable[..., Any]:
    return lambda op, *inputs: getattr(op, kind)(*inputs, **attributes)


@st.composite
def geometries(draw: Any, transposed: bool) -> tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]:
    """The shapes of input and kernel, and attributes."""
    rank = draw(st.sampled_from([1, 2, 2, 2, 3]))
    numbers = lambda low, high: [draw(st.integers(low, high)) for _ in range(rank)]  # noqa: E731
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    inside, outside = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    kernel, strides, dilations = (
        numbers(1, 4 if rank < 3 else 2),
        numbers(1, draw(st.sampled_from([1, 3]))),
        numbers(1, 2),
    )
    attributes: dict[str, Any] = {"group": groups, "strides": strides, "dilations": dilations}
    reach = [dilation * (size - 1) for size, dilation in zip(kernel, dilations, strict=True)]
    mode = draw(st.sampled_from(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if mode != "NOTSET":
        attributes["auto_pad"] = mode
        if transposed and mode != "VALID":  # that of a kernel smaller than its stride is not well defined
            attributes["strides"] = [min(s, r + 1) for s, r in zip(strides, reach, strict=True)]
        begins = ends = [0] * rank
    else:
        begins, ends = numbers(0, 3), numbers(0, 3)
        if transposed:
            begins = [min(b, r) for b, r in zip(begins, reach, strict=True)]
            ends = [min(e, r - b) for b, e, r in zip(begins, ends, reach, strict=True)]
            if draw(st.booleans()):
                attributes["output_padding"] = [draw(st.integers(0, s - 1)) for s in strides]
        attributes["pads"] = [*begins, *ends]
    least = [
        1 if transposed or mode[0] == "S" else max(1, r + 1 - b - e)
        for r, b, e in zip(reach, begins, ends, strict=True)
    ]
    sizes = [low + draw(st.integers(0, 4 if rank < 3 else 2)) for low in least]
    batch = draw(st.integers(1, 2))
    if transposed:
        return (batch, groups * inside, *sizes), (groups * inside, outside, *kernel), attributes
    return (batch, groups * inside, *sizes), (groups * outside, inside, *kernel), attributes


@given(geometries(transposed=False), st.sampled_from(WAYS))
@settings(max_examples=100, deadline=None)
def test_conv_is_the_adjoint_of_its_gradients(geometry: Any, way: tuple[int, int, int]) -> None:
    x, kernel, attributes = geometry
    with formulation(way):
        assert_multilinear(operator("Conv", **attributes), np.empty(x), np.empty(kernel))


@given(geometries(transposed=True), st.sampled_from(WAYS))
@settings(max_examples=60, deadline=None)
def test_conv_transpose_is_the_adjoint_of_its_gradients(geometry: Any, way: tuple[int, int, int]) -> None:
    x, kernel, attributes = geometry
    with formulation(way):
        assert_multilinear(operator("ConvTranspose", **attributes), np.empty(x), np.empty(kernel))


@given(geometries(transposed=False), st.sampled_from(WAYS))
@settings(max_examples=15, deadline=None)
def test_slopes_of_conv(geometry: Any, way: tuple[int, int, int]) -> None:
    x, kernel, attributes = geometry
    with formulation(way):
        assert_slopes(operator("Conv", **attributes), random(*x), random(*kernel), random(kernel[0]))


@given(geometries(transposed=True), st.sampled_from(WAYS))
@settings(max_examples=15, deadline=None)
def test_slopes_of_conv_transpose(geometry: Any, way: tuple[int, int, int]) -> None:
    x, kernel, attributes = geometry
    bias = random(kernel[1] * attributes["group"])
    with formulation(way):
        assert_slopes(operator("ConvTranspose", **attributes), random(*x), random(*kernel), bias)


@pytest.mark.parametrize("way", WAYS)
def test_numbers_by_hand(way: tuple[int, int, int]) -> None:
    """y = (x0 + 2 x1 + b, x1 + 2 x2 + b), weighted with 1 and 10; the fourth number is never read."""
    x, kernel, bias = (np.array(numbers, np.float32) for numbers in ([[[1, 2, 3]]], [[[1, 2]]], [5]))
    with formulation(way):
        y, (dx, dk, db) = run_gradients(operator("Conv"), x, kernel, bias, seed=np.float32([[[1, 10]]]))
    assert y.tolist() == [[[10, 13]]]
    assert dx.tolist() == [[[1, 2 + 10, 20]]]
    assert dk.tolist() == [[[1 * 1 + 10 * 2, 1 * 2 + 10 * 3]]]
    assert db.tolist() == [11]


@pytest.mark.parametrize("way", WAYS)
def test_numbers_that_no_window_reads_have_no_gradient(way: tuple[int, int, int]) -> None:
    x, kernel = np.ones((1, 1, 9), np.float32), np.ones((1, 1, 2), np.float32)
    with formulation(way):
        _, (dx, _) = run_gradients(
            operator("Conv", strides=[3]), x, kernel, seed=np.ones((1, 1, 3), np.float32)
        )
    assert dx.tolist() == [[[1, 1, 0, 1, 1, 0, 1, 1, 0]]]


@pytest.mark.parametrize("way", WAYS)
def test_windows_that_see_padding_only(way: tuple[int, int, int]) -> None:
    """y = (0, 0, k1 x, k0 x, 0): most of y does not know x."""
    x, kernel = np.float32([[[3]]]), np.float32([[[5, 7]]])
    seed = np.float32([[[1, 10, 100, 1000, 10000]]])
    with formulation(way):
        y, (dx, dk) = run_gradients(operator("Conv", pads=[3, 2]), x, kernel, seed=seed)
    assert y.tolist() == [[[0, 0, 21, 15, 0]]]
    assert dx.tolist() == [[[7 * 100 + 5 * 1000]]]
    assert dk.tolist() == [[[3000, 300]]]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("groups", [1, 3])
def test_open_batch(kind: str, groups: int, way: tuple[int, int, int]) -> None:
    write = operator(kind, group=groups, strides=[2, 1], pads=[1, 0, 0, 1])
    with formulation(way):
        assert_multilinear(write, np.empty((3, 3, 5, 4)), np.empty((3, 3 // groups, 3, 2)), open_batch=True)


@pytest.mark.parametrize("opset", range(18, 27))
@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
def test_every_opset(kind: str, opset: int) -> None:
    for way in ((0, 0, 0), (0, 64, 256), (8, 0, 0)):
        with formulation(way):
            write = operator(kind, strides=[2], pads=[1, 1])
            assert_multilinear(write, np.empty((2, 2, 6)), np.empty((2, 2, 3)), opset=opset)


def test_half_precision_stays() -> None:
    for way in WAYS:
        with formulation(way):
            builder = Builder()
            x, k, b = (
                builder.input(n, s, np.float16) for n, s in (("x", (2, 2, 6)), ("k", (2, 2, 3)), ("b", (2,)))
            )
            y = builder.op.Conv(x, k, b, strides=[2])
            assert all(t.dtype == np.float16 for t in gradients(builder, y, ["x", "k", "b"]).values())


def test_planes_of_unknown_size_are_refused() -> None:
    builder = Builder()
    x = builder.input("x", ("batch", 1, 5))
    kernel = builder.input("k", (1, 1, 2))
    as_many_positions_as_pictures = builder.op.Reshape(x, [5, 1, -1])
    y = builder.op.Conv(as_many_positions_as_pictures, kernel)
    with pytest.raises(ModelError, match="only the batch may stay open"):
        gradients(builder, y, ["x"])


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("side", [4, 20])
def test_groups_do_not_add_nodes(kind: str, side: int) -> None:
    counts = set()
    for groups in (2, 32):
        builder = Builder()
        x, k = builder.input("x", (1, 64, side, side)), builder.input("k", (64, 64 // groups, 3, 3))
        y = getattr(builder.op, kind)(x, k, group=groups, strides=[2, 2])
        for name in gradients(builder, y, ["x", "k"]).values():
            builder.output(name)
        counts.add(len(builder.model().graph.node))
    assert len(counts) == 1


CONVOLUTIONS = [
    ((2, 3, 9), (4, 3, 3), {"stride": 2, "padding": 1}),
    ((2, 16, 9, 8), (12, 16, 3, 3), {"padding": 1}),
    ((2, 16, 9, 8), (12, 16, 3, 3), {"padding": 2, "dilation": 2}),
    ((2, 16, 17, 16), (12, 16, 3, 3), {"padding": 1}),
    ((2, 16, 34, 33), (12, 16, 3, 3), {"padding": 1, "stride": 2}),
    ((2, 16, 9, 8), (12, 16, 3, 2), {"stride": (3, 2), "padding": (0, 1), "dilation": (1, 2)}),
    ((2, 3, 20, 21), (8, 3, 7, 7), {"stride": 2, "padding": 3}),
    ((2, 3, 34, 35), (8, 3, 7, 7), {"stride": 2, "padding": 3}),
    ((2, 16, 9, 8), (12, 16, 1, 1), {"stride": 2}),
    ((2, 16, 20, 20), (12, 16, 1, 1), {}),
    ((2, 8, 9, 8), (8, 1, 3, 3), {"padding": 1, "groups": 8}),
    ((2, 8, 20, 19), (8, 1, 3, 3), {"padding": 1, "groups": 8}),
    ((2, 8, 9, 8), (16, 1, 3, 3), {"padding": 1, "stride": 2, "groups": 8}),
    ((2, 8, 40, 40), (16, 1, 3, 3), {"padding": 1, "stride": 2, "groups": 8}),
    ((2, 8, 9, 8), (12, 2, 3, 3), {"padding": 1, "groups": 4}),
    ((2, 8, 20, 19), (12, 2, 3, 3), {"padding": 1, "groups": 4}),
    ((2, 8, 20, 19), (12, 2, 3, 3), {"padding": 1, "stride": 2, "groups": 4}),
    ((1, 9, 5, 6, 7), (4, 9, 2, 3, 3), {"stride": (1, 2, 2), "padding": (1, 1, 0)}),
    ((1, 9, 5, 6, 7), (4, 9, 3, 3, 3), {"padding": 1}),
    ((1, 4, 5, 6, 7), (4, 1, 3, 3, 3), {"padding": 1, "groups": 4}),
]


def attributes_of(rank: int, **given: Any) -> dict[str, Any]:
    """torch's arguments in ONNX's words."""
    numbers = {k: list(v) if isinstance(v, tuple) else [v] * rank for k, v in given.items() if k != "groups"}
    names = {"stride": "strides", "dilation": "dilations", "output_padding": "output_padding"}
    pads = {"pads": numbers["padding"] * 2} if "padding" in numbers else {}
    return {names[k]: v for k, v in numbers.items() if k in names} | pads | {"group": given.get("groups", 1)}


@pytest.mark.oracle
@pytest.mark.parametrize(("x", "kernel", "given"), CONVOLUTIONS)
def test_conv_as_torch(x: tuple[int, ...], kernel: tuple[int, ...], given: dict[str, Any]) -> None:
    functional = pytest.importorskip("torch").nn.functional
    assert_as_torch(
        operator("Conv", **attributes_of(len(x) - 2, **given)),
        lambda *t: getattr(functional, f"conv{len(x) - 2}d")(*t, **given),
        random(*x),
        random(*kernel, seed=1),
        random(kernel[0], seed=2),
    )


@pytest.mark.oracle
@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("side", [7, 8])
@pytest.mark.parametrize("size", [2, 3])
def test_automatic_pads_as_torch(mode: str, side: int, size: int) -> None:
    functional = pytest.importorskip("torch").nn.functional
    total = 0 if mode == "VALID" else max(0, (-(-side // 2) - 1) * 2 + size - side)
    before = total // 2 if mode == "SAME_UPPER" else total - total // 2
    pads = [before, total - before] * 2
    assert_as_torch(
        operator("Conv", auto_pad=mode, strides=[2, 2]),
        lambda x, k: functional.conv2d(functional.pad(x, pads), k, stride=2),
        random(2, 3, side, side),
        random(4, 3, size, size, seed=1),
    )


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("x", "kernel", "given"),
    [
        ((2, 3, 5), (3, 2, 4), {"stride": 2, "padding": 1}),
        ((2, 9, 5, 4), (9, 8, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
        ((2, 9, 5, 4), (9, 8, 3, 3), {"stride": (1, 3), "dilation": (2, 1), "output_padding": (0, 2)}),
        ((2, 8, 5, 4), (8, 2, 3, 3), {"stride": 2, "groups": 4}),
        ((2, 8, 17, 16), (8, 1, 4, 4), {"stride": 2, "padding": 1, "groups": 8}),
        ((1, 2, 3, 3, 4), (2, 3, 2, 2, 2), {"stride": 2}),
    ],
)
def test_conv_transpose_as_torch(x: tuple[int, ...], kernel: tuple[int, ...], given: dict[str, Any]) -> None:
    functional = pytest.importorskip("torch").nn.functional
    assert_as_torch(
        operator("ConvTranspose", **attributes_of(len(x) - 2, **given)),
        lambda *t: getattr(functional, f"conv_transpose{len(x) - 2}d")(*t, **given),
        random(*x),
        random(*kernel, seed=1),
        random(kernel[1] * given.get("groups", 1), seed=2),
    )


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("given", "crop"),
    [
        ({"output_shape": [10, 8]}, (1, 0, 1, 0)),
        ({"output_shape": [10, 8], "auto_pad": "SAME_UPPER"}, (0, 1, 0, 1)),
        ({"auto_pad": "SAME_LOWER"}, (1, 0, 1, 0)),
        ({"auto_pad": "SAME_UPPER"}, (0, 1, 0, 1)),
        ({"output_padding": [1, 0], "output_shape": [9, 9]}, (2, 1, 0, 0)),
        ({"output_shape": [8, 8]}, (2, 1, 1, 0)),
    ],
)
def test_asked_for_sizes_as_torch(given: dict[str, Any], crop: tuple[int, int, int, int]) -> None:
    """Input 5 by 4, kernel 3, stride 2: 11 by 9 before cropping. `crop` is top, bottom, left, right."""
    functional = pytest.importorskip("torch").nn.functional
    top, bottom, left, right = crop
    extra = given.get("output_padding", 0)

    def in_torch(x: Any, kernel: Any) -> Any:
        whole = functional.conv_transpose2d(x, kernel, stride=2, output_padding=extra)
        return whole[:, :, top : whole.shape[2] - bottom, left : whole.shape[3] - right]

    assert_as_torch(
        operator("ConvTranspose", strides=[2, 2], **given), in_torch, random(2, 3, 5, 4), random(3, 2, 3, 3)
    )
