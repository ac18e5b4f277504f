"""What x is: the numbers that are moved. They are the network's input itself, or pixels from 0 to 1 or 0 to
255.

A unit is a `Preprocessing` without a size: from a picture to x and back. x has the network's order of
channels and its layout, (1, channels, height, width) or (1, height, width, channels).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as pillow

from cnnkit import Model, Preprocessing, UsageError
from cnnkit.plugins.synthesis.recipe import Recipe

Array = NDArray[np.float32]

IMAGENET = (103.939, 116.779, 123.68)
PIXELS: Mapping[str, Mapping[str, Any]] = {
    "caffe": {"channels": "bgr", "mean": IMAGENET},
    "caffe-256": {"channels": "bgr", "scale": 256 / 255, "mean": IMAGENET},
    "torch": {"scale": 1 / 255, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
    "torch-255": {"mean": (123.675, 116.28, 103.53)},
}
"""What networks are shown for a picture, beside their own preprocessing."""
SCALES = {"0..1": 1 / 255, "0..255": 1.0}
FILTERS = {"bilinear": pillow.Resampling.BILINEAR, "bicubic": pillow.Resampling.BICUBIC}


def shown(model: Model, recipe: Recipe) -> Preprocessing:
    """How a picture becomes the network's input."""
    own = replace(model.preprocessing, height=None, width=None)
    if recipe.pixels == "network":
        return own
    if own.channels == "grey":
        raise UsageError(
            f"the network '{model.name}' sees in grey, which '{recipe.pixels}' does not: take 'network'"
        )
    return Preprocessing(**PIXELS[recipe.pixels], layout=own.layout, filter=own.filter, fit=own.fit)


def unit(model: Model, recipe: Recipe) -> Preprocessing:
    """How a picture becomes x."""
    network = shown(model, recipe)
    if recipe.unit == "network":
        return network
    return replace(network, scale=SCALES[recipe.unit], mean=(0.0,), std=(1.0,))


def limits(unit: Preprocessing) -> tuple[Array, Array]:
    """x of a black and of a white pixel, (1, channels, 1, 1) or (1, 1, 1, channels)."""
    black, white = (unit.to_network(np.full((1, 1, 1, 3), level, np.float32)) for level in (0, 255))
    return black, white


def grey(network: Preprocessing) -> Array:
    """The pixel (1, 1, 3), 0..255, that the network counts from; the middle where it counts from black."""
    if not any(network.mean):
        return np.full((1, 1, 3), 127.5, np.float32)
    return network.to_pixels(np.zeros_like(network.to_network(np.zeros((1, 1, 3)))))


def start(
    recipe: Recipe,
    network: Preprocessing,
    picture: NDArray[Any] | None,
    size: tuple[int, int],
    random: np.random.Generator,
) -> NDArray[np.float32]:
    """The picture to start from, (height, width, 3) in 0..255, not clipped.

    `picture` has that shape; None, or a `mix` of 1, is noise alone, and a `mix` of 0 draws none. `network` is
    what `shown` returns: normal noise lies around its `grey`.
    """
    share = 1.0 if picture is None else recipe.mix
    mixed = np.zeros((*size, 3), np.float32) if picture is None else np.asarray(picture, np.float32)
    if not share:
        return mixed
    if recipe.noise == "uniform":
        noise = recipe.noise_scale * random.random((*size, 3), np.float32)
    else:
        noise = grey(network) + recipe.noise_scale * random.standard_normal((*size, 3), np.float32)
    return np.asarray((1 - share) * mixed + share * noise, np.float32)


def resized(x: Array, size: tuple[int, int], layout: str, filter: str = "bicubic") -> Array:
    """x, or anything that lies over it, at another (height, width); "bilinear" or "bicubic"."""
    planes = x[0] if layout == "nchw" else np.moveaxis(x[0], -1, 0)
    wide = (size[1], size[0])
    found = [
        np.array(pillow.fromarray(np.ascontiguousarray(plane)).resize(wide, FILTERS[filter]))
        for plane in planes
    ]
    return np.ascontiguousarray(np.stack(found, 0 if layout == "nchw" else -1)[None])
