"""From what a person writes to options: parsers that raise ValueError, and that take their own results."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, get_args, get_type_hints

from cnnkit import UsageError, did_you_mean
from cnnkit.plugins.synthesis.presets import PRESETS
from cnnkit.plugins.synthesis.recipe import Recipe, Weighted
from cnnkit.plugins.synthesis.stages import sized

CAFFE_MEANS = (123.68, 116.779, 103.939)
"""Of red, green and blue."""


def parse_layers(value: Any) -> Weighted:
    """Layers with weights: "block1_conv1:2,block2_conv1", a mapping, or names and pairs in a list."""
    if isinstance(value, Mapping):
        value = list(value.items())
    return tuple(_weighted(item) for item in _pieces(value))


def _pieces(value: Any) -> list[Any]:
    """What stands between the commas of a text, or of several: the command line repeats an option."""
    texts = value if isinstance(value, list | tuple) else [value]
    return [piece for text in texts for piece in (text.split(",") if isinstance(text, str) else [text])]


def _weighted(item: Any) -> tuple[str, float]:
    if not isinstance(item, str):
        name, weight = item
    else:
        name, colon, text = item.rpartition(":")
        try:
            name, weight = (name, float(text)) if colon else (item, 1.0)
        except ValueError:  # the name itself has a colon
            name, weight = item, 1.0
    name, weight = str(name).strip(), float(weight)
    if not name or not math.isfinite(weight) or weight < 0:
        raise ValueError("say layers with weights from 0 up, such as block1_conv1:2,block2_conv1")
    return name, weight


def parse_numbers(value: Any) -> tuple[float, ...]:
    """Numbers from 0 up, of which one is not 0."""
    try:
        numbers = tuple(float(item) for item in _pieces(value))
    except ValueError:
        numbers = ()
    if not any(numbers) or not all(0 <= number < math.inf for number in numbers):
        raise ValueError("say a weight from 0 up for each style, such as 1,2")
    return numbers


def parse_size(value: Any) -> str:
    """A rule for sizes; a number alone is that of the longer side."""
    text = str(value).strip().lower()
    rule = f"long:{text}" if text.isdecimal() else text
    try:
        sized(rule, (1, 1))
    except UsageError as error:
        raise ValueError(str(error)) from None
    return rule


def parse_noise(value: Any) -> tuple[str, float | None]:
    """The kind of noise and its scale: "uniform", "normal:90"."""
    kind, scale = value.partition(":")[::2] if isinstance(value, str) else value
    try:
        number = float(scale) if scale else None
    except ValueError:
        number = math.nan
    if kind not in ("uniform", "normal") or not 0 <= (number or 0) < math.inf:
        raise ValueError("say uniform or normal, or with its scale from 0 up: uniform:255, normal:64")
    return kind, number


def parse_offsets(value: Any) -> tuple[float, ...]:
    """What is added to red, green and blue; "means:B,G,R" is what stands in the place of Caffe's means."""
    first, *others = _pieces(value)
    absolute = isinstance(first, str) and first.startswith("means:")
    try:
        items = [first.removeprefix("means:") if absolute else first, *others]
        first, second, third = (float(item) for item in items)
        if not math.isfinite(first + second + third):
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError(
            "say three numbers that are added to red, green and blue, such as -27,-20,20, or "
            "means:123.939,96.779,96.68, blue first, in place of 103.939,116.779,123.68"
        ) from None
    if not absolute:
        return first, second, third
    return tuple(given - mean for given, mean in zip((third, second, first), CAFFE_MEANS, strict=True))


def parse_preset(value: Any) -> str:
    if value not in PRESETS:
        raise ValueError(f"there are {', '.join(PRESETS)}.{did_you_mean(str(value), PRESETS)}")
    return str(value)


def parse_settings(value: Any) -> dict[str, Any]:
    """Fields of `Recipe` by name: "memory=20,betas=0.9:0.99"."""
    pairs = (
        value.items()
        if isinstance(value, Mapping)
        else [item.partition("=")[::2] for item in str(value).split(",")]
    )
    return dict(_setting(str(name).strip(), given) for name, given in pairs)


SETTABLE = (
    "filter style_form content_form variation_form norm_weight pixels unit noise_scale decay decay_every "
    "betas epsilon epsilon_as memory restart_every pyramid_iterations rounding"
).split()
"""The fields without an option of their own."""
LEAST = {"memory": 1, "decay_every": 1e-9}
"""Of those that are numbers, where it is not 0."""


def _setting(name: str, given: Any) -> tuple[str, Any]:
    if name not in SETTABLE:
        raise ValueError(
            f"there is no '{name}' to set, but {', '.join(SETTABLE)}.{did_you_mean(name, SETTABLE)}"
        )
    default: Any = {field.name: field.default for field in dataclasses.fields(Recipe)}[name]
    if isinstance(default, tuple):
        return name, _betas(given)
    if not isinstance(default, str):
        return name, _number(name, given, type(default))
    words = _words_of(name)
    if words and given not in words:
        raise ValueError(f"{name} is {', '.join(words)}, not '{given}'.{did_you_mean(str(given), words)}")
    return name, given


def _number(name: str, given: Any, kind: type[int] | type[float]) -> float:
    least = LEAST.get(name, 0)
    try:
        number = kind(given)
    except ValueError:
        number = math.nan
    if not least <= number < math.inf:
        whole = "whole " if kind is int else ""
        raise ValueError(f"{name} is a {whole}number from {least:g} up, not '{given}'")
    return number


def _betas(given: Any) -> tuple[float, ...]:
    try:
        betas = tuple(float(item) for item in (given.split(":") if isinstance(given, str) else given))
    except ValueError:
        betas = ()
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas are two numbers from 0 to below 1, such as 0.9:0.999, not '{given}'")
    return betas


def _words_of(name: str) -> tuple[str, ...]:
    return get_args(get_type_hints(Recipe)[name])
