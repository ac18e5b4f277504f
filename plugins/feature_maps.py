"""The maps of one layer on one picture, their statistics, and how they are drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnnkit import Geometry, Image, Layer, Preprocessing, drawing
from cnnkit.plugins.tiles import (
    LARGEST_SHEET,
    Pixels,
    columns_for,
    fitted,
    flat,
    readable,
    some_of,
    tile_size,
    titled,
)

RECTIFIERS = frozenset("Relu LeakyRelu PRelu ThresholdedRelu Elu Celu Selu Gelu HardSwish Swish Mish".split())
"""Operators behind which a channel that never comes above zero has nothing to say."""

OPACITY = 0.6
"""Of a map on the picture."""

MARKED = 72
"""Width of a tile, in pixels, from which on its caption has room to say that it is dead."""

Reduction = Literal["mean", "max", "sum"]


def maps_of(values: NDArray[Any], channels_last: bool = False) -> NDArray[np.float32]:
    """A layer's output as (channels, height, width) float32.

    Of rank 4: (batch, channels, height, width), or the channels last. A lower rank has one map of its last
    two sizes, or maps of one pixel; more sizes in front, a batch of the network's own too, are more channels.
    """
    if values.ndim == 4 and channels_last:
        values = np.moveaxis(values, -1, 1)
    if values.ndim < 3:
        values = values.reshape(-1, 1, 1)
    return np.ascontiguousarray(values.reshape(-1, *values.shape[-2:]), dtype=np.float32)


@dataclass(frozen=True)
class Activation:
    """What one layer makes of one picture: `values` as the network gives them, and `maps`,
    (channels, height, width) float32, as they are read."""

    layer: Layer
    values: NDArray[Any]
    maps: NDArray[np.float32]

    @property
    def channels(self) -> int:
        return len(self.maps)

    @property
    def is_dense(self) -> bool:
        """Whether there is one number per channel, and nothing to see in space."""
        return self.maps.shape[1:] == (1, 1)

    @cached_property
    def constant(self) -> NDArray[np.bool_]:
        """(channels,): whether the map is the same everywhere."""
        return np.asarray(self.maps.min(axis=(1, 2)) == self.maps.max(axis=(1, 2)))

    @cached_property
    def dead(self) -> NDArray[np.bool_]:
        """(channels,): whether the channel is dead on this picture; `activations` has the definition."""
        highest = self.maps.max(axis=(1, 2))
        dead = self.constant & ((highest == 0) | (not self.is_dense))
        return np.asarray(dead | (highest <= 0) if self.layer.operator in RECTIFIERS else dead)

    def order(self, strongest: bool) -> NDArray[np.intp]:
        """All channels by index, or the one of the highest mean magnitude first."""
        if not strongest:
            return np.arange(self.channels)
        return np.argsort(-np.abs(self.maps).mean(axis=(1, 2)), kind="stable")

    def reduced(self, reduction: Reduction) -> NDArray[np.float32]:
        """(height, width): the mean, the maximum or the sum over the channels."""
        reduced: NDArray[np.float32] = getattr(self.maps, reduction)(axis=0)
        return reduced

    def statistics(self) -> dict[str, Any]:
        return {
            "name": self.layer.name,
            "index": self.layer.index,
            "operator": self.layer.operator,
            "shape": list(self.values.shape),
            "channels": self.channels,
            "min": float(self.maps.min()),
            "max": float(self.maps.max()),
            "mean": float(self.maps.mean(dtype=np.float64)),
            "dead_channels": int(self.dead.sum()),
            "dead": np.flatnonzero(self.dead).tolist(),
        }


Limits = tuple[float | None, float | None]


class Ground(NamedTuple):
    """A picture to lay maps on, and how a map over the network's input finds its place there."""

    picture: Image
    geometry: Geometry

    @classmethod
    def of(cls, picture: Image, preprocessing: Preprocessing, longest: int) -> "Ground":
        """The picture with no side above `longest` pixels."""
        small = shrunk(picture.flattened(), longest)
        return cls(small, preprocessing.apply(small).geometry)

    def under(self, heat: NDArray[np.float32], colourmap: str, limits: Limits) -> Pixels:
        """The picture under a map, enlarged bilinearly; bare where the network did not look."""
        low, high = drawing.limits(heat, colourmap, *limits)
        laid = drawing.overlay(
            self.picture, self.geometry.to_picture(heat, np.nan), colourmap, OPACITY, low, high
        )
        return laid.pixels


