"""Pixels and maps at other sizes. Half-pixel centres throughout: pixel i covers the interval [i, i + 1]."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as pillow

from cnnkit.errors import UsageError, did_you_mean

FILTERS: dict[str, pillow.Resampling | None] = {
    "nearest": pillow.Resampling.NEAREST,
    "bilinear": pillow.Resampling.BILINEAR,
    "bilinear-plain": None,
    "bicubic": pillow.Resampling.BICUBIC,
    "lanczos": pillow.Resampling.LANCZOS,
    "area": pillow.Resampling.BOX,
}
"""The filters. Pillow's smooth when they shrink; "bilinear-plain" (Keras, `tf.image.resize`) does not."""

Box = tuple[float, float, float, float]
"""(top, left, bottom, right), in pixels."""


def check_filter(name: str) -> None:
    """UsageError unless `name` is one of FILTERS."""
    if name not in FILTERS:
        hint = did_you_mean(str(name), FILTERS)
        raise UsageError(f"no resizing filter {name!r}; there are {', '.join(FILTERS)}.{hint}")


def resample(picture: pillow.Image, height: int, width: int, filter: str, box: Box) -> NDArray[Any]:
    """The part of a PIL picture inside `box`, brought to height x width.

    (height, width, channels) uint8; float32 and not rounded, as TensorFlow's, for "bilinear-plain".
    UsageError when there is no such filter.
    """
    check_filter(filter)
    top, left, bottom, right = box
    kernel = FILTERS[filter]
    if kernel is not None:
        return np.array(picture.resize((width, height), kernel, box=(left, top, right, bottom)))
    rows = top + (np.arange(height) + 0.5) * ((bottom - top) / height) - 0.5
    columns = left + (np.arange(width) + 0.5) * ((right - left) / width) - 0.5
    return interpolate(interpolate(np.asarray(picture), rows, axis=0), columns, axis=1)


def interpolate(values: NDArray[Any], positions: NDArray[np.floating[Any]], axis: int) -> NDArray[np.float32]:
    """Linear interpolation along one axis at fractional indices; the border continues outwards."""
    below = np.floor(positions)
    weight_shape = [-1 if index == axis else 1 for index in range(values.ndim)]
    weight = (positions - below).astype(np.float32).reshape(weight_shape)
    index = below.astype(np.int64)
    last = values.shape[axis] - 1
    low = values.take(index.clip(0, last), axis).astype(np.float32)
    high = values.take((index + 1).clip(0, last), axis).astype(np.float32)
    mixed: NDArray[np.float32] = low + (high - low) * weight
    return mixed


def resize_map(values: NDArray[Any], height: int, width: int) -> NDArray[np.float32]:
    """A map of floats (h, w) as (height, width) float32, bilinear.

    Enlarging equals cv2, TensorFlow and torch (`align_corners=False`); shrinking averages (Pillow, mode F).
    """
    picture = pillow.fromarray(np.ascontiguousarray(values, dtype=np.float32))
    resized: NDArray[np.float32] = np.array(picture.resize((width, height), pillow.Resampling.BILINEAR))
    return resized
