"""Pictures for people: overlays, legends, grids, contact sheets and bar charts, dark on white.

Everything is drawn on arrays of (height, width, 3) uint8 sRGB, and the same input gives the same pixels.
"""

import math
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from cnnkit.images.colourmaps import COLOURMAPS as COLOURMAPS
from cnnkit.images.colourmaps import DIVERGING as DIVERGING
from cnnkit.images.colourmaps import colourise as colourise
from cnnkit.images.colourmaps import limits as limits
from cnnkit.images.colourmaps import table
from cnnkit.images.image import Image

Pixels = NDArray[np.uint8]
Colour = tuple[int, int, int]

WHITE: Colour = (255, 255, 255)
INK: Colour = (32, 32, 36)
PALE: Colour = (150, 160, 175)
FAINT: Colour = (215, 218, 224)
STRONG: Colour = (205, 80, 40)
PLAIN = {
    "\N{MULTIPLICATION SIGN}": "x",
    "\N{MINUS SIGN}": "-",
    "\N{EN DASH}": "-",
    "\N{EM DASH}": "-",
    "\N{RIGHTWARDS ARROW}": "->",
}
SMALLEST_FONT = 12
SMALLEST_TILE = 48
SMALLEST_FIGURE = 128


# Text


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


@cache
def _drawable(character: str) -> str:
    """The character as Pillow's built-in font can draw it: "é" loses its accent, a long dash is short."""
    if character.isspace():
        return " "
    font, absent = _font(20), "\ue000"
    shape = bytes(font.getmask(character)), font.getlength(character)
    if shape != (bytes(font.getmask(absent)), font.getlength(absent)):
        return character
    folded = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return PLAIN.get(character) or folded or "?"


def compact(value: float) -> str:
    """A number in three significant digits and few characters: 0.12, -3.4, 1.2e-5."""
    mantissa, _, exponent = f"{float(f'{value:.3g}') + 0.0:g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def text_width(text: str, size: int) -> int:
    """The pixels that a text takes from left to right; the ink may reach a little past the last advance."""
    return max(math.ceil(_font(size).getlength(text)), math.ceil(_font(size).getbbox(text)[2]))


def shorten(text: str, size: int, width: int) -> str:
    """The text, or as much of its beginning as fits `width` pixels with an ellipsis, or ""."""
    text = "".join(map(_drawable, text))
    if text_width(text, size) <= width:
        return text
    fitting = bisect_right(range(len(text)), width, key=lambda end: text_width(text[:end] + "…", size))
    return text[: fitting - 1].rstrip() + "…" if fitting else ""


def line_height(size: int) -> int:
    """The height in pixels of a line of text in a font of `size` pixels."""
    return sum(_font(size).getmetrics())


