"""The windows of occlusion: where they lie, the inputs that hide them, and their mean at each pixel."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnnkit import UsageError, resize_map


class Size(NamedTuple):
    """Of a window or a step, in pixels of the network's input."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"


def parse_size(value: Any) -> Size:
    """32, "32", (32, 48) or "32x48" (height by width)."""
    sides = value.lower().split("x") if isinstance(value, str) else value
    sides = sides if isinstance(sides, list | tuple) else [sides]
    whole = [int(side) for side in sides if re.fullmatch(r"\s*\d+\s*", str(side))]
    if len(whole) != len(sides) or len(whole) not in (1, 2) or min(whole) < 1:
        raise ValueError("a size is a whole number of pixels from 1, or two as HEIGHTxWIDTH")
    return Size(whole[0], whole[-1])


class Axis:
    """The windows along one side of the input: window k covers starts[k] <= position < stops[k]."""

    def __init__(self, size: int, patch: int, stride: int) -> None:
        self.size = size
        self.starts = stride * np.arange(-(-(size - patch) // stride) + 1)
        self.stops = np.minimum(self.starts + patch, size)

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[slice]:
        return (slice(int(start), int(stop)) for start, stop in zip(self.starts, self.stops, strict=True))

    def spread(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """(..., windows) -> (..., size): at each position the sum over the windows that cover it.

        A difference array: a window adds its value where it starts and takes it away where it stops, and one
        cumulative sum does the rest. No two windows start, or stop, at the same position.
        """
        difference = np.zeros((*values.shape[:-1], self.size + 1))
        difference[..., self.starts] = values
        difference[..., self.stops] -= values
        return difference.cumsum(axis=-1)[..., :-1]


class Windows:
    """Every position of a patch over an input of (height, width), row by row.

    The patch is a seventh of the input's shorter side and the stride half of the patch where they are None.
    Raises UsageError where the patch does not fit or the stride leaves gaps.
    """

    def __init__(self, size: tuple[int, int], patch: Size | None = None, stride: Size | None = None) -> None:
        seventh = max(1, round(min(size) / 7))
        self.patch = patch or Size(seventh, seventh)
        self.stride = stride or Size(-(-self.patch.height // 2), -(-self.patch.width // 2))
        if self.patch.height > size[0] or self.patch.width > size[1]:
            raise UsageError(
                f"a patch of {self.patch} does not fit into the network's input of {Size(*size)} pixels; "
                "choose a smaller --patch."
            )
        for side, length, step, window in zip(
            ("height", "width"), size, self.stride, self.patch, strict=True
        ):
            if step > window < length:
                raise UsageError(
                    f"with a stride of {self.stride} a patch of {self.patch} leaves parts of the {side} "
                    "uncovered; choose a --stride of at most the patch."
                )
        self.down = Axis(size[0], self.patch.height, self.stride.height)
        self.across = Axis(size[1], self.patch.width, self.stride.width)

    def __len__(self) -> int:
        return len(self.down) * len(self.across)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of windows."""
        return len(self.down), len(self.across)

    def box(self, number: int) -> tuple[int, int, int, int]:
        """(top, left, bottom, right) of a window by its number, in pixels of the input."""
        row, column = divmod(number, len(self.across))
        down, across = self.down, self.across
        return (
            int(down.starts[row]),
            int(across.starts[column]),
            int(down.stops[row]),
            int(across.stops[column]),
        )

    def inputs(
        self, tensor: NDArray[np.float32], hidden: NDArray[np.float32], layout: str
    ) -> Iterator[NDArray[np.float32]]:
        """The input with one window after the other as in `hidden`. It is one array: copy what you keep.

        `tensor` and `hidden` are (channels, height, width), or (height, width, channels) in layout "nhwc".
        """
        scratch = tensor.copy()
        views = [scratch, tensor, hidden]
        if layout == "nhwc":
            views = [np.moveaxis(view, -1, 0) for view in views]
        shown, original, patch = views
        for rows in self.down:
            for columns in self.across:
                window = (slice(None), rows, columns)
                shown[window] = patch[window]
                yield scratch
                shown[window] = original[window]

    def mean(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """(rows, columns) -> (height, width): at each pixel the mean of the windows that cover it."""
        total = self.down.spread(self.across.spread(values).T).T
        covering = [axis.spread(np.ones(len(axis))) for axis in (self.down, self.across)]
        return (total / np.outer(*covering)).astype(np.float32)

    def by_step(self, heatmap: NDArray[np.float32]) -> NDArray[np.float32]:
        """The mean map with one value per step of the patch, for a picture of it without blocks."""
        down, across = (
            max(1, round(size / step)) for size, step in zip(heatmap.shape, self.stride, strict=True)
        )
        return resize_map(heatmap, down, across)
