"""Occlusion in closed form: tables known by hand, linear networks, and the definition written out naively."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import cnnkit
from cnnkit.host.context import Settings
from cnnkit.plugins.occlusion import parse_value
from cnnkit.plugins.windows import Axis, Size, Windows, parse_size

ARANGE = np.arange(16, dtype=np.uint8).reshape(4, 4)


# What a person may write


@pytest.mark.parametrize("written", [32, "32", "32x32", (32, 32), [32, 32], "32X32", Size(32, 32)])
def test_a_square_in_every_spelling(written: Any) -> None:
    assert parse_size(written) == (32, 32)


def test_a_rectangle_is_height_by_width() -> None:
    assert parse_size("24x48") == parse_size((24, 48)) == (24, 48)
    assert str(parse_size("24x48")) == "24x48"


@pytest.mark.parametrize("written", ["", "a", "0", "-3", "3x", "1x2x3", 2.5, "2.5", (1, 2, 3), []])
def test_what_is_no_size(written: Any) -> None:
    with pytest.raises(ValueError, match="whole number of pixels"):
        parse_size(written)


@pytest.mark.parametrize(
    ("written", "colour"),
    [
        ("grey", (127.5, 127.5, 127.5)),
        ("black", (0, 0, 0)),
        ("white", (255, 255, 255)),
        ("#ff8000", (255, 128, 0)),
        ("tomato", (255, 99, 71)),
        ("10,20.5,30", (10, 20.5, 30)),
        ([10, 20, 30], (10, 20, 30)),
        ("12.5", (12.5, 12.5, 12.5)),
        (12.5, (12.5, 12.5, 12.5)),
        (7, (7, 7, 7)),
        ("mean", "mean"),
        ("blur", "blur"),
        ("zero", "zero"),
    ],
)
def test_values_of_the_patch(written: Any, colour: Any) -> None:
    assert parse_value(written) == colour
    assert parse_value(parse_value(written)) == colour


@pytest.mark.parametrize("written", ["", "gruen", "1,2", "256", "-1", "nan", "#12", (1, 2)])
def test_what_is_no_value(written: Any) -> None:
    with pytest.raises(ValueError, match="a patch is grey"):
        parse_value(written)


# Windows


@pytest.mark.parametrize(
    ("size", "patch", "stride", "starts", "stops"),
    [
        (4, 2, 2, [0, 2], [2, 4]),
        (3, 2, 2, [0, 2], [2, 3]),
        (4, 3, 1, [0, 1], [3, 4]),
        (4, 4, 9, [0], [4]),
        (7, 3, 3, [0, 3, 6], [3, 6, 7]),
        (224, 32, 16, list(range(0, 193, 16)), list(range(32, 225, 16))),
    ],
)
def test_positions(size: int, patch: int, stride: int, starts: list[int], stops: list[int]) -> None:
    axis = Axis(size, patch, stride)
    assert (axis.starts.tolist(), axis.stops.tolist()) == (starts, stops)
    assert len(axis) == -(-(size - patch) // stride) + 1


@pytest.mark.parametrize(
    ("patch", "stride", "asked"),
    [
        ((5, 2), (1, 1), "a patch of 5x2 does not fit"),
        ((2, 2), (1, 3), "stride of 1x3 .* leaves parts of the width"),
    ],
)
def test_windows_that_do_not_cover_the_picture(
    patch: tuple[int, int], stride: tuple[int, int], asked: str
) -> None:
    with pytest.raises(cnnkit.UsageError, match=asked):
        Windows((4, 4), Size(*patch), Size(*stride))


SIZES = st.integers(1, 23)


@st.composite
def any_windows(draw: st.DrawFn) -> Windows:
    size = draw(SIZES), draw(SIZES)
    patch = Size(*(draw(st.integers(1, side)) for side in size))
    return Windows(size, patch, Size(*(draw(st.integers(1, side)) for side in patch)))


@given(any_windows(), st.integers(0, 2**32 - 1))
def test_the_mean_is_that_of_a_mask_per_window(windows: Windows, seed: int) -> None:
    drops = np.random.default_rng(seed).normal(size=windows.shape)
    total, covering = np.zeros((2, windows.down.size, windows.across.size))
    for row, rows in enumerate(windows.down):
        for column, columns in enumerate(windows.across):
            total[rows, columns] += drops[row, column]
            covering[rows, columns] += 1
    assert covering.min() >= 1
    np.testing.assert_allclose(windows.mean(drops), total / covering, rtol=1e-5, atol=1e-6)


@given(any_windows(), st.sampled_from(["nchw", "nhwc"]))
def test_each_window_is_hidden_alone_and_shown_again(windows: Windows, layout: str) -> None:
    size = windows.down.size, windows.across.size
    shape = (2, *size) if layout == "nchw" else (*size, 2)
    tensor = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    hidden = -1 - tensor
    count = 0
    for number, occluded in enumerate(windows.inputs(tensor, hidden, layout)):
        top, left, bottom, right = windows.box(number)
        mask = np.zeros(size, dtype=bool)
        mask[top:bottom, left:right] = True
        mask = mask[None] if layout == "nchw" else mask[..., None]
        np.testing.assert_array_equal(occluded, np.where(mask, hidden, tensor))
        count += 1
    assert count == len(windows)


@pytest.mark.parametrize(
    ("size", "patch", "stride"),
    [((224, 224), 32, 16), ((128, 128), 18, 9), ((48, 96), 7, 4), ((28, 28), 4, 2), ((1, 3), 1, 1)],
)
def test_sizes_that_suit_any_network(size: tuple[int, int], patch: int, stride: int) -> None:
    windows = Windows(size)
    assert (windows.patch, windows.stride) == ((patch, patch), (stride, stride))


def test_a_map_by_step_has_no_blocks() -> None:
    windows = Windows((12, 20), Size(4, 4), Size(4, 4))
    values = np.arange(15.0).reshape(3, 5)
    by_step = windows.by_step(windows.mean(values))
    assert by_step.shape == (3, 5)
    np.testing.assert_allclose(by_step[1, 1:-1], values[1, 1:-1], atol=1e-5)


# captum's own tables, on its two networks. `tests/attr/test_occlusion.py` of captum holds the same figures.


def write(folder: Path, builder: cnnkit.Builder) -> str:
    path = folder / "network.onnx"
    onnx.save(builder.model(), path)
    return str(path)


def one_convolution(folder: Path, second: NDArray[Any]) -> str:
    """captum's `BasicModel_ConvNet_One_Conv` with its second input folded in."""
    b = cnnkit.Builder()
    x = b.op.Add(b.input("x", ["N", 1, 4, 4]), second.astype(np.float32).reshape(1, 1, 4, 4))
    x = b.op.Relu(b.op.Conv(x, np.ones((2, 1, 3, 3), np.float32), np.array([-50, -75], np.float32)))
    weight = np.repeat(np.array([[1] * 5 + [-1] * 3], np.float32), 4, axis=0)
    b.op.Relu(b.op.Gemm(b.op.Flatten(x), weight, np.zeros(4, np.float32), transB=1), output="y")
    b.output("y", ["N", 4])
    return write(folder, b)


