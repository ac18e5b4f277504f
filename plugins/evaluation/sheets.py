"""Pictures beside where the network looked: for the truth, and for the class that it is compared with."""

from collections.abc import Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import NamedTuple

from cnnkit import CnnkitError, Context, Image, Model, drawing, label_of
from cnnkit.plugins.evaluation.judging import Judged
from cnnkit.plugins.explaining import short

SIDE = 320
"""The longer side of what is kept of a picture."""
TILE = 200
"""Of a tile on the sheets, in pixels."""
WIDTH = 1300
"""Of a sheet, in pixels, at most."""
TALLEST = 1.5
"""The height of a tile by its width, at most."""
FONT = 14
MUTED = (110, 118, 132)
INSTEAD = "occlusion"
"""Explains any network."""


class Row(NamedTuple):
    """A picture and its heat maps, each of at most SIDE pixels and with what it shows.

    The first map is for the truth, the second for the other class: the predicted one, or the one that came
    next where the network was right.
    """

    file: str
    caption: str
    tiles: tuple[tuple[str, Image], ...]


class Section(NamedTuple):
    """Rows under a heading."""

    title: str
    rows: tuple[Row, ...]


class Explainer:
    """Makes rows. A method that does not suit the network is replaced, which is said once."""

    def __init__(self, folder: Path, model: Model, method: str, context: Context) -> None:
        self.method = method
        self._folder, self._model, self._context = folder, model, context

    def section(self, title: str, pictures: Sequence[Judged]) -> Section:
        rows = self._context.progress(map(self._row, pictures), len(pictures), title.lower())
        return Section(title, tuple(rows))

    def _row(self, one: Judged) -> Row:
        picture = Image.load(self._folder / one.file)
        other = (one.second, one.of_second) if one.right else (one.predicted, one.probability)
        shown = dict([(one.truth, one.of_truth), other])
        maps = zip(map(self._name, shown), self._maps(picture, tuple(shown)), strict=False)
        tiles = [("", picture.flattened()), *maps]
        between = ", then " if one.right else ", taken for "
        caption = between.join(f"{self._name(index)} {value:.2f}" for index, value in shown.items())
        return Row(one.file, caption, tuple((name, _small(tile)) for name, tile in tiles))

    def _name(self, index: int) -> str:
        return short(label_of(index, self._model.labels))

    def _maps(self, picture: Image, targets: Sequence[int]) -> list[Image]:
        """One for each target; none where the user wants none."""
        if self.method == "none":
            return []
        words = ",".join(map(str, targets))
        try:
            result = self._context.run(self.method, picture, self._model, target=words, plain=True)
        except CnnkitError as error:
            if self.method == INSTEAD:
                raise
            self._context.say(f"{str(error).rstrip('.')}. The heat maps are of {INSTEAD} instead.")
            self.method = INSTEAD
            return self._maps(picture, targets)
        return list(result.pictures.values())


def right(pictures: Sequence[Judged], count: int) -> list[Judged]:
    """Some of the right ones: of each class in turn the one that the network was least sure of."""
    classes: dict[int, list[Judged]] = {}
    for one in sorted(pictures, key=lambda one: (one.truth, one.probability, one.file)):
        if one.right:
            classes.setdefault(one.truth, []).append(one)
    in_turn = chain.from_iterable(zip_longest(*classes.values()))
    return [one for one in in_turn if one is not None][:count]


def sheet(section: Section) -> Image:
    """Its rows below each other; as many side by side as the width has room for where there are many."""
    drawn = [_drawn(row) for row in section.rows]
    columns = WIDTH // max(row.shape[1] for row in drawn) if len(drawn) > 3 else 1
    lines = [drawing.beside(*drawn[at : at + columns], gap=3 * FONT) for at in range(0, len(drawn), columns)]
    body = drawing.below(*lines, gap=2 * FONT)
    title = drawing.text_line(section.title, round(1.4 * FONT), body.shape[1])
    return Image.load(drawing.framed(drawing.below(title, body, gap=FONT), 2 * FONT))


def _drawn(row: Row) -> drawing.Pixels:
    down = max(round(TILE * min(tile.height / tile.width, TALLEST)) for _, tile in row.tiles)
    tiles = []
    for words, tile in row.tiles:
        fitted = drawing.fitted(tile.pixels, down, TILE)
        tiles.append(drawing.below(fitted, drawing.text_line(words, FONT, TILE), gap=2))
    body = drawing.beside(*tiles, gap=6)
    above = [
        drawing.text_line(row.caption, FONT, body.shape[1]),
        drawing.text_line(row.file, FONT, body.shape[1], colour=MUTED),
    ]
    return drawing.below(*above, body, gap=2)


def _small(picture: Image) -> Image:
    factor = min(1, SIDE / max(picture.size))
    return picture.resized(max(1, round(factor * picture.height)), max(1, round(factor * picture.width)))
