"""`Image`: a picture in memory, upright and in sRGB, whatever the file was."""

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Union

import numpy as np
from numpy.typing import NDArray
from PIL import Image as pillow
from PIL.PngImagePlugin import PngInfo

from cnnkit.errors import ImageError, OutputError, UsageError
from cnnkit.images.decoding import brief, decode, from_srgb, open_picture, reading
from cnnkit.images.files import read_picture_file, write_atomically
from cnnkit.images.resampling import resample

Source = Union["Image", str, PathLike[str], bytes, pillow.Image, NDArray[Any]]
"""What `Image.load` takes: a path, "-", "sample:NAME", a file's bytes, a PIL picture, an array, an Image."""

_ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "png": ("PNG", {}),
    "jpg": ("JPEG", {"quality": 95, "subsampling": "4:4:4"}),
    "webp": ("WEBP", {"lossless": True, "exact": True}),
    "tif": ("TIFF", {"compression": "tiff_deflate"}),
}
SUFFIXES = {".png": "png", ".jpg": "jpg", ".jpeg": "jpg", ".webp": "webp", ".tif": "tif", ".tiff": "tif"}
"""The suffixes that `Image.save` takes, and the format of each."""

_DESCRIPTION = 0x010E  # the tag ImageDescription of EXIF and TIFF