def two_layers(folder: Path) -> str:
    """captum's `BasicModel_MultiLayer` on three features, which lie as three pixels in a row."""
    b = cnnkit.Builder()
    x = b.op.Flatten(b.input("x", ["N", 1, 1, 3]))
    x = b.op.Relu(b.op.Gemm(x, np.ones((3, 4), np.float32), np.array([-10, 1, 1, 1], np.float32)))
    b.op.Gemm(x, np.ones((4, 2), np.float32), np.array([-1, 1], np.float32), output="y")
    b.output("y", ["N", 2])
    return write(folder, b)


def raw(path: str) -> cnnkit.ModelSpec:
    return cnnkit.ModelSpec(path, preprocess="raw")


NONE, ONES = np.zeros((4, 4)), np.ones((4, 4))
BATCHES = [1, 2, 3, 16]


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(
    ("picture", "second", "patch", "stride", "score", "expected"),
    [
        (ARANGE, ONES, "4x4", 1, 67, [[67] * 4] * 4),
        (ONES.astype(np.uint8), ARANGE, "4x4", 1, 67, [[13] * 4] * 4),
        (ARANGE, ONES, "2x3", "2x1", 67, [[17] * 4] * 2 + [[64, 65.5, 65.5, 67]] * 2),
        (ONES.astype(np.uint8), ARANGE, "1x2", "1x2", 67, [[3] * 4] * 3 + [[0] * 4]),
        (ARANGE, NONE, "4x4", 1, 54, [[54] * 4] * 4),
    ],
)
def test_captums_tables_of_the_convolution(
    tmp_path: Path,
    picture: NDArray[np.uint8],
    second: NDArray[Any],
    patch: str,
    stride: Any,
    score: float,
    expected: list[list[float]],
    batch: int,
) -> None:
    result = cnnkit.run(
        "occlusion",
        picture,
        model=raw(one_convolution(tmp_path, second)),
        settings=Settings(batch=batch),
        patch=patch,
        stride=stride,
        value="zero",
        target="all",
    )
    heatmap = result.arrays["heatmap"]
    assert heatmap.shape == (4, 4, 4) and heatmap.dtype == np.float32
    for one in heatmap:
        np.testing.assert_allclose(one, expected, rtol=1e-5, atol=1e-5)
    assert [target["score"] for target in result.data["targets"]] == [score] * 4


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(
    ("patch", "stride", "value", "expected"),
    [
        ("1x1", 1, "zero", [80, 200, 120]),
        ("1x2", 1, 10, [200, 220, 240]),
        ("1x2", "1x2", "black", [280, 280, 120]),
    ],
)
def test_captums_tables_of_three_features(
    tmp_path: Path, patch: str, stride: Any, value: Any, expected: list[float], batch: int
) -> None:
    result = cnnkit.run(
        "occlusion",
        np.array([[20, 50, 30]], np.uint8),
        model=raw(two_layers(tmp_path)),
        settings=Settings(batch=batch),
        patch=patch,
        stride=stride,
        value=value,
        target=0,
    )
    np.testing.assert_allclose(result.arrays["heatmap"], [[expected]], rtol=1e-5)


