"""From whatever Pillow opens to upright sRGB pixels; every way to fail becomes an `ImageError`."""

import io
import logging
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image as pillow
from PIL import ImageCms, UnidentifiedImageError

from cnnkit.errors import ImageError

LARGEST_PICTURE = 100_000_000
"""Pixels of the largest picture that is decoded."""

# Formats by their Pillow plugins. None without a signature (TGA would claim any bytes), none that calls
# another program (EPS).
_PLUGINS = {
    "Png": "PNG",
    "Jpeg": "JPEG",
    "WebP": "WEBP",
    "Tiff": "TIFF",
    "Gif": "GIF",
    "Bmp": "BMP",
    "Ppm": "PPM",
    "Jpeg2K": "JPEG2000",
    "Avif": "AVIF",
    "Ico": "ICO",
    "Qoi": "QOI",
}

_ORIENTATION = 0x0112  # the tag of EXIF and TIFF
_UPRIGHT: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels[::-1].swapaxes(0, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels[:, ::-1].swapaxes(0, 1),
}

# Pillow logs what it finds odd in a file; without a handler Python would print that on stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())


class Decoded(NamedTuple):
    """The fields of an `Image` that its file decides."""

    pixels: NDArray[np.uint8]
    alpha: NDArray[np.uint8] | None
    notes: tuple[str, ...]
    profile: bytes | None


@contextmanager
def reading(shown: str, notes: list[str]) -> Iterator[None]:
    """Inside, whatever Pillow raises becomes an ImageError about `shown`, and its warnings become notes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", pillow.DecompressionBombWarning)
        try:
            yield
        except ImageError:
            raise
        except UnidentifiedImageError:
            kinds = ", ".join(_PLUGINS.values())
            raise ImageError(f"{shown} is no picture of a kind that cnnkit reads ({kinds})") from None
        except pillow.DecompressionBombError as problem:
            # Pillow checks before we can, against a larger limit; its message has the number of pixels.
            pixels = re.search(r"\d+", str(problem))
            raise ImageError(_too_large(shown, int(pixels[0]) if pixels else 0)) from None
        except MemoryError:
            raise ImageError(f"{shown} does not fit into memory") from None
        except Exception as problem:  # decoders raise every kind there is when bytes are damaged
            raise ImageError(f"{shown} is damaged or truncated: {brief(problem)}") from problem
    notes.extend(dict.fromkeys(f"Pillow warns: {brief(warning.message)}" for warning in caught))


def open_picture(file: Any) -> pillow.Image:
    """Pillow's lazily loaded picture of a path or binary file, if it is of a kind that cnnkit reads."""
    return pillow.open(file, formats=_formats())


def decode(shown: str, source: bytes | pillow.Image) -> Decoded:
    """The first frame, upright, in sRGB. ImageError when it is no picture, damaged, too large or empty."""
    notes: list[str] = []
    with reading(shown, notes):
        picture = source if isinstance(source, pillow.Image) else open_picture(io.BytesIO(source))
        _check_size(shown, picture.width, picture.height)
        with _libtiff_silenced() if picture.format == "TIFF" else nullcontext():
            picture.load()
        orientation = _orientation(picture, notes)
        profile = picture.info.get("icc_profile")
        flat, alpha = _eight_bits(shown, picture, notes)
        if profile:
            flat, profile = _to_srgb(flat, profile, notes)
        pixels = np.array(flat.convert("RGB"))
        frames = _frames(picture)  # last, because counting throws the decoded frame away
    if orientation in _UPRIGHT:
        notes.append(f"turned upright (EXIF orientation {orientation})")
        pixels = np.ascontiguousarray(_UPRIGHT[orientation](pixels))
        alpha = None if alpha is None else np.ascontiguousarray(_UPRIGHT[orientation](alpha))
    if frames != 1:
        notes.append(f"the first of {frames or 'several'} frames")
    if alpha is not None and alpha.min() == 255:
        alpha = None
    if alpha is not None:
        notes.append("transparent parts are laid on white for the network")
    return Decoded(pixels, alpha, tuple(notes), profile or None)


def from_srgb(picture: pillow.Image, profile: bytes) -> pillow.Image:
    """An sRGB picture (RGB or RGBA) in the colours of an RGB profile that `decode` accepted."""
    flat = _transformed(picture.convert("RGB"), _srgb(), _opened(profile))
    if picture.mode == "RGBA":
        flat.putalpha(picture.getchannel("A"))
    return flat


def brief(problem: object) -> str:
    """The first line of a message, at most 120 characters, or the name of its type."""
    lines = str(problem).strip().splitlines()
    return lines[0][:120] if lines else type(problem).__name__


@cache
def _formats() -> tuple[str, ...]:
    found = []
    for plugin, name in _PLUGINS.items():
        with suppress(ImportError):  # AVIF came with Pillow 11.3
            import_module(f"PIL.{plugin}ImagePlugin")
        if name in pillow.OPEN:
            found.append(name)
    return tuple(found)


