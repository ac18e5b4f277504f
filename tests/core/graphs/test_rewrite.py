"""Winograd's form of a convolution gives the convolution's numbers, whatever its sizes, pads and batch."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from cnnkit import Builder, Image
from cnnkit.graphs.autodiff.backward import gradients
from cnnkit.graphs.loading import Files, read_skeleton
from cnnkit.graphs.rewrite import (
    INPUT_TRANSFORM,
    KERNEL_TRANSFORM,
    OUTPUT_TRANSFORM,
    Candidate,
    candidates,
    winograd,
)
from cnnkit.runtime.device import onnxruntime

Feeds = dict[str, NDArray[Any]]


def normal(*shape: int, dtype: Any = np.float64, seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def convolution(
    x: NDArray[Any],
    weights: NDArray[Any],
    bias: NDArray[Any] | None = None,
    open_batch: bool = False,
    trained: bool = False,
    **attributes: Any,
) -> tuple[onnx.ModelProto, Feeds]:
    """A Conv called "conv" and a Relu; `trained` weights and bias are inputs."""
    b = Builder("small")
    feeds = {"x": x}
    names = [b.input("x", ["batch" if open_batch else len(x), *x.shape[1:]], x.dtype)]
    for name, array in (("weights", weights), ("bias", bias)):
        if array is not None and trained:
            names.append(b.input(name, array.shape, array.dtype))
            feeds[name] = array
        elif array is not None:
            names.append(b.constant(array, name))
    b.output(b.op.Relu(b.op.Conv(*names, name="conv", **attributes), name="relu"))
    return b.model(), feeds


def in_onnx(model: onnx.ModelProto, feeds: Feeds) -> list[NDArray[Any]]:
    """By onnx's own implementation, also in float64."""
    return [np.asarray(value) for value in ReferenceEvaluator(model).run(None, feeds)]


def in_runtime(model: onnx.ModelProto, feeds: Feeds) -> list[NDArray[Any]]:
    session = onnxruntime().InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None, feeds)]


def error(got: NDArray[Any], wanted: NDArray[Any]) -> float:
    assert got.shape == wanted.shape and got.dtype == wanted.dtype
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


def rewritten(model: onnx.ModelProto, *names: str) -> onnx.ModelProto:
    """Of these convolutions (default: all), and checked by onnx."""
    result = winograd(model, names or [candidate.name for candidate in candidates(model)])
    onnx.checker.check_model(result, full_check=True)
    return result


def convolutions(model: onnx.ModelProto) -> list[str]:
    """The names of those that are left as they were."""
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "Conv" and not node.name.startswith("winograd/")
    ]


def test_one_dimension_by_hand() -> None:
    """F(4, 3): A^T [(G g) * (B^T d)] are the 4 outputs of a filter with 3 numbers over 6."""
    signal, kernel = np.array([1.0, 2, 4, 8, 16, 32]), np.array([1.0, -1, 3])
    outputs = OUTPUT_TRANSFORM @ ((KERNEL_TRANSFORM @ kernel) * (INPUT_TRANSFORM @ signal))
    np.testing.assert_allclose(outputs, [1 - 2 + 12, 2 - 4 + 24, 4 - 8 + 48, 8 - 16 + 96])


@pytest.mark.parametrize("place", [(0, 0), (0, 2), (1, 1), (2, 1)])
def test_a_delta_shifts_the_picture(place: tuple[int, int]) -> None:
    picture = np.arange(1.0, 36).reshape(1, 1, 5, 7)
    kernel = np.zeros((1, 1, 3, 3))
    kernel[0, 0][place] = 1
    model, feeds = convolution(picture, kernel, pads=[1, 1, 1, 1])
    around = np.pad(picture[0, 0], 1)
    (y,) = in_onnx(rewritten(model), feeds)
    np.testing.assert_allclose(y[0, 0], around[place[0] :, place[1] :][:5, :7], atol=1e-12)


