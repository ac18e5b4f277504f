"""Saliency: linear networks, noise whose statistics are known, and guided backpropagation by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from explained import classifier, function, linear, photograph
from numpy.typing import NDArray

import cnnkit
from cnnkit import Settings
from cnnkit.plugins.saliency import SaliencyOptions, cnnkit_operations, noisy
from cnnkit.testing import check_operation

METHODS = ["gradient", "input-x-gradient", "smoothgrad", "vargrad", "guided"]


def run(picture: Any, model: cnnkit.Model, **options: Any) -> cnnkit.Result:
    return cnnkit.run("saliency", picture, model=model, **options)


# Linear networks


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize(
    ("reduce", "expected"),
    [
        (None, lambda w, axis: np.abs(w).max(axis)),
        ("max", lambda w, axis: np.abs(w).max(axis)),
        ("mean", lambda w, axis: np.abs(w).mean(axis)),
        ("norm", lambda w, axis: np.linalg.norm(w, axis=axis)),
        ("sum", lambda w, axis: w.sum(axis)),
    ],
)
def test_the_gradient_of_a_linear_network_is_its_weights(layout: str, reduce: Any, expected: Any) -> None:
    model, weight = linear(layout=layout)
    result = run(photograph(5, 4), model, target="0,1,2", reduce=reduce)
    np.testing.assert_allclose(result.arrays["attributions"], weight, rtol=1e-6)
    axis = 1 if layout == "nchw" else 3
    np.testing.assert_allclose(result.arrays["heatmap"], expected(weight, axis), rtol=1e-5, atol=1e-6)
    assert result.data["reduce"] == (reduce or "max")


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_input_times_gradient_of_a_linear_network_adds_up_to_the_score(layout: str) -> None:
    model, weight = linear(layout=layout)
    pixels = photograph(5, 4)
    result = run(pixels, model, method="input-x-gradient", target="all")
    tensor = model.preprocessing.apply(cnnkit.Image.load(pixels)).tensor
    np.testing.assert_allclose(result.arrays["attributions"], weight * tensor, rtol=1e-5, atol=1e-6)
    for target, heat in zip(result.data["targets"], result.arrays["heatmap"], strict=True):
        assert heat.sum() == pytest.approx(target["score"], rel=1e-4, abs=1e-4)
    assert result.data["reduce"] == "sum"


def test_without_biases_it_adds_up_to_the_score_through_relus_too() -> None:
    """A network of Relus without biases is homogeneous: f(x) = x · f'(x) (Euler)."""
    result = run(photograph(12, 10), classifier(bias=False), method="input-x-gradient", target="all")
    for target, heat in zip(result.data["targets"], result.arrays["heatmap"], strict=True):
        assert heat.sum() == pytest.approx(target["score"], rel=1e-4, abs=1e-5)


# Noise


@pytest.mark.parametrize("noise", [{"noise": 0}, {"deviation": 0}])
def test_smoothgrad_without_noise_is_the_gradient(noise: dict[str, float]) -> None:
    model, pixels = classifier("max-pool"), photograph(12, 10)
    plain = run(pixels, model, target="all").arrays
    smooth = run(pixels, model, method="smoothgrad", samples=1, target="all", **noise).arrays
    for name, values in plain.items():
        np.testing.assert_array_equal(smooth[name], values)
    assert not run(pixels, model, method="vargrad", samples=4, **noise).arrays["heatmap"].any()


@pytest.mark.parametrize(("options", "deviation"), [({"noise": 0.2}, 0.2 * 200), ({"deviation": 3.0}, 3.0)])
def test_the_noise_has_the_deviation_asked_for(options: dict[str, float], deviation: float) -> None:
    """zennit's test: what the network is shown strays by the deviation, around the input."""
    tensor = np.linspace(-50, 150, 3000, dtype=np.float32).reshape(3, 20, 50)
    copies = np.stack(list(noisy(tensor, SaliencyOptions(samples=20, **options), seed=1))) - tensor
    assert copies.shape[0] == 20
    assert copies.std() == pytest.approx(deviation, rel=0.02)
    assert abs(copies.mean()) < 0.02 * deviation


