"""Inputs that say nothing: what a picture is compared with, and what parts of it are hidden by."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnkit import Image, Model

Colour = tuple[float, float, float]

WORDS = "a colour (name, #rrggbb, r,g,b or one level 0..255), or zero in the network's own numbers"
_SENTENCE = (
    "is grey, black, white, mean, blur, zero, a colour by name or as #rrggbb, "
    "or one number or three (red,green,blue) from 0 to 255"
)


def parse_baseline(value: Any, noun: str = "a baseline") -> str | Colour:
    """A word of its own ("mean", "blur", "zero"), or the colour as red, green and blue from 0 to 255."""
    words = {"grey": "127.5", "gray": "127.5"}
    if isinstance(value, str) and value in ("mean", "blur", "zero"):
        return value
    parts = words.get(value, value).split(",") if isinstance(value, str) else value
    parts = parts if isinstance(parts, list | tuple) else [parts]
    try:
        levels = [float(part) for part in parts]
    except ValueError:
        levels = _named_colour(str(value))
    if len(levels) not in (1, 3) or not all(0 <= level <= 255 for level in levels):
        raise ValueError(f"{noun} {_SENTENCE}")
    return levels[0], levels[len(levels) // 2], levels[-1]


def _named_colour(name: str) -> list[float]:
    from PIL import ImageColor

    try:
        return [float(level) for level in ImageColor.getrgb(name)[:3]]
    except ValueError:
        return []


def baseline_input(
    picture: Image, seen: Image, model: Model, value: str | Colour, blur: tuple[float, float]
) -> NDArray[np.float32]:
    """The network's input, without its batch dimension, that shows only `value`.

    `seen` is what the network sees of the picture; `blur` are the standard deviations, down and across.
    """
    if value == "blur":
        from PIL import ImageFilter

        smooth = ImageFilter.GaussianBlur(blur[::-1])
        pixels: NDArray[Any] = np.asarray(seen.pil().convert("RGB").filter(smooth))
    else:
        colour = picture.flattened().pixels.mean(axis=(0, 1)) if value == "mean" else value
        pixels = np.broadcast_to(0.0 if value == "zero" else colour, seen.pixels.shape)
    numbers = model.preprocessing.to_network(pixels)
    return np.zeros_like(numbers) if value == "zero" else numbers