def test_a_constant_picture_counts_the_kernel() -> None:
    """Ones under ones: 9 inside, 6 at an edge, 4 in a corner, for each of 2 channels."""
    model, feeds = convolution(
        np.ones((1, 2, 6, 5)), np.ones((3, 2, 3, 3)), np.array([0.0, 1, 2]), pads=[1] * 4
    )
    (y,) = in_onnx(rewritten(model), feeds)
    counts = 2 * np.outer([2, 3, 3, 3, 3, 2], [2, 3, 3, 3, 2])
    np.testing.assert_allclose(y[0], [counts, counts + 1, counts + 2], atol=1e-12)


sizes = st.integers(1, 11)
pads = st.lists(st.integers(0, 3), min_size=4, max_size=4)


@given(
    height=sizes,
    width=sizes,
    channels=st.integers(1, 5),
    filters=st.integers(1, 5),
    batch=st.integers(1, 3),
    pads=pads,
    biased=st.booleans(),
    open_batch=st.booleans(),
    trained=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_it_is_the_convolution(
    height: int,
    width: int,
    channels: int,
    filters: int,
    batch: int,
    pads: list[int],
    biased: bool,
    open_batch: bool,
    trained: bool,
) -> None:
    """In float64 up to rounding, so exactly; in float32 on the runtime to 1e-4 of the largest number."""
    top, left, bottom, right = pads
    height, width = max(height, 3 - top - bottom), max(width, 3 - left - right)
    arrays = [
        normal(batch, channels, height, width),
        normal(filters, channels, 3, 3, seed=1),
        normal(filters, seed=2) + 3 if biased else None,
    ]
    model, feeds = convolution(*arrays, open_batch=open_batch, trained=trained, pads=pads)
    (wanted,) = in_onnx(model, feeds)
    (got,) = in_onnx(rewritten(model), feeds)
    np.testing.assert_allclose(got, wanted, atol=1e-11 * (1 + np.abs(wanted).max()))

    single = [None if array is None else array.astype(np.float32) for array in arrays]
    model, feeds = convolution(*single, open_batch=open_batch, trained=trained, pads=pads)
    (wanted,), (got,) = in_runtime(model, feeds), in_runtime(rewritten(model), feeds)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4 * (1 + np.abs(wanted).max()))


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_pads_in_words(auto_pad: str) -> None:
    model, feeds = convolution(normal(2, 3, 6, 9), normal(4, 3, 3, 3, seed=1), auto_pad=auto_pad)
    assert error(*in_onnx(rewritten(model), feeds), *in_onnx(model, feeds)) < 1e-12


def test_one_open_batch_takes_any_number_of_pictures() -> None:
    model, _ = convolution(normal(2, 3, 6, 5), normal(4, 3, 3, 3, seed=1), open_batch=True, pads=[1] * 4)
    other = rewritten(model)
    for count in (1, 2, 5):
        feeds = {"x": normal(count, 3, 6, 5, seed=count)}
        assert error(*in_onnx(other, feeds), *in_onnx(model, feeds)) < 1e-12


def test_what_a_candidate_says() -> None:
    model, _ = convolution(
        normal(2, 3, 10, 7), normal(5, 3, 3, 3), normal(5), trained=True, pads=[1, 0, 2, 1]
    )
    (found,) = candidates(model)
    assert found == Candidate("conv", 2, 3, 5, 10, 7, ((1, 2), (0, 1)), frozen=False)
    assert found.out_sizes == (11, 6) and found.tiles == (3, 2)
    assert found.macs == 2 * 5 * 11 * 6 * 3 * 9
    assert found.weight_bytes == 4 * 36 * 3 * 5
    assert found.tile_bytes == 4 * 36 * (3 + 5) * 2 * 3 * 2
    assert found.extra_bytes == found.weight_bytes + found.tile_bytes