def test_the_gradient_of_a_quadratic_network_are_its_inputs() -> None:
    """Of f = sum(x²) / 2 the gradient is x: SmoothGrad is the mean of the copies, VarGrad their variance."""
    model = function(lambda op, x: op.ReduceSum(op.Mul(op.Mul(x, x), 0.5), [1]), 60)
    pixels = np.arange(60, dtype=np.uint8)[None]
    asked: dict[str, Any] = {"samples": 400, "deviation": 2.0, "seed": 5}
    mean = run(pixels, model, method="smoothgrad", **asked).arrays["attributions"]
    assert np.abs(mean - pixels).max() < 4 * 2 / np.sqrt(400)
    assert np.abs(mean - pixels).std() > 0
    variance = run(pixels, model, method="vargrad", **asked).arrays["attributions"]
    assert variance.mean() == pytest.approx(4, rel=0.03)
    assert variance.min() > 2.5 and variance.max() < 6


def test_every_class_sees_the_same_noise() -> None:
    model, pixels = classifier(), photograph(12, 10)
    asked: dict[str, Any] = {"method": "smoothgrad", "samples": 5, "seed": 9}
    both = run(pixels, model, target="0,2", **asked).arrays["attributions"]
    single = run(pixels, model, target="2", **asked).arrays["attributions"]
    np.testing.assert_allclose(both[1:], single, rtol=1e-5, atol=1e-8)
    other = run(pixels, model, target="2", **{**asked, "seed": 10}).arrays["attributions"]
    assert np.abs(other - single).max() > 1e-4 * np.abs(single).max()


# Guided backpropagation


def network_of_two_relus(weights: tuple[float, float]) -> cnnkit.Model:
    """relu(a · relu(x)) - b · relu(x) for each of three pixels, added up."""

    def of(op: Any, x: Any) -> Any:
        hidden = op.Relu(x)
        return op.ReduceSum(op.Sub(op.Relu(op.Mul(hidden, weights[0])), op.Mul(hidden, weights[1])), [1])

    return function(of, 3)


@pytest.mark.parametrize(
    ("weights", "plain", "guided"),
    [((3.0, 1.0), 2, 2), ((3.0, 5.0), -2, 0), ((-3.0, 1.0), -1, 0), ((-3.0, -1.0), 1, 1)],
)
def test_guided_passes_back_only_what_raises_the_score(
    weights: tuple[float, float], plain: float, guided: float
) -> None:
    pixels = np.array([[7, 0, 200]], np.uint8)
    for method, slope in [("gradient", plain), ("guided", guided), ("gradient", plain)]:
        found = run(pixels, network_of_two_relus(weights), method=method).arrays["attributions"]
        np.testing.assert_allclose(found[0, 0, 0], [slope, 0, slope])


@pytest.mark.parametrize("bounds", [(0.0, 6.0), (0.0, None)])
def test_a_clip_is_guided_too(bounds: tuple[float, float | None]) -> None:
    def of(op: Any, x: Any) -> Any:
        clipped = op.Clip(x, *(None if bound is None else np.float32(bound) for bound in bounds))
        return op.ReduceSum(op.Mul(clipped, np.array([2, -2, 2, -2], np.float32)), [1])

    pixels = np.array([[3, 3, 9, 9]], np.uint8)
    found = {
        method: run(pixels, function(of, 4), method=method).arrays["attributions"][0, 0, 0].tolist()
        for method in ("gradient", "guided")
    }
    beyond = 0 if bounds[1] else 2
    assert found == {"gradient": [2, -2, beyond, -beyond], "guided": [2, 0, beyond, 0]}


def test_guided_warns_and_needs_relus() -> None:
    result = run(photograph(12, 10), classifier(), method="guided")
    assert "hardly depend on the class" in result.data["warning"] and "note: guided" in result.text
    with pytest.raises(cnnkit.ModelError, match="changes the gradient of Relu, and 'linear' has none"):
        run(photograph(5, 4), linear()[0], method="guided")


