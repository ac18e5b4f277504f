"""Activations of networks small enough to know every number, and of one with a hundred layers."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from said import Said

from cnnkit import Builder, Image, Layer, Model, Operation, Preprocessing, Session, UsageError, drawing
from cnnkit import map as cnnkit_map
from cnnkit import run as cnnkit_run
from cnnkit.plugins import activations as plugin
from cnnkit.plugins.activations import ActivationsOptions, channels_last, names_of_parts
from cnnkit.plugins.feature_maps import Activation, Ground, Look, maps_of
from cnnkit.plugins.tiles import FLAT, columns_for, even_pick, fitted, tile_size

OPERATION = Operation("activations", plugin.activations, ActivationsOptions)
RAW = Preprocessing.preset("raw")
PICTURE = np.random.default_rng(3).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def run(model: Model, picture: Any = PICTURE, said: Said | None = None, **options: Any) -> Any:
    return cnnkit_run(OPERATION, picture, model=model, reporter=said or Said(), **options)


@pytest.fixture
def known() -> Model:
    """conv: the red channel, its difference to the right, and -5 everywhere; Relu, mean and a dense layer."""
    kernel = np.zeros((3, 3, 3, 3), np.float32)
    kernel[0, 0, 1, 1] = 1
    kernel[1, 0, 1, 1:] = -1, 1
    b = Builder()
    picture = b.input("picture", ["N", 3, None, None])
    bias = np.float32([0, 0, -5])
    features = b.op.Conv(picture, kernel, bias, pads=[1, 1, 1, 1], name="conv", output="conv_out")
    rectified = b.op.Relu(features, name="relu", output="relu_out")
    mean = b.op.GlobalAveragePool(rectified, name="mean", output="mean_out")
    flat = b.op.Flatten(mean, name="flat", output="flat_out")
    weight = np.float32([[1, 0, 0], [0, 1, 0], [1, 1, 1], [-1, 0, 0]])
    b.output(b.op.Gemm(flat, weight, transB=1, name="dense", output="scores"), ["N", 4])
    return Model.of(b.model(), preprocessing=RAW, labels=["red", "edge", "sum", "cyan"], name="known")


def expected(picture: np.ndarray = PICTURE) -> dict[str, np.ndarray]:
    red = picture[..., 0].astype(np.float32)
    edge = np.diff(red, axis=1, append=0)
    conv = np.stack([red, edge, np.full_like(red, -5)])
    relu = np.maximum(conv, 0)
    mean = relu.mean(axis=(1, 2))
    dense = np.array([mean[0], mean[1], mean.sum(), -mean[0]])
    return {"conv": conv[None], "relu": relu[None], "mean": mean[None, :, None, None], "dense": dense[None]}


# What is found


def test_raw_activations_and_their_statistics_are_the_closed_form(known: Model) -> None:
    result = run(known, layers="conv,relu,mean,dense", raw=True)
    for row, (name, values) in zip(result.data["layers"], expected().items(), strict=True):
        assert row["name"] == name
        assert row["shape"] == list(values.shape)
        np.testing.assert_allclose(result.arrays[name], values, rtol=1e-6)
        found = [row["min"], row["max"], row["mean"]]
        np.testing.assert_allclose(found, [values.min(), values.max(), values.mean()], rtol=1e-6)
    assert [row["dead"] for row in result.data["layers"]] == [[2], [2], [2], []]
    assert [row["operator"] for row in result.data["layers"]] == ["Conv", "Relu", "GlobalAveragePool", "Gemm"]


def test_the_npz_holds_what_the_session_gives_and_how_to_read_it(known: Model) -> None:
    said = Said()
    result = run(known, Image(PICTURE, name="noise"), said, layers=["*"], raw=True)
    with np.load(io.BytesIO(result.contents(".png", {})[".npz"])) as saved:
        outputs = Session(known).run(
            known.preprocessing.apply(Image(PICTURE)).tensor, [x.tensor for x in known.layers]
        )
        assert set(saved) == {layer.name for layer in known.layers} | {"cnnkit"}
        for layer in known.layers:
            np.testing.assert_array_equal(saved[layer.name], outputs[layer.tensor])
        told = json.loads(str(saved["cnnkit"]))
    assert told["model"] == "known" and told["picture"] == "noise"
    assert Preprocessing.from_json(told["preprocessing"]) == known.preprocessing
    assert told["layers"][1] == {
        "name": "relu", "index": 1, "operator": "Relu", "shape": [1, 3, 6, 8], "dtype": "float32"
    }  # fmt: skip
    size = sum(outputs[layer.tensor].nbytes for layer in known.layers) / 1e6
    assert said.lines == [f"noise: the outputs of 5 layers are {size:.1f} MB before compression"]


@pytest.mark.parametrize("reduction", ["mean", "max", "sum"])
def test_reduction_over_channels(known: Model, reduction: str) -> None:
    result = run(known, layers="conv,dense", reduce=reduction)
    assert set(result.arrays) == {f"conv.{reduction}"}
    np.testing.assert_allclose(
        result.arrays[f"conv.{reduction}"], getattr(expected()["conv"][0], reduction)(axis=0), rtol=1e-6
    )
    assert set(result.pictures) == {"", "conv", "dense"}


def layer(operator: str, name: str = "layer", index: int = 0) -> Layer:
    return Layer(index, name, operator, f"{name}_out")


@pytest.mark.parametrize(
    ("operator", "dead"),
    [("Conv", [0, 1]), ("Relu", [0, 1, 2]), ("LeakyRelu", [0, 1, 2]), ("Clip", [0, 1]), ("Sigmoid", [0, 1])],
)
def test_dead_maps_are_constant_or_never_positive_behind_a_rectifier(operator: str, dead: list[int]) -> None:
    maps = np.zeros((4, 2, 2), np.float32)
    maps[1] = 6
    maps[2] = [[-1, -2], [-3, 0]]
    maps[3] = [[-1, -2], [-3, 1]]
    found = Activation(layer(operator), maps[None], maps).statistics()
    assert (found["dead"], found["dead_channels"]) == (dead, len(dead))


def test_dead_units_are_zero_or_not_positive_behind_a_rectifier() -> None:
    units = np.float32([0, 3, -1]).reshape(3, 1, 1)
    assert Activation(layer("Gemm"), units, units).dead.tolist() == [True, False, False]
    assert Activation(layer("LeakyRelu"), units, units).dead.tolist() == [True, False, True]


def test_several_pictures_are_what_each_is_alone(known: Model) -> None:
    other = PICTURE[:5, :7, ::-1]
    together = list(cnnkit_map(OPERATION, [PICTURE, other], model=known, layers=["conv"], raw=True))
    for outcome, picture in zip(together, [PICTURE, other], strict=True):
        result = outcome.unwrap()
        np.testing.assert_array_equal(
            result.arrays["conv"], run(known, picture, layers=["conv"], raw=True).arrays["conv"]
        )
        np.testing.assert_allclose(result.arrays["conv"], expected(picture)["conv"], rtol=1e-6)


def test_layers_that_do_not_fit_into_memory_together_come_in_several_runs(
    known: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(known, layers=["*"], raw=True)
    monkeypatch.setattr(plugin, "FETCHED_AT_ONCE", 3 * 6 * 8 * 4)
    shapes = {"conv_out": (1, 3, 6, 8), "relu_out": (1, 3, 6, 8), "mean_out": (1, 3, 1, 1)}
    groups = [
        [layer.name for layer in group]
        for group in plugin.in_runs(known.layers, shapes, plugin.FETCHED_AT_ONCE)
    ]
    assert groups == [["conv"], ["relu"], ["mean", "flat", "dense"]]
    parted = run(known, layers=["*"], raw=True)
    assert parted.data == whole.data
    for name in whole.arrays:
        np.testing.assert_array_equal(parted.arrays[name], whole.arrays[name])


# Where the channels are


def test_channels_are_last_until_a_transpose_and_after_the_next() -> None:
    b = Builder()
    picture = b.input("picture", ["N", 4, 6, 3])
    scaled = b.op.Mul(picture, np.float32([1, 2, 3]), name="scaled", output="scaled_out")
    turned = b.op.Transpose(scaled, perm=[0, 3, 1, 2], name="turned", output="turned_out")
    kernel = np.float32([[1, 0, 0], [0, 0, 1]]).reshape(2, 3, 1, 1)
    features = b.op.Relu(
        b.op.Conv(turned, kernel, name="conv", output="conv_out"), name="relu", output="relu_out"
    )
    back = b.op.Transpose(features, perm=[0, 2, 3, 1], name="back", output="back_out")
    b.output(b.op.Neg(back, name="negative", output="negative_out"), ["N", 4, 6, 2])
    model = Model.of(b.model(), preprocessing=RAW)

    assert model.preprocessing.layout == "nhwc"
    last = channels_last(model.graph, "nhwc")
    assert last == {"picture", "scaled_out", "back_out", "negative_out"}
    result = run(model, PICTURE[:4, :6], layers=["*"], reduce="max")
    channels = {row["name"]: row["channels"] for row in result.data["layers"]}
    assert channels == {"scaled": 3, "turned": 3, "conv": 2, "relu": 2, "back": 2, "negative": 2}
    scaled_picture = (PICTURE[:4, :6] * np.float32([1, 2, 3])).astype(np.float32)
    np.testing.assert_array_equal(result.arrays["scaled.max"], scaled_picture.max(axis=-1))
    np.testing.assert_array_equal(result.arrays["back.max"], scaled_picture[..., ::2].max(axis=-1))


def test_maps_of_every_rank() -> None:
    values = np.arange(24, dtype=np.float32)
    np.testing.assert_array_equal(maps_of(values.reshape(1, 2, 3, 4)), values.reshape(2, 3, 4))
    np.testing.assert_array_equal(
        maps_of(values.reshape(1, 3, 4, 2), True)[1], values.reshape(3, 4, 2)[..., 1]
    )
    assert maps_of(values.reshape(1, 24)).shape == (24, 1, 1)
    assert maps_of(values.reshape(1, 6, 4)).shape == (1, 6, 4)
    assert maps_of(values.reshape(1, 2, 3, 2, 2)).shape == (6, 2, 2)
    assert maps_of(values.reshape(2, 3, 2, 2)).shape == (6, 2, 2)
    assert maps_of(np.float32(7)).shape == (1, 1, 1)
    assert maps_of(np.array([[True, False]])).ravel().tolist() == [1, 0]


# What is chosen, and what is left out


def test_an_even_pick_has_both_ends() -> None:
    assert even_pick(range(35), 9) == [0, 4, 8, 13, 17, 21, 26, 30, 34]
    assert even_pick(range(5), 9) == even_pick(range(5), 0) == [0, 1, 2, 3, 4]
    assert even_pick(range(5), 1) == [0]


def test_the_default_is_activations_then_convolutions_then_maps_then_everything() -> None:
    maps, pixel, vector = (1, 4, 7, 7), (1, 4, 1, 1), (1, 4)
    conv, relu, pool, gate, dense = (layer(op, op) for op in ["Conv", "Relu", "MaxPool", "Sigmoid", "Gemm"])
    shapes = {
        "Conv_out": maps,
        "Relu_out": maps,
        "MaxPool_out": maps,
        "Sigmoid_out": pixel,
        "Gemm_out": vector,
    }

    def chosen(*layers: Layer) -> list[Layer]:
        return plugin.typical(layers, shapes, set())[0]

    assert chosen(conv, relu, pool, gate, dense) == [relu]
    assert chosen(conv, pool, gate, dense) == [conv]
    assert chosen(pool, gate, dense) == [pool]
    assert chosen(gate, dense) == [gate, dense]
    shapes["Relu_out"] = (1, 1, 1, 9)
    assert plugin.typical([relu, pool], shapes, {"Relu_out"})[0] == [pool]


def test_left_out_layers_and_channels_are_counted_and_said(known: Model) -> None:
    said = Said()
    result = run(known, Image(PICTURE, name="noise"), said, channels=2)
    assert result.data["shown"] == {"layers": 1, "of_layers": 5, "channels": 2, "of_channels": 3}
    assert said.lines == [
        "noise: showing 1 of 5 layers; --layers and --max-layers choose others",
        "noise: showing 2 of the 3 channels of these layers; --channels 0 shows all",
    ]
    said = Said()
    result = run(known, Image(PICTURE, name="noise"), said, layers=["0:4"], max_layers=2)
    assert [row["name"] for row in result.data["layers"]] == ["conv", "flat"]
    assert said.lines == [
        "noise: showing 2 of 5 layers, an even pick of the 4 that --layers names; "
        "--layers and --max-layers choose others"
    ]
    said = Said()
    assert run(known, said=said, layers=["conv", "dense"]).data["shown"]["layers"] == 2
    assert said.lines == []


def test_an_unknown_layer_is_refused(known: Model) -> None:
    with pytest.raises(UsageError, match="relu"):
        run(known, layers=["rely"])


def test_a_network_of_a_hundred_layers(data: Path) -> None:
    model = Model.load(data / "weights" / "mobilenet_v2_1.0_224.onnx")
    chelsea = data / "images" / "free" / "chelsea.png"
    said = Said()
    result = run(model, chelsea, said)
    rows = result.data["layers"]
    assert [row["operator"] for row in rows] == ["Clip"] * 9
    assert [row["shape"][1] for row in rows] == [32, 144, 192, 192, 384, 384, 576, 960, 1280]
    of = sum(row["channels"] for row in rows)
    assert result.data["shown"] == {"layers": 9, "of_layers": 102, "channels": 9 * 32, "of_channels": of}
    assert said.lines[-2:] == [
        "chelsea: showing 9 of 102 layers, an even pick of the 35 activations with maps; "
        "--layers and --max-layers choose others",
        f"chelsea: showing 288 of the {of} channels of these layers; --channels 0 shows all",
    ]
    assert max(result.picture.size) <= 2000

    whole = run(model, chelsea, layers=["*"], max_layers=0, channels=1)
    assert [row["name"] for row in whole.data["layers"]] == [layer.name for layer in model.layers]
    assert len(whole.pictures) == 103
    same = {row["name"]: row for row in whole.data["layers"]}
    for row in rows:
        assert same[row["name"]]["mean"] == pytest.approx(row["mean"], rel=1e-4)
    assert max(whole.picture.size) <= 2000


# How it is drawn


def test_every_channel_stands_in_its_place() -> None:
    maps = np.zeros((7, 3, 3), np.float32)
    maps[np.arange(7), np.arange(7) // 3, np.arange(7) % 3] = np.arange(1, 8)
    activation = Activation(layer("Relu"), maps[None], maps)
    for common in (False, True):
        look = Look("grey", common)
        cell = look.cell(activation, [6, 2, 1, 0, 5], 400)
        columns = columns_for(5, 1.0)
        height, width = tile_size(1.0, columns, 800)
        for place, channel in enumerate([6, 2, 1, 0, 5]):
            top, left = 6 + place // columns * (height + 6), 6 + place % columns * (width + 6)
            tile = cell[top : top + height, left : left + width, 0]
            values = tile[height // 6 :: height // 3, width // 6 :: width // 3][:3, :3]
            bright = round(255 * (channel + 1) / 7) if common else 255
            np.testing.assert_allclose(values, np.where(maps[channel] > 0, bright, 0), atol=1)


@pytest.mark.parametrize("common", [False, True])
@pytest.mark.parametrize("overlaid", [False, True])
def test_constant_maps_are_flat_grey(common: bool, overlaid: bool) -> None:
    maps = np.stack([np.full((3, 3), 4), np.arange(9).reshape(3, 3)]).astype(np.float32)
    ground = Ground.of(Image(PICTURE), RAW, 100) if overlaid else None
    activation = Activation(layer("Conv"), maps[None], maps)
    cell = Look("viridis", common, ground).cell(activation, [0], 200)
    np.testing.assert_array_equal(cell[10:-10, 10:-10], np.broadcast_to(FLAT, cell[10:-10, 10:-10].shape))
    sheet = Look("viridis", common, ground).sheet(activation, [0, 1])
    assert (sheet == FLAT).all(axis=-1).mean() > 0.2


def test_an_overlay_lies_on_the_picture_and_leaves_bare_what_the_network_did_not_see() -> None:
    picture = np.full((40, 80, 3), 200, np.uint8)
    cropped = Preprocessing.preset("raw", height=8, width=8, fit="crop")
    ground = Ground.of(Image(picture), cropped, 80)
    laid = ground.under(np.float32([[0, 1], [0, 1]]), "grey", (0, 1))
    assert laid.shape == picture.shape
    np.testing.assert_array_equal(laid[:, :20], 200)
    np.testing.assert_array_equal(laid[:, 60:], 200)
    np.testing.assert_array_equal(laid[:, 20:30], round(0.4 * 200))
    np.testing.assert_array_equal(laid[:, 50:60], round(0.4 * 200 + 0.6 * 255))


def test_the_strongest_channels_come_first(known: Model) -> None:
    result = run(known, layers=["conv"], order="strongest", channels=2)
    strength = np.abs(expected()["conv"][0]).mean(axis=(1, 2))
    assert result.data["layers"][0]["shown"] == np.argsort(-strength)[:2].tolist()


def test_tiles_are_enlarged_to_their_own_pixels_and_reduced_to_means() -> None:
    small = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    np.testing.assert_array_equal(fitted(small, 4, 6), small.repeat(2, axis=0).repeat(3, axis=1))
    checks = np.uint8([[0, 200], [200, 0]])[..., None].repeat(3, axis=-1)
    np.testing.assert_array_equal(fitted(checks, 1, 1), [[[100, 100, 100]]])


def test_sheets_have_few_empty_places_and_tiles_their_proportions() -> None:
    assert [columns_for(count, 1.0) for count in (1, 2, 9, 32, 64)] == [1, 2, 3, 8, 8]
    assert tile_size(1.0, 8) == (160, 160)
    assert tile_size(0.5, 8) == (80, 160)
    assert tile_size(0.01, 8) == (20, 160)
    assert tile_size(1.0, 45) == (48, 48)


def test_dense_layers_are_bars_with_the_names_of_the_classes(
    known: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = []
    bars = drawing.bars
    monkeypatch.setattr(
        drawing,
        "bars",
        lambda values, labels, *a, **k: (named.append(labels), bars(values, labels, *a, **k))[1],
    )
    result = run(known, layers=["mean", "dense"])
    assert named == [None, None, known.labels, known.labels]
    assert result.pictures["dense"].size == (480, 800)
    assert [row["shown"] for row in result.data["layers"]] == [[0, 1, 2], [0, 1, 2, 3]]


def test_the_sheet_of_all_layers_says_that_it_shows_fewer_channels(
    known: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles = []
    sheet = drawing.contact_sheet
    monkeypatch.setattr(drawing, "contact_sheet", lambda *args: (titles.append(args[3]), sheet(*args))[1])
    run(known, Image(PICTURE, name="noise"), layers=["conv", "dense"])
    monkeypatch.setattr(plugin, "cell_width", lambda layers: 50)
    run(known, Image(PICTURE, name="noise"), layers=["conv", "dense"])
    run(known, Image(PICTURE, name="noise"), layers=["dense"])
    assert titles == [
        "noise in known: 2 of 5 layers",
        "noise in known: 2 of 5 layers, at most 1 channels of each on this sheet",
        "noise in known: 1 of 5 layers",
    ]


def test_names_become_parts_of_file_names_that_differ() -> None:
    names = ["/features/conv.0/Conv", "features conv.0 Conv", "Features_conv.0_conv", "///", "x" * 200, ".."]
    parts = list(names_of_parts([layer("Conv", name, index) for index, name in enumerate(names)]).values())
    assert parts[:4] == ["features_conv.0_Conv", "features_conv.0_Conv_1", "Features_conv.0_conv_2", "layer"]
    assert parts[4:] == ["x" * 80, "layer_5"]


def test_values_that_are_no_numbers_are_drawn_and_told(known: Model) -> None:
    maps = np.zeros((2, 2, 2), np.float32)
    maps[0, 0] = np.nan, np.inf
    activation = Activation(layer("Conv"), maps[None], maps)
    assert activation.dead.tolist() == [False, True]
    assert Look().sheet(activation, [0, 1]).ndim == 3


def test_the_text_is_a_table_with_a_line_per_layer(known: Model) -> None:
    lines = run(known, np.zeros((6, 8, 3), np.uint8), layers=["conv", "dense"]).text.splitlines()
    assert lines[1].split() == ["layer", "operator", "output", "min", "max", "mean", "dead"]
    assert lines[2].split() == ["conv", "Conv", "1x3x6x8", "-5", "0", "-1.667", "3", "of", "3"]
