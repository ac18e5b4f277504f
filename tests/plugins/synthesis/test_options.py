"""What a person writes, and the recipe that comes of it."""

from dataclasses import replace
from typing import Any

import pytest

from cnnkit import UsageError
from cnnkit.host.options import build_options, fields_of
from cnnkit.plugins.synthesis.options import StyleTransferOptions, recipe_of
from cnnkit.plugins.synthesis.parsing import (
    parse_layers,
    parse_noise,
    parse_numbers,
    parse_offsets,
    parse_settings,
    parse_size,
)
from cnnkit.plugins.synthesis.presets import PRESETS
from cnnkit.plugins.synthesis.recipe import Recipe


def recipe(**options: Any) -> Recipe:
    return recipe_of(build_options(StyleTransferOptions, options, lambda picture: picture))


@pytest.mark.parametrize("name", PRESETS)
def test_without_options_it_is_the_preset(name: str) -> None:
    assert recipe(preset=name) == PRESETS[name]


@pytest.mark.parametrize(
    ("written", "layers"),
    [
        ("block1_conv1:2,block2_conv1", (("block1_conv1", 2.0), ("block2_conv1", 1.0))),
        ("conv:0", (("conv", 0.0),)),
        ("model/conv:out", (("model/conv:out", 1.0),)),
        (["a", ("b", 3)], (("a", 1.0), ("b", 3.0))),
        ({"a": 0.5}, (("a", 0.5),)),
    ],
)
def test_layers_with_weights(written: Any, layers: Any) -> None:
    assert parse_layers(written) == layers == parse_layers(layers)


@pytest.mark.parametrize("written", ["", "a:-1", "a:nan", "a,,b", ":2"])
def test_what_are_no_layers(written: str) -> None:
    with pytest.raises(ValueError, match="block1_conv1:2"):
        parse_layers(written)


@pytest.mark.parametrize(
    ("written", "rule"),
    [
        ("512", "long:512"),
        (300, "long:300"),
        ("Short:99", "short:99"),
        ("480x640", "480x640"),
        ("area:9", "area:9"),
    ],
)
def test_sizes(written: Any, rule: str) -> None:
    assert parse_size(written) == rule == parse_size(rule)


@pytest.mark.parametrize("written", ["", "long:", "long:0", "tall:3", "-4", "3x"])
def test_what_is_no_size(written: str) -> None:
    with pytest.raises(ValueError, match="long:512"):
        parse_size(written)


def test_shares_of_styles() -> None:
    assert parse_numbers("1,2.5") == (1, 2.5) == parse_numbers((1, 2.5))
    for wrong in ("", "1,-1", "0,0", "a", "inf"):
        with pytest.raises(ValueError, match="for each style"):
            parse_numbers(wrong)


def test_noise_with_and_without_a_scale() -> None:
    assert parse_noise("normal:90") == ("normal", 90.0) == parse_noise(("normal", 90.0))
    assert recipe(preset="jcjohnson", noise="normal").noise_scale == 1e-3
    assert recipe(preset="jcjohnson", noise="uniform").noise_scale == 255
    assert recipe(preset="jcjohnson", noise="uniform:50").noise_scale == 50
    with pytest.raises(ValueError, match="uniform or normal"):
        parse_noise("gaussian")


def test_offsets_are_added_or_stand_for_the_means_of_caffe() -> None:
    """The de-processing of Keras adds (103.939, 116.779, 123.68) to blue, green and red."""
    assert parse_offsets("1,-2,3") == (1, -2, 3)
    assert parse_offsets("means:103.939,116.779,123.68") == (0, 0, 0)
    assert parse_offsets("means:123.939,96.779,96.68") == pytest.approx((-27, -20, 20))
    with pytest.raises(ValueError, match="three numbers"):
        parse_offsets("1,2")


def test_other_fields_are_set_by_name() -> None:
    found = recipe(preset="gatys-code", set="memory=20,betas=0.8:0.9,filter=lanczos")
    assert found == replace(PRESETS["gatys-code"], memory=20, betas=(0.8, 0.9), filter="lanczos")
    for wrong, sentence in [
        ("memroy=3", "Did you mean 'memory'"),
        ("rounding=up", "round, truncate"),
        ("memory=many", "whole number from 1 up, not 'many'"),
        ("memory=0", "whole number from 1 up"),
        ("decay_every=0", "number from 1e-09 up"),
        ("epsilon=nan", "number from 0 up"),
        ("betas=0.9", "two numbers"),
        ("betas=0.9:1", "two numbers"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            parse_settings(wrong)


def test_every_field_of_a_recipe_can_be_set() -> None:
    given: dict[str, Any] = {
        "content_layers": "a:2", "content_weight": 3, "style_layers": "b", "style_weight": 4,
        "styles": "losses", "normalised": True, "variation_weight": 5, "tap": "before",
        "pooling": "average", "padding": "reflect", "size": "9",
        "style_fit": "stretched", "style_scale": 2, "start": "noise", "mix": 0.5,
        "noise": "normal:3", "optimizer": "sgd", "rate": 6, "iterations": 7, "clamp": "step", "average": 0.3,
        "pyramid": 8, "offsets": "1,2,3", "original_size": True,
        "set": "filter=nearest,pixels=torch,unit=0..1,content_form=sum,style_form=values,"
        "variation_form=power-2,norm_weight=1,decay=0.5,decay_every=3,betas=0.1:0.2,epsilon=1,epsilon_as=keras,memory=4,restart_every=2,"
        "pyramid_iterations=3,rounding=truncate",
    }  # fmt: skip
    found, plain = recipe(preset="gatys-code", **given), Recipe("", rounding="round")
    same = {name for name in vars(plain) if getattr(found, name) == getattr(plain, name)}
    assert same == {"network"}  # that is --model


def test_iterations_keep_the_proportion_of_a_pyramid() -> None:
    found = recipe(preset="crowsonkb", iterations=50)
    assert (found.iterations, found.pyramid_iterations) == (50, 100)
    assert recipe(preset="crowsonkb", iterations=50, set="pyramid_iterations=7").pyramid_iterations == 7


def test_another_optimizer_brings_its_own_rate() -> None:
    assert recipe(preset="jcjohnson", optimizer="adam").rate == pytest.approx(0.02 * 255)
    assert recipe(preset="pytorch-tutorial", optimizer="adam").rate == 0.02
    assert recipe(preset="keras-sgd", optimizer="lbfgs-scipy").rate == 1
    assert recipe(preset="gatys-code", optimizer="lbfgs-wolfe").rate == 1
    assert recipe(preset="gatys-code", optimizer="adam", rate=3).rate == 3
    with pytest.raises(UsageError, match="--rate means nothing to lbfgs-scipy"):
        recipe(preset="gatys-code", optimizer="lbfgs-scipy", rate=3)
    with pytest.raises(UsageError, match="say --rate"):
        recipe(preset="gatys-code", optimizer="sgd")


def test_a_picture_to_start_from_is_the_start() -> None:
    assert recipe(start_picture="a picture").start == "file"
    with pytest.raises(UsageError, match="--start-picture"):
        recipe(start="file")
    with pytest.raises(UsageError, match="--start noise has no use"):
        recipe(start="noise", start_picture="a picture")


def test_every_option_says_what_it_does() -> None:
    assert all(field.option.help for field in fields_of(StyleTransferOptions))


def test_an_unknown_preset_is_one_sentence() -> None:
    with pytest.raises(UsageError, match="Did you mean 'jcjohnson'"):
        recipe(preset="jcjonson")
