"""Grids with headings: where the tiles lie, and what stands in place of a picture."""

from typing import Any

import numpy as np

from cnnkit import Image
from cnnkit.images.drawing import FAINT, line_height, text_line
from cnnkit.images.headed import Headings, Words, headed_grid, text_block

RED, GREEN, BLUE, GREY = (200, 0, 0), (0, 200, 0), (0, 0, 200), FAINT


def flat(colour: tuple[int, int, int], height: int = 60, width: int = 40) -> Image:
    return Image(np.full((height, width, 3), colour, np.uint8))


def box(sheet: Any, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) of the pixels of a colour."""
    rows, columns = np.nonzero((sheet == colour).all(-1))
    return int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1


def test_tiles_lie_in_rows_and_columns_and_fill_their_width() -> None:
    grid = [[flat(RED), flat(GREEN)], [flat(BLUE), Words("too large")]]
    sheet = headed_grid(Headings("size", ["1", "2"]), Headings("style", ["a", "b"]), grid, "t", 400).pixels
    red, green, blue, grey = (box(sheet, colour) for colour in (RED, GREEN, BLUE, GREY))
    assert red[0] == green[0] and red[1] == blue[1] and green[1] == grey[1] and blue[0] == grey[0]
    assert red[3] < green[1] and red[2] < blue[0]
    for top, left, bottom, right in (red, green, blue, grey):
        assert (bottom - top, right - left) == (180, 120)  # enlarged three times
    inside = sheet[grey[0] : grey[2], grey[1] : grey[3]]
    assert inside.min() < 100 and (inside == FAINT).all(-1).mean() > 0.9


def test_large_pictures_are_reduced_and_narrow_ones_centred() -> None:
    grid = [[flat(RED, 300, 300), flat(GREEN, 900, 300)]]
    sheet = headed_grid(Headings("", [""]), Headings("", ["a", "b"]), grid, "", 500).pixels
    red, green = box(sheet, RED), box(sheet, GREEN)
    width = red[3] - red[1]
    assert 220 < width < 250 and red[2] - red[0] == width
    assert abs(green[2] - green[0] - 2 * width) <= 1 and abs(green[3] - green[1] - 2 / 3 * width) <= 1
    second = red[3] + 8
    assert abs((green[1] - second) - (second + width - green[3])) <= 1


def test_headings_are_broken_and_shortened() -> None:
    line = line_height(12)
    assert text_block("one", 12, 200).shape == (line, 200, 3)
    broken = text_block("one two", 12, 30)
    assert np.array_equal(broken, np.concatenate([text_line(word, 12, 30) for word in ("one", "two")]))
    cut = text_block("one two three four five six", 12, 40, most=2)
    assert cut.shape == (2 * line, 40, 3)
    assert np.array_equal(cut[line:], text_line("two three four five six", 12, 40))
