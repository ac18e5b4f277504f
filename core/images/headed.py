"""Grids with headings: pictures in rows and columns that say what they stand for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cnnkit.images.drawing import (
    FAINT,
    INK,
    SMALLEST_FONT,
    WHITE,
    Colour,
    Pixels,
    below,
    beside,
    fitted,
    framed,
    line_height,
    shorten,
    text_line,
    text_width,
)
from cnnkit.images.image import Image

LARGEST_TILE, SMALLEST_TILE = 320, 96
LARGEST_FONT = 20
MOST_LINES = 3
"""Of a heading."""
GAP = 8
NAME: Colour = (110, 118, 132)
"""The colour of what the rows and the columns are values of."""

Align = Literal["left", "centre"]


@dataclass(frozen=True)
class Headings:
    """What the rows or the columns stand for: `values` of `name`, and a small picture of each, if any."""

    name: str
    values: Sequence[str]
    pictures: Sequence[Image] = ()


@dataclass(frozen=True)
class Words:
    """What stands in a grid in place of a picture."""

    text: str


def headed_grid(
    rows: Headings,
    columns: Headings,
    tiles: Sequence[Sequence[Image | Words]],
    title: str,
    width: int,
) -> Image:
    """`tiles[row][column]` under the headings of the columns and beside those of the rows, on white.

    The grid is at most about `width` pixels wide as long as a tile has 96. Each picture is fitted whole into
    its tile: reduced, or enlarged by a whole number. Headings are broken into at most three lines.
    """
    named = any(rows.values)
    across = (width - width // 6 * named) // len(columns.values) - GAP
    across = max(SMALLEST_TILE, min(LARGEST_TILE, across))
    widest = max([tile.width for row in tiles for tile in row if isinstance(tile, Image)], default=across)
    across = across // widest * widest or across  # small pictures fill their tiles, too
    heights = [_height(row, across) for row in tiles]
    size = max(SMALLEST_FONT, min(LARGEST_FONT, across // 12))
    small = across // 3

    heads = [_heading(columns, k, across, size, small, "centre") for k in range(len(columns.values))]
    tallest = max(head.shape[0] for head in heads)
    lines = [[framed_below(head, tallest) for head in heads]]
    lines += [
        [_tile(tile, down, across, size) for tile in row] for row, down in zip(tiles, heights, strict=True)
    ]
    strips = [beside(*line, gap=GAP) for line in lines]
    if columns.name:
        strips[0] = below(text_line(columns.name, size, strips[0].shape[1], "centre", NAME), strips[0], gap=4)
    if named:
        texts = (rows.name, *rows.values)
        side = max(small * bool(rows.pictures), *(text_width(text, size) for text in texts))
        side = min(side, width // 6)
        corner = text_line(rows.name, size, side, colour=NAME)
        beginnings = [framed_below(corner, strips[0].shape[0])]
        beginnings += [_heading(rows, k, side, size, small, "left") for k in range(len(tiles))]
        strips = [beside(*pair, gap=2 * GAP) for pair in zip(beginnings, strips, strict=True)]
    sheet = below(*strips, gap=GAP)
    if title:
        sheet = below(text_block(title, round(1.2 * size), sheet.shape[1]), sheet, gap=size)
    return Image.load(framed(sheet, 2 * size))


def text_block(
    text: str, size: int, width: int, most: int = MOST_LINES, align: Align = "left", colour: Colour = INK
) -> Pixels:
    """A text broken between words into at most `most` lines of `width` pixels, on white.

    The last line is shortened with an ellipsis where more would follow.
    """
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if len(lines) == most or shorten(longer, size, width) == longer or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return below(*(text_line(line, size, width, align, colour) for line in lines), gap=0)


def framed_below(pixels: Pixels, height: int) -> Pixels:
    """The pixels at the foot of a white strip of this height."""
    strip = np.full((height, *pixels.shape[1:]), WHITE, dtype=np.uint8)
    strip[height - pixels.shape[0] :] = pixels
    return strip


def _height(row: Sequence[Image | Words], across: int) -> int:
    """In which the pictures of a row fill the width, as long as they are not very flat or very tall."""
    ratios = [tile.height / tile.width for tile in row if isinstance(tile, Image)]
    return round(across * min(max([*ratios, 0.25]), 2.0)) if ratios else across // 2


def _heading(headings: Headings, number: int, width: int, size: int, small: int, align: Align) -> Pixels:
    """A value, and its picture above it."""
    text = text_block(headings.values[number], size, width, align=align)
    if not headings.pictures:
        return text
    picture = headings.pictures[number]
    height = min(small, round(small * picture.height / picture.width))
    return below(_placed(picture, height, width, align), text, gap=4)


def _tile(tile: Image | Words, down: int, across: int, size: int) -> Pixels:
    if isinstance(tile, Image):
        return _placed(tile, down, across, "centre")
    size = SMALLEST_FONT + (size - SMALLEST_FONT) // 2
    most = max(1, (down - 2 * GAP) // line_height(size))
    text = text_block(tile.text, size, across - 2 * GAP, most)
    empty = np.full((down, across, 3), FAINT, dtype=np.uint8)
    inked = np.minimum(text, FAINT)[: down - GAP]  # its white becomes that of the empty tile
    empty[GAP : GAP + inked.shape[0], GAP : GAP + inked.shape[1]] = inked
    return empty


def _placed(picture: Image, down: int, across: int, align: Align) -> Pixels:
    """The whole picture as large as fits, at the top of a white strip of (down, across) pixels."""
    fit = min(down / picture.height, across / picture.width)
    taken = min(across, max(1, round(picture.width * (int(fit) if fit >= 1 else fit))))
    strip = np.full((max(1, down), across, 3), WHITE, dtype=np.uint8)
    left = (across - taken) // 2 if align == "centre" else 0
    strip[:, left : left + taken] = fitted(picture.flattened().pixels, strip.shape[0], taken)
    return strip