# A linear network: hiding a window takes away the sum of w (x - b) over it


SHAPES = [(7, 5), (13, 11), (5, 17)]


def linear(
    folder: Path, size: tuple[int, int], layout: str, classes: int = 3
) -> tuple[str, NDArray[np.float32]]:
    """A path, and the weights as (*the input's shape, classes)."""
    height, width = size
    shape = (height, width, 3) if layout == "nhwc" else (3, height, width)
    weight = np.random.default_rng(5).normal(size=(*shape, classes)).astype(np.float32)
    b = cnnkit.Builder()
    x = b.op.Flatten(b.input("x", ["N", *shape]))
    b.op.Gemm(x, weight.reshape(-1, classes), np.ones(classes, np.float32), output="y")
    b.output("y", ["N", classes])
    return write(folder, b), weight


def photograph(size: tuple[int, int], seed: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def hidden_colour(value: Any, pixels: NDArray[np.uint8]) -> Any:
    named = {"grey": 127.5, "black": 0, "white": 255, "#ff8000": (255, 128, 0), "mean": pixels.mean((0, 1))}
    return named.get(value, value)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("value", ["grey", "black", "white", "#ff8000", "mean", (3, 2, 1), "zero"])
def test_a_linear_network_loses_what_is_hidden(
    tmp_path: Path, size: tuple[int, int], layout: str, value: Any
) -> None:
    path, weight = linear(tmp_path, size, layout)
    model = cnnkit.Model.load(path, preprocess="torch")
    assert model.preprocessing.layout == layout
    pixels = photograph(size)
    result = cnnkit.run(
        "occlusion", pixels, model=model, patch="3x4", stride="2x3", value=value, target="all"
    )

    x = model.preprocessing.to_network(pixels)
    colour = hidden_colour(value, pixels)
    hidden = 0 if value == "zero" else model.preprocessing.to_network(np.full((*size, 3), colour))
    loss = np.moveaxis((weight * (x - hidden)[..., None]).sum(0 if layout == "nchw" else 2), -1, 0)
    windows = Windows(size, Size(3, 4), Size(2, 3))
    expected = np.array([[[one[r, c].sum() for c in windows.across] for r in windows.down] for one in loss])
    np.testing.assert_allclose(result.arrays["drops"], expected, rtol=1e-4, atol=1e-4)
    for drop, heatmap in zip(expected, result.arrays["heatmap"], strict=True):
        np.testing.assert_allclose(heatmap, windows.mean(drop), rtol=1e-4, atol=1e-4)


def test_a_blur_shows_through(tmp_path: Path) -> None:
    size = (12, 14)
    path, _ = linear(tmp_path, size, "nchw")
    even = np.full((*size, 3), (200, 30, 90), np.uint8)
    result = cnnkit.run("occlusion", even, model=raw(path), patch=4, stride=4, value="blur")
    np.testing.assert_allclose(result.arrays["drops"], 0, atol=1e-2)
    rough = cnnkit.run("occlusion", photograph(size), model=raw(path), patch=4, stride=4, value="blur")
    assert np.abs(rough.arrays["drops"]).min() > 1


def test_the_whole_picture_as_one_window(tmp_path: Path) -> None:
    model = cnnkit.Model.load(one_convolution(tmp_path, ONES), preprocess="raw")
    pixels = np.repeat(ARANGE[..., None], 3, axis=2) * np.uint8(9)
    inputs = model.preprocessing.to_network(np.stack([pixels, np.full((4, 4, 3), 20)]))
    shown, hidden = cnnkit.Session(model).run(inputs)["y"][:, 2]
    result = cnnkit.run("occlusion", pixels, model=model, patch=4, stride=3, value=20, target=2)
    np.testing.assert_allclose(result.arrays["heatmap"], np.full((1, 4, 4), shown - hidden), rtol=1e-6)


# Targets, figures in JSON, pictures


def test_targets_share_the_windows(tmp_path: Path) -> None:
    path, _ = linear(tmp_path, (8, 8), "nchw", classes=6)
    pixels = photograph((8, 8))
    asked: dict[str, Any] = {"model": raw(path), "settings": Settings(batch=4), "patch": 3, "stride": 2}
    both = cnnkit.run("occlusion", pixels, target="top:2", **asked)
    everything = cnnkit.run("occlusion", pixels, target="all", **asked)
    assert everything.arrays["classes"].tolist() == list(range(6))
    for name in ("drops", "heatmap"):
        np.testing.assert_array_equal(both.arrays[name], everything.arrays[name][both.arrays["classes"]])
    scores = [target["score"] for target in everything.data["targets"]]
    assert both.arrays["classes"].tolist() == np.argsort(scores)[::-1][:2].tolist()
    assert list(both.pictures) == [f"class-{index}" for index in both.arrays["classes"]]


def test_labels_name_targets_and_pictures(tmp_path: Path) -> None:
    path, _ = linear(tmp_path, (8, 8), "nchw")
    labels = tmp_path / "labels.txt"
    labels.write_text("house cat, tabby\ncrane\ncrane\n")
    spec = cnnkit.ModelSpec(path, preprocess="raw", labels=str(labels))
    result = cnnkit.run("occlusion", photograph((8, 8)), model=spec, patch=4, stride=4, target="all")
    assert [target["label"] for target in result.data["targets"]] == ["house cat, tabby", "crane", "crane"]
    assert list(result.pictures) == ["house-cat", "crane", "crane-2"]
    one = cnnkit.run("occlusion", photograph((8, 8)), model=spec, patch=4, stride=4, target="tabby")
    assert one.arrays["classes"].tolist() == [0] and list(one.pictures) == [""]


def test_beyond_twenty_targets_only_the_best_is_drawn(tmp_path: Path) -> None:
    path, _ = linear(tmp_path, (8, 8), "nchw", classes=21)
    result = cnnkit.run("occlusion", photograph((8, 8)), model=raw(path), patch=4, stride=4, target="all")
    assert result.arrays["heatmap"].shape == (21, 8, 8)
    assert list(result.pictures) == [""]


def test_where_the_score_falls_most(tmp_path: Path) -> None:
    """One bright spot on black, seen by a network that adds up: its window is the highest drop."""
    b = cnnkit.Builder()
    x = b.op.Flatten(b.op.GlobalAveragePool(b.input("x", ["N", 3, 20, 20])))
    b.op.Gemm(
        x, np.array([[400.0], [0], [0]], np.float32).repeat(2, axis=1), np.zeros(2, np.float32), output="y"
    )
    b.output("y", ["N", 2])
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[20:30, 30:45] = 200
    result = cnnkit.run(
        "occlusion", pixels, model=raw(write(tmp_path, b)), patch=5, stride=5, value="black", target=0
    )
    (target,) = result.data["targets"]
    assert target["highest"]["network"] == {"top": 10, "left": 10, "bottom": 15, "right": 15}
    assert target["highest"]["picture"] == {"top": 20, "left": 30, "bottom": 30, "right": 45}
    assert target["highest"]["drop"] == pytest.approx(target["score"], rel=0.1)
    assert target["lowest"]["drop"] == pytest.approx(0, abs=1e-3)
    assert target["mean"] == pytest.approx(target["score"] / 16, rel=1e-3)
    assert result.data["windows"] == [4, 4]


@pytest.mark.parametrize(("fit", "box"), [("crop", (0, 10, 20, 30)), ("pad", (0, 0, 20, 40))])
def test_boxes_find_their_way_back_through_crops_and_pads(
    tmp_path: Path, fit: str, box: tuple[int, int, int, int]
) -> None:
    path, _ = linear(tmp_path, (20, 20), "nchw")
    spec = cnnkit.ModelSpec(path, preprocess="raw", fit=fit)
    result = cnnkit.run("occlusion", photograph((20, 40)), model=spec, patch=20, stride=1, plain=True)
    found = result.data["targets"][0]["highest"]["picture"]
    assert tuple(found[side] for side in ("top", "left", "bottom", "right")) == box
    assert result.picture.size == (20, 40)


def test_a_plain_picture_has_the_pictures_size_and_a_figure_more(tmp_path: Path) -> None:
    path, _ = linear(tmp_path, (8, 8), "nchw")
    asked: dict[str, Any] = {"model": raw(path), "patch": 4, "stride": 4}
    plain = cnnkit.run("occlusion", photograph((150, 210)), plain=True, **asked)
    figure = cnnkit.run("occlusion", photograph((150, 210)), **asked)
    assert plain.picture.size == (150, 210)
    assert figure.picture.height > 150 and figure.picture.width > 210


def test_probabilities_instead_of_logits(tmp_path: Path) -> None:
    path, _ = linear(tmp_path, (8, 8), "nchw")
    proto = onnx.load(path)
    proto.graph.node.append(onnx.helper.make_node("Softmax", ["y"], ["p"], axis=1))
    proto.graph.output[0].name = "p"
    onnx.save(proto, path)
    spec = cnnkit.ModelSpec(path, preprocess="tf")
    asked: dict[str, Any] = {"model": spec, "patch": 4, "stride": 4, "target": "all"}
    logits = cnnkit.run("occlusion", photograph((8, 8)), **asked)
    probabilities = cnnkit.run("occlusion", photograph((8, 8)), score="probabilities", **asked)
    assert sum(target["score"] for target in probabilities.data["targets"]) == pytest.approx(1)
    # The shares of all classes stay 1, so what one loses the others win; logits know no such sum.
    np.testing.assert_allclose(probabilities.arrays["drops"].sum(0), 0, atol=1e-6)
    assert np.abs(logits.arrays["drops"].sum(0)).max() > 0.1


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"patch": 9}, "a patch of 9x9 does not fit into the network's input of 8x8 pixels"),
        ({"patch": 3, "stride": 4}, "leaves parts"),
        ({"patch": "wide"}, "--patch 'wide': a size is a whole number"),
        ({"value": "gren"}, "--value 'gren': a patch is grey"),
        ({"colourmap": "magna"}, "no colour map 'magna'.*Did you mean 'magma'"),
        ({"target": "3", "patch": 4, "stride": 4}, "3"),
    ],
)
def test_a_sentence_for_what_cannot_be_done(tmp_path: Path, asked: dict[str, Any], sentence: str) -> None:
    path, _ = linear(tmp_path, (8, 8), "nchw")
    with pytest.raises(cnnkit.UsageError, match=sentence):
        cnnkit.run("occlusion", photograph((8, 8)), model=raw(path), **asked)