def text_line(
    text: str, size: int, width: int, align: Literal["left", "centre", "right"] = "left", colour: Colour = INK
) -> Pixels:
    """One line of text, shortened to `width`, on white: (line_height(size), width, 3) uint8."""
    canvas = PillowImage.new("RGB", (width, line_height(size)), WHITE)
    text = shorten(text, size, width)
    spare = width - text_width(text, size)
    left = {"left": 0, "centre": spare // 2, "right": spare}[align]
    ImageDraw.Draw(canvas).text((left, 0), text, colour, _font(size))
    return np.asarray(canvas)


def font_size(height: int, width: int) -> int:
    """A font size in pixels that suits a picture: a thirty-second of its height, at least 12."""
    return max(SMALLEST_FONT, round(min(height, 2 * width) / 32))


# Composition


def _paste(canvas: Pixels, pixels: Pixels, top: int, left: int) -> None:
    canvas[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels


def _canvas(height: int, width: int, colour: Colour = WHITE) -> Pixels:
    return np.full((height, width, 3), colour, dtype=np.uint8)


def _enlarged(pixels: Pixels, factor: int) -> Pixels:
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def beside(*parts: Pixels, gap: int = 8, background: Colour = WHITE) -> Pixels:
    """The parts from left to right, their tops in line, `gap` pixels apart."""
    width = sum(part.shape[1] for part in parts) + gap * (len(parts) - 1)
    canvas, left = _canvas(max(part.shape[0] for part in parts), width, background), 0
    for part in parts:
        _paste(canvas, part, 0, left)
        left += part.shape[1] + gap
    return canvas


def below(*parts: Pixels, gap: int = 8, background: Colour = WHITE) -> Pixels:
    """The parts from top to bottom, their left edges in line, `gap` pixels apart."""
    turned = [part.transpose(1, 0, 2) for part in parts]
    return np.ascontiguousarray(beside(*turned, gap=gap, background=background).transpose(1, 0, 2))


def framed(pixels: Pixels, margin: int, background: Colour = WHITE) -> Pixels:
    """The pixels with a margin on all four sides."""
    height, width = pixels.shape[:2]
    canvas = _canvas(height + 2 * margin, width + 2 * margin, background)
    _paste(canvas, pixels, margin, margin)
    return canvas


# Heat maps


def desaturated(pixels: Pixels, amount: float = 0.7) -> Pixels:
    """The pixels moved towards their Rec. 601 grey by `amount` (0..1): colours laid on top stay legible."""
    grey = pixels @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    return np.rint(pixels + np.float32(amount) * (grey[..., None] - pixels)).astype(np.uint8)


def overlay(
    image: Image,
    heat: NDArray[Any],
    colourmap: str = "blue-red",
    alpha: float = 0.6,
    low: float | None = None,
    high: float | None = None,
) -> Image:
    """The picture under its heat map, at the picture's size.

    `heat` is (height, width) at the size of the picture. Every pixel is
    (1 - alpha) * desaturated(picture) + alpha * colourise(heat); where the heat is NaN the picture shows
    through. `low` and `high` are completed by `limits`: for a diverging map zero stays in the middle.
    """
    base = desaturated(image.pixels)
    colours = colourise(heat, colourmap, low, high)
    mixed = np.rint(base + np.float32(alpha) * (colours - base.astype(np.float32))).astype(np.uint8)
    mixed[np.isnan(heat)] = base[np.isnan(heat)]
    return image.repainted(mixed)


def legend(height: int, low: float, high: float, colourmap: str, label: str = "", size: int = 0) -> Pixels:
    """A vertical scale, (height, some width, 3) uint8: `high` at the top, `low` below, zero if inside.

    `label` runs upwards along the numbers, shortened to the height. `size` is that of the font in pixels;
    0 means font_size(height).
    """
    size = size or font_size(height, height)
    line = line_height(size)
    ticks = [(high, 0), (low, height - 1)]
    if low < 0 < high:
        ticks.append((0.0, round(high / (high - low) * (height - 1))))
    # What is nothing beside the whole scale reads better as 0 than as 4.7e-17.
    seen = [(value if abs(value) * 1000 > high - low else 0.0, at) for value, at in ticks]
    numbers = [(compact(value), at, min(max(at - line // 2, 0), height - line)) for value, at in seen]
    width = max(text_width(number, size) for number, _, _ in numbers)

    rows = np.rint(np.linspace(256, 0, height)).astype(np.intp)
    bar = table(colourmap)[rows][:, None].repeat(size, axis=1)
    scale = _canvas(height, 2 + size // 2 + width)
    free = np.ones(height, dtype=bool)
    for number, at, top in numbers:
        if top >= 0 and free[top : top + line].all():
            scale[max(at - size // 16, 0) : at + size // 16 + 1, : size // 3] = INK
            _paste(scale, text_line(number, size, width), top, 2 + size // 2)
            free[top : top + line] = False
    if not label:
        return beside(bar, scale, gap=0)
    upwards = np.rot90(text_line(label, size, height, "centre"))
    return beside(bar, scale, upwards, gap=size // 4)


def figure(
    pixels: Pixels,
    caption: str = "",
    colourmap: str = "",
    low: float = 0.0,
    high: float = 1.0,
    label: str = "",
) -> Pixels:
    """A picture with a line of text above it and, if `colourmap` is given, the legend of that map beside it.

    The picture, (height, width, 3), is shown pixel by pixel; one below 128 pixels is enlarged by a whole
    number. The caption is shortened to the width of the figure.
    """
    body = _enlarged(pixels, _enlargement(*pixels.shape[:2]))
    size = font_size(*body.shape[:2])
    if colourmap:
        room = max(body.shape[0], 4 * line_height(size))
        body = beside(body, legend(room, low, high, colourmap, label, size), gap=size)
    parts = [text_line(caption, size, body.shape[1]), body] if caption else [body]
    return framed(below(*parts, gap=size // 2), margin=size)


def _enlargement(height: int, width: int) -> int:
    return max(1, SMALLEST_FIGURE // max(height, width))


def _body(height: int, width: int, caption: str) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a picture of a size inside its figure."""
    factor = _enlargement(height, width)
    height, width = factor * height, factor * width
    size = font_size(height, width)
    above = line_height(size) + size // 2 if caption else 0
    return size + above, size, height, width


def heat_figure(
    image: Image,
    heat: NDArray[Any],
    caption: str = "",
    label: str = "",
    colourmap: str = "blue-red",
    alpha: float = 0.6,
    low: float | None = None,
    high: float | None = None,
) -> Image:
    """The picture overlaid with its heat map, with caption, legend and scale: `overlay` inside a `figure`."""
    low, high = limits(heat, colourmap, low, high)
    laid = overlay(image.flattened(), heat, colourmap, alpha, low, high)
    whole = image.with_pixels(figure(laid.pixels, caption, colourmap, low, high, label))
    return replace(whole, inset=_body(*image.size, caption))


# Many pictures


def grid(
    tiles: Sequence[Pixels] | Pixels,
    columns: int | None = None,
    padding: int = 2,
    background: Colour = WHITE,
    captions: Sequence[str] = (),
) -> Pixels:
    """Tiles of one size, (height, width, 3) each, row by row on a sheet that is nearly square.

    Tiles below 48 pixels are enlarged by a whole number f, to the nearest pixel. Tile k stands at
    row r = k // columns, column c = k % columns: its top left pixel at
    (padding + r * (f * height + padding + line), padding + c * (f * width + padding)), where `line` is
    the height of the captions, which stand below their tiles (0 without captions).
    """
    height, width = tiles[0].shape[:2]
    factor = max(1, math.ceil(SMALLEST_TILE / max(height, width)))
    columns = columns or near_square(len(tiles), height / width)
    size = font_size(4 * factor * height, 4 * factor * width)
    line = line_height(size) if captions else 0
    down, across = factor * height + line + padding, factor * width + padding
    sheet = _canvas(math.ceil(len(tiles) / columns) * down + padding, columns * across + padding, background)
    for k, tile in enumerate(tiles):
        top, left = padding + k // columns * down, padding + k % columns * across
        _paste(sheet, _enlarged(tile, factor), top, left)
        if captions:
            text = text_line(captions[k], size, factor * width, "centre")
            _paste(sheet, text, top + factor * height, left)
    return sheet


def near_square(count: int, ratio: float = 1.0) -> int:
    """The number of columns that makes `count` tiles of height / width = `ratio` a nearly square sheet."""
    return min(count, max(1, math.ceil(math.sqrt(count * ratio))))


def contact_sheet(
    pictures: Sequence[tuple[str, Image]], columns: int | None = None, width: int = 1200, title: str = ""
) -> Image:
    """Titled pictures of any sizes in equal cells, about `width` pixels wide, on white.

    Each picture is fitted whole into its cell: reduced, or enlarged by a whole number.
    """
    ratios = [image.height / image.width for _, image in pictures]
    ratio = min(max(float(np.median(ratios)), 0.25), 2.0)
    columns = min(columns or near_square(len(pictures), ratio), len(pictures))
    size = max(SMALLEST_FONT, min(round(width / 70), round(width / columns / 16)))
    margin = 2 * size
    across = max(SMALLEST_TILE, (width - margin) // columns - margin)
    down = round(across * ratio)
    cells = [
        below(text_line(name, size, across), fitted(image.flattened().pixels, down, across), gap=size // 3)
        for name, image in pictures
    ]
    cells += [_canvas(*cells[0].shape[:2])] * (-len(cells) % columns)
    rows = [beside(*cells[k : k + columns], gap=margin) for k in range(0, len(cells), columns)]
    sheet = below(*rows, gap=margin)
    if title:
        sheet = below(text_line(title, round(1.5 * size), sheet.shape[1]), sheet, gap=size)
    return Image.load(framed(sheet, margin))


def fitted(pixels: Pixels, down: int, across: int) -> Pixels:
    """The whole picture as large as fits, at the top left of a white cell of (down, across) pixels."""
    height, width = pixels.shape[:2]
    fit = min(down / height, across / width)
    if fit >= 1:
        pixels = _enlarged(pixels, int(fit))
    else:
        box = max(1, round(width * fit)), max(1, round(height * fit))
        pixels = np.asarray(PillowImage.fromarray(pixels).resize(box, PillowImage.Resampling.BOX))
    cell = _canvas(down, across)
    _paste(cell, pixels, 0, 0)
    return cell


# Charts


def bars(
    values: ArrayLike,
    labels: Sequence[str] | None = None,
    top: int = 5,
    title: str = "",
    height: int = 320,
    width: int = 640,
) -> Pixels:
    """A bar chart of (n,) values in the order of their index, (height, width, 3) uint8.

    The `top` values of largest magnitude are named, by `labels` or their index. Where there are more
    values than pixels, a pixel shows the highest and the lowest of its values. Values that are not finite
    count as 0.
    """
    array = np.asarray(values, dtype=np.float64).ravel()
    array = np.where(np.isfinite(array), array, 0.0)
    low, high = min(0.0, float(array.min())), max(0.0, float(array.max()))
    size = font_size(height, width)
    line = line_height(size)
    largest = np.argsort(-np.abs(array), kind="stable")[: min(top, height // (3 * line))]
    named = sorted(int(index) for index in largest if array[index] != 0)

    numbers = max(text_width(compact(value), size) for value in (low, high))
    left, right = numbers + 2 * size, width - size
    header = size + (line + size // 2 if title else 0)
    ceiling, floor = header + len(named) * line + size // 4, height - size - line
    columns = min(array.size, right - left)

    def x(column: int) -> int:
        return left + column * (right - left) // columns

    def y(value: float) -> int:
        return round(floor - (floor - ceiling) * (value - low) / ((high - low) or 1.0))

    canvas = PillowImage.new("RGB", (width, height), WHITE)
    draw = ImageDraw.Draw(canvas)

    def write(text: str, at: int, to: int, middle: int, align: Literal["left", "centre", "right"]) -> None:
        canvas.paste(PillowImage.fromarray(text_line(text, size, to - at, align)), (at, middle - line // 2))

    # A column spans from the lowest to the highest of its values, and always reaches the zero line.
    starts = np.arange(columns) * array.size // columns
    lows = np.minimum(np.minimum.reduceat(array, starts), 0.0)
    highs = np.maximum(np.maximum.reduceat(array, starts), 0.0)
    homes = {index: int(np.searchsorted(starts, index, side="right")) - 1 for index in named}
    for column in range(columns):
        end = x(column + 1) - (2 if x(column + 1) - x(column) > 3 else 1)
        colour = STRONG if column in homes.values() else PALE
        draw.rectangle((x(column), y(highs[column]), end, y(lows[column])), fill=colour)
    draw.line((left, y(0.0), right - 1, y(0.0)), fill=INK)

    # Names stand in rows of their own, the leftmost on top, so that few leaders pass through a name.
    for row, (index, column) in enumerate(homes.items()):
        middle = (x(column) + x(column + 1) - 1) // 2
        text = f"{labels[index] if labels else index}: {compact(array[index])}"
        centre = header + row * line + line // 2
        draw.line((middle, centre, middle, y(highs[column]) - 1), fill=FAINT)
        start = min(middle + 3, right - text_width(shorten(text, size, right - left), size))
        write(text, start, right, centre, "left")

    for value in {low, 0.0, high}:
        if value in (low, high) or min(y(low) - y(0.0), y(0.0) - y(high)) > line:
            write(compact(value), size, size + numbers, y(value), "right")
            draw.line((left - size // 2, y(value), left - 2, y(value)), fill=INK)
    write("0", left, (left + right) // 2, floor + line // 2 + size // 2, "left")
    if array.size > 1:
        write(str(array.size - 1), (left + right) // 2, right, floor + line // 2 + size // 2, "right")
    if title:
        write(title, size, right, size // 2 + line // 2, "left")
    return np.asarray(canvas)
