"""Regions: what a mask means in numbers, what it leaves alone, and what is said of those that do not fit."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small_network import picture, small_network

import cnnkit
from cnnkit import Builder, Context, Image, Model, Preprocessing, Session, TrainingSession, UsageError
from cnnkit.plugins.synthesis.distances import DISTANCES, Moments
from cnnkit.plugins.synthesis.eye import eye
from cnnkit.plugins.synthesis.objective import Objective, targets, weights
from cnnkit.plugins.synthesis.recipe import Recipe
from cnnkit.plugins.synthesis.record import Record
from cnnkit.plugins.synthesis.regions import Regions, guide, mask_of, share

Array = NDArray[Any]
HEIGHT, WIDTH = 24, 32
RECIPE = Recipe("test", content_layers=(("two", 1.0),), style_layers=(("one", 1.0), ("two", 1.0)))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plot takes longer than these runs."""
    monkeypatch.setattr(Record, "plot", lambda record: b"")


def scene(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> Array:
    return picture(height, width, seed).clip(0, 255).astype(np.uint8)


def half(height: int = HEIGHT, width: int = WIDTH, columns: slice = slice(0, WIDTH // 2)) -> Array:
    """White in these columns."""
    mask = np.zeros((height, width), np.uint8)
    mask[:, columns] = 255
    return mask


WHITE = half(columns=slice(None))
LEFT, RIGHT = half(), 255 - half()


def run(content: Array, painters: list[Array], layout: str = "nchw", **options: Any) -> cnnkit.Result:
    given = {
        "preset": "tensorflow-tutorial",
        "style_layers": "one,two",
        "content_layers": "two",
        "size": f"{content.shape[0]}x{content.shape[1]}",
        "iterations": 4,
    }
    return cnnkit.run(
        "style-transfer", content, model=small_network(layout), style=painters, **{**given, **options}
    )


# What a mask means


@pytest.mark.parametrize("distance", ["gram", "wasserstein"])
def test_moments_of_a_region_count_each_place_by_its_mask(distance: Any) -> None:
    random = np.random.default_rng(0)
    features, mask = random.standard_normal((1, 5, 6, 7)).astype(np.float32), random.random((6, 7))
    rows, shares = features.reshape(5, -1), mask.ravel() / mask.sum()
    moments = Moments.of(features, guide(mask.astype(np.float32)))
    assert moments.mean == pytest.approx(rows @ shares, rel=1e-5, abs=1e-6)
    assert moments.gram == pytest.approx((rows * shares) @ rows.T, rel=1e-5, abs=1e-6)
    fed = DISTANCES[distance].targets("style", moments)
    assert DISTANCES[distance].gram("style", fed) == pytest.approx(moments.gram, rel=1e-3, abs=1e-4)


def test_the_root_of_the_covariance() -> None:
    features = np.random.default_rng(0).standard_normal((1, 4, 5, 6)).astype(np.float32)
    root = Moments.of(features).covariance_root
    expected = np.cov(features.reshape(4, -1), bias=True) + 1e-4 * np.eye(4)
    assert root @ root == pytest.approx(expected, rel=1e-4, abs=1e-5)


def pointwise() -> Model:
    """A layer `mixed` that sees one pixel at each place."""
    b = Builder("pointwise")
    kernel = np.array([[1.0, 0.5, -0.2], [0.3, -1.0, 0.8]], np.float32)[:, :, None, None]
    b.output(b.op.Conv(b.input("input", ("batch", 3, "h", "w")), b.constant(kernel, "k"), name="mixed"))
    return Model.of(b.model(), preprocessing=Preprocessing(scale=1 / 255))


@pytest.mark.parametrize("form", ["quarter", "wasserstein"])
def test_a_region_is_pulled_at_as_hard_as_a_whole_picture(form: Any, context: Context) -> None:
    """In a picture that is the same twice, side by side, one half has the statistics of both."""
    recipe = replace(
        RECIPE, style_form=form, content_layers=(), style_layers=(("mixed", 1.0),), styles="losses"
    )
    made = eye(pointwise(), recipe)
    x = made.preprocessing.to_network(np.tile(scene(6, 8), (1, 2, 1)).astype(np.float32))[None]
    style = made.preprocessing.to_network(scene(20, 20, seed=3).astype(np.float32))[None]
    objective = Objective.of(made, recipe, 1, guided=True)
    session = TrainingSession(made, objective, ["input"], size=(6, 16), threads=1)
    slopes = []
    for mask in (half(6, 16, slice(None)), half(6, 16, slice(8, None))):
        painted = Regions([Image.load(mask)]).of_result(made, ["mixed"], (6, 16))
        fed = targets(made, objective, x, [(1.0, style)], context)
        fed["guide/mixed/0"] = guide(painted[0]["mixed"])
        fed |= weights(objective, {}, {"mixed": 1.0}, 0.0, painted=painted)
        slopes.append(session.gradient({**fed, "input": x}).gradients["input"])
    whole, right = slopes
    assert right[..., 8:] == pytest.approx(whole[..., 8:], abs=1e-5 * float(np.abs(whole).max()))
    assert np.abs(whole).max() > 0 and not right[..., :8].any()


def test_shares_of_a_partition_add_up_and_masks_share_where_they_overlap() -> None:
    made = eye(small_network(), RECIPE)
    grey = np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))
    parts = Regions([Image.load(grey), Image.load(255 - grey)])
    both = Regions([Image.load(WHITE), Image.load(LEFT)])
    for layer in ("one", "two"):
        found = [masks[layer] for masks in parts.of_result(made, ["one", "two"], (HEIGHT, WIDTH))]
        assert sum(share(mask) for mask in found) == pytest.approx(1, abs=1e-6)
        white, left = (masks[layer] for masks in both.of_result(made, ["one", "two"], (HEIGHT, WIDTH)))
        assert (white[:, 0] == 0.5).all() and (left[:, 0] == 0.5).all() and (white[:, -1] == 1).all()


def test_a_mask_is_opacity_where_there_is_any_else_brightness() -> None:
    grey = np.full((4, 4), 51, np.uint8)
    assert (mask_of(Image.load(grey), (2, 2)) == np.float32(0.2)).all()
    black = np.dstack([np.zeros((4, 4, 3), np.uint8), LEFT[:4, 14:18]])
    assert mask_of(Image.load(black), (4, 4)).tolist() == [[1, 1, 0, 0]] * 4


def test_inside_sees_nothing_but_the_inside() -> None:
    """Another picture outside of the mask changes no number of a place that counts."""
    recipe = replace(RECIPE, style_layers=(("one", 1.0), ("pool", 1.0), ("two", 1.0)))
    for layout in ("nchw", "nhwc"):
        made = eye(small_network(layout), recipe)
        mask = half(columns=slice(5, 21))
        mask[:3] = 0
        layers = ["one", "pool", "two"]
        masks = Regions([Image.load(mask)], mode="inside").of_result(made, layers, (HEIGHT, WIDTH))[0]
        one, other = (scene(seed=seed) for seed in (0, 1))
        mixed = np.where(mask[..., None] > 0, one, other)
        session = Session(made)
        tensors = [next(found.tensor for found in made.layers if found.name == layer) for layer in layers]
        values = [
            session.run(made.preprocessing.to_network(each.astype(np.float32))[None], tensors)
            for each in (one, mixed)
        ]
        for layer, tensor in zip(layers, tensors, strict=True):
            changed = (values[0][tensor] != values[1][tensor])[0].any(0)
            assert masks[layer].any() and not changed[masks[layer] > 0].any()
            loose = Regions([Image.load(mask)]).of_result(made, layers, (HEIGHT, WIDTH))[0][layer]
            assert changed[loose > 0].any()


# Whole runs


@pytest.mark.parametrize(
    ("preset", "layout"), [("cnnkit", "nchw"), ("gatys-code", "nhwc"), ("crowsonkb", "nchw")]
)
def test_a_mask_of_all_ones_is_no_mask_bit_for_bit(preset: str, layout: str) -> None:
    options: dict[str, Any] = {"preset": preset, "layout": layout, "size": "48", "pyramid": 30}
    content, style = scene(37, 48), scene(40, 44, seed=3)
    plain = run(content, [style], **options)
    for masks in ({"mask": [np.full((37, 48), 255, np.uint8)]}, {"style_mask": [np.ones((20, 22), bool)]}):
        masked = run(content, [style], **masks, **options)
        np.testing.assert_array_equal(masked.picture.pixels, plain.picture.pixels)
        assert masked.data["losses"] == plain.data["losses"]
    assert (plain.picture.pixels != content).any()


def test_masks_of_all_ones_are_styles_whose_losses_count() -> None:
    styles = [scene(seed=3), scene(30, 30, seed=4)]
    options: dict[str, Any] = {"preset": "gatys-code", "style_weights": "2,1"}
    plain = run(scene(), styles, styles="losses", **options)
    masked = run(scene(), styles, mask=[WHITE, WHITE], **options)
    assert np.abs(masked.picture.pixels.astype(int) - plain.picture.pixels).max() <= 1
    assert masked.data["losses"] == pytest.approx(plain.data["losses"], rel=1e-4)


def test_outside_of_all_masks_the_content_stays_as_it_is() -> None:
    """Layer `two` sees six pixels to each side, and so what changes spreads by as many an update."""
    content = scene(HEIGHT, 96)
    mask = half(HEIGHT, 96, slice(0, 16))
    result = run(content, [scene(seed=3)], mask=[mask], content_weight=1, variation_weight=0)
    changed = np.abs(result.picture.pixels.astype(int) - content).max((0, 2))
    assert changed[:16].min() > 2 and not changed[16 + 12 * 4 :].any()


@pytest.mark.parametrize("form", ["positions", "wasserstein"])
def test_each_region_comes_near_to_its_own_style(form: str) -> None:
    """Two styles that differ much, dark and bright; each of one region only."""
    dark, bright = scene(40, 40, seed=3) // 4, 255 - scene(40, 40, seed=4) // 4
    options: dict[str, Any] = {"mask": [LEFT, RIGHT], "content_weight": 1, "variation_weight": 0}
    options |= {"set": f"style_form={form}", "style_weight": {"positions": 1e-2, "wasserstein": 100}[form]}
    before = run(scene(), [dark, bright], iterations=1, **options).data
    after = run(scene(), [dark, bright], iterations=60, **options)
    for first, last in zip(before["regions"], after.data["regions"], strict=True):
        assert last["gram_error"]["one"] < 0.1 * first["gram_error"]["one"]
    left, right = after.picture.pixels[:, :12].mean(), after.picture.pixels[:, -12:].mean()
    assert left < 90 and right > 165
    assert "regions off by" in after.text


def test_a_style_is_taken_from_its_region() -> None:
    """The left of a picture that goes on with another one, where the seam is far away."""
    style, other = scene(48, 48, seed=3), scene(48, 48, seed=4)
    content = scene(48, 96)
    options: dict[str, Any] = {"style_fit": "stretched", "content_weight": 1, "style_layers": "one"}
    mask = half(48, 96, slice(0, 40))
    taken = [
        run(content, [np.hstack([style, beside])], style_mask=[mask], **options).picture.pixels
        for beside in (style[:, ::-1], other)
    ]
    whole = run(content, [np.hstack([style, other])], **options).picture.pixels
    np.testing.assert_array_equal(*taken)
    assert (whole != taken[0]).any()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"mask": [WHITE]}, "2 style(s) take as many --mask, not 1"),
        ({"style_mask": [WHITE] * 3}, "2 style(s) take as many --style-mask, not 3"),
        ({"mask": [WHITE, half(20, 40)]}, "32x24: a mask has its picture's aspect"),
        ({"mask": [WHITE, WHITE * 0]}, "is black: white is where the style belongs"),
        ({"style_mask": [WHITE, WHITE * 0]}, "is black: white is where the style belongs"),
        (
            {"mask": [WHITE, half(columns=slice(0, 3))], "mask_mode": "inside"},
            "name earlier --style-layers, or begin with a larger size (--size, --pyramid)",
        ),
        ({"mask_mode": "inside"}, "--mask-mode inside says how, but there is no mask"),
        ({"mask": [LEFT, RIGHT], "styles": "targets"}, "--styles targets makes one style of all"),
        ({"mask": [LEFT, RIGHT], "strip": 3}, "--strip makes one style of two"),
    ],
)
def test_masks_that_do_not_fit_are_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError) as error:
        run(scene(), [scene(seed=3), scene(seed=4)], **options)
    assert sentence in str(error.value) and "\n" not in str(error.value)
