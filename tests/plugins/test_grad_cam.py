"""Grad-CAM and its relatives: captum's tables, the definitions written out, and layers picked by rule."""

from typing import Any

import numpy as np
import pytest
from explained import ARANGE, classifier, one_convolution, photograph
from numpy.typing import NDArray

import cnnkit
from cnnkit import Settings
from cnnkit.plugins.grad_cam import DEFINITIONS, cnnkit_operations
from cnnkit.testing import check_operation

METHODS = [*DEFINITIONS, "scorecam"]


def run(picture: Any, model: cnnkit.Model, **options: Any) -> cnnkit.Result:
    return cnnkit.run("grad-cam", picture, model=model, **options)


def values_and_gradients(
    model: cnnkit.Model, tensor: NDArray[np.float32], layer: str, target: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of one picture, by a session of its own."""

    def score(b: cnnkit.Builder, tap: Any) -> dict[str, Any]:
        return {
            "score": b.op.ReduceSum(
                b.op.Gather(tap(model.logits.tensor), np.array(target), axis=1), keepdims=0
            )
        }

    found = cnnkit.TrainingSession(model, score, [layer], taps=[layer]).gradient({"input": tensor})
    return found.taps[layer][0].astype(np.float64), found.gradients[layer][0].astype(np.float64)


# captum's own tables: tests/attr/layer/test_grad_cam.py holds the same figures


@pytest.mark.parametrize(
    ("layer", "second", "expected"),
    [
        ("conv1", 0, [[11.25, 13.5], [20.25, 22.5]]),
        ("relu1", 0, [[0, 4], [28, 32.5]]),
        ("conv1", 1, [[14.5, 19], [32.5, 37]]),
        ("picture", 0, 0.5625 * ARANGE),
    ],
)
@pytest.mark.parametrize("target", [0, 3])
def test_captums_tables(layer: str, second: float, expected: Any, target: int) -> None:
    result = run(ARANGE, one_convolution(second), layer=layer, target=target, sign="signed")
    np.testing.assert_allclose(result.arrays["map"], [expected], rtol=1e-6)


def test_captums_table_channel_by_channel() -> None:
    tensor = ARANGE.astype(np.float32)[None, None]
    values, gradient = values_and_gradients(one_convolution(), tensor, "conv1", 0)
    maps = [DEFINITIONS["grad-cam"](values[[k]], gradient[[k]]) for k in (0, 1)]
    np.testing.assert_allclose(maps, [[[-3.75, 3], [23.25, 30]], [[15, 10.5], [-3, -7.5]]])


# The definitions, written out


def naive(method: str, values: NDArray[np.float64], gradient: NDArray[np.float64]) -> NDArray[np.float64]:
    channels, height, width = values.shape
    found = np.zeros((height, width))
    for k in range(channels):
        total = sum(values[k, i, j] for i in range(height) for j in range(width))
        weight = 0.0
        for i in range(height):
            for j in range(width):
                a, g = values[k, i, j], gradient[k, i, j]
                if method == "grad-cam":
                    weight += g / (height * width)
                elif method == "xgradcam":
                    weight += g * a / (total + 1e-7)
                elif method == "grad-cam++" and g > 0:
                    weight += g * g**2 / (2 * g**2 + total * g**3 + 1e-6)
        for i in range(height):
            for j in range(width):
                a, g = values[k, i, j], gradient[k, i, j]
                share = {"layercam": max(g, 0), "hirescam": g}.get(method, weight)
                found[i, j] += share * a
    return found


@pytest.mark.parametrize("method", DEFINITIONS)
@pytest.mark.parametrize("layer", ["first_relu", "second", "second_relu"])
def test_definitions(method: str, layer: str) -> None:
    model, pixels = classifier("max-pool"), photograph(12, 10)
    result = run(pixels, model, method=method, layer=layer, target="all", sign="signed")
    tensor = model.preprocessing.apply(cnnkit.Image.load(pixels)).tensor
    for target, found in zip(result.arrays["classes"], result.arrays["map"], strict=True):
        values, gradient = values_and_gradients(model, tensor, layer, int(target))
        expected = naive(method, values, gradient)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("score", ["logits", "probabilities"])
def test_scorecam(score: Any) -> None:
    model, pixels = classifier(size=(7, 9)), photograph(7, 9)
    result = run(
        pixels, model, method="scorecam", target="all", score=score, sign="signed", layer="first_relu"
    )
    session = cnnkit.Session(model)
    tensor = model.preprocessing.apply(cnnkit.Image.load(pixels)).tensor
    watched = model.logits if score == "logits" else model.probabilities
    values = session.run(tensor, ["first_relu"])["first_relu"][0]
    scores = []
    for channel in values:
        mask = (channel - channel.min()) / (channel.max() - channel.min())
        scores.append(watched.of(session.run(tensor * mask, [watched.tensor]))[0])
    weights = np.exp(scores) / np.exp(scores).sum(0)
    np.testing.assert_allclose(
        result.arrays["map"],
        np.einsum("kc,khw->chw", weights, values)[result.arrays["classes"]],
        rtol=1e-4,
        atol=1e-6,
    )
    few = run(pixels, model, method="scorecam", channels=1, score=score, sign="signed", layer="first_relu")
    most = values[values.var((1, 2)).argmax()]
    np.testing.assert_allclose(few.arrays["map"], [most], rtol=1e-6)


# Identities


def test_before_an_average_and_a_dense_layer_it_is_cam() -> None:
    model, pixels = classifier(), photograph(30, 20)
    cam = cnnkit.run("cam", pixels, model=model, target="all")
    for method in ("grad-cam", "hirescam"):
        found = run(pixels, model, method=method, target="all", sign="signed")
        np.testing.assert_allclose(found.arrays["map"] * 12 * 10, cam.arrays["map"], rtol=1e-4, atol=1e-4)
    sums = run(pixels, model, method="hirescam", target="all").arrays["map"].sum((1, 2))
    for target, total in zip(cam.data["targets"], sums, strict=True):
        assert total + target["bias"] == pytest.approx(target["score"], rel=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_a_mirrored_picture_has_the_mirrored_map(method: str) -> None:
    model, pixels = classifier("max-pool", symmetric=True), photograph(12, 10)
    found, mirrored = (
        run(p, model, method=method, target="all").arrays for p in (pixels, pixels[:, ::-1].copy())
    )
    np.testing.assert_allclose(mirrored["map"][..., ::-1], found["map"], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(mirrored["heatmap"][..., ::-1], found["heatmap"], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_layout_and_batches_leave_no_trace(method: str) -> None:
    pixels = photograph(24, 20)
    expected = run(pixels, classifier("reduce-mean"), method=method, target="all").arrays
    for model, settings in [
        (classifier("reduce-mean", "nhwc"), Settings()),
        (classifier("reduce-mean", batch=1), Settings()),
        (classifier("reduce-mean", batch=3), Settings()),
        (classifier("reduce-mean"), Settings(batch=1)),
        (classifier("reduce-mean"), Settings(batch=3)),
    ]:
        found = run(pixels, model, method=method, target="all", settings=settings).arrays
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-6)


# Layers


def test_the_layer_is_the_last_with_a_plane_and_its_reason_is_told() -> None:
    result = run(photograph(12, 10), classifier())
    assert result.data["layers"] == [
        {
            "name": "second_relu",
            "reason": "layer 'second_relu': the last with a plane, 12x10x8",
            "plane": [12, 10, 8],
        }
    ]
    assert "the last with a plane, 12x10x8" in result.text


def test_several_layers_are_drawn_each_and_averaged() -> None:
    pixels, asked = photograph(30, 25), {"target": "cat,dog"}
    both = run(pixels, classifier(), layer="first_relu,second_relu", **asked)
    single = [run(pixels, classifier(), layer=layer, **asked) for layer in ("first_relu", "second_relu")]
    for name, one in zip(("first_relu", "second_relu"), single, strict=True):
        np.testing.assert_allclose(both.arrays[f"map.{name}"], one.arrays["map"], rtol=1e-5, atol=1e-7)
    highest = [np.maximum(one.arrays["map"], 0).max((1, 2), keepdims=True) for one in single]
    scaled = [one.arrays["heatmap"] / np.where(top, top, 1) for one, top in zip(single, highest, strict=True)]
    assert np.any(highest)
    np.testing.assert_allclose(both.arrays["heatmap"], np.mean(scaled, axis=0), rtol=1e-4, atol=1e-6)
    assert sorted(both.pictures) == [
        "cat", "cat.first_relu", "cat.second_relu", "dog", "dog.first_relu", "dog.second_relu"
    ]  # fmt: skip


def test_a_layer_without_a_plane_is_refused() -> None:
    with pytest.raises(cnnkit.UsageError, match=r"'logits' does not lie over.* is 'second_relu'"):
        run(photograph(12, 10), classifier(), layer="logits")


# Signs


def test_positive_maps_are_cut_before_they_are_enlarged() -> None:
    pixels, model = photograph(40, 30), classifier()
    signed = run(pixels, model, target="all", sign="signed").arrays
    positive = run(pixels, model, target="all").arrays
    np.testing.assert_array_equal(positive["map"], signed["map"])
    assert signed["heatmap"].min() < 0 and positive["heatmap"].min() == 0
    np.testing.assert_array_equal(positive["heatmap"], np.maximum(signed["map"], 0))


def constant_signs(relu: bool, saturated: float = 0) -> cnnkit.Model:
    """Scores that only fall with every value of the layer."""
    b = cnnkit.Builder("negative")
    x = b.op.Conv(b.input("x", ["N", 3, 4, 4]), np.ones((1, 3, 1, 1), np.float32), name="conv")
    if relu:
        x = b.op.Relu(x, name="relu")
    x = b.op.Flatten(b.op.GlobalAveragePool(x))
    weight, bias = np.array([[-1, 1]], np.float32), np.array([saturated, 0], np.float32)
    b.output(b.op.Softmax(b.op.Gemm(x, weight, bias)), ["N", 2])
    return cnnkit.Model.of(b.model(), preprocessing=cnnkit.Preprocessing.preset("tf"))


def test_an_empty_map_says_why() -> None:
    white, grey = np.full((4, 4, 3), 255, np.uint8), np.full((4, 4, 3), 100, np.uint8)
    result = run(white, constant_signs(relu=True), target=0)
    assert "negative everywhere (-0.188 to -0.188): the layer speaks against the class" in result.text
    assert "--sign signed" in result.text and "activation" not in result.text
    assert (
        "'relu' is the layer behind its activation"
        in run(white, constant_signs(True), target=0, layer="conv").text
    )
    assert "the layer 'relu' is zero on the whole picture" in run(grey, constant_signs(True), target=0).text
    saturated = run(white, constant_signs(True, saturated=200), target=0, score="probabilities")
    assert "the softmax is saturated, explain --score logits" in saturated.text
    (target,) = saturated.data["targets"]
    assert list(target["empty"]) == ["relu"]
    assert not np.isnan(saturated.arrays["heatmap"]).any()
    assert run(white, constant_signs(True), target=1).data["targets"][0]["empty"] == {}


# The contract


@pytest.mark.parametrize("method", ["grad-cam", "scorecam"])
def test_what_it_owes_its_users(method: str) -> None:
    (operation,) = cnnkit_operations()
    check_operation(operation, method=method)


@pytest.mark.parametrize("size", [(1, 40), (40, 1), (1, 1)])
@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
def test_pictures_of_one_pixel_across(size: tuple[int, int], fit: Any) -> None:
    from dataclasses import replace

    model = classifier()
    model = replace(model, preprocessing=replace(model.preprocessing, fit=fit))
    result = run(photograph(*size), model, plain=True)
    assert result.picture.size == size
    assert result.arrays["heatmap"].shape == (1, 12, 10)


def test_an_open_network_takes_the_size_of_the_picture() -> None:
    b = cnnkit.Builder("open")
    kernels = np.random.default_rng(0).random((3, 3, 3, 3), np.float32) / 999
    x = b.op.Relu(b.op.Conv(b.input("x", ["N", 3, "h", "w"]), kernels, name="conv"), name="relu")
    b.output(b.op.Flatten(b.op.GlobalAveragePool(x)), ["N", 3])
    model = cnnkit.Model.of(b.model(), preprocessing=cnnkit.Preprocessing.preset("raw"))
    for height, width in [(9, 14), (20, 6)]:
        assert run(photograph(height, width), model).arrays["map"].shape == (1, height - 2, width - 2)


def test_the_check_tells_its_figures() -> None:
    result = run(photograph(12, 10), classifier(), check=True, seed=2)
    randomisation, other = result.data["check"]["randomisation"], result.data["check"]["class"]
    assert [stage["layers"] for stage in randomisation["stages"]] == [1, 2, 3]
    assert randomisation["passes"] == all(
        abs(stage["correlation"]) < 0.9 for stage in randomisation["stages"]
    )
    assert other["other"] != result.arrays["classes"][0] and -1 <= other["correlation"] <= 1
    assert result.text.count("check:") == 2
