"""Every kind of picture in, one kind of `Image` out, one sentence for what is no picture; and saving."""

import io
import os
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as pillow
from PIL import ImageCms, ImageOps

from cnnkit.errors import ImageError, OutputError, UsageError
from cnnkit.images import decoding
from cnnkit.images.decoding import from_srgb
from cnnkit.images.image import SUFFIXES, Image
from cnnkit.images.preprocessing import FILTERS

random = np.random.default_rng(3)
COLOURS = random.integers(0, 256, (12, 17, 3), dtype=np.uint8)
GREY = random.integers(0, 256, (12, 17), dtype=np.uint8)


def encoded(picture: pillow.Image | NDArray[Any], format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    if isinstance(picture, np.ndarray):
        picture = pillow.fromarray(picture)
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def smooth(height: int = 60, width: int = 80) -> NDArray[np.uint8]:
    y, x = np.mgrid[0:height, 0:width]
    return np.dstack([x * 255 // width, y * 255 // height, (x + y) % 64 + 96]).astype(np.uint8)


def swapping_profile() -> bytes:
    """An RGB profile with sRGB's red and green exchanged: no colour engine is needed to know its effect."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for index in range(struct.unpack_from(">I", profile, 128)[0]):
        entry = 132 + 12 * index
        names = {b"rXYZ": b"gXYZ", b"gXYZ": b"rXYZ"}
        profile[entry : entry + 4] = names.get(bytes(profile[entry : entry + 4]), profile[entry : entry + 4])
    return bytes(profile)


# Sources


def test_every_source_gives_the_same_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(COLOURS, "PNG")
    path = tmp_path / "photo.one.png"
    path.write_bytes(data)

    class Stdin:
        buffer = io.BytesIO(data)

    monkeypatch.setattr(sys, "stdin", Stdin)
    expected = {
        "path": (Image.load(path), "photo.one", str(path)),
        "text": (Image.load(str(path)), "photo.one", str(path)),
        "stdin": (Image.load("-"), "stdin", "-"),
        "bytes": (Image.load(data), "picture", None),
        "pil": (Image.load(pillow.fromarray(COLOURS)), "picture", None),
        "array": (Image.load(COLOURS), "picture", None),
    }
    for image, name, source in expected.values():
        np.testing.assert_array_equal(image.pixels, COLOURS)
        assert (image.name, image.source, image.alpha, image.notes) == (name, source, None, ())
        assert image.size == (image.height, image.width) == (12, 17)
    assert expected["path"][0].sha256 == expected["stdin"][0].sha256 == expected["bytes"][0].sha256
    assert expected["pil"][0].sha256 == expected["array"][0].sha256 != Image.load(COLOURS[::-1]).sha256
    assert Image.load(expected["array"][0]) is expected["array"][0]


def test_arrays() -> None:
    grey = GREY[..., None].repeat(3, axis=2)
    np.testing.assert_array_equal(Image.load(GREY).pixels, grey)
    np.testing.assert_array_equal(Image.load(GREY[..., None]).pixels, grey)
    np.testing.assert_array_equal(Image.load(GREY > 99).pixels, np.where(grey > 99, 255, 0))
    np.testing.assert_array_equal(Image.load(COLOURS / 255).pixels, COLOURS)
    np.testing.assert_array_equal(Image.load((COLOURS / 255).astype(np.float32)).pixels, COLOURS)
    image = Image.load(np.dstack([COLOURS, GREY]))
    np.testing.assert_array_equal(image.pixels, COLOURS)
    np.testing.assert_array_equal(image.alpha, GREY)
    own = COLOURS.copy()
    image = Image.load(own)
    own[:] = 0
    np.testing.assert_array_equal(image.pixels, COLOURS)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (np.full((2, 2), np.nan), "no numbers"),
        (np.full((2, 2), np.inf), "no numbers"),
        (np.full((2, 2), 200.0), "from 0 to 1; this one's reach from 200 to 200"),
        (np.zeros((2, 2), np.int64), "array of int64"),
        (np.zeros((2, 2), complex), "array of complex128"),
        (np.zeros((2, 2), object), "array of object"),
        (np.zeros(5, np.uint8), "shape 5"),
        (np.zeros((2, 2, 2), np.uint8), "shape 2x2x2"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (np.zeros((), np.uint8), r"shape \(\)"),
        (pillow.new("RGB", (0, 5)), "no pixels: its size is 0x5"),
        (b"", "is empty"),
        (42, "not int"),
        (None, "not NoneType"),
    ],
)
def test_what_is_no_picture_in_memory(source: Any, sentence: str) -> None:
    with pytest.raises(ImageError, match=sentence):
        Image.load(source)


# Modes


@pytest.mark.parametrize("mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa"])
def test_exact_modes(mode: str) -> None:
    shades = pillow.fromarray(COLOURS if "RGB" in mode else GREY > 99 if mode == "1" else GREY)
    expected = np.asarray(shades.convert("RGB"))
    way = {"La": ["LA"], "PA": ["LA"], "RGBa": ["RGBA"]}.get(mode, [])
    picture = shades
    for step in [*way, mode]:
        picture = picture.convert(step)
    assert picture.mode == mode
    image = Image.load(picture)
    np.testing.assert_array_equal(image.pixels, expected)
    assert image.alpha is None  # fully opaque


@pytest.mark.parametrize("mode", ["YCbCr", "HSV", "LAB", "CMYK"])
def test_other_colour_spaces(mode: str) -> None:
    colours = np.array([[[200, 90, 80], [90, 180, 90], [70, 90, 200], [250, 250, 250], [9, 9, 9]]], np.uint8)
    picture = pillow.fromarray(colours).convert(mode)
    assert picture.mode == mode
    assert np.abs(Image.load(picture).pixels.astype(int) - colours).max() <= 5


def test_sixteen_bits_keep_their_range() -> None:
    levels = np.array([[0, 257, 25700, 65535]], np.uint16)
    for data in (encoded(levels, "PNG"), encoded(levels, "TIFF")):
        image = Image.load(data)
        assert image.pixels[0, :, 0].tolist() == [0, 1, 100, 255]
        assert any("scaled to 8 bits" in note for note in image.notes)


@pytest.mark.parametrize(
    ("values", "expected", "note"),
    [
        (np.array([[0.0, 0.2, 1.0]], np.float32), [0, 51, 255], "from 0 to 1"),
        (np.array([[-10.0, 0.0, 10.0]], np.float32), [0, 128, 255], "from -10 to 10"),
        (np.array([[1000, 2000, 3000]], np.int32), [0, 128, 255], "from 1000 to 3000"),
        (np.array([[7, 7, 7]], np.int32), [0, 0, 0], "from 7 to 7"),
    ],
)
def test_32_bits_are_stretched_and_it_is_said(values: NDArray[Any], expected: list[int], note: str) -> None:
    image = Image.load(encoded(values, "TIFF"))
    assert image.pixels[0, :, 0].tolist() == expected
    assert note in image.notes[0]


def test_a_float_file_without_numbers() -> None:
    with pytest.raises(ImageError, match="no numbers"):
        Image.load(encoded(np.array([[0, np.nan]], np.float32), "TIFF"))


def test_alpha_is_kept_and_said() -> None:
    rgba = np.dstack([COLOURS, GREY])
    for data in (encoded(rgba, "PNG"), encoded(rgba, "WEBP", lossless=True, exact=True)):
        image = Image.load(data)
        np.testing.assert_array_equal(image.pixels, COLOURS)
        np.testing.assert_array_equal(image.alpha, GREY)
        assert image.notes == ("transparent parts are laid on white for the network",)


def test_transparent_palettes_and_keys() -> None:
    palette = pillow.frombytes("P", (3, 1), bytes([0, 1, 2]))
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image = Image.load(encoded(palette, "PNG", transparency=1))
    assert image.pixels[0].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    assert image.alpha is not None and image.alpha.tolist() == [[255, 0, 255]]
    keyed = Image.load(encoded(np.array([[5, 6]], np.uint8), "PNG", transparency=6))
    assert keyed.alpha is not None and keyed.alpha.tolist() == [[255, 0]]
    assert keyed.pixels[0, :, 0].tolist() == [5, 6]


def test_flattened_mixes_by_opacity() -> None:
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 3] = 0, 51, 255
    image = Image.load(pixels)
    assert image.flattened().pixels[0, :, 0].tolist() == [255, 204, 0]
    assert image.flattened((10, 20, 30)).pixels[0, 0].tolist() == [10, 20, 30]
    assert image.flattened().alpha is None
    opaque = Image.load(COLOURS)
    assert opaque.flattened() is opaque


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame(format: str) -> None:
    frames = [pillow.fromarray(np.full((8, 9, 3), level, np.uint8)) for level in (10, 100, 200)]
    options = {"lossless": True} if format == "WEBP" else {}
    image = Image.load(encoded(frames[0], format, save_all=True, append_images=frames[1:], **options))
    assert (image.pixels == 10).all()
    assert image.notes == ("the first of 3 frames",)


# Orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "JPEG"])
def test_orientation_is_applied(format: str, orientation: int) -> None:
    exif = pillow.Exif()
    exif[0x0112] = orientation
    pixels = smooth(16, 24) if format == "JPEG" else COLOURS
    data = encoded(pixels, format, exif=exif, **({"lossless": True} if format == "WEBP" else {}))
    expected = ImageOps.exif_transpose(pillow.open(io.BytesIO(data))).convert("RGB")
    image = Image.load(data)
    np.testing.assert_array_equal(image.pixels, np.asarray(expected))
    assert image.size == (pixels.shape[:2] if orientation < 5 else pixels.shape[1::-1])
    again = Image.load(image.encode("png"))  # upright pixels carry no orientation any more
    np.testing.assert_array_equal(again.pixels, image.pixels)


def test_alpha_turns_with_the_pixels() -> None:
    exif = pillow.Exif()
    exif[0x0112] = 6
    image = Image.load(encoded(np.dstack([COLOURS, GREY]), "PNG", exif=exif))
    np.testing.assert_array_equal(image.pixels, np.rot90(COLOURS, -1))
    np.testing.assert_array_equal(image.alpha, np.rot90(GREY, -1))
    assert "turned upright (EXIF orientation 6)" in image.notes


# Colour profiles


def test_colours_are_converted_and_back() -> None:
    profile = swapping_profile()
    image = Image.load(encoded(COLOURS, "PNG", icc_profile=profile))
    assert np.abs(image.pixels.astype(int) - COLOURS[..., [1, 0, 2]]).max() <= 2
    assert image.profile == profile
    assert any("colours converted to sRGB from" in note for note in image.notes)
    for format in ("png", "webp", "tif"):
        file = pillow.open(io.BytesIO(image.encode(format)))
        assert file.info["icc_profile"] == profile
        assert np.abs(np.asarray(file.convert("RGB")).astype(int) - COLOURS).max() <= 3
    flat = Image.load(encoded(smooth(), "PNG", icc_profile=profile))
    file = pillow.open(io.BytesIO(flat.encode("jpg")))
    assert file.info["icc_profile"] == profile
    assert np.abs(np.asarray(file).astype(int) - smooth()).mean() < 3


def test_alpha_is_no_colour() -> None:
    rgba = np.dstack([COLOURS, GREY])
    image = Image.load(encoded(rgba, "PNG", icc_profile=swapping_profile()))
    np.testing.assert_array_equal(image.alpha, GREY)
    again = np.asarray(pillow.open(io.BytesIO(image.encode("png"))))
    np.testing.assert_array_equal(again[..., 3], GREY)
    assert np.abs(again.astype(int) - rgba).max() <= 3


def test_a_profile_that_is_srgb_moves_nothing() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = Image.load(encoded(COLOURS, "PNG", icc_profile=profile))
    np.testing.assert_array_equal(image.pixels, COLOURS)
    assert image.notes == () and image.profile == profile
    np.testing.assert_array_equal(np.asarray(from_srgb(image.pil(), profile)), COLOURS)


def test_grey_pictures_with_a_profile_for_colour() -> None:
    image = Image.load(encoded(GREY, "PNG", icc_profile=swapping_profile()))
    assert np.abs(image.pixels.astype(int) - GREY[..., None]).max() <= 2


@pytest.mark.parametrize("damage", ["rubbish", "cut", "empty header"])
def test_a_damaged_profile_is_ignored_and_said(damage: str) -> None:
    good = swapping_profile()
    profile = {"rubbish": b"no profile", "cut": good[:300], "empty header": bytes(128) + good[128:]}[damage]
    image = Image.load(encoded(COLOURS, "PNG", icc_profile=profile))
    np.testing.assert_array_equal(image.pixels, COLOURS)
    assert image.profile is None
    assert any("damaged colour profile ignored" in note for note in image.notes)


def test_a_profile_of_another_space_is_ignored_and_said() -> None:
    profile = bytearray(swapping_profile())
    profile[16:20] = b"CMYK"
    image = Image.load(encoded(COLOURS, "PNG", icc_profile=bytes(profile)))
    np.testing.assert_array_equal(image.pixels, COLOURS)
    assert any("profile" in note and "ignored" in note for note in image.notes)


# What is no picture


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width: int, height: int) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("size", "sentence"),
    [
        ((10_001, 10_000), "10001x10000, is too large: 100\\.01 megapixels, and 100 are the limit"),
        ((60_000, 50_000), "3000 megapixels, and 100 are the limit"),
        ((2**31 - 1, 2**31 - 1), "megapixels, and 100 are the limit"),
        ((0, 10), "no pixels|damaged|no picture"),
    ],
)
def test_the_size_is_checked_before_decoding(size: tuple[int, int], sentence: str) -> None:
    with pytest.raises(ImageError, match=sentence):
        Image.load(png_header(*size))


def test_the_largest_picture_is_still_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "LARGEST_PICTURE", 12 * 17)
    assert Image.load(encoded(COLOURS, "PNG")).size == (12, 17)
    with pytest.raises(ImageError, match="too large"):
        Image.load(encoded(COLOURS.repeat(2, axis=0), "PNG"))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "JPEG2000"])
def test_a_truncated_file_is_an_error(format: str) -> None:
    data = encoded(random.integers(0, 256, (40, 40, 3), dtype=np.uint8), format)
    for part in (0.1, 0.5, 0.9):
        with pytest.raises(ImageError) as caught:
            Image.load(data[: int(len(data) * part)])
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data", [b"hello", b"\0" * 1000, b"%!PS-Adobe-3.0 EPSF-3.0\n", b"<svg></svg>", b"%PDF-1.7", b"GIF89a"]
)
def test_what_is_no_picture(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "file.jpg"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"file\.jpg' is (no picture of a kind|damaged)"):
        Image.load(path)


@pytest.mark.parametrize(
    "problem",
    "OSError SyntaxError ValueError EOFError IndexError OverflowError KeyError TypeError AttributeError "
    "RuntimeError NotImplementedError AssertionError MemoryError RecursionError".split(),
)
def test_whatever_a_decoder_raises(problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    def fail(*arguments: object, **options: object) -> None:
        raise getattr(builtins, problem)("first line\nsecond line")

    monkeypatch.setattr(pillow, "open", fail)
    with pytest.raises(ImageError) as caught:
        Image.load(b"x")
    assert "\n" not in str(caught.value)


def test_missing_files_directories_and_odd_names(tmp_path: Path) -> None:
    cases: list[tuple[Path | str, str]] = [
        (tmp_path / "absent.png", "there is no file"),
        (tmp_path, "is a folder, not a picture"),
        ("null\0.png", "cannot be read"),
        ("\udcff.png", "there is no file"),
    ]
    for source, sentence in cases:
        with pytest.raises(ImageError, match=sentence) as caught:
            Image.load(source)
        str(caught.value).encode()


def test_warnings_become_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(COLOURS, "PNG")
    opened = pillow.open

    def warn(*arguments: Any, **options: Any) -> pillow.Image:
        warnings.warn("something is odd", UserWarning, stacklevel=1)
        return opened(*arguments, **options)

    monkeypatch.setattr(pillow, "open", warn)
    assert Image.load(data).notes == ("Pillow warns: something is odd",)


def test_damaged_files_print_nothing(tmp_path: Path) -> None:
    # libtiff prints past Python, so only another process can tell.
    paths = []
    for compression in ("tiff_deflate", "tiff_lzw", "group4"):
        picture = pillow.fromarray(smooth()).convert("1" if compression == "group4" else "RGB")
        pages = {"save_all": True, "append_images": [picture]}
        data = bytearray(encoded(picture, "TIFF", compression=compression, **pages))
        data[200:400] = bytes(random.integers(0, 256, 200, dtype=np.uint8))
        path = tmp_path / f"{compression}.tif"
        path.write_bytes(data)
        paths.append(str(path))
    code = (
        "import sys\nfrom cnnkit.images.image import Image\nfrom cnnkit.errors import ImageError\n"
        "for path in sys.argv[1:]:\n    try: Image.load(path)\n    except ImageError: pass\n"
        "print('still here', file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("", "still here\n")


# Derived pictures


@pytest.mark.parametrize("filter", FILTERS)
def test_resized(filter: str) -> None:
    image = Image.load(np.dstack([np.full((9, 7, 3), 80, np.uint8), np.full((9, 7), 128, np.uint8)]))
    resized = image.resized(5, 12, filter)
    assert resized.size == (5, 12)
    assert np.abs(resized.pixels.astype(int) - 80).max() <= 1  # Pillow multiplies by alpha and back
    assert resized.alpha is not None and (resized.alpha == 128).all()
    with pytest.raises(UsageError, match="no resizing filter"):
        image.resized(5, 12, "cubic")


def test_derived_pictures_keep_their_name_and_drop_their_hash() -> None:
    image = Image.load("sample:shapes")
    derived = image.with_pixels(image.pixels[::-1])
    assert (derived.name, derived.source, derived.sha256) == ("shapes", None, "")
    translucent = Image(COLOURS, GREY, profile=b"p")
    assert translucent.with_pixels(COLOURS[::-1]).alpha is GREY
    assert translucent.with_pixels(COLOURS[:4]).alpha is None
    assert translucent.with_pixels(COLOURS[:4]).profile == b"p"


# Saving


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_saved_pictures_come_back_with_their_provenance(tmp_path: Path, suffix: str) -> None:
    provenance = {"operation": "occlusion", "größe": [1, 2.5], "nothing": None, "deep": {"a": "\u2028"}}
    pixels = smooth()
    path = Image(pixels).save(tmp_path / f"a{suffix.upper()}", provenance)
    assert path == tmp_path / f"a{suffix.upper()}" and os.listdir(tmp_path) == [path.name]
    assert Image.read_provenance(path) == provenance
    again = Image.load(path)
    assert again.notes == () and again.alpha is None
    difference = np.abs(again.pixels.astype(int) - pixels)
    assert difference.max() <= (12 if "j" in suffix else 0) and difference.mean() < 1.5


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_alpha_is_saved(tmp_path: Path, suffix: str) -> None:
    path = Image(COLOURS, GREY).save(tmp_path / f"a{suffix}")
    again = Image.load(path)
    np.testing.assert_array_equal(again.pixels, COLOURS)
    np.testing.assert_array_equal(again.alpha, GREY)
    assert Image.read_provenance(path) is None


def test_jpeg_lays_on_white_and_keeps_full_colour(tmp_path: Path) -> None:
    path = Image(np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16), np.uint8)).save(tmp_path / "a.jpg")
    assert (Image.load(path).pixels >= 254).all()
    with pillow.open(path) as file:
        assert [layer[1:3] for layer in file.layer] == [(1, 1)] * 3  # type: ignore[attr-defined]


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    image = Image(COLOURS)
    with pytest.raises(OutputError, match=r"its suffix is none of \.png"):
        image.save(tmp_path / "a.bmp")
    with pytest.raises(OutputError, match="its folder does not exist"):
        image.save(tmp_path / "absent" / "a.png")
    with pytest.raises(OutputError, match="cannot write 17000x1 pixels as WEBP"):
        Image(np.zeros((1, 17000, 3), np.uint8)).save(tmp_path / "a.webp")
    with pytest.raises(OutputError, match="as JPEG"):
        image.save(tmp_path / "a.jpg", {"long": "x" * 70_000})
    with pytest.raises(UsageError, match="not 'gif'"):
        image.encode("gif")
    assert os.listdir(tmp_path) == []


def test_provenance_of_what_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_bytes(b"hello")
    (tmp_path / "empty.png").touch()
    exif = pillow.Exif()
    exif[0x010E] = "holiday"
    (tmp_path / "photo.jpg").write_bytes(encoded(COLOURS, "JPEG", exif=exif))
    exif[0x010E] = "[1, 2]"
    (tmp_path / "list.jpg").write_bytes(encoded(COLOURS, "JPEG", exif=exif))
    for name in ("absent.png", "text.png", "empty.png", "photo.jpg", "list.jpg", "."):
        assert Image.read_provenance(tmp_path / name) is None


def test_a_notebook_shows_the_picture() -> None:
    np.testing.assert_array_equal(np.asarray(pillow.open(io.BytesIO(Image(COLOURS)._repr_png_()))), COLOURS)
