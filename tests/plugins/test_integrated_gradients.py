"""Integrated gradients: exact by degree, on PAIR's test function, adding up to the change of the score."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from explained import classifier, function, linear, photograph
from hypothesis import given, settings
from hypothesis import strategies as st

import cnnkit
from cnnkit import Settings
from cnnkit.plugins.integrated_gradients import cnnkit_operations, quadrature
from cnnkit.testing import check_operation


def run(picture: Any, model: cnnkit.Model, **options: Any) -> cnnkit.Result:
    return cnnkit.run("integrated-gradients", picture, model=model, **options)


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 50])
def test_the_quadrature_is_exact_up_to_its_degree(steps: int) -> None:
    points, weights = quadrature(steps)
    assert weights.sum() == pytest.approx(1) and 0 < points.min() and points.max() < 1
    for degree in range(2 * steps):
        assert weights @ points**degree == pytest.approx(1 / (degree + 1), rel=1e-10)
    if steps < 5:
        assert abs(weights @ points ** (2 * steps) - 1 / (2 * steps + 1)) > 1e-6


@pytest.mark.parametrize("degree", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("baseline", ["zero", "37", "white"])
def test_powers_are_exact_with_half_as_many_steps(degree: int, baseline: Any) -> None:
    def power(op: Any, x: Any) -> Any:
        product = x
        for _ in range(degree - 1):
            product = op.Mul(product, x)
        return op.ReduceSum(product, [1])

    model = function(power, 3, scale=1 / 100)
    pixels = np.array([[20, 50, 130]], np.uint8)
    start = {"zero": 0, "37": 0.37, "white": 2.55}[baseline]
    expected = (pixels[0] / 100) ** degree - start**degree
    exact = run(pixels, model, baseline=baseline, steps=math.ceil(degree / 2))
    np.testing.assert_allclose(exact.arrays["heatmap"][0, 0], expected, rtol=2e-4, atol=2e-5)
    (target,) = exact.data["targets"]
    assert target["delta"] == pytest.approx(0, abs=1e-3 * max(1, abs(target["rise"])))
    if degree > 2:
        few = run(pixels, model, baseline=baseline, steps=math.ceil(degree / 2) - 1)
        assert np.abs(few.arrays["heatmap"][0, 0] - expected).max() > 1e-4


def test_pairs_function() -> None:
    """5 x + y² + sin z from (0.5, 1, 1) to (1, 2, 3): each term's own difference."""

    def of(op: Any, x: Any) -> Any:
        a, b, c = op.Split(x, axis=1, num_outputs=3, output=3)
        return op.Sum(op.Mul(a, 5.0), op.Mul(b, b), op.Sin(c))

    model = function(of, 3, scale=0.5)
    baseline = cnnkit.Image.load(np.array([[1, 2, 2]], np.uint8))
    result = run(np.array([[2, 4, 6]], np.uint8), model, baseline_picture=baseline)
    expected = [2.5, 3, math.sin(3) - math.sin(1)]
    np.testing.assert_allclose(result.arrays["heatmap"][0, 0], expected, rtol=1e-5)
    assert result.data["targets"][0]["rise"] == pytest.approx(sum(expected), rel=1e-5)
    assert result.data["baseline"] == "picture"


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize(
    "baseline", ["grey", "black", "white", "mean", "#ff8000", "10,20.5,30", "zero", "blur"]
)
@pytest.mark.parametrize("steps", [1, 3])
def test_a_linear_network_is_exact_with_any_steps(layout: str, baseline: Any, steps: int) -> None:
    model, weight = linear(layout=layout)
    model = replace(model, preprocessing=cnnkit.Preprocessing.preset("torch", layout=layout))
    pixels = photograph(5, 4)
    result = run(pixels, model, baseline=baseline, steps=steps, target="0,1,2")
    prepare = model.preprocessing.to_network
    x = prepare(pixels)
    if baseline != "blur":
        colours: dict[str, Any] = {
            "grey": 127.5, "black": 0, "white": 255, "mean": pixels.mean((0, 1)), "#ff8000": (255, 128, 0),
            "10,20.5,30": (10, 20.5, 30), "zero": 0,
        }  # fmt: skip
        start = prepare(np.broadcast_to(colours[baseline], (5, 4, 3)))
        start = np.zeros_like(start) if baseline == "zero" else start
        np.testing.assert_allclose(result.arrays["attributions"], weight * (x - start), rtol=1e-4, atol=1e-4)
    for target in result.data["targets"]:
        assert target["delta"] == pytest.approx(0, abs=1e-4)


def test_without_the_difference_it_is_the_mean_gradient() -> None:
    model, weight = linear()
    found = run(photograph(5, 4), model, multiply=False, target="0,1,2", steps=4)
    np.testing.assert_allclose(found.arrays["attributions"], weight, rtol=1e-5)
    assert "add up" not in found.text
    with pytest.raises(cnnkit.UsageError, match="only with --multiply"):
        run(photograph(5, 4), model, multiply=False, check=True)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), score=st.sampled_from(["logits", "probabilities"]))
def test_it_adds_up_on_a_network_of_relus(seed: int, score: str) -> None:
    result = run(photograph(12, 10, seed), MODEL, steps=200, score=score, target="all", baseline="black")
    for target, values in zip(result.data["targets"], result.arrays["attributions"], strict=True):
        assert target["sum"] == pytest.approx(float(values.sum(dtype=np.float64)))
        assert target["sum"] == pytest.approx(target["rise"], abs=2e-3)
        assert target["rise"] == pytest.approx(target["score"] - target["baseline"])


MODEL = classifier()


def test_too_few_steps_are_told() -> None:
    model = function(lambda op, x: op.ReduceSum(op.Sin(x), [1]), 2)
    result = run(np.array([[100, 200]], np.uint8), model, steps=2, baseline="zero")
    assert "2 steps are too few" in result.text


@pytest.mark.parametrize("batch", [1, 3, 16, None])
@pytest.mark.parametrize("fixed", ["N", 4])
def test_layout_and_batches_leave_no_trace(batch: int | None, fixed: Any) -> None:
    pixels, asked = photograph(24, 20), {"target": "all", "steps": 7}
    expected = run(pixels, classifier("reduce-mean"), **asked).arrays["heatmap"]
    for layout in ("nchw", "nhwc"):
        model = classifier("reduce-mean", layout, fixed)  # type: ignore[arg-type]
        found = run(pixels, model, settings=Settings(batch=batch), **asked).arrays["heatmap"]
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)


def test_a_mirrored_picture_has_the_mirrored_map() -> None:
    model, pixels = classifier(symmetric=True), photograph(12, 10)
    found, mirrored = (
        run(p, model, target="all", steps=9).arrays["heatmap"] for p in (pixels, pixels[:, ::-1].copy())
    )
    np.testing.assert_allclose(mirrored[..., ::-1], found, rtol=1e-3, atol=1e-6)


def test_what_it_owes_its_users() -> None:
    (operation,) = cnnkit_operations()
    check_operation(operation, steps=3)


@pytest.mark.parametrize("size", [(1, 40), (40, 1), (1, 1)])
def test_pictures_of_one_pixel_across(size: tuple[int, int]) -> None:
    other = cnnkit.Image.load(photograph(30, 30))
    result = run(photograph(*size), classifier(), plain=True, steps=3, baseline_picture=other)
    assert result.picture.size == size


def test_the_check_says_that_it_adds_up() -> None:
    result = run(photograph(12, 10), classifier(), check=True, steps=60)
    assert result.data["check"]["completeness"]["holds"]
    assert "check: completeness holds" in result.text
