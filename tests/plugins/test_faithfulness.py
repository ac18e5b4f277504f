"""Faithfulness in closed form: areas known by hand, linear scores, the operation on a network of colours."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import cnnkit
from cnnkit import Result
from cnnkit.plugins.faithfulness import cnnkit_operations, edges, parse_box
from cnnkit.plugins.metrics import (
    Box,
    Curve,
    average_drop,
    deletion,
    explained,
    increase_in_confidence,
    insertion,
    pointing_game,
)
from cnnkit.testing import check_operation, make_tiny_model

(FAITHFULNESS,) = cnnkit_operations()


def total(batch: NDArray[Any]) -> NDArray[Any]:
    """f(x) = the sum of x."""
    return np.asarray(batch.reshape(len(batch), -1).sum(axis=1))


def weighted(weights: NDArray[Any]) -> Any:
    """f(x) = the sum of w x."""
    return lambda batch: total(batch * weights)


# Insertion and deletion


def test_the_areas_of_two_steps() -> None:
    x = np.array([[0.4, 0.3], [0.2, 0.1]])
    removed = deletion(total, x, np.zeros_like(x), x, steps=2)
    np.testing.assert_allclose(removed.fractions, [0, 0.5, 1])
    np.testing.assert_allclose(removed.scores, [1, 0.3, 0], atol=1e-15)
    assert removed.area == pytest.approx(0.4)
    shown = insertion(total, x, np.zeros_like(x), x, steps=2)
    np.testing.assert_allclose(shown.scores, [0, 0.7, 1], atol=1e-15)
    assert shown.area == pytest.approx(0.6)


def test_the_last_step_may_be_short() -> None:
    x = np.array([[0.3, 0.25, 0.2, 0.15, 0.1]])
    removed = deletion(total, x, np.zeros_like(x), x, steps=3)
    np.testing.assert_allclose(removed.fractions, [0, 0.4, 0.8, 1])
    np.testing.assert_allclose(removed.scores, [1, 0.45, 0.1, 0], atol=1e-15)
    assert removed.area == pytest.approx(0.41)
    assert insertion(total, x, np.zeros_like(x), x, steps=3).area == pytest.approx(0.59)


def test_more_steps_than_positions_are_one_position_each() -> None:
    x = np.array([[3.0, 1.0, 2.0]])
    removed = deletion(total, x, np.zeros_like(x), x, steps=10)
    np.testing.assert_allclose(removed.fractions, [0, 1 / 3, 2 / 3, 1])
    np.testing.assert_array_equal(removed.scores, [6, 3, 1, 0])


def test_the_area_of_a_curve_with_uneven_steps() -> None:
    assert Curve(np.array([0, 0.1, 1]), np.array([2.0, 1.0, 0.0])).area == pytest.approx(0.15 + 0.45)


@given(
    weights=st.lists(st.floats(-5, 5, allow_subnormal=False), min_size=1, max_size=12),
    steps=st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_of_a_linear_score_the_effects_are_the_best_map_and_their_negative_the_worst(
    weights: list[float], steps: int, seed: int
) -> None:
    """A position's effect is w(x - b); no other order of the positions is beyond the two."""
    random = np.random.default_rng(seed)
    w = np.array([weights])
    x, baseline, other = random.standard_normal((3, *w.shape))
    effect, slack = w * (x - baseline), 1e-9 * (1 + np.abs(w).sum())
    for measure, lowest, highest in ((deletion, effect, -effect), (insertion, -effect, effect)):
        low, area, high = (measure(weighted(w), x, baseline, m, steps).area for m in (lowest, other, highest))
        assert low - slack <= area <= high + slack


def test_a_perfect_and_a_worst_map_of_one_pixel() -> None:
    """Where one position of n holds the whole score, the first step ends it, or the last one does."""
    n = 8
    x = np.ones((1, n))
    score = weighted(np.eye(n)[:1])
    perfect, worst, zeros = np.eye(n)[:1], -np.eye(n)[:1], np.zeros((1, n))
    assert deletion(score, x, zeros, perfect, n).area == pytest.approx(0.5 / n)
    assert deletion(score, x, zeros, worst, n).area == pytest.approx(1 - 0.5 / n)
    assert insertion(score, x, zeros, perfect, n).area == pytest.approx(1 - 0.5 / n)
    assert insertion(score, x, zeros, worst, n).area == pytest.approx(0.5 / n)