@dataclass(frozen=True, eq=False)
class Image:
    """A picture: upright, in sRGB, eight bits a channel."""

    pixels: NDArray[np.uint8]
    """(height, width, 3), sRGB, 0..255."""
    alpha: NDArray[np.uint8] | None = None
    """(height, width), 255 is opaque; None when the whole picture is."""
    name: str = "picture"
    """The stem of output names."""
    source: str | None = None
    """The path, "-" or "sample:NAME" it was loaded from; None when it came from memory."""
    notes: tuple[str, ...] = ()
    """What loading did to the picture, a phrase each."""
    profile: bytes | None = None
    """ICC profile of the file. The pixels are sRGB; saving converts them back and embeds it."""
    sha256: str = ""
    """Of the file's bytes, or of the pixels when it came from memory; empty for a derived picture."""
    inset: tuple[int, int, int, int] | None = None
    """(top, left, height, width) of the part that lies on the picture it was made of, point for point."""

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.height, self.width

    @staticmethod
    def load(source: Source) -> "Image":
        """The picture from a path, "-" (standard input), "sample:NAME", bytes, a PIL picture or an array.

        The EXIF orientation is applied, an ICC profile is converted to sRGB, of an animation the first frame
        is taken. An array is (height, width), (height, width, 1), 3 or 4 channels, uint8, bool, or float in
        0..1. ImageError, one sentence, for anything that is missing, broken, too large or no picture.
        """
        if isinstance(source, Image):
            return source
        if isinstance(source, np.ndarray):
            return _from_array(source)
        if isinstance(source, pillow.Image):
            return _from_pil("the PIL picture", source)
        if isinstance(source, bytes):
            if not source:
                raise ImageError("the given data is empty: a picture was expected")
            return _from_bytes("the given data", source)
        if not isinstance(source, (str, PathLike)):
            kind = type(source).__name__
            raise ImageError(f"a picture is a path, bytes, a PIL picture or a numpy array, not {kind}")
        path = fspath(source)
        if path.startswith("sample:"):
            from cnnkit.images.samples import sample

            return sample(path.removeprefix("sample:"))
        name, shown = ("stdin", "standard input") if path == "-" else (Path(path).stem, repr(path))
        return replace(_from_bytes(shown, read_picture_file(path)), name=name, source=path)

    def flattened(self, background: tuple[int, int, int] = (255, 255, 255)) -> "Image":
        """The picture laid on a background of one sRGB colour; itself when it is opaque."""
        if self.alpha is None:
            return self
        opacity = self.alpha[..., None].astype(np.float32) / 255
        laid = self.pixels * opacity + np.array(background, np.float32) * (1 - opacity)
        return replace(self.with_pixels(np.rint(laid).astype(np.uint8)), alpha=None)

    def resized(self, height: int, width: int, filter: str = "bilinear") -> "Image":
        """The picture at another size, by one of FILTERS. UsageError when there is no such filter."""
        values = resample(self.pil(), height, width, filter, (0, 0, *self.size))
        pixels = np.rint(values).astype(np.uint8)
        derived = replace(self.with_pixels(pixels[..., :3]), alpha=None)
        return derived if self.alpha is None else replace(derived, alpha=pixels[..., 3])

    def with_pixels(self, pixels: NDArray[np.uint8]) -> "Image":
        """Other pixels (height, width, 3) under the same name and profile; alpha stays if the size does."""
        alpha = self.alpha if pixels.shape[:2] == self.size else None
        return replace(self, pixels=pixels, alpha=alpha, source=None, sha256="", inset=None)

    def repainted(self, pixels: NDArray[np.uint8]) -> "Image":
        """As `with_pixels`, for what lies on the picture as a whole: a map over it, another style of it."""
        return replace(self.with_pixels(pixels), inset=(0, 0, *pixels.shape[:2]))

    def pil(self) -> pillow.Image:
        """A PIL picture in sRGB: mode RGB, or RGBA when there is an alpha."""
        if self.alpha is None:
            return pillow.fromarray(self.pixels)
        return pillow.fromarray(np.dstack([self.pixels, self.alpha]))

    def encode(self, format: str = "png", provenance: Mapping[str, Any] | None = None) -> bytes:
        """The bytes of a file: "png", "jpg" (quality 95, 4:4:4, laid on white), "webp" (lossless) or "tif".

        `provenance` is anything that JSON holds; `read_provenance` finds it again in the saved file.
        OutputError when the format cannot hold the picture.
        """
        if format not in _ENCODERS:
            raise UsageError(f"pictures are written as {', '.join(_ENCODERS)}, not {format!r}")
        encoder, settings = _ENCODERS[format]
        options = dict(settings)
        picture = (self.flattened() if format == "jpg" else self).pil()
        if self.profile is not None:
            picture = from_srgb(picture, self.profile)
            options["icc_profile"] = self.profile
        if provenance is not None and format == "png":
            options["pnginfo"] = text = PngInfo()
            text.add_text("cnnkit", json.dumps(provenance))
        elif provenance is not None:
            options["exif"] = exif = pillow.Exif()
            exif[_DESCRIPTION] = json.dumps({"cnnkit": provenance})
        buffer = io.BytesIO()
        try:
            picture.save(buffer, encoder, **options)
        except (OSError, ValueError, MemoryError) as problem:
            size = f"{self.width}x{self.height}"
            raise OutputError(f"cannot write {size} pixels as {encoder}: {brief(problem)}") from problem
        return buffer.getvalue()

    def save(self, path: str | PathLike[str], provenance: Mapping[str, Any] | None = None) -> Path:
        """Write the picture, all or nothing, in the format that the suffix says; the path comes back.

        OutputError when the suffix is unknown or the file cannot be written.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix not in SUFFIXES:
            raise OutputError(f"cannot write {str(path)!r}: its suffix is none of {', '.join(SUFFIXES)}")
        write_atomically(path, self.encode(SUFFIXES[suffix], provenance))
        return path

    @staticmethod
    def read_provenance(path: str | PathLike[str]) -> dict[str, Any] | None:
        """What `save` was given; None when the file is missing, is no picture, or carries none."""
        try:
            with reading(repr(fspath(path)), []), open_picture(path) as picture:
                if "cnnkit" in picture.info:
                    found = json.loads(picture.info["cnnkit"])
                else:
                    found = json.loads(picture.getexif()[_DESCRIPTION])["cnnkit"]
        except ImageError:
            return None
        return found if isinstance(found, dict) else None

    def _repr_png_(self) -> bytes:
        return self.encode("png")


def _from_bytes(shown: str, data: bytes) -> Image:
    return Image(**decode(shown, data)._asdict(), sha256=hashlib.sha256(data).hexdigest())


def _from_array(array: NDArray[Any]) -> Image:
    shape = "x".join(map(str, array.shape))
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ImageError(f"an array of shape {shape or '()'} is no picture: (height, width[, 1, 3 or 4]) is")
    if array.size == 0:
        raise ImageError(f"an array of shape {shape} has no pixels")
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):
            raise ImageError(
                f"a float array holds values from 0 to 1; this one's reach from {low:g} to {high:g}"
                if np.isfinite([low, high]).all()
                else "the float array holds values that are no numbers (NaN or infinite)"
            )
        array = np.rint(array * 255)
    elif array.dtype == bool:
        array = array * np.uint8(255)
    elif array.dtype != np.uint8:
        raise ImageError(f"an array of {array.dtype} is no picture: uint8, bool, or float from 0 to 1 is")
    values = array.astype(np.uint8)
    grey = values.ndim == 3 and values.shape[2] == 1
    return _from_pil("the array", pillow.fromarray(values[..., 0] if grey else values))


def _from_pil(shown: str, picture: pillow.Image) -> Image:
    image = Image(**decode(shown, picture)._asdict())
    digest = hashlib.sha256(f"{image.pixels.shape}".encode())
    digest.update(image.pixels.data)
    if image.alpha is not None:
        digest.update(image.alpha.data)
    return replace(image, sha256=digest.hexdigest())