def test_which_convolutions_are_candidates() -> None:
    b = Builder("many")
    op = b.op
    picture, kernel = b.input("x", ("batch", 4, 12, 12)), np.ones((4, 4, 3, 3), np.float32)
    op.Conv(picture, kernel, name="plain")
    op.Conv(picture, kernel, name="spelt_out", group=1, strides=[1, 1], dilations=[1, 1], kernel_shape=[3, 3])
    op.Conv(picture, op.Transpose(kernel, perm=[1, 0, 2, 3]), name="computed")
    op.Conv(picture, b.input("weights", (4, 4, 3, 3)), name="trained")
    op.Conv(picture, kernel, name="strided", strides=[2, 2])
    op.Conv(picture, kernel, name="strided_one_way", strides=[1, 2])
    op.Conv(picture, kernel, name="dilated", dilations=[2, 2])
    op.Conv(picture, np.ones((4, 2, 3, 3), np.float32), name="grouped", group=2)
    op.Conv(picture, np.ones((4, 4, 5, 5), np.float32), name="five")
    op.Conv(picture, np.ones((4, 4, 1, 3), np.float32), name="flat")
    op.Conv(op.Unsqueeze(picture, [4]), np.ones((4, 4, 3, 3, 1), np.float32), name="volume")
    op.Conv(b.input("line", (1, 4, 9)), np.ones((4, 4, 3), np.float32), name="line_conv")
    op.Conv(op.Cast(picture, to=TensorProto.FLOAT16), kernel.astype(np.float16), name="half")
    op.Conv(b.input("any", (1, 4, None, 8)), kernel, name="open_height")
    assert {found.name: found.frozen for found in candidates(b)} == {
        "plain": True,
        "spelt_out": True,
        "computed": True,
        "trained": False,
    }


def test_only_what_was_named_is_rewritten() -> None:
    b = Builder("chain")
    x = b.input("x", (1, 4, 9, 9))
    for index, name in enumerate(["first", "second", "third"]):
        x = b.op.Conv(x, normal(4, 4, 3, 3, dtype=np.float32, seed=index), pads=[1] * 4, name=name)
    b.output(x)
    b.output("second")
    model, feeds = b.model(), {"x": normal(1, 4, 9, 9, dtype=np.float32)}
    before = model.SerializeToString()
    other = rewritten(model, "first", "third")
    assert model.SerializeToString() == before
    assert convolutions(other) == ["second"]
    for got, wanted in zip(in_runtime(other, feeds), in_runtime(model, feeds), strict=True):
        assert error(got, wanted) < 1e-5
    assert convolutions(rewritten(model)) == []
    assert winograd(model, []) == model
    assert other == rewritten(model, "third", "first")  # the same model for the same names
    fresh = {node.name for node in other.graph.node} - {node.name for node in model.graph.node}
    assert all(name.startswith(("winograd/first/", "winograd/third/")) for name in fresh)
    with pytest.raises(AssertionError, match="nowhere"):
        winograd(model, ["first", "nowhere"])


def test_two_convolutions_alike_and_two_of_one_name() -> None:
    b = Builder("twins")
    x = b.input("x", (1, 2, 5, 6))
    weights = b.constant(normal(3, 2, 3, 3, dtype=np.float32), "weights")
    left, right = (b.op.Conv(x, weights, name=name) for name in ("left", "right"))
    b.output(b.op.Add(left, right, name="sum"))
    model, feeds = b.model(), {"x": normal(1, 2, 5, 6, dtype=np.float32)}
    assert error(*in_runtime(rewritten(model), feeds), *in_runtime(model, feeds)) < 1e-5
    for node in model.graph.node:
        node.name = ""
    assert [found.name for found in candidates(model)] == ["left", "right"]  # their tensors
    other = rewritten(model, "right")
    assert sum(node.op_type == "Conv" for node in other.graph.node) == 2
    assert error(*in_runtime(other, feeds), *in_runtime(model, feeds)) < 1e-5


def test_the_backward_pass() -> None:
    """Forward and gradient of two convolutions: those of the gradient are candidates too."""
    b = Builder("step")
    x = b.input("x", (1, 12, 12, 12))
    hidden = b.op.Relu(b.op.Conv(x, normal(16, 12, 3, 3, dtype=np.float32, seed=1), pads=[1] * 4, name="one"))
    y = b.op.Conv(hidden, normal(12, 16, 3, 3, dtype=np.float32, seed=2), pads=[0, 1, 1, 0], name="two")
    b.output(y)
    seed = b.input("seed", y.shape)
    b.output(gradients(b, y, [x], seed=seed)["x"])
    model = b.model()
    feeds = {"x": normal(1, 12, 12, 12, dtype=np.float32), "seed": normal(*y.shape, dtype=np.float32)}
    found = candidates(model)
    assert len(found) == 4 and all(candidate.frozen for candidate in found)
    other = rewritten(model)
    assert convolutions(other) == []
    for got, wanted in zip(in_runtime(other, feeds), in_runtime(model, feeds), strict=True):
        assert error(got, wanted) < 1e-4