def test_insertion_of_a_map_is_deletion_of_its_negative_backwards() -> None:
    x, b, heatmap, w = np.random.default_rng(0).standard_normal((4, 3, 4))
    shown = insertion(weighted(w), x, b, heatmap, steps=12)
    hidden = deletion(weighted(w), x, b, -heatmap, steps=12)
    np.testing.assert_allclose(shown.scores, hidden.scores[::-1])


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 8, 100])
def test_the_batch_changes_nothing(batch: int) -> None:
    x, b, w = np.random.default_rng(1).standard_normal((3, 3, 5, 4)).astype(np.float32)
    heatmap = np.random.default_rng(2).standard_normal((5, 4))
    sizes = []

    def score(inputs: NDArray[Any]) -> NDArray[Any]:
        sizes.append(len(inputs))
        return np.array([np.float64(one.ravel() @ w.ravel()) for one in inputs])

    for measure in (deletion, insertion):
        found, expected = (measure(score, x, b, heatmap, 7, size) for size in (batch, 32))
        np.testing.assert_array_equal(found.scores, expected.scores)
    assert min(batch, 8) in sizes and max(sizes) <= 32


def test_what_is_hidden_is_hidden_in_all_channels_of_either_layout() -> None:
    x = np.arange(12.0).reshape(3, 2, 2)
    heatmap = np.array([[0, 9], [0, 0]])
    asked: list[NDArray[Any]] = []

    def score(inputs: NDArray[Any]) -> NDArray[Any]:
        asked.append(inputs)
        return np.zeros(len(inputs))

    deletion(score, x, np.full_like(x, -1), heatmap, steps=4)
    deletion(score, np.moveaxis(x, 0, -1), np.full((2, 2, 3), -1), heatmap[..., None], steps=4)
    first = x.copy()
    first[:, 0, 1] = -1
    np.testing.assert_array_equal(asked[0][1], first)
    np.testing.assert_array_equal(np.moveaxis(asked[1], -1, 1), asked[0])


def test_equal_values_go_in_reading_order() -> None:
    x = np.array([[1.0, 2.0], [4.0, 8.0]])
    for flat in (np.zeros((2, 2)), np.ones((2, 2), bool), np.full((2, 2), 7, np.uint8)):
        removed = deletion(total, x, np.zeros_like(x), flat, steps=4)
        np.testing.assert_array_equal(removed.scores, [15, 14, 12, 8, 0])
    removed = deletion(total, x, np.zeros_like(x), np.array([[0, 1], [0, 1]]), steps=4)
    np.testing.assert_array_equal(removed.scores, [15, 13, 5, 4, 0])


# What only the map is left of


def test_the_explanation_is_mixed_by_the_positive_part_over_its_maximum() -> None:
    x, baseline = np.full((2, 1, 3), 10.0, np.float32), np.full((2, 1, 3), -2.0, np.float32)
    mixed = explained(x, baseline, np.array([[-5.0, 1.0, 4.0]]))
    np.testing.assert_allclose(mixed, [[[-2, 1, 10]]] * 2)
    assert mixed.dtype == np.float32
    np.testing.assert_array_equal(explained(x, baseline, np.array([[-1, 0, -3]])), baseline)
    np.testing.assert_array_equal(explained(x, baseline, np.full((1, 3), 0.2)), x)


def test_average_drop_and_increase() -> None:
    """0.8 to 0.6 is a drop of a quarter, 0.5 to 0.9 none, 0.4 to nothing one of all."""
    whole, masked = [0.8, 0.5, 0.4], [0.6, 0.9, 0.0]
    assert average_drop(whole, masked) == pytest.approx((0.25 + 0 + 1) / 3, abs=1e-6)
    assert increase_in_confidence(whole, masked) == pytest.approx(1 / 3)
    assert average_drop([0.5], [0.5]) == increase_in_confidence([0.5], [0.5]) == 0
    assert average_drop([0.0], [0.0]) == 0


# The pointing game


@pytest.mark.parametrize(
    ("point", "tolerance", "hit"),
    [
        ((2, 3), 0, True),
        ((4, 5), 0, True),
        ((1, 3), 0, False),
        ((5, 5), 0, False),
        ((4, 6), 0, False),
        ((5, 5), 1, True),
        ((1, 2), 1, False),
        ((1, 2), 1.5, True),
        ((8, 8), 5, True),
        ((8, 8), 4.9, False),
    ],
)
def test_pointing(point: tuple[int, int], tolerance: float, hit: bool) -> None:
    heatmap = np.zeros((9, 10))
    heatmap[point] = 1
    assert pointing_game(heatmap, Box(2, 3, 5, 6), tolerance) is hit


def test_nothing_points_by_not_being_a_number_and_the_first_of_equals_does() -> None:
    heatmap = np.array([[np.nan, 1, 1], [0, 1, 0]])
    assert pointing_game(heatmap, Box(0, 1, 1, 2))
    assert not pointing_game(heatmap, Box(0, 2, 2, 3))


