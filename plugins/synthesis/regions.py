"""Regions: where in the result a style is painted, and from where in its picture it is taken.

After Gatys et al. 2017 (arXiv:1611.07865), section 4. A mask m says how much each place counts, from 0 to 1,
and over a layer of features F the Gram matrix of its region is

    G = Σ m·F·Fᵀ / Σ m        m is the square of their guidance channel

which is the ordinary one of F·T for the guide T = √(m·M/Σm) at M places. Their loss of a region pulls at each
of its places 1/a times as hard as that of a whole picture would, where a = Σm/M is the region's share of the
places. Here it is multiplied by a, so a small region is painted as strongly as a large one; the shares of
regions that cover the picture add up to 1.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cnnkit import Image, Model, UsageError, reach, resize_map
from cnnkit.plugins.synthesis.eye import watched
from cnnkit.plugins.synthesis.stages import Size

Array = NDArray[np.float32]
MaskMode = Literal["simple", "inside"]
"""A mask is resized to each layer, or counts where a place of the layer sees nothing but its inside."""
Masks = Mapping[str, Array]
"""A mask over each layer, (H, W), by the layers' names."""

SQUEEZED = 0.01
"""By how much the aspect of a mask may differ from that of its picture, for sides that were rounded."""


@dataclass(frozen=True, eq=False)
class Regions:
    """The masks of each style, `painted` over the result and `taken` over the style; none for all of it."""

    painted: Sequence[Image] = ()
    taken: Sequence[Image] = ()
    mode: MaskMode = "simple"

    def of_result(self, eye: Model, layers: Sequence[str], size: Size) -> list[Masks]:
        """For each style its masks over layers of the eye, for x of a size; where they overlap they share.

        Raises UsageError where one is black in a layer.
        """
        masks = [mask_of(picture, size) for picture in self.painted]
        together = np.maximum(np.float32(1), np.sum(masks, axis=0, dtype=np.float32))
        return [
            self._over(eye, layers, picture.name, np.asarray(mask / together, np.float32))
            for picture, mask in zip(self.painted, masks, strict=True)
        ]

    def of_style(self, number: int, eye: Model, layers: Sequence[str], size: Size) -> Masks | None:
        """Those over a style at a size; None for all of it. Raises UsageError as `of_result`."""
        if not self.taken:
            return None
        picture = self.taken[number]
        return self._over(eye, layers, picture.name, mask_of(picture, size))

    def _over(self, eye: Model, layers: Sequence[str], name: str, mask: Array) -> Masks:
        if not mask.any():
            raise UsageError(f"the mask '{name}' is black: white is where the style belongs.")
        planes, found = watched(eye, (mask.shape[0], mask.shape[1])), {}
        for layer in layers:
            wanted = planes[layer].height, planes[layer].width
            over = _inside(eye, layer, mask, wanted) if self.mode == "inside" else resize_map(mask, *wanted)
            if not over.any():
                raise UsageError(
                    f"at {mask.shape[1]}x{mask.shape[0]} no place of the layer '{layer}' sees only the "
                    f"inside of the mask '{name}': say --mask-mode simple, name earlier --style-layers, or "
                    "begin with a larger size (--size, --pyramid)."
                )
            found[layer] = over
        return found


EVERYWHERE = Regions()


def guide(mask: Array) -> Array:
    """The guide (1, 1, H, W) of a mask (H, W); its mean square is 1."""
    squares = mask * (mask.size / mask.sum(dtype=np.float64))
    return np.asarray(np.sqrt(squares)[None, None], np.float32)


def share(mask: Array) -> float:
    """Of the places that are inside."""
    return float(mask.mean(dtype=np.float64))


def mask_of(picture: Image, size: Size) -> Array:
    """A mask at a size, 0 to 1: the picture's opacity if any of it is transparent, else how bright it is."""
    inside = picture.pixels.mean(-1) if picture.alpha is None else picture.alpha
    return resize_map(inside / 255, *size)


def checked(masks: Sequence[Image], over: Sequence[Image], flag: str) -> Sequence[Image]:
    """The masks, one for each of these pictures. Raises UsageError where a number or an aspect differs."""
    if masks and len(masks) != len(over):
        raise UsageError(
            f"{len(over)} style(s) take as many {flag}, not {len(masks)}: a white picture is all of it."
        )
    for mask, picture in zip(masks, over, strict=False):
        aspects = (mask.width / mask.height) / (picture.width / picture.height)
        if abs(math.log(aspects)) > SQUEEZED:
            raise UsageError(
                f"the mask '{mask.name}' has {mask.width}x{mask.height} pixels, and its picture "
                f"'{picture.name}' {picture.width}x{picture.height}: a mask has its picture's aspect."
            )
    return masks


def _inside(eye: Model, layer: str, mask: Array, wanted: Size) -> Array:
    """At each place of a layer the least of the mask that it sees. Raises UsageError where it sees all."""
    tensor = next(found.tensor for found in eye.layers if found.name == layer)
    seen = reach(eye.graph, tensor)
    if seen.whole:
        node, what = next(iter(seen.whole.items()))
        raise UsageError(
            f"every place of the layer '{layer}' sees the whole picture, as '{node}' {what}: say --mask-mode "
            "simple."
        )
    least = mask
    for axis, (scale, halo, count) in enumerate(zip(seen.scale, seen.halo, wanted, strict=True)):
        windows = [_window(place, scale, halo) for place in range(count)]
        least = np.stack(
            [least.take(_within(window, mask.shape[axis]), axis).min(axis) for window in windows], axis
        )
    return least


def _window(place: int, scale: Fraction, halo: int) -> tuple[int, int]:
    """The pixels that a place sees, from the first to before the last."""
    return math.floor(place / scale) - halo, math.ceil((place + 1) / scale) + halo


def _within(window: tuple[int, int], length: int) -> NDArray[np.int64]:
    """Those of the pixels that there are: what lies outside the picture is on neither side."""
    first, end = window
    return np.arange(max(0, min(first, length - 1)), max(1, min(end, length)))
