"""The contact sheets of a sweep: its pictures under what they were made with, read from where they lie."""

import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np

from cnnkit.errors import CnnkitError
from cnnkit.host.grid import SOURCE, Axis, Cell, file_safe
from cnnkit.images import drawing
from cnnkit.images.headed import LARGEST_TILE, Headings, Words, headed_grid
from cnnkit.images.image import Image

WIDTH = 1600
"""Of a sheet, in pixels."""
MOST_IN_A_ROW = 6
MOST_SNAPSHOTS = 8
"""Evenly picked from the first to the last."""

NOTHING = Axis("", ("",))
"""Stands for an axis that is not there."""


def sheets(operation: str, axes: Sequence[Axis], cells: Sequence[Cell]) -> dict[str, Image]:
    """The sheets by the part of their name; none where there are no pictures.

    The axis that was given last goes across, the one before it down, and every value of the others has a
    sheet. "snapshots" has a row for each cell and in it the snapshots of its run, where it has some.
    """
    if not any(_picture(cell) for cell in cells):
        return {}
    varying = [axis for axis in axes if len(axis.values) > 1]
    *others, down, across = [NOTHING, NOTHING, *varying]
    others = [axis for axis in others if axis is not NOTHING]
    fixed = [axis for axis in axes if axis.name == SOURCE and axis not in varying]
    found = {}
    for numbers in product(*(range(len(axis.values)) for axis in others)):
        at = {axis.name: number for axis, number in zip(others, numbers, strict=True)}
        here = [cell for cell in cells if at.items() <= cell.numbers.items()]
        words = [f"{axis.title} {axis.words[at[axis.name]]}" for axis in others]
        part = ".".join(f"{axis.title}={file_safe(axis.words[at[axis.name]])}" for axis in others)
        found[part] = _sheet(down, across, here, _title(operation, fixed, words))
    if film := _film(varying, cells, _title(operation, fixed, [])):
        found["snapshots"] = film
    return found


def _title(operation: str, fixed: Sequence[Axis], words: Sequence[str]) -> str:
    of = "".join(f" of {axis.words[0]}" for axis in fixed)
    return ", ".join([f"{operation}{of}", *words])


def _sheet(down: Axis, across: Axis, cells: Sequence[Cell], title: str) -> Image:
    tiles = [_tile(cell, _picture(cell)) for cell in cells]
    count = len(across.values)
    if down is NOTHING and count > MOST_IN_A_ROW:
        return _folded(_headings(across), tiles, title)
    rows = [tiles[first : first + count] for first in range(0, len(tiles), count)]
    return headed_grid(_headings(down), _headings(across), rows, title, WIDTH)


def _folded(headings: Headings, tiles: Sequence[Image | Words], title: str) -> Image:
    """A long row in several, one below the other."""
    count = drawing.near_square(len(tiles), 1.8)
    name, strips = headings.name, []
    for first in range(0, len(tiles), count):
        part = slice(first, first + count)
        here = Headings(name, headings.values[part], headings.pictures[part])
        width = WIDTH * len(here.values) // count
        strips.append(headed_grid(_headings(NOTHING), here, [tiles[part]], title, width).pixels)
        name = title = ""
    return Image(drawing.below(*strips, gap=0))


def _film(axes: Sequence[Axis], cells: Sequence[Cell], title: str) -> Image | None:
    """The snapshots of each cell and its end, cells from top to bottom."""
    shots = [_snapshots(cell) for cell in cells]
    numbers = sorted({number for each in shots for number in each})
    if not numbers:
        return None
    if len(numbers) > MOST_SNAPSHOTS:
        places = np.linspace(0, len(numbers) - 1, MOST_SNAPSHOTS)
        numbers = [numbers[round(place)] for place in places]
    rows = [
        [*(_tile(cell, each.get(number)) for number in numbers), _tile(cell, _picture(cell))]
        for cell, each in zip(cells, shots, strict=True)
    ]
    names = ", ".join(axis.title for axis in axes)
    down = Headings(names, [", ".join(cell.words.values()) for cell in cells])
    return headed_grid(down, Headings("step", [*map(str, numbers), "end"]), rows, title, WIDTH)


def _headings(axis: Axis) -> Headings:
    return Headings(axis.title, axis.words, _small_pictures(axis))


def _small_pictures(axis: Axis) -> tuple[Image, ...]:
    """Of an axis of pictures, where all can be read."""
    if not axis.pictures or any(isinstance(value, list | tuple | None) for value in axis.values):
        return ()
    try:
        return tuple(_reduced(Image.load(value)) for value in axis.values)
    except CnnkitError:
        return ()


def _tile(cell: Cell, picture: Path | None) -> Image | Words:
    """The picture, or the words that say why there is none."""
    if picture is not None:
        return _reduced(Image.load(picture))
    if cell.manifest is not None:
        return Words("")
    return Words(str(cell.error) if cell.error else "not yet")


def _reduced(picture: Image) -> Image:
    """Small enough that a sheet of many fits into memory."""
    factor = 2 * LARGEST_TILE / max(picture.size)
    if factor >= 1:
        return picture
    height, width = (max(1, round(side * factor)) for side in picture.size)
    return picture.resized(height, width, "area")


def _picture(cell: Cell) -> Path | None:
    """The main picture of a cell, or else its first one."""
    names = _pictures(cell)
    main = f"{cell.place.stem.name}{cell.place.suffix}"
    return cell.place.stem.with_name(main if main in names else names[0]) if names else None


def _snapshots(cell: Cell) -> dict[int, Path]:
    """The pictures step0100 and so on, by their number."""
    found = ((re.search(r"\.step(\d+)\.\w+$", name), name) for name in _pictures(cell))
    return {int(match[1]): cell.place.stem.with_name(name) for match, name in found if match}


def _pictures(cell: Cell) -> list[str]:
    outputs = cell.manifest["outputs"] if cell.manifest else ()
    return [name for name in outputs if name.endswith(cell.place.suffix)]
