"""`Preprocessing`: from a picture to a network's input, and from the network's maps back onto the picture."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from cnnkit.errors import UsageError, did_you_mean
from cnnkit.images.image import Image
from cnnkit.images.resampling import FILTERS as FILTERS
from cnnkit.images.resampling import Box, check_filter, interpolate, resample
from cnnkit.images.resampling import resize_map as resize_map

Fit = Literal["squash", "crop", "pad"]
Channels = Literal["rgb", "bgr", "grey"]
Layout = Literal["nchw", "nhwc"]

PADDING = 127.5
"""The grey, in pixel space, around a picture that is fitted by "pad"; it shows as 128 in uint8."""

PRESETS: dict[str, dict[str, Any]] = {
    "caffe": {"channels": "bgr", "mean": (103.939, 116.779, 123.68)},
    "tf": {"scale": 1 / 127.5, "mean": (1.0,)},
    "torch": {"scale": 1 / 255, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
    "raw": {},
}
"""The values that networks are trained on, under the names of `keras.applications.imagenet_utils`."""

# The weights of Pillow's mode L (ITU-R 601-2), in its fixed-point numbers.
LUMINANCE = np.array([19595, 38470, 7471], np.float32) / np.float32(65536)


@dataclass(frozen=True)
class Geometry:
    """Which part of the picture the network saw, and where in its input."""

    picture: tuple[int, int]
    """(height, width) of the original picture."""
    network: tuple[int, int]
    """(height, width) of the network's input."""
    seen: Box
    """(top, left, bottom, right) of what the network saw, in pixels of the picture, fractional for "crop"."""
    placed: tuple[int, int, int, int]
    """(top, left, bottom, right) of where that lies in the network's input; smaller than it for "pad"."""

    def to_picture(self, values: NDArray[Any], outside: float = 0.0) -> NDArray[np.float32]:
        """A map over the network's input, (h, w) of any resolution, as (height, width) over the picture.

        Half-pixel bilinear; a map finer than the picture is averaged. What "crop" cut off becomes `outside`,
        what "pad" added is cut off.
        """
        rows, seen_rows = self._along(np.asarray(values, np.float32), axis=0)
        result, seen_columns = self._along(rows, axis=1)
        return np.where(np.outer(seen_rows, seen_columns), result, np.float32(outside))

    def _along(self, values: NDArray[np.float32], axis: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """(the map at the picture's pixels along one axis, which of those pixels the network saw)."""
        (start, stop), (first, last) = self.seen[axis::2], self.placed[axis::2]
        cells, pixels = values.shape[axis], self.network[axis]
        # Only the cells that touch the picture: the others know nothing but padding.
        low, high = first * cells // pixels, -(-last * cells // pixels)
        values = values.take(range(low, high), axis)
        centres = np.arange(self.picture[axis]) + 0.5
        positions = (first + (centres - start) * ((last - first) / (stop - start))) * (cells / pixels) - low
        # A map finer than the picture is averaged down to its resolution.
        pixels_per_cell = (stop - start) / (last - first) * pixels / cells
        shape = list(values.shape)
        shape[axis] = max(1, round((high - low) * min(1, pixels_per_cell)))
        values = resize_map(values, shape[0], shape[1])
        positions *= shape[axis] / (high - low)
        return interpolate(values, positions - 0.5, axis), (start < centres) & (centres < stop)


class Prepared(NamedTuple):
    """A picture made ready for a network."""

    tensor: NDArray[np.float32]
    """(1, channels, height, width), or (1, height, width, channels) in the layout "nhwc"."""
    geometry: Geometry
    picture: Image
    """What the network sees, of its input's size, as sRGB uint8."""


@dataclass(frozen=True)
class Preprocessing:
    """How pixels become a network's input: value = (pixel · scale - mean) / std, per channel."""

    height: int | None = None
    """Of the network's input; None: the picture's own."""
    width: int | None = None
    fit: Fit = "squash"
    """"squash" changes the aspect, "crop" covers the input and cuts centrally, "pad" shows all on grey."""
    filter: str = "bilinear"
    """One of FILTERS."""
    channels: Channels = "rgb"
    """Their order; "grey" is one channel, the luminance of Pillow's mode L without its rounding."""
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    """One number for all channels, or one for each in the network's order; `std` too."""
    std: tuple[float, ...] = (1.0,)
    layout: Layout = "nchw"

    def __post_init__(self) -> None:
        for name, kinds in (("fit", Fit), ("channels", Channels), ("layout", Layout)):
            value, allowed = getattr(self, name), get_args(kinds)
            if value not in allowed:
                hint = did_you_mean(str(value), allowed)
                raise UsageError(f"preprocessing {name} is {', '.join(allowed)}, not {value!r}.{hint}")
        check_filter(self.filter)
        for name in ("height", "width"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise UsageError(f"preprocessing {name} is a number of pixels from 1 up, not {value!r}")
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, self.depth):
                raise UsageError(
                    f"preprocessing {name} has {len(getattr(self, name))} values for {self.depth} channel(s)"
                )
        if not np.isfinite([self.scale, *self.mean, *self.std]).all() or 0 in (self.scale, *self.std):
            raise UsageError("preprocessing scale, mean and std are finite numbers, scale and std not zero")

    @staticmethod
    def preset(name: str, **changes: Any) -> "Preprocessing":
        """One of PRESETS, with other fields set as given. UsageError when there is no such preset."""
        if name not in PRESETS:
            hint = did_you_mean(name, PRESETS)
            raise UsageError(f"no preprocessing {name!r}; there are {', '.join(PRESETS)}.{hint}")
        return Preprocessing(**{**PRESETS[name], **changes})

    @property
    def depth(self) -> int:
        """The number of channels."""
        return 1 if self.channels == "grey" else 3

    @property
    def _mean(self) -> NDArray[np.float32]:
        return np.array(self.mean, np.float32)

    @property
    def _std(self) -> NDArray[np.float32]:
        return np.array(self.std, np.float32)

    def apply(self, image: Image) -> Prepared:
        """The network's input for a picture, transparent parts on white, and the way back."""
        flat = image.flattened()
        geometry = self._geometry(flat.size)
        top, left, bottom, right = geometry.placed
        shown = resample(flat.pil(), bottom - top, right - left, self.filter, geometry.seen)
        if shown.shape[:2] != geometry.network:
            canvas = np.full((*geometry.network, 3), PADDING, np.float32)
            canvas[top:bottom, left:right] = shown
            shown = canvas
        picture = flat.with_pixels(np.rint(shown).astype(np.uint8))
        return Prepared(self.to_network(shown)[None], geometry, picture)

    def _geometry(self, picture: tuple[int, int]) -> Geometry:
        network = (self.height or picture[0], self.width or picture[1])
        scale = [wanted / had for wanted, had in zip(network, picture, strict=True)]
        whole = (0.0, 0.0, float(picture[0]), float(picture[1]))
        if self.fit == "squash":
            return Geometry(picture, network, whole, (0, 0, *network))
        if self.fit == "pad":
            height, width = (max(1, round(had * min(scale))) for had in picture)
            top, left = (network[0] - height) // 2, (network[1] - width) // 2
            return Geometry(picture, network, whole, (top, left, top + height, left + width))
        # The sizes are those of torchvision's Resize and CenterCrop, but only what is seen is resampled.
        height, width = network
        if scale[0] < scale[1]:
            height = max(height, picture[0] * width // picture[1])
        else:
            width = max(width, picture[1] * height // picture[0])
        top, left = round((height - network[0]) / 2), round((width - network[1]) / 2)
        y, x = picture[0] / height, picture[1] / width
        seen = (top * y, left * x, (top + network[0]) * y, (left + network[1]) * x)
        return Geometry(picture, network, seen, (0, 0, *network))

    def to_network(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """(..., height, width, 3) in 0..255, uint8 or float, as (..., channels, height, width), or "nhwc"."""
        values = np.asarray(pixels, np.float32)
        if self.channels == "grey":
            values = (values @ LUMINANCE)[..., None]
        elif self.channels == "bgr":
            values = values[..., ::-1]
        values = (values * np.float32(self.scale) - self._mean) / self._std
        if self.layout == "nchw":
            values = np.moveaxis(values, -1, -3)
        return np.ascontiguousarray(values)

    def to_pixels(self, tensor: NDArray[Any]) -> NDArray[np.float32]:
        """The inverse of `to_network`: (..., height, width, 3), not clipped; grey is repeated."""
        values = np.asarray(tensor, np.float32)
        if self.layout == "nchw":
            values = np.moveaxis(values, -3, -1)
        values = (values * self._std + self._mean) / np.float32(self.scale)
        if self.channels == "grey":
            values = values.repeat(3, axis=-1)
        elif self.channels == "bgr":
            values = values[..., ::-1]
        return np.ascontiguousarray(values)

    def to_json(self) -> dict[str, Any]:
        """Every field, as JSON holds it."""
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    @staticmethod
    def from_json(values: dict[str, Any]) -> "Preprocessing":
        """The inverse of `to_json`; absent fields have their defaults. UsageError when a value is unfit."""
        known = [field.name for field in fields(Preprocessing)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise UsageError(f"preprocessing has no {', '.join(unknown)}; there are {', '.join(known)}")
        chosen: dict[str, Any] = dict(values)
        try:
            for name in {"mean", "std"} & set(chosen):
                chosen[name] = tuple(chosen[name])
            return Preprocessing(**chosen)
        except (TypeError, ValueError) as problem:
            raise UsageError(f"preprocessing has a value of the wrong kind: {problem}") from None