# What holds for all


@pytest.mark.parametrize("method", METHODS)
def test_layout_and_batches_leave_no_trace(method: str) -> None:
    pixels, asked = photograph(24, 20), {"method": method, "target": "all", "samples": 6}
    expected = run(pixels, classifier("reduce-mean"), **{**asked, "deviation": 0.0}).arrays["heatmap"]
    found = run(pixels, classifier("reduce-mean", "nhwc"), **{**asked, "deviation": 0.0}).arrays["heatmap"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    expected = run(pixels, classifier(), **asked).arrays["heatmap"]
    for model, settings in [
        (classifier(batch=1), Settings()),
        (classifier(batch=4), Settings()),
        (classifier(), Settings(batch=1)),
        (classifier(), Settings(batch=3)),
    ]:
        found = run(pixels, model, settings=settings, **asked).arrays["heatmap"]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["gradient", "input-x-gradient", "guided"])
def test_a_mirrored_picture_has_the_mirrored_map(method: str) -> None:
    model, pixels = classifier(symmetric=True), photograph(12, 10)
    found, mirrored = (
        run(p, model, method=method, target="all").arrays["heatmap"] for p in (pixels, pixels[:, ::-1].copy())
    )
    np.testing.assert_allclose(mirrored[..., ::-1], found, rtol=1e-3, atol=1e-6)


def test_probabilities_have_a_gradient_of_their_own() -> None:
    """The shares of all classes stay 1, so their gradients add up to nothing."""
    model, pixels = classifier(), photograph(12, 10)
    shares: NDArray[Any] = run(pixels, model, target="all", score="probabilities").arrays["attributions"]
    logits = run(pixels, model, target="all").arrays["attributions"]
    np.testing.assert_allclose(shares.sum(0), 0, atol=1e-6)
    assert np.abs(logits.sum(0)).max() > 1e-3


@pytest.mark.parametrize("method", ["gradient", "smoothgrad", "guided"])
def test_what_it_owes_its_users(method: str) -> None:
    (operation,) = cnnkit_operations()
    check_operation(operation, method=method, samples=3)


@pytest.mark.parametrize("size", [(1, 40), (40, 1), (1, 1)])
@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
def test_pictures_of_one_pixel_across(size: tuple[int, int], fit: Any) -> None:
    model = classifier()
    model = replace(model, preprocessing=replace(model.preprocessing, fit=fit))
    assert run(photograph(*size), model, plain=True).picture.size == size


def test_smoothing_is_for_the_eye_only() -> None:
    model, pixels = classifier(), photograph(48, 40)
    rough, smooth = (run(pixels, model, smooth=deviation, plain=True) for deviation in (0, 2))
    np.testing.assert_array_equal(rough.arrays["heatmap"], smooth.arrays["heatmap"])
    steps = [np.abs(np.diff(one.picture.pixels.astype(int), axis=1)).mean() for one in (rough, smooth)]
    assert steps[1] < steps[0]


def test_the_check_finds_that_a_linear_network_s_map_is_its_weights() -> None:
    result = run(photograph(5, 4), linear()[0], check=True, reduce="sum")
    (stage,) = result.data["check"]["randomisation"]["stages"]
    assert stage["layers"] == 1 and abs(stage["correlation"]) < 0.9
    assert "depends on the class" in result.text


def test_the_check_finds_guided_backpropagation_out(data: Path) -> None:
    """Adebayo's result, on a trained network: the plain gradient passes, guided does not see the class."""
    model = cnnkit.Model.load(data / "weights" / "mobilenet_v1_0.25_128.onnx", preprocess="tf", fit="squash")
    picture = data / "images" / "free" / "chelsea.png"
    found = {method: run(picture, model, method=method, check=True) for method in ("gradient", "guided")}
    verdicts = {method: one.data["check"]["class"]["passes"] for method, one in found.items()}
    assert verdicts == {"gradient": True, "guided": False}
    assert found["gradient"].data["check"]["randomisation"]["passes"]
    assert "HARDLY DEPENDS ON THE CLASS" in found["guided"].text
