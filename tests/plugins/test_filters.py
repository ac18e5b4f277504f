"""Filters: kernels that are known, as arrays, as figures and as colours."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from said import Said

from cnnkit import Builder, Model, Operation, Preprocessing, UsageError
from cnnkit import run as cnnkit_run
from cnnkit.plugins.filters import FiltersOptions, as_slices, filters, in_colour, kernel_of

OPERATION = Operation("filters", filters, FiltersOptions, takes="nothing")
RANDOM = np.random.default_rng(5)


def run(model: Model, said: Said | None = None, **options: Any) -> Any:
    return cnnkit_run(OPERATION, model=model, reporter=said or Said(), **options)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


FIRST, DEPTHWISE, SECOND, DENSE = normal(4, 3, 3, 3), normal(4, 1, 5, 3), normal(6, 4, 3, 3), normal(6, 5)


@pytest.fixture
def network() -> Model:
    b = Builder()
    picture = b.input("picture", ["N", 3, 8, 8])
    x = b.op.Relu(b.op.Conv(picture, FIRST, pads=[1] * 4, name="first"), name="relu")
    x = b.op.Conv(x, DEPTHWISE, group=4, pads=[2, 1, 2, 1], name="depthwise")
    x = b.op.Conv(x, SECOND, pads=[1] * 4, name="second")
    x = b.op.Flatten(b.op.GlobalAveragePool(x, name="mean"), name="flat")
    b.output(b.op.MatMul(x, DENSE, name="dense"), ["N", 5])
    return Model.of(b.model(), preprocessing=Preprocessing.preset("raw"), name="network")


def test_the_kernel_of_each_kind_of_layer(network: Model) -> None:
    np.testing.assert_array_equal(run(network).arrays["kernel"], FIRST)
    np.testing.assert_array_equal(run(network, layer="depthwise").arrays["kernel"], DEPTHWISE)
    np.testing.assert_array_equal(run(network, layer="2").arrays["kernel"], DEPTHWISE)
    np.testing.assert_array_equal(run(network, layer="sec*").arrays["kernel"], SECOND)
    np.testing.assert_array_equal(run(network, layer="dense").arrays["kernel"], DENSE.T[..., None, None])


def test_a_layer_of_several_nodes_has_the_kernel_of_its_part() -> None:
    b = Builder()
    picture = b.input("picture", ["N", 3, 8, 8])
    features = b.op.Conv(picture, FIRST, name="block/conv")
    b.output(b.op.Relu(features, name="block"), ["N", 4, 6, 6])
    result = run(Model.of(b.model()), layer="block")
    assert result.data["name"] == "block/conv"
    np.testing.assert_array_equal(result.arrays["kernel"], FIRST)


def test_statistics_of_the_layer_and_of_its_filters(network: Model) -> None:
    data = run(network, layer="second").data
    assert (data["name"], data["index"], data["operator"]) == ("second", 3, "Conv")
    assert data["shape"] == [6, 4, 3, 3]
    for name, function in (("min", np.min), ("max", np.max), ("mean", np.mean), ("norm", np.linalg.norm)):
        assert data[name] == pytest.approx(float(function(SECOND)), rel=1e-5)
        each = [float(function(kernel)) for kernel in SECOND]
        assert data["filters"][name] == pytest.approx(each, rel=1e-5)


def test_what_is_left_out_is_said(network: Model) -> None:
    said = Said()
    data = run(network, said, layer="second", filters=5, inputs=3).data
    assert data["shown"] == {"filters": 5, "inputs": 3}
    assert said.lines == [
        "second: showing 5 of 6 filters, 3 of 4 input channels of each; --filters 0 and --inputs 0 show all"
    ]
    said = Said()
    assert run(network, said, layer="second", filters=0, inputs=0).data["shown"] == {
        "filters": 6,
        "inputs": 4,
    }
    assert run(network, said, inputs=1).data["shown"] == {"filters": 4, "inputs": 3}  # in colour
    assert run(network, said, layer="dense", filters=1).data["shown"] == {
        "filters": 5,
        "inputs": 6,
    }  # a matrix
    assert said.lines == []
    run(network, said, layer="*")
    assert said.lines == ["'*' names 7 layers; showing first"]


def test_a_layer_without_kernel_is_refused_with_those_that_have_one(network: Model) -> None:
    with pytest.raises(UsageError, match=r"'relu' \(Relu\) has no kernel.*first, depthwise, second, dense\."):
        run(network, layer="relu")
    b = Builder()
    picture = b.input("picture", ["N", 3, 4, 4])
    b.output(b.op.MatMul(picture, b.op.Relu(picture)), ["N", 3, 4, 4])
    with pytest.raises(UsageError, match="the network has no layer with a kernel"):
        run(Model.of(b.model()))


def one_layer(operator: str, weight: str, b: Builder, picture: str, **attributes: Any) -> np.ndarray:
    b.output(
        b.op.__getattr__(operator)(picture, weight, name="layer", **attributes),
        [None] * (2 if operator == "Gemm" else 4),
    )
    model = Model.of(b.model())
    kernel = kernel_of(model.graph, model.layers[-1])
    assert kernel is not None
    return kernel


def graph() -> tuple[Builder, str]:
    b = Builder()
    return b, b.input("picture", ["N", 3, 4, 4])


def test_a_transposed_convolution_has_its_filters_by_output() -> None:
    weight = normal(3, 2, 2, 2)  # (in, out, height, width)
    b, picture = graph()
    np.testing.assert_array_equal(
        one_layer("ConvTranspose", b.constant(weight), b, picture), weight.transpose(1, 0, 2, 3)
    )
    weight = normal(3, 2, 2, 2)
    b, picture = graph()
    np.testing.assert_array_equal(
        one_layer("ConvTranspose", b.constant(weight), b, picture, group=3), weight.reshape(6, 1, 2, 2)
    )


def test_a_gemm_may_hold_its_matrix_either_way() -> None:
    matrix = normal(48, 5)
    for turned in (0, 1):
        b, picture = graph()
        weight = b.constant(matrix.T if turned else matrix)
        kernel = one_layer("Gemm", weight, b, b.op.Flatten(picture), transB=turned)
        np.testing.assert_array_equal(kernel[..., 0, 0], matrix.T)


def test_weights_behind_a_cast_a_transpose_or_a_quantisation() -> None:
    weight = normal(2, 3, 3, 3).astype(np.float16)
    b, picture = graph()
    np.testing.assert_array_equal(
        one_layer("Conv", b.op.Cast(weight, to=1), b, picture), weight.astype(np.float32)
    )

    weight = normal(3, 3, 3, 2)
    b, picture = graph()
    kernel = one_layer("Conv", b.op.Transpose(weight, perm=[3, 2, 0, 1]), b, picture)
    np.testing.assert_array_equal(kernel, weight.transpose(3, 2, 0, 1))

    levels = RANDOM.integers(-128, 128, (2, 3, 3, 3), dtype=np.int8)
    scale, zero = np.float32([0.5, 0.25]), np.int8([3, -2])
    b, picture = graph()
    kernel = one_layer("Conv", b.op.DequantizeLinear(levels, scale, zero, axis=0), b, picture)
    expected = (levels.astype(np.float32) - zero.reshape(2, 1, 1, 1)) * scale.reshape(2, 1, 1, 1)
    np.testing.assert_array_equal(kernel, expected)
    b, picture = graph()
    kernel = one_layer("Conv", b.op.DequantizeLinear(levels, np.float32(0.5)), b, picture)
    np.testing.assert_array_equal(kernel, levels * np.float32(0.5))


def test_colours_of_the_first_layer_are_those_of_the_picture() -> None:
    kernel = np.zeros((2, 3, 1, 2), np.float32)
    kernel[0, 0] = 2, -2
    kernel[1, 2] = 1, 0
    red, blue = in_colour(kernel, np.float32([2, 2]), bgr=False)
    np.testing.assert_array_equal(red, [[[255, 128, 128], [0, 128, 128]]])
    np.testing.assert_array_equal(blue, [[[128, 128, 191], [128, 128, 128]]])
    bgr_blue, _ = in_colour(kernel, np.float32([2, 2]), bgr=True)
    np.testing.assert_array_equal(bgr_blue, [[[128, 128, 255], [128, 128, 0]]])


def test_slices_stand_row_by_row_with_zero_in_the_middle_of_the_colours() -> None:
    kernel = np.zeros((2, 4, 2, 2), np.float32)
    for index in range(4):
        kernel[0, index, index // 2, index % 2] = 3
    tile, empty = as_slices(kernel, np.float32([3, 1]), "blue-red")
    side = (tile.shape[0] - 4) // 2  # of a slice, inside its frame of one pixel
    for index in range(4):
        top, left = (1 + place * (side + 2) for place in divmod(index, 2))
        slice_ = tile[top : top + side, left : left + side]
        corners = slice_[:: side - 1, :: side - 1]
        expected = np.full((2, 2, 3), 255)
        expected[divmod(index, 2)] = 0x8E, 0x0C, 0x1C
        np.testing.assert_array_equal(corners, expected)
    assert (empty[1 : side + 1, 1 : side + 1] == 255).all()


@pytest.mark.parametrize(
    "options", [{"scale": "common"}, {"scale": "own"}, {"layer": "dense"}, {"layer": "depthwise"}]
)
def test_a_kernel_of_zeros_is_drawn_without_a_warning(network: Model, options: dict[str, Any]) -> None:
    zero = Model.of(network.graph.proto, preprocessing=network.preprocessing)
    for tensor in zero.graph.skeleton.graph.initializer:
        tensor.raw_data = bytes(len(tensor.raw_data))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = run(zero, **options)
    assert result.data["norm"] == 0


def test_the_common_scale_is_that_of_the_largest_weight(network: Model) -> None:
    own, common = run(network).picture, run(network, scale="common").picture
    largest = np.abs(FIRST).max(axis=(1, 2, 3)).argmax()
    differing = (own.pixels != common.pixels).any()
    assert differing
    filtered = in_colour(FIRST, np.full(4, np.abs(FIRST).max(), np.float32), bgr=False)
    apart = in_colour(FIRST, np.abs(FIRST).max(axis=(1, 2, 3)), bgr=False)
    assert [bool((a == b).all()) for a, b in zip(filtered, apart, strict=True)] == [
        k == largest for k in range(4)
    ]


def test_real_networks(data: Path) -> None:
    model = Model.load(data / "weights" / "mobilenet_v2_1.0_224.onnx")
    first = run(model)
    assert first.data["name"] == "Conv_1" and first.data["shape"] == [32, 3, 3, 3]
    assert max(first.picture.size) <= 2000
    dense = run(model, layer="Conv_99")
    assert dense.data["shape"] == [1001, 1280, 1, 1]
    assert max(dense.picture.size) <= 2000
