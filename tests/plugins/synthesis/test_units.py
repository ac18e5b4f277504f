"""Units: the eye sees the same picture, whatever x is, and the gradient changes by the scale alone."""

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
from small_network import picture, small_network

from cnnkit import Context, Model, Preprocessing, TrainingSession, UsageError
from cnnkit.plugins.synthesis import units
from cnnkit.plugins.synthesis.eye import eye
from cnnkit.plugins.synthesis.objective import Objective
from cnnkit.plugins.synthesis.recipe import Pixels, Recipe, Unit

RECIPE = Recipe("test", content_layers=(("two", 1.0),), style_layers=(("one", 1.0),))

BY_HAND = {
    "network": lambda p: p[..., ::-1] - [103.939, 116.779, 123.68],
    "caffe": lambda p: p[..., ::-1] - [103.939, 116.779, 123.68],
    "caffe-256": lambda p: p[..., ::-1] / 255 * 256 - [103.939, 116.779, 123.68],
    "torch": lambda p: (p / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225],
    "torch-255": lambda p: p - [123.675, 116.28, 103.53],
}


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("unit", get_args(Unit))
@pytest.mark.parametrize("pixels", get_args(Pixels))
def test_the_network_is_shown_the_same_in_every_unit(
    context: Context, layout: str, pixels: str, unit: str
) -> None:
    model = small_network(layout)
    made = eye(model, replace(RECIPE, pixels=pixels, unit=unit))
    shown = picture(8, 12)
    fed = BY_HAND[pixels](shown)
    fed = np.moveaxis(fed, -1, 0) if layout == "nchw" else fed
    wanted = context.session(model).run(fed[None].astype(np.float32), ["one"])["one"]
    x = made.preprocessing.to_network(shown)[None]
    got = context.session(made).run(x, ["one"])["one"]
    assert got == pytest.approx(wanted, abs=1e-4 * float(np.abs(wanted).max()))
    assert made.preprocessing.to_pixels(x)[0] == pytest.approx(shown, abs=1e-3)
    if unit != "network":
        largest = {"0..1": 255, "0..255": 1}[unit]
        order = shown[..., ::-1] if made.preprocessing.channels == "bgr" else shown
        assert x[0] * largest == pytest.approx(
            np.moveaxis(order, -1, 0) if layout == "nchw" else order, rel=1e-5
        )


@pytest.mark.parametrize("unit, scale", [("0..1", 255.0), ("0..255", 1.0)])
def test_a_gradient_changes_by_the_scale(network: Model, unit: str, scale: float) -> None:
    shown = picture(8, 12)

    def gradient(recipe: Recipe) -> Any:
        made = eye(network, recipe)
        feeds = {
            "input": made.preprocessing.to_network(shown)[None],
            "content/two": np.zeros((1, 8, 4, 6)),
            "style/one/0": np.eye(6),
            "weight/content/two": 1.0,
            "weight/style/one/0": 1e-3,
        }
        session = TrainingSession(made, Objective.of(made, recipe), ["input"], size=(8, 12), threads=1)
        return session.gradient(feeds).gradients["input"]

    plain = gradient(RECIPE)
    assert gradient(replace(RECIPE, unit=unit)) == pytest.approx(scale * plain, rel=1e-4, abs=1e-4 * scale)


def test_limits_are_black_and_white(network: Model) -> None:
    low, high = units.limits(units.unit(network, RECIPE))
    assert low.shape == high.shape == (1, 3, 1, 1)
    assert low.ravel() == pytest.approx([-103.939, -116.779, -123.68])
    assert (high - low).ravel() == pytest.approx(255)
    low, high = units.limits(units.unit(small_network("nhwc"), replace(RECIPE, unit="0..1")))
    assert (low.shape, low.ravel().tolist(), high.ravel()) == (
        (1, 1, 1, 3),
        [0, 0, 0],
        pytest.approx([1, 1, 1]),
    )


def test_a_grey_network_has_pixels_of_its_own() -> None:
    grey = replace(small_network(), preprocessing=Preprocessing(channels="grey"))
    assert units.unit(grey, replace(RECIPE, unit="0..1")).depth == 1
    with pytest.raises(UsageError, match="sees in grey, which 'caffe' does not"):
        units.unit(grey, replace(RECIPE, pixels="caffe"))


def test_where_it_starts(network: Model) -> None:
    shown, size = picture(60, 80), (60, 80)
    own = units.shown(network, RECIPE)

    def start(given: Any, **fields: Any) -> Any:
        return units.start(replace(RECIPE, **fields), own, given, size, np.random.default_rng(1))

    assert (start(shown) == shown).all()
    uniform = start(None, noise_scale=200.0)
    assert (0 <= uniform).all() and (uniform < 200).all() and abs(uniform.mean() - 100) < 2
    normal = start(None, noise="normal", noise_scale=10.0)
    assert normal.mean((0, 1)) == pytest.approx([123.68, 116.779, 103.939], abs=0.5)
    assert normal.std((0, 1)) == pytest.approx([10] * 3, abs=0.3)
    assert start(shown, mix=0.25, noise_scale=200.0) == pytest.approx(0.75 * shown + 0.25 * uniform, rel=1e-5)


def test_resizing_keeps_what_is_straight() -> None:
    rows, columns = np.mgrid[:6, :8].astype(np.float32)
    plane = 3 * rows - 2 * columns + 7
    x = np.stack([plane, -plane])[None]
    for filter in ("bilinear", "bicubic"):
        larger = units.resized(x, (12, 16), "nchw", filter)
        wide_rows, wide_columns = (np.mgrid[:12, :16] + 0.5) / 2 - 0.5
        wanted = 3 * wide_rows - 2 * wide_columns + 7
        inner = (slice(5, -5), slice(5, -5))
        assert larger[0, 0][inner] == pytest.approx(wanted[inner], abs=1e-4)
        assert larger[0, 1] == pytest.approx(-larger[0, 0])
        last = units.resized(np.moveaxis(x, 1, -1), (12, 16), "nhwc", filter)
        assert (np.moveaxis(last, -1, 1) == larger).all()