def _check_size(shown: str, width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"{shown} has no pixels: its size is {width}x{height}")
    if width * height > LARGEST_PICTURE:
        raise ImageError(_too_large(f"{shown}, {width}x{height},", width * height))


def _too_large(shown: str, pixels: int) -> str:
    limit = LARGEST_PICTURE // 10**6
    return f"{shown} is too large: {pixels / 1e6:.6g} megapixels, and {limit} are the limit"


_ONE_REDIRECTION = threading.Lock()


@contextmanager
def _libtiff_silenced() -> Iterator[None]:
    """libtiff prints on file descriptor 2 what it dislikes, past Python; inside, that leads nowhere."""
    with _ONE_REDIRECTION:
        try:
            kept = os.dup(2)
        except OSError:  # there is no standard error
            yield
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)


def _orientation(picture: pillow.Image, notes: list[str]) -> Any:
    try:
        return picture.getexif().get(_ORIENTATION, 1)
    except Exception as problem:  # damage there costs a note, not the picture
        notes.append(f"damaged EXIF ignored: {brief(problem)}")
        return 1


def _frames(picture: pillow.Image) -> int | None:
    """How many there are; None when the file is damaged behind the first."""
    try:
        return int(getattr(picture, "n_frames", 1))
    except Exception:
        return None


def _eight_bits(
    shown: str, picture: pillow.Image, notes: list[str]
) -> tuple[pillow.Image, NDArray[np.uint8] | None]:
    """(picture in L, RGB, CMYK or LAB; alpha), from any mode that Pillow has."""
    mode = picture.mode
    if mode.startswith(("I", "F")):
        return pillow.fromarray(_scaled(shown, np.asarray(picture), notes)), None
    if mode == "La":
        picture = picture.convert("LA")
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        alpha = np.array(rgba.getchannel("A"))
        return rgba.convert("L" if mode in ("1", "L", "LA", "La") else "RGB"), alpha
    if mode == "CMYK" and not picture.info.get("icc_profile"):
        notes.append("CMYK without a profile: its colours are a guess")
    if mode in ("L", "RGB", "CMYK", "LAB"):
        return picture, None
    return picture.convert("L" if mode == "1" else "RGB"), None


def _scaled(shown: str, values: NDArray[Any], notes: list[str]) -> NDArray[np.uint8]:
    """Grey of 16 bits by its full range; of 32 bits and floats from the lowest to the highest value."""
    if values.dtype.itemsize == 2:
        notes.append("16-bit grey scaled to 8 bits")
        return np.rint(values / 257.0).astype(np.uint8)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ImageError(f"{shown} holds values that are no numbers (NaN or infinite)")
    if values.dtype.kind == "f" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    notes.append(f"grey values from {low:g} to {high:g} scaled to 8 bits")
    return np.rint((values - low) * (255 / ((high - low) or 1))).astype(np.uint8)


# The colour space that a profile names, and the Pillow mode that it describes.
_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}


def _to_srgb(picture: pillow.Image, profile: bytes, notes: list[str]) -> tuple[pillow.Image, bytes | None]:
    """(the picture in sRGB, the profile if `from_srgb` can go back by it)."""
    try:
        opened = _opened(profile)
        space = opened.profile.xcolor_space.strip()
        mode = _SPACES.get(space)
        if mode == "RGB" and picture.mode == "L":
            picture = picture.convert("RGB")
        if mode != picture.mode:
            notes.append(f"colour profile for {space} ignored: the picture is {picture.mode}")
            return picture, None
        converted = _transformed(picture, opened, _srgb())
        if converted is not picture:
            description = ImageCms.getProfileDescription(opened).strip()
            notes.append(f"colours converted to sRGB from {brief(description)!r}")
    except Exception as problem:  # damaged profiles fail in as many ways as damaged pictures
        notes.append(f"damaged colour profile ignored: {brief(problem)}")
        return picture, None
    try:
        from_srgb(pillow.new("RGB", (1, 1)), profile)
    except Exception:  # a profile for one direction, or for no RGB
        return converted, None
    return converted, profile


def _transformed(
    picture: pillow.Image, source: ImageCms.ImageCmsProfile, target: ImageCms.ImageCmsProfile
) -> pillow.Image:
    transform = ImageCms.buildTransform(
        source,
        target,
        picture.mode,
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    if picture.mode == "RGB":
        # The many profiles that are sRGB but for rounding shall leave the pixels as they are.
        probe = _probe()
        moved = np.asarray(ImageCms.applyTransform(probe, transform), np.int16) - np.asarray(probe)
        if abs(moved).max() <= 2:
            return picture
    converted = ImageCms.applyTransform(picture, transform)
    assert converted is not None  # only an in-place transform gives None
    return converted


@cache
def _probe() -> pillow.Image:
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1)
    return pillow.fromarray(cube.reshape(len(levels), -1, 3))


@cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _opened(profile: bytes) -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(io.BytesIO(profile))