def test_weights_that_stay_in_their_file(tmp_path: Path) -> None:
    """The rewrite sees a reference in place of the weights; the runtime reads them."""
    model, feeds = convolution(
        normal(1, 190, 6, 6, dtype=np.float32), normal(190, 190, 3, 3, dtype=np.float32), pads=[1] * 4
    )
    path = tmp_path / "network.onnx"
    onnx.save(model, path)
    skeleton, files = read_skeleton(path)
    assert isinstance(files, Files) and skeleton.graph.initializer[0].data_location == TensorProto.EXTERNAL
    other = winograd(skeleton, ["conv"])
    assert skeleton.graph.initializer[0] in other.graph.initializer and other.ByteSize() < 30_000
    options = onnxruntime().SessionOptions()
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(tmp_path))
    session = onnxruntime().InferenceSession(
        other.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    assert error(session.run(None, feeds)[0], *in_runtime(model, feeds)) < 1e-4


def test_the_runtime_transforms_frozen_weights_once(tmp_path: Path) -> None:
    """Also weights that are first flipped, as a gradient has them."""
    b = Builder("flipped")
    x = b.input("x", (1, 8, 10, 10))
    flipped = b.op.Transpose(normal(8, 8, 3, 3, dtype=np.float32), perm=[1, 0, 2, 3])
    b.output(b.op.Conv(x, b.op.Slice(flipped, [-1, -1], [-9, -9], [2, 3], [-1, -1]), name="conv"))
    options = onnxruntime().SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    onnxruntime().InferenceSession(
        winograd(b.model(), ["conv"]).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    graph = onnx.load(tmp_path / "optimised.onnx").graph
    assert [36, 8, 8] in [list(tensor.dims) for tensor in graph.initializer]
    assert not {"Gemm", "Slice", "Identity"}.intersection(node.op_type for node in graph.node)


@pytest.mark.parametrize("opset", [13, 17, 22])
def test_models_of_other_versions(opset: int) -> None:
    """And with weights among the inputs, as old exporters have them."""
    weights = normal(2, 2, 3, 3, dtype=np.float32)
    value = helper.make_tensor_value_info
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Conv", ["x", "w"], ["y"], name="conv", pads=[1] * 4)],
            "small",
            [value("x", 1, ["n", 2, 5, 5]), value("w", 1, [2, 2, 3, 3])],
            [value("y", 1, ["n", 2, 5, 5])],
            [onnx.numpy_helper.from_array(weights, "w")],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=8,
    )
    feeds = {"x": normal(2, 2, 5, 5, dtype=np.float32)}
    assert error(*in_runtime(rewritten(model), feeds), *in_runtime(model, feeds)) < 1e-5


def test_real_weights(data: Path) -> None:
    """The first three blocks of VGG19 on a photograph, every convolution rewritten."""
    stored = np.load(data / "weights" / "vgg19_block1_to_block3.npz")
    b = Builder("vgg19")
    x = b.input("x", (1, 3, 96, 96))
    for block, depth in ((1, 2), (2, 2), (3, 4)):
        for index in range(1, depth + 1):
            name = f"block{block}_conv{index}"
            kernel = np.ascontiguousarray(stored[f"{name}.kernel"].transpose(3, 2, 0, 1))
            x = b.op.Relu(b.op.Conv(x, kernel, stored[f"{name}.bias"], pads=[1] * 4, name=name))
        b.output(x)
        x = b.op.MaxPool(x, kernel_shape=[2, 2], strides=[2, 2])
    pixels = Image.load(data / "images" / "free" / "chelsea.png").resized(96, 96).pixels
    centred = pixels[None, :, :, ::-1] - np.array([103.939, 116.779, 123.68], np.float32)
    feeds = {"x": np.ascontiguousarray(centred.transpose(0, 3, 1, 2))}
    other = rewritten(b.model())
    assert convolutions(other) == []
    for got, wanted in zip(in_runtime(other, feeds), in_runtime(b.model(), feeds), strict=True):
        assert error(got, wanted) < 1e-4
