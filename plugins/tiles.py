"""Sheets of small tiles as activations and filters draw them, and the words that both use."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnkit import Image, Layer, drawing

Pixels = NDArray[np.uint8]

LARGEST_SHEET = 1800
"""Width that a sheet keeps within, in pixels, as long as its tiles stay readable."""
TILE = 160
"""The longer side of a tile where there is room, in pixels."""
SMALLEST_TILE = 48
FLAT = (128, 128, 128)
"""The colour of a map in which nothing varies."""


def parse_colourmap(value: Any) -> str:
    """The name of a colour map, checked before anything is computed."""
    drawing.colourise(np.zeros((1, 1)), str(value))
    return str(value)


def columns_for(count: int, ratio: float) -> int:
    """Columns of a sheet of `count` tiles of height / width = `ratio`: nearly square, few places empty."""
    square = drawing.near_square(count, ratio)
    return min(range(square, min(count, square + square // 3) + 1), key=lambda columns: -count % columns)


def tile_size(ratio: float, columns: int, sheet: int = LARGEST_SHEET) -> tuple[int, int]:
    """(height, width) in pixels of tiles of height / width = `ratio`, `columns` of them across a sheet.

    The shorter side is at least an eighth of the longer one, so that a map of a single row can be seen.
    """
    across = sheet // columns - 4
    longest = max(SMALLEST_TILE, min(TILE, across * max(1.0, ratio)))
    return round(longest * min(1.0, max(ratio, 1 / 8))), round(longest * min(1.0, max(1 / ratio, 1 / 8)))


def readable(across: int) -> int:
    """How many tiles can be read in a square of so many pixels."""
    return max(1, across // SMALLEST_TILE) ** 2


def fitted(pixels: Pixels, height: int, width: int) -> Pixels:
    """A tile at another size: its own pixels seen when enlarged, averaged when reduced."""
    smaller = height < pixels.shape[0] or width < pixels.shape[1]
    return Image(pixels).resized(height, width, "area" if smaller else "nearest").pixels


def flat(values: NDArray[Any]) -> Pixels:
    """(height, width) -> (height, width, 3): a tile that says that nothing varies here."""
    return np.full((*values.shape, 3), FLAT, dtype=np.uint8)


def even_pick(items: Sequence[Any], most: int) -> list[Any]:
    """At most `most` items, evenly spread from the first to the last; all of them when `most` is 0."""
    if not most or len(items) <= most:
        return list(items)
    return [items[round(place)] for place in np.linspace(0, len(items) - 1, most)]


def titled(layer: Layer) -> str:
    """The layer's name, and its operator where the name does not say it."""
    return layer.name if layer.operator.lower() in layer.name.lower() else f"{layer.name} ({layer.operator})"


def some_of(shown: int, all: int, noun: str) -> str:
    """ "3 of 5 channels", "5 channels" or "1 channel"."""
    return f"{shown} of {all} {noun}s" if shown < all else f"{all} {noun}{'s' if all > 1 else ''}"


def file_safe(name: str) -> str:
    """A name as part of a file's name: letters, digits, "_", "-" and ".", its last 80 characters."""
    return re.sub(r"[^\w.-]+", "_", name).strip("._-")[-80:] or "layer"
