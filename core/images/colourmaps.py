"""From numbers to colours: small tables of evenly spaced control points, linear between them in sRGB."""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cnnkit.errors import UsageError, did_you_mean

# The first four are least-maximum-error fits to matplotlib's maps of the same names: within 5 of 255 levels.
COLOURMAPS: dict[str, tuple[str, ...]] = {
    name: tuple(points.split())
    for name, points in {
        "magma": "000004 090721 1e1248 340f6b 52117d 681d7f 812582 9b2f7e b5367a "
        "ce406f e65062 f4685a fb865f fda46f fdc286 fcdfa0 fcfdbf",
        "viridis": "440154 481867 472c79 41408a 3a5288 32628a 2b728b 25818a 219089 "
        "1e9f85 27ad7d 3dbc70 5cc867 81d348 aadc36 d5e216 fde725",
        "inferno": "000004 080721 1e0d48 3a0868 540f6b 6d186d 862167 a02a60 b83652 "
        "ce4448 e1582f ef7021 fc8c07 f9ac0c fcc92f efe962 fcffa4",
        "turbo": "30123b 3d3fa5 466be7 4292ff 26bbee 14ddc2 2ef297 6efe60 a1fe38 "
        "c9ee30 eed037 fcae37 fb801e ea510b d13001 aa1600 7a0403",
        "grey": "000000 ffffff",
        "blue-red": "0b3c8c 2f6fc4 7fb0e6 cfe2f6 ffffff fbd9cf f09a86 d0453a 8e0c1c",
    }.items()
}
"""Name of a colour map -> its control points as "rrggbb", from the lowest value to the highest."""

DIVERGING = frozenset({"blue-red"})
"""The maps whose middle colour means zero: their limits are always symmetric."""

NAN_COLOUR = (128, 128, 128)


@cache
def table(colourmap: str) -> NDArray[np.uint8]:
    """The map's 257 colours, (257, 3) uint8: an odd number, so that the middle is a colour of its own.

    Raises UsageError for a name that is not in COLOURMAPS.
    """
    if colourmap not in COLOURMAPS:
        raise UsageError(
            f"There is no colour map '{colourmap}'; choose one of {', '.join(COLOURMAPS)}."
            + did_you_mean(colourmap, COLOURMAPS)
        )
    points = np.array([list(bytes.fromhex(point)) for point in COLOURMAPS[colourmap]])
    at, known = np.linspace(0, 1, 257), np.linspace(0, 1, len(points))
    colours = np.stack([np.interp(at, known, channel) for channel in points.T], axis=1)
    rounded: NDArray[np.uint8] = np.rint(colours).astype(np.uint8)
    rounded.setflags(write=False)
    return rounded


def limits(
    values: ArrayLike, colourmap: str, low: float | None = None, high: float | None = None
) -> tuple[float, float]:
    """The values that the two ends of the colour map stand for.

    A limit that is not given is the lowest or highest finite value ((0, 1) when there is none). For a
    diverging map both become symmetric about zero, wide enough for either.
    """
    array = np.asarray(values)
    finite = array[np.isfinite(array)] if low is None or high is None else array
    low = (float(finite.min()) if finite.size else 0.0) if low is None else float(low)
    high = (float(finite.max()) if finite.size else 1.0) if high is None else float(high)
    if colourmap in DIVERGING:
        high = max(abs(low), abs(high)) or 1.0
        low = -high
    return low, high


def colourise(
    values: NDArray[Any], colourmap: str = "magma", low: float | None = None, high: float | None = None
) -> NDArray[np.uint8]:
    """The colours of a map of values: (height, width), any number type -> (height, width, 3) uint8.

    `low` and `high` are completed by `limits`; what lies outside them takes the end colours, NaN mid grey.
    Where low equals high, that value takes the lowest colour. Raises UsageError for an unknown colour map.
    """
    low, high = limits(values, colourmap, low, high)
    position = np.asarray(values, dtype=np.result_type(values, np.float32)) - low
    position *= 256 / ((high - low) or 1.0)
    missing = np.isnan(position)
    position[missing] = 0
    colours = table(colourmap)[np.rint(position).clip(0, 256).astype(np.intp)]
    colours[missing] = NAN_COLOUR
    return colours