@dataclass(frozen=True)
class Look:
    """How maps become tiles: by colour, each at its own scale or all at that of their layer.

    `ground` is what the maps are laid on, None for maps by themselves. A map that is the same everywhere is
    flat mid grey, also where the scale is common.
    """

    colourmap: str = "viridis"
    common: bool = False
    ground: Ground | None = None

    def sheet(self, activation: Activation, channels: Sequence[int]) -> Pixels:
        """All of `channels` with their indices, a caption, and the legend of a common scale."""
        columns = columns_for(len(channels), self._ratio(activation))
        tiles = self._tiles(activation, channels, columns, LARGEST_SHEET)
        mark = " dead" if tiles[0].shape[1] >= MARKED else ""
        captions = [f"{channel}{mark if activation.dead[channel] else ''}" for channel in channels]
        sheet = drawing.grid(tiles, columns, 4, captions=captions)
        caption = f"{titled(activation.layer)}, " + described(
            activation, some_of(len(channels), activation.channels, "channel")
        )
        if not self.common:
            return drawing.figure(sheet, caption + ", each at its own scale")
        return drawing.figure(sheet, caption, self.colourmap, *self._limits(activation), "activation")

    def cell(self, activation: Activation, channels: Sequence[int], across: int) -> Pixels:
        """The first of `channels`, as many as can be read in about `across` pixels, drawn twice as large."""
        channels = channels[: readable(across)]
        columns = columns_for(len(channels), self._ratio(activation))
        return drawing.grid(self._tiles(activation, channels, columns, 2 * across), columns, 6)

    def reduced(self, activation: Activation, reduction: Reduction) -> tuple[Pixels, Pixels]:
        """One map over all channels: with caption and legend, and by itself."""
        heat = activation.reduced(reduction)
        limits = drawing.limits(heat, self.colourmap)
        channels = some_of(activation.channels, activation.channels, "channel")
        caption = f"{titled(activation.layer)}, " + described(activation, f"{reduction} of {channels}")
        pixels = self._drawn(heat, bool(heat.min() == heat.max()), limits)
        label = f"{reduction} of the activations"
        return drawing.figure(pixels, caption, self.colourmap, *limits, label), pixels

    def dense(self, activation: Activation, labels: Sequence[str]) -> tuple[Pixels, Pixels]:
        """One bar per unit, large with the highest ten named, and small.

        The names are `labels` where the layer has one unit for each, else indices.
        """
        names = labels if len(labels) == activation.channels else None
        values = activation.maps.ravel()
        title = f"{titled(activation.layer)}, {described(activation)}"
        large = drawing.bars(values, names, 10, title, height=480, width=800)
        return large, drawing.bars(values, names, 5, height=300, width=480)

    def _tiles(
        self, activation: Activation, channels: Sequence[int], columns: int, sheet: int
    ) -> list[Pixels]:
        """One tile for each of `channels`, all of one size, `columns` of them across `sheet` pixels."""
        size = tile_size(self._ratio(activation), columns, sheet)
        limits = self._limits(activation) if self.common else (None, None)
        return [
            fitted(self._drawn(activation.maps[channel], bool(activation.constant[channel]), limits), *size)
            for channel in channels
        ]

    def _limits(self, activation: Activation) -> tuple[float, float]:
        return drawing.limits(activation.maps, self.colourmap)

    def _ratio(self, activation: Activation) -> float:
        """height / width of a tile."""
        pixels = self.ground.picture.pixels if self.ground else activation.maps[0]
        return float(pixels.shape[0] / pixels.shape[1])

    def _drawn(self, values: NDArray[np.float32], constant: bool, limits: Limits) -> Pixels:
        if constant:
            return flat(self.ground.picture.pixels[..., 0] if self.ground else values)
        if self.ground:
            return self.ground.under(values, self.colourmap, limits)
        return drawing.colourise(values, self.colourmap, *limits)


def described(activation: Activation, counted: str = "") -> str:
    """How large the maps are, `counted` (how many are shown, say), and how many of all are dead."""
    height, width = activation.maps.shape[1:]
    units = some_of(activation.channels, activation.channels, "unit")
    dead = int(activation.dead.sum())
    size = units if activation.is_dense else f"{height}x{width}"
    return ", ".join(filter(None, [size, counted, f"{dead} dead" if dead else ""]))


def shrunk(picture: Image, longest: int) -> Image:
    """The picture with no side above `longest` pixels; itself where it is small enough."""
    scale = longest / max(picture.size)
    if scale >= 1:
        return picture
    return picture.resized(
        max(1, round(picture.height * scale)), max(1, round(picture.width * scale)), "area"
    )
