"""The picture moved a little before every look, so that what is drawn does not depend on single pixels."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnnkit import Builder

Movement = Literal["standard", "jitter", "none"]
PLACES, SHARES, REST = "view/places", "view/shares", "view/rest"
CORNERS = 4
GREY = 0.5
"""What lies around the picture."""


class Motion(NamedTuple):
    """About the middle of the picture: enlarged by `scale`, turned by `degrees`, moved by whole pixels."""

    scale: float = 1.0
    degrees: float = 0.0
    down: int = 0
    across: int = 0


@dataclass(frozen=True)
class Transforms:
    """What motions are drawn from. `shift` is a part of the longer side, to each direction."""

    shift: float = 0.0
    scales: tuple[float, ...] = (1.0,)
    degrees: tuple[float, ...] = (0.0,)

    def motion(self, size: tuple[int, int], random: np.random.Generator) -> Motion:
        """One of them, for a picture of `size` (height, width)."""
        reach = round(self.shift * max(size))
        down, across = random.integers(-reach, reach, 2, endpoint=True)
        return Motion(
            float(random.choice(self.scales)), float(random.choice(self.degrees)), int(down), int(across)
        )


STANDARD = Transforms(
    6 / 128,
    tuple(1 + step / 50 for step in range(-5, 6)),
    tuple(map(float, [*range(-10, 11), *[0] * 5])),
)
"""Lucid's `standard_transforms` for its 128 pixels: the two jitters of 8 and 4 pixels in one."""
TRANSFORMS: Mapping[Movement, Transforms] = {
    "standard": STANDARD,
    "jitter": Transforms(STANDARD.shift),
    "none": Transforms(),
}


def view(motion: Motion, size: tuple[int, int]) -> dict[str, NDArray[Any]]:
    """How a picture of `size` (height, width), of P pixels, is seen after a motion: what `seen` is fed.

    Every pixel of the view is a mean of four of the picture, bilinear, and of the grey around it. `PLACES`
    (4, P) int64 are numbers of pixels, row by row, `SHARES` (4, P) float32 their weights, and `REST` (P,)
    float32 is the grey times its weight.
    """
    height, width = size
    turn = np.deg2rad(motion.degrees)
    cosine, sine = np.cos(turn) / motion.scale, np.sin(turn) / motion.scale
    middle = (height - 1) / 2, (width - 1) / 2
    down, across = np.mgrid[:height, :width].reshape(2, -1)
    y, x = down - middle[0], across - middle[1]
    rows = cosine * y - sine * x + middle[0] - motion.down
    columns = sine * y + cosine * x + middle[1] - motion.across
    places = np.zeros((CORNERS, height * width), np.int64)
    shares = np.zeros((CORNERS, height * width), np.float32)
    for corner, (row, column) in enumerate(_neighbours(rows, columns)):
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        share = (1 - abs(rows - row)) * (1 - abs(columns - column))
        places[corner, inside] = (row * width + column)[inside]
        shares[corner, inside] = share[inside]
    return {PLACES: places, SHARES: shares, REST: np.float32(GREY) * (1 - shares.sum(axis=0))}


def _neighbours(
    rows: NDArray[np.float64], columns: NDArray[np.float64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """The four pixels around each place."""
    top, left = (np.floor(places).astype(np.int64) for places in (rows, columns))
    for down in (0, 1):
        for across in (0, 1):
            yield top + down, left + across


def seen(builder: Builder, picture: Any) -> Any:
    """Appends nodes that show a picture (1, depth, height, width) as a `view` says, which is fed."""
    op, pixels = builder.op, picture.shape[2] * picture.shape[3]
    places = builder.input(PLACES, (CORNERS, pixels), np.int64)
    shares = builder.input(SHARES, (CORNERS, pixels))
    rest = builder.input(REST, (pixels,))
    flat = op.Reshape(picture, [picture.shape[1], pixels])
    corners = [
        op.Mul(op.Gather(flat, op.Gather(places, corner), axis=1), op.Gather(shares, corner))
        for corner in range(CORNERS)
    ]
    return op.Reshape(op.Sum(*corners, rest), picture.shape)
