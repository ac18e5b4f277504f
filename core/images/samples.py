"""Pictures that every install has: `sample:portrait` and a few that are drawn here."""

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnnkit.errors import ImageError, did_you_mean
from cnnkit.images.image import Image

SAMPLES = {
    "portrait": "Rear Admiral Grace Hopper, photograph, 600x512 (public domain, from matplotlib's wheel)",
    "shapes": "a red disc, a green triangle and a blue square on white, 240x320",
    "stripes": "black and white stripes that grow finer to the right, 240x320",
    "gradient": "red grows to the right, green downwards, 240x320",
}
"""The samples by name, with a line on each."""


def sample(name: str) -> Image:
    """The picture `sample:name`. ImageError when there is no such sample, or its file is not installed."""
    if name == "portrait":
        return replace(Image.load(_portrait()), name=name, source="sample:portrait")
    if name not in _DRAWN:
        raise ImageError(f"no sample {name!r}; there are {', '.join(SAMPLES)}.{did_you_mean(name, SAMPLES)}")
    return replace(Image.load(_DRAWN[name]()), name=name, source=f"sample:{name}")


def _portrait() -> Path:
    # Only find matplotlib: importing it takes a second and writes caches.
    spec = find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise ImageError("sample:portrait comes with matplotlib, which is not installed")
    return Path(spec.origin).parent / "mpl-data" / "sample_data" / "grace_hopper.jpg"


def _grid() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(y, x) of pixel centres, 0..240 and 0..320."""
    y, x = np.mgrid[0:240, 0:320]
    return y + 0.5, x + 0.5


def _shapes() -> NDArray[np.uint8]:
    y, x = _grid()
    pixels = np.full((*y.shape, 3), 255, np.uint8)
    # A shape is where its distance is negative; clipping the distance smooths the rim over one pixel.
    disc = np.hypot(y - 80, x - 80) - 50
    triangle = np.maximum(np.abs(x - 220) - (y - 30) / 2, y - 130)
    square = np.maximum(np.abs(x - 150), np.abs(y - 180)) - 40
    for distance, colour in ((disc, (210, 40, 40)), (triangle, (40, 160, 60)), (square, (40, 70, 200))):
        cover = np.clip(0.5 - distance, 0, 1)[..., None]
        pixels = np.rint(pixels * (1 - cover) + np.array(colour) * cover).astype(np.uint8)
    return pixels


def _stripes() -> NDArray[np.uint8]:
    _, x = _grid()
    return np.rint(127.5 + 127.5 * np.cos(2 * np.pi * (x / 64 + x**2 / 6400))).astype(np.uint8)


def _gradient() -> NDArray[np.uint8]:
    y, x = _grid()
    return np.dstack([x * (255 / 320), y * (255 / 240), np.full(y.shape, 128)]).round().astype(np.uint8)


_DRAWN: dict[str, Callable[[], NDArray[np.uint8]]] = {
    "shapes": _shapes,
    "stripes": _stripes,
    "gradient": _gradient,
}
