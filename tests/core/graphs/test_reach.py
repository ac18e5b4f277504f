"""How far networks look: closed forms, and pixels that are changed to see what follows."""

from collections.abc import Callable
from fractions import Fraction
from math import ceil, floor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from painters import Painter, style, super_resolution

from cnnkit import Builder, Graph, Model, ModelError, Preprocessing, Reach, Session, reach

Net = Callable[[Any, Any], Any]
ONES = np.ones((1, 1, 3, 3), np.float32)


def graph(net: Net, size: Any = ("height", "width"), channels: int = 1) -> Graph:
    b = Builder()
    b.output(net(b.op, b.input("picture", ["batch", channels, *size])))
    return Graph.of(b.model())


def resized(scale: float, **attributes: Any) -> Net:
    return lambda op, x: op.Resize(x, None, [1.0, 1, scale, scale], **attributes)


PAIRS = np.ones((1, 1, 2, 2), np.float32)
HALVES: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2]}
FLOOR = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}

WINDOWS: dict[str, tuple[Net, float, int, int, int]] = {
    "conv": (lambda op, x: op.Conv(x, ONES, pads=[1] * 4), 1, 1, 1, 0),
    "valid": (lambda op, x: op.Conv(x, ONES), 1, 2, 1, 2),
    "too many": (lambda op, x: op.Conv(x, ONES, pads=[2] * 4), 1, 2, 1, -2),
    "dilated": (lambda op, x: op.Conv(x, ONES, pads=[3] * 4, dilations=[3, 3]), 1, 3, 1, 0),
    "same": (lambda op, x: op.Conv(x, ONES, auto_pad="SAME_UPPER", strides=[2, 2]), 0.5, 1, 2, 0),
    "strided": (lambda op, x: op.Conv(x, ONES, pads=[1] * 4, strides=[2, 2]), 0.5, 1, 2, 0),
    "pool": (lambda op, x: op.MaxPool(x, **HALVES), 0.5, 0, 2, 0),
    "down and up": (
        lambda op, x: op.ConvTranspose(op.AveragePool(x, **HALVES), PAIRS, strides=[2, 2]), 1, 1, 2, 0
    ),
    "transposed": (
        lambda op, x: op.ConvTranspose(x, ONES, strides=[2, 2], pads=[1] * 4, output_padding=[1, 1]),
        2, 1, 1, 0,
    ),
    "nearest": (resized(2, **FLOOR), 2, 0, 1, 0),
    "nearest, rounded": (resized(3, mode="nearest"), 3, 0, 1, 0),
    "linear": (resized(2, mode="linear"), 2, 1, 1, 0),
    "smaller": (resized(0.5, mode="linear"), 0.5, 0, 2, 0),
    "smoothly smaller": (resized(0.5, mode="linear", antialias=1), 0.5, 1, 2, 0),
    "cubic": (resized(1.5, mode="cubic"), 1.5, 2, 2, 0),
    "shuffled": (lambda op, x: op.DepthToSpace(op.Concat(x, x, x, x, axis=1), blocksize=2), 2, 0, 1, 0),
    "unshuffled": (lambda op, x: op.DepthToSpace(op.SpaceToDepth(x, blocksize=3), blocksize=3), 1, 2, 3, 0),
    "cut": (lambda op, x: op.Slice(op.Conv(x, ONES, pads=[1] * 4), [2, 2], [2**40] * 2, [2, 3]), 1, 3, 1, 2),
    "cut and padded": (
        lambda op, x: op.Conv(op.Slice(x, [0, 0], [-2, -2], [2, 3]), ONES, pads=[1] * 4), 1, 3, 1, 2
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WINDOWS)
def test_windows(name: str) -> None:
    net, scale, halo, stride, missing = WINDOWS[name]
    found = reach(graph(net))
    assert (found.scale[0], found.stride[0], found.missing[0]) == (Fraction(scale), stride, missing)
    assert found.halo[0] == halo and found.whole == {}
    influence(graph(net), found)


def influence(network: Graph, found: Reach, side: int = 24) -> None:
    """Every number that a pixel changes is one that can see it; and so in a part of the picture."""
    model = Model.of(network, preprocessing=Preprocessing(channels="grey", layout=network.layout))
    run = Session(model, device="cpu").run
    name = network.outputs[0].name
    picture = np.random.default_rng(0).uniform(1, 2, (1, 1, side, side)).astype(np.float32)
    whole = run(picture)[name]
    for place in range(side):
        changed = picture.copy()
        changed[..., place, :] += 1
        (rows,) = np.nonzero((run(changed)[name] != whole).any(axis=(0, 1, 3)))
        for row in rows:
            first, last = floor(int(row) / found.scale[0]), ceil((int(row) + 1) / found.scale[0])
            assert first - found.halo[0] <= place < last + found.halo[0]


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.sampled_from("conv stride pool up shuffle valid cut".split()), min_size=1, max_size=4),
    st.integers(0, 3),
)
def test_a_part_of_the_picture_is_enough(steps: list[str], seed: int) -> None:
    """Away from its cut sides by the halo, a part that begins at the stride gives what the picture gives."""
    net = Painter(1, seed=seed)
    for step in steps:
        if step == "conv":
            net.conv(2, 5)
        elif step == "valid":
            net.conv(2, 3, padding="valid")
        elif step == "cut":
            net.x = net.b.op.Slice(net.x, [1, 0], [-3, -2], [2, 3])
            net.conv(2, 3, padding="constant")
        elif step == "stride":
            net.conv(3, 3, stride=2, padding="constant")
        elif step == "pool":
            net.x = net.b.op.AveragePool(net.x, kernel_shape=[2, 2], strides=[2, 2])
        elif step == "up":
            net.enlarged()
        else:
            net.conv(4, 1)
            net.x = net.b.op.DepthToSpace(net.x, blocksize=2)
    model = net.conv(1, 1).model(Preprocessing(channels="grey"))
    found = reach(model.graph)
    (scale, _), (halo, _), (stride, _) = found.scale, found.halo, found.stride
    halo = -(-halo // stride) * stride
    start, side = 2 * stride, 2 * halo + 3 * stride
    length = -(-(start + side + stride + 8 * stride) // stride) * stride
    picture = np.random.default_rng(seed).uniform(0, 1, (1, 1, length, 16 * stride)).astype(np.float32)
    run, name = Session(model, device="cpu").run, model.graph.outputs[0].name
    whole = run(picture)[name]
    assert whole.shape[2] == length * scale - found.missing[0]
    part = run(picture[:, :, start : start + side])[name]
    first, last = int(halo * scale), int((side - halo) * scale)
    offset = int(start * scale)
    np.testing.assert_allclose(
        part[:, :, first:last], whole[:, :, offset + first : offset + last], rtol=0, atol=1e-5
    )


WHOLE: dict[str, tuple[Net, str]] = {
    "instance": (
        lambda op, x: op.InstanceNormalization(x, np.ones(1, np.float32), np.ones(1, np.float32)),
        "looks at the whole picture",
    ),
    "gate": (lambda op, x: op.Mul(x, op.Sigmoid(op.GlobalAveragePool(x))), "looks at the whole picture"),
    "mean": (lambda op, x: op.Sub(x, op.ReduceMean(x, [2, 3])), "looks at the whole picture"),
    "corners": (
        resized(2, mode="linear", coordinate_transformation_mode="align_corners"),
        "lays its grid by the size of the picture",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_what_looks_at_the_whole_picture_is_named(name: str) -> None:
    net, reason = WHOLE[name]
    found = reach(graph(net))
    assert set(found.whole.values()) == {reason}
    assert found.stride == (1, 1)


def test_what_is_known_of_each_place() -> None:
    """A network of fixed size may add another number everywhere."""
    own = np.random.default_rng(0).random((1, 1, 8, 6), np.float32)
    found = reach(graph(lambda op, x: op.Add(x, own, name="where"), (8, 6)))
    assert found.whole == {"where": "has a number of its own for every place"}


def test_the_picture_comes_back_from_tokens() -> None:
    """Group normalisation as torch exports it, and a pixel shuffle by hand."""

    def groups(op: Any, x: Any) -> Any:
        flat = op.Reshape(x, [0, 1, -1])
        normal = op.InstanceNormalization(flat, np.ones(1, np.float32), np.ones(1, np.float32), name="norm")
        return op.Conv(op.Reshape(normal, op.Shape(x)), ONES, pads=[1] * 4)

    found = reach(graph(groups))
    assert list(found.whole) == ["norm"] and found.halo == (1, 1)

    def shuffle(op: Any, x: Any) -> Any:
        height, width = (op.Mul(op.Shape(x, start=axis, end=axis + 1), [2]) for axis in (2, 3))
        split = op.Reshape(op.Concat(x, x, x, x, axis=1), op.Concat([-1, 2, 2], op.Shape(x, start=2), axis=0))
        moved = op.Transpose(split, perm=[0, 3, 1, 4, 2])
        return op.Reshape(moved, op.Concat([-1, 1], height, width, axis=0))

    by_hand = reach(graph(shuffle))
    assert by_hand.whole == {} and by_hand.scale == (2, 2)


def test_networks() -> None:
    plain, normal = reach(style().graph), reach(style("InstanceNormalization").graph)
    assert plain.scale == (1, 1) and plain.stride == (4, 4) and plain.whole == {} and plain.missing == (0, 0)
    assert plain.halo == normal.halo == (20, 20) and len(normal.whole) == 4
    assert plain.smallest == (8, 8)
    for factor in (2, 3):
        assert reach(super_resolution(factor).graph).scale == (factor, factor)
        assert reach(super_resolution(factor).graph).halo == (3, 3)


def test_channels_last() -> None:
    b = Builder()
    x = b.op.Transpose(b.input("picture", [1, "height", "width", 3]), perm=[0, 3, 1, 2])
    x = b.op.Conv(x, np.ones((5, 3, 3, 1), np.float32), pads=[1, 0, 1, 0])
    x = b.op.MatMul(b.op.Transpose(x, perm=[0, 2, 3, 1]), np.ones((5, 3), np.float32))
    b.output(x)
    found = reach(Graph.of(b.model()))
    assert found.axis == 3 and found.channels == 3 and found.whole == {}
    assert found.halo == (1, 0)


@pytest.mark.parametrize("multiple, stride, whole", [(8, 8, []), (128, 1, ["padded"])])
def test_a_network_that_pads_its_picture_itself(multiple: int, stride: int, whole: list[str]) -> None:
    """Up to a multiple of a number: then the stride is that, as only there the pads are always the same."""

    def net(op: Any, x: Any) -> Any:
        sides = op.Shape(x, start=2)
        pads = op.Concat(np.zeros(6, np.int64), op.Mod(op.Neg(sides), np.array([multiple])), axis=0)
        padded = op.Conv(op.Pad(x, pads, None, mode="edge", name="padded"), ONES, pads=[1] * 4)
        return op.Slice(padded, [0, 0], sides, [2, 3])

    found = reach(graph(net))
    assert found.stride == (stride, stride) and list(found.whole) == whole


def test_what_is_no_plane() -> None:
    with pytest.raises(ModelError, match=r"the tensor 'scores', \(1, 1\), does not lie over the picture"):
        reach(graph(lambda op, x: op.Flatten(op.GlobalAveragePool(x), name="scores")))


def test_a_picture_that_is_turned_is_none() -> None:
    with pytest.raises(ModelError, match="does not lie over the picture"):
        reach(graph(lambda op, x: op.Transpose(x, perm=[0, 1, 3, 2])))


def test_a_size_of_its_own() -> None:
    """What is shrunk to a fixed size and laid over the picture again looks at all of it, but the rest not."""

    def guided(op: Any, x: Any) -> Any:
        small = op.Resize(x, None, None, [1, 1, 64, 64], name="small")
        large = op.Resize(op.Conv(small, ONES, pads=[1] * 4), None, None, op.Shape(x))
        return op.Add(op.Conv(x, ONES, pads=[1] * 4), large)

    found = reach(graph(guided))
    assert found.whole["small"] == "has a size that does not follow the picture's"
    assert found.halo == (1, 1) and found.stride == (1, 1)