@pytest.mark.parametrize("written", ["1,2,3,4", (1, 2, 3, 4), [1, 2, 3, 4], Box(1, 2, 3, 4)])
def test_a_box_in_every_spelling(written: Any) -> None:
    assert parse_box(written) == Box(1, 2, 3, 4)


@pytest.mark.parametrize("written", ["", "1,2,3", "3,2,1,4", "1,2,3,2", "-1,0,2,2", "a,b,c,d", 7])
def test_what_is_no_box(written: Any) -> None:
    with pytest.raises(ValueError, match="TOP,LEFT,BOTTOM,RIGHT"):
        parse_box(written)


# Controls


def test_edges_are_those_of_sobel() -> None:
    """A step of 9 levels across has a response of 4 * 9 on both of its sides; a flat picture has none."""
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[:, 3:] = 9
    expected = np.zeros((4, 6))
    expected[:, 2:4] = 36
    np.testing.assert_array_equal(edges(pixels), expected)
    np.testing.assert_array_equal(edges(pixels.transpose(1, 0, 2)), expected.T)


# The operation


@pytest.fixture
def picture() -> cnnkit.Image:
    """Green with a red square in rows 4 to 7 and columns 8 to 11, of the size that the network takes."""
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[..., 1] = 255
    pixels[4:8, 8:12] = (255, 0, 0)
    return cnnkit.Image.load(pixels)


def run(picture: Any, **options: Any) -> Result:
    return cnnkit.run(FAITHFULNESS, picture, model=make_tiny_model(), **options)


def probability_of_red(x: NDArray[Any]) -> float:
    """What the tiny network computes: a softmax over 4 times the means of the positive part."""
    powers = np.exp(4 * np.maximum(x, 0).mean(axis=(1, 2)))
    return float(powers[0] / powers.sum())


def test_a_file_is_measured_as_the_definition_says(picture: cnnkit.Image, tmp_path: Path) -> None:
    heatmap = np.zeros((16, 16), np.float32)
    heatmap[4:8, 8:12] = 1
    np.save(tmp_path / "map.npy", heatmap)
    method = str(tmp_path / "map.npy")
    result = run(picture, method=method, target="red", steps=16, box="4,8,8,12")

    x = picture.pixels.transpose(2, 0, 1) / np.float32(127.5) - 1
    (row,) = result.data["methods"]
    hidden = x.copy()
    hidden[:, 4:8, 8:12] = 0
    assert result.data["target"]["class"] == 0
    assert result.data["target"]["score"] == pytest.approx(probability_of_red(x))
    np.testing.assert_allclose(result.arrays["fractions"], np.arange(17) / 16)
    removed, shown = result.arrays["deletion"][0], result.arrays["insertion"][0]
    np.testing.assert_allclose(removed[[0, 1, 16]], [*map(probability_of_red, (x, hidden, 0 * x))], rtol=1e-5)
    np.testing.assert_allclose(
        shown[[0, 1, 16]], [*map(probability_of_red, (0 * x, x - hidden, x))], rtol=1e-5
    )
    assert row["deletion"] == pytest.approx(np.trapezoid(removed, dx=1 / 16))
    assert row["insertion"] == pytest.approx(np.trapezoid(shown, dx=1 / 16))
    whole, masked = probability_of_red(x), probability_of_red(x - hidden)
    assert masked > whole and row["average_drop"] == 0 and row["increase_in_confidence"] == 1
    assert row["pointing_game"] == 1


def test_the_map_of_the_object_beats_the_controls_and_its_negative(
    picture: cnnkit.Image, tmp_path: Path
) -> None:
    heatmap = np.zeros((16, 16), np.float32)
    heatmap[4:8, 8:12] = 1
    np.savez(tmp_path / "good.npz", heatmap=heatmap)
    np.savez(tmp_path / "bad.npz", heatmap=-heatmap)
    files = [str(tmp_path / name) for name in ("good.npz", "bad.npz")]
    result = run(picture, method=[*files, "random", "edges"], target="red")
    good, *others = result.data["methods"]
    for other in others:
        assert good["deletion"] < other["deletion"], other["method"]
        assert good["insertion"] > other["insertion"], other["method"]
    assert [row["method"] for row in result.data["methods"]] == [*files, "random", "edges"]
    assert result.arrays["heatmap"].shape == (4, 16, 16)
    assert "average drop" in result.text and "random" in result.text


def test_the_map_of_an_operation(picture: cnnkit.Image, tmp_path: Path) -> None:
    """Occlusion of single pixels finds the object too, and is asked about the class that is measured."""
    result = run(picture, method="occlusion", target="red")
    asked = cnnkit.run("occlusion", picture, model=make_tiny_model(), target="red")
    np.testing.assert_array_equal(result.arrays["heatmap"], asked.arrays["heatmap"])
    np.save(tmp_path / "map.npy", asked.arrays["heatmap"])
    again = run(picture, method=str(tmp_path / "map.npy"), target="red")
    np.testing.assert_array_equal(again.arrays["deletion"], result.arrays["deletion"])


