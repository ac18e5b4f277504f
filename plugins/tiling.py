"""Large pictures in pieces: where the tiles lie, and the picture that their results make.

A tile is as much of a picture as a network sees at once. Of what it makes of it, the halo along each side
that was cut is thrown away; sides at the picture's border stay. Where the rest is not what the whole picture
would give either, neighbours fade into each other.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise, zip_longest
from math import ceil
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnnkit import Reach, UsageError

Array = NDArray[np.float32]


class Piece(NamedTuple):
    """A tile along one axis: what it shows, and what becomes of its result."""

    pixels: NDArray[np.intp]
    """Of the picture, mirrored at its borders."""
    part: slice
    """Of the tile's result, which is used."""
    place: slice
    """Where that goes."""
    weights: Array
    """Of each number of it; those of all tiles add up to 1."""


@dataclass(frozen=True)
class Axis:
    """A picture along one axis, and a network that makes `scale` numbers of each pixel, less `missing`.

    Tiles begin at multiples of `stride` in the picture with its mirrored margins, and have `smallest` pixels
    at least, or `fixed` ones.
    """

    length: int
    scale: Fraction
    missing: int
    stride: int
    smallest: int
    fixed: int | None

    @staticmethod
    def both(
        size: tuple[int, int], reach: Reach, fixed: tuple[int | None, int | None]
    ) -> tuple["Axis", "Axis"]:
        """Down and across a picture of a size."""
        described = (size, reach.scale, reach.missing, reach.stride, reach.smallest, fixed)
        rows, columns = (Axis(*one) for one in zip(*described, strict=True))
        return rows, columns

    @property
    def made(self) -> int:
        """Numbers of the result."""
        return ceil(self.length * self.scale)

    @property
    def margin(self) -> int:
        """Mirrored pixels in front of the picture, from which the numbers are made that are missing there."""
        whole_numbers = self.scale.denominator
        return max(0, ceil(self.missing // 2 / self.scale / whole_numbers)) * whole_numbers

    @property
    def skipped(self) -> int:
        """Numbers in front of the result."""
        return int(self.margin * self.scale) - self.missing // 2

    @property
    def whole(self) -> int:
        """Pixels of the picture with its margins."""
        numbers = self.skipped + self.made + self.missing
        needed = max(self.smallest, self.margin + self.length, ceil(numbers / self.scale))
        least = self.fixed or 0
        return least + self._rounded(max(0, needed - least))

    def pieces(self, side: int, halo: int, ramp: int = 0) -> list[Piece]:
        """Tiles of equal size, at most `side` pixels, of which `halo` are thrown away where they were cut.

        Two neighbours fade into each other over `ramp` pixels. Raises UsageError where a tile is all halo.
        """
        halo = self._rounded(max(halo, ceil(self.missing / self.scale)))
        shared = 2 * halo + self._rounded(ramp)
        tile = self.fixed or min(self.whole, max(side // self.stride, 1) * self.stride)
        if tile < self.whole and tile < shared + self.stride:
            raise UsageError(
                f"tiles of {tile} pixels are too small for a halo of {halo} on both sides"
                f"{f' and {shared - 2 * halo} to blend them' if ramp else ''}: take "
                + ("a smaller --halo" if self.fixed else f"--tile {shared + self.stride} or more")
            )
        count = 1 + ceil((self.whole - tile) / max(1, tile - shared))
        if not self.fixed:
            tile = self._rounded((self.whole + (count - 1) * shared) / count)
        starts = [min(number * (tile - shared), self.whole - tile) for number in range(count)]
        rises = [np.ones(self.made, np.float32)]
        rises += [self._rise(start + halo, shared - 2 * halo) for start in starts[1:]]
        rises += [np.zeros(self.made, np.float32)]
        return [
            self._piece(start, tile, before - after)
            for start, (before, after) in zip(starts, pairwise(rises), strict=True)
        ]

    def _rounded(self, pixels: float) -> int:
        """To the next multiple of the stride."""
        return ceil(pixels / self.stride) * self.stride

    def _rise(self, begin: int, ramp: int) -> Array:
        """From 0 to 1 along the result, over the pixels from `begin` on."""
        first, length = int(begin * self.scale) - self.skipped, int(ramp * self.scale)
        centres = np.arange(self.made, dtype=np.float32) + np.float32(0.5) - first
        return np.clip(centres / length, 0, 1) if length else (centres > 0).astype(np.float32)

    def _piece(self, start: int, tile: int, weights: Array) -> Piece:
        (used,) = np.nonzero(weights)
        place = slice(int(used[0]), int(used[-1]) + 1)
        ahead = self.skipped - int(start * self.scale)
        pixels = mirrored(np.arange(start, start + tile) - self.margin, self.length)
        return Piece(pixels, slice(place.start + ahead, place.stop + ahead), place, weights[place])


def mirrored(places: NDArray[np.intp], length: int) -> NDArray[np.intp]:
    """Places along an axis, those outside of it mirrored at its first and last pixel, again and again."""
    period = max(1, 2 * (length - 1))
    return length - 1 - np.abs(length - 1 - places % period)


def assembled(
    rows: Sequence[Piece], columns: Sequence[Piece], results: Iterable[Array]
) -> Iterator[tuple[int, Array]]:
    """The picture that the results (height, width, channels) of all tiles make, row of tiles by row of tiles.

    Yields (its first line, strip), as soon as no further tile touches it.
    """
    remaining, waiting = iter(results), None
    for row, following in zip_longest(rows, rows[1:]):
        parts = [(column, next(remaining)[row.part, column.part]) for column in columns]
        strip = np.zeros((len(row.weights), columns[-1].place.stop, parts[0][1].shape[-1]), np.float32)
        for column, values in parts:
            strip[:, column.place] += values * row.weights[:, None, None] * column.weights[:, None]
        if waiting is not None:
            strip[: len(waiting)] += waiting
        done = (following.place.start if following else row.place.stop) - row.place.start
        yield row.place.start, strip[:done]
        waiting = strip[done:]