def test_of_a_file_with_classes_the_map_of_the_target_is_taken(picture: cnnkit.Image, tmp_path: Path) -> None:
    maps = np.arange(512, dtype=np.float32).reshape(2, 16, 16)
    np.savez(tmp_path / "maps.npz", heatmap=maps, classes=np.array([2, 0]))
    result = run(picture, method=str(tmp_path / "maps.npz"), target="red")
    np.testing.assert_array_equal(result.arrays["heatmap"][0], maps[1])
    with pytest.raises(cnnkit.UsageError, match="not of 1"):
        run(picture, method=str(tmp_path / "maps.npz"), target="green")


def test_a_coarse_map_is_enlarged(picture: cnnkit.Image, tmp_path: Path) -> None:
    coarse = np.array([[0, 1], [2, 3]], np.float32)
    np.save(tmp_path / "map.npy", coarse)
    result = run(picture, method=str(tmp_path / "map.npy"))
    np.testing.assert_array_equal(result.arrays["heatmap"][0], cnnkit.resize_map(coarse, 16, 16))


def test_what_is_no_map(picture: cnnkit.Image, tmp_path: Path) -> None:
    (tmp_path / "text.npy").write_text("no array")
    np.save(tmp_path / "four.npy", np.zeros((2, 3, 4, 5)))
    np.save(tmp_path / "nan.npy", np.full((4, 4), np.nan))
    for name, story in (
        ("text", "holds no map"),
        ("four", "not a map"),
        ("nan", "no numbers"),
        ("-", "holds"),
    ):
        with pytest.raises(cnnkit.UsageError, match=story):
            run(picture, method=str(tmp_path / f"{name}.npy"))
    with pytest.raises(cnnkit.UsageError, match="classify explains no class"):
        run(picture, method="classify")
    with pytest.raises(cnnkit.PluginError, match="edgse"):
        run(picture, method="edgse")


def test_a_box_must_lie_in_the_picture(picture: cnnkit.Image) -> None:
    with pytest.raises(cnnkit.UsageError, match="reaches out of a picture of 16x16"):
        run(picture, method="edges", box="0,0,17,3")


def test_the_baseline_is_what_the_picture_turns_into(picture: cnnkit.Image) -> None:
    red = run(picture, method="random", target="red", baseline="red")
    np.testing.assert_allclose(red.arrays["deletion"][0, -1], np.exp(4) / (np.exp(4) + 2), rtol=1e-6)
    blurred = run(picture, method="random", target="red", baseline="blur")
    grey = run(picture, method="random", target="red")
    np.testing.assert_allclose(grey.arrays["deletion"][0, -1], 1 / 3, rtol=1e-6)
    assert abs(blurred.arrays["insertion"][0, 0] - 1 / 3) > 0.01


def test_several_pictures_have_their_means(picture: cnnkit.Image) -> None:
    other = picture.with_pixels(255 - picture.pixels)
    outcomes = cnnkit.map(
        FAITHFULNESS, [picture, other], model=make_tiny_model(), method=("edges", "random"), box="4,8,8,12"
    )
    first, second, mean = (outcome.unwrap() for outcome in outcomes)
    assert mean.data["pictures"] == 2
    for row, one, two in zip(*(result.data["methods"] for result in (mean, first, second)), strict=True):
        for name in ("deletion", "insertion", "average_drop", "increase_in_confidence", "pointing_game"):
            assert row[name] == pytest.approx((one[name] + two[name]) / 2)
    for name in ("deletion", "insertion"):
        # 256 positions in 20 steps of 13: the fractions are uneven, those of the mean are not.
        fractions = mean.arrays["fractions"]
        both = [
            np.interp(fractions, result.arrays["fractions"], result.arrays[name][0])
            for result in (first, second)
        ]
        np.testing.assert_allclose(mean.arrays[name][0], np.mean(both, axis=0))
    assert "mean of 2 pictures" in mean.text


def test_a_picture_does_not_depend_on_its_neighbours(picture: cnnkit.Image) -> None:
    other = picture.with_pixels(255 - picture.pixels)
    model = make_tiny_model()
    alone = run(picture, method="random")
    _, beside, _ = cnnkit.map(FAITHFULNESS, [other, picture], model=model, method="random")
    np.testing.assert_array_equal(alone.arrays["deletion"], beside.unwrap().arrays["deletion"])


def test_the_contract_of_operations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_operation(FAITHFULNESS, method=("random", "edges"), steps=4, box="0,0,1,1", baseline="mean")
