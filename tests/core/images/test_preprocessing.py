"""Values invert, sizes follow their definition, and maps find their way back onto the picture."""

import json
from typing import Any

import numpy as np
import pytest
from PIL import Image as pillow

from cnnkit.errors import UsageError
from cnnkit.images.image import Image
from cnnkit.images.preprocessing import FILTERS, PRESETS, Fit, Preprocessing, resize_map

random = np.random.default_rng(7)
FITS: tuple[Fit, ...] = ("squash", "crop", "pad")


def noise(height: int, width: int) -> Image:
    return Image.load(random.integers(0, 256, (height, width, 3), dtype=np.uint8))


# Values


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("caffe", [30 - 103.939, 20 - 116.779, 10 - 123.68]),
        ("tf", [10 / 127.5 - 1, 20 / 127.5 - 1, 30 / 127.5 - 1]),
        ("torch", [(10 / 255 - 0.485) / 0.229, (20 / 255 - 0.456) / 0.224, (30 / 255 - 0.406) / 0.225]),
        ("raw", [10, 20, 30]),
    ],
)
def test_presets_are_their_formulas(preset: str, expected: list[float]) -> None:
    pixel = np.array([[[10, 20, 30]]], np.uint8)
    tensor = Preprocessing.preset(preset).to_network(pixel)
    assert tensor.dtype == np.float32 and tensor.shape == (3, 1, 1)
    np.testing.assert_allclose(tensor.ravel(), expected, rtol=1e-6, atol=1e-6)
    nhwc = Preprocessing.preset(preset, layout="nhwc").to_network(pixel)
    np.testing.assert_array_equal(nhwc[0, 0], tensor[:, 0, 0])


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("preset", PRESETS)
def test_values_invert_exactly(preset: str, layout: str) -> None:
    levels = np.arange(256, dtype=np.uint8)
    pixels = np.stack([levels, levels[::-1], np.roll(levels, 99)], axis=-1).reshape(2, 8, 16, 3)
    preprocessing = Preprocessing.preset(preset, layout=layout)
    back = preprocessing.to_pixels(preprocessing.to_network(pixels))
    assert np.abs(back - pixels).max() < 1e-3
    np.testing.assert_array_equal(np.rint(back), pixels)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_grey_is_one_channel_and_inverts_on_grey_pixels(layout: Any) -> None:
    preprocessing = Preprocessing(
        channels="grey", scale=1 / 255, mean=(0.1307,), std=(0.3081,), layout=layout
    )
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    tensor = preprocessing.apply(Image.load(grey)).tensor
    assert tensor.shape == ((1, 1, 16, 16) if layout == "nchw" else (1, 16, 16, 1))
    np.testing.assert_array_equal(np.rint(preprocessing.to_pixels(tensor)[0]), grey)


def test_grey_is_the_luminance_of_pillow() -> None:
    image = noise(20, 30)
    tensor = Preprocessing(channels="grey").apply(image).tensor[0, 0]
    assert np.abs(tensor - np.asarray(image.pil().convert("L"), np.float32)).max() <= 0.5001


def test_any_number_of_leading_dimensions() -> None:
    preprocessing = Preprocessing.preset("torch")
    pixels = random.uniform(-20, 300, (2, 3, 4, 5, 3)).astype(np.float32)
    tensor = preprocessing.to_network(pixels)
    assert tensor.shape == (2, 3, 3, 4, 5)
    np.testing.assert_allclose(preprocessing.to_pixels(tensor), pixels, atol=1e-3)  # and nothing is clipped


# Description


def test_json_brings_every_field_back() -> None:
    preprocessing = Preprocessing.preset(
        "torch", height=224, width=192, fit="crop", filter="area", layout="nhwc"
    )
    assert Preprocessing.from_json(json.loads(json.dumps(preprocessing.to_json()))) == preprocessing
    assert Preprocessing.from_json({}) == Preprocessing()


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"fit": "corp"}, "Did you mean 'crop'"),
        ({"filter": "bilinaer"}, "Did you mean 'bilinear'"),
        ({"filter": 3}, "no resizing filter 3"),
        ({"channels": "rbg"}, "rgb, bgr, grey"),
        ({"layout": "chw"}, "nchw"),
        ({"height": 0}, "from 1 up"),
        ({"width": "wide"}, "from 1 up"),
        ({"mean": [1.0, 2.0]}, "2 values for 3"),
        ({"mean": 5}, "wrong kind"),
        ({"mean": ["a"]}, "wrong kind"),
        ({"std": [0.0]}, "not zero"),
        ({"scale": float("nan")}, "finite"),
        ({"channels": "grey", "mean": [1.0, 2.0, 3.0]}, "3 values for 1"),
        ({"colour": "red"}, "has no colour"),
    ],
)
def test_unfit_descriptions(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        Preprocessing.from_json(fields)


def test_unknown_preset() -> None:
    with pytest.raises(UsageError, match="Did you mean 'torch'"):
        Preprocessing.preset("trch")


# Size


def test_the_pictures_own_size_is_left_alone() -> None:
    image = noise(7, 11)
    for fit in FITS:
        for filter in FILTERS:
            prepared = Preprocessing(fit=fit, filter=filter).apply(image)
            np.testing.assert_array_equal(prepared.picture.pixels, image.pixels)
            np.testing.assert_array_equal(prepared.tensor[0].transpose(1, 2, 0), image.pixels)


@pytest.mark.parametrize("filter", [name for name, kernel in FILTERS.items() if kernel is not None])
def test_squash_is_pillows_resize(filter: str) -> None:
    image = noise(40, 30)
    prepared = Preprocessing(height=16, width=20, filter=filter).apply(image)
    expected = np.asarray(image.pil().resize((20, 16), FILTERS[filter]))
    np.testing.assert_array_equal(prepared.picture.pixels, expected)
    np.testing.assert_array_equal(prepared.tensor[0].transpose(1, 2, 0), expected)


def grey_row(levels: list[float]) -> Image:
    return Image.load(np.array([levels], np.uint8))


def plain(image: Image, height: int, width: int) -> Any:
    tensor = Preprocessing(height=height, width=width, filter="bilinear-plain").apply(image).tensor
    return tensor[0].transpose(1, 2, 0)


def test_plain_bilinear_by_hand() -> None:
    # Output centre (i + 0.5)·(in / out) - 0.5, the two neighbours mixed, no more of them when shrinking.
    np.testing.assert_allclose(plain(grey_row([0, 100]), 1, 4)[0, :, 0], [0, 25, 75, 100], atol=1e-4)
    np.testing.assert_allclose(plain(grey_row([0, 0, 90, 200, 7, 7]), 1, 2)[0, :, 0], [0, 7], atol=1e-4)
    np.testing.assert_allclose(plain(grey_row([0, 90, 200, 7]), 1, 2)[0, :, 0], [45, 103.5], atol=1e-4)
    np.testing.assert_allclose(plain(grey_row([0, 1, 2, 3, 4]), 1, 2)[0, :, 0], [0.75, 3.25], atol=1e-4)


@pytest.mark.oracle
@pytest.mark.parametrize(("had", "wanted"), [((37, 50), (15, 15)), ((9, 7), (31, 40)), ((50, 9), (20, 20))])
def test_plain_bilinear_against_torch(had: tuple[int, int], wanted: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    image = noise(*had)
    tensor = torch.from_numpy(image.pixels.copy()).permute(2, 0, 1)[None].float()
    expected = torch.nn.functional.interpolate(tensor, wanted, mode="bilinear", align_corners=False)
    np.testing.assert_allclose(plain(image, *wanted), expected[0].permute(1, 2, 0).numpy(), atol=0.01)


def test_crop_covers_the_input_with_the_middle() -> None:
    pixels = np.zeros((8, 24, 3), np.uint8)
    pixels[:, 8:16] = 200
    prepared = Preprocessing(height=4, width=4, fit="crop", filter="area").apply(Image.load(pixels))
    assert (prepared.picture.pixels == 200).all()
    assert prepared.geometry.seen == (0, 8, 8, 16)


@pytest.mark.parametrize("size", [(37, 50), (64, 41), (100, 101), (48, 500)])
def test_crop_is_resizing_by_the_short_side_and_cutting(size: tuple[int, int]) -> None:
    # torchvision's Resize(32) and CenterCrop(32), with its two ways of rounding.
    image = noise(*size)
    height, width = (int(32 * side / min(size)) for side in size)
    top, left = round((height - 32) / 2), round((width - 32) / 2)
    resized = np.asarray(image.pil().resize((width, height), pillow.Resampling.BILINEAR))
    ours = Preprocessing(height=32, width=32, fit="crop").apply(image).picture.pixels.astype(int)
    # Pillow rounds between its two passes, whose order depends on the sizes: one grey level of play.
    assert np.abs(ours - resized[top : top + 32, left : left + 32]).max() <= 1


def test_pad_shows_all_on_grey() -> None:
    image = Image.load(np.full((10, 20), 200, np.uint8))
    prepared = Preprocessing(height=8, width=8, fit="pad").apply(image)
    assert prepared.geometry.placed == (2, 0, 6, 8)
    column = prepared.tensor[0, 0, :, 3]
    np.testing.assert_array_equal(column, [127.5, 127.5, 200, 200, 200, 200, 127.5, 127.5])
    assert prepared.picture.pixels[:, 0, 0].tolist() == [128, 128, 200, 200, 200, 200, 128, 128]


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize("size", [(1, 1), (10, 2000), (2000, 10), (1, 3000)])
def test_extreme_pictures(size: tuple[int, int], filter: str, fit: Any) -> None:
    image = Image.load(np.full(size, 77, np.uint8))
    prepared = Preprocessing(height=24, width=32, filter=filter, fit=fit).apply(image)
    assert prepared.tensor.shape == (1, 3, 24, 32)
    assert set(np.unique(prepared.tensor)) <= {77, 127.5}
    back = prepared.geometry.to_picture(np.ones((3, 4)))
    assert back.shape == size and set(np.unique(back)) <= {0, 1} and back.any()


def test_transparent_parts_are_white_for_the_network() -> None:
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:2, :, 3] = 255
    prepared = Preprocessing().apply(Image.load(pixels))
    assert (prepared.tensor[0, :, :2] == 0).all() and (prepared.tensor[0, :, 2:] == 255).all()
    assert prepared.picture.alpha is None


# Maps


def test_resize_map_by_hand() -> None:
    np.testing.assert_allclose(resize_map(np.array([[0.0, 1.0]]), 1, 4), [[0, 0.25, 0.75, 1]], atol=1e-6)
    np.testing.assert_allclose(resize_map(np.array([[1.0], [3.0]]), 2, 3), [[1, 1, 1], [3, 3, 3]])
    checker = np.indices((8, 8)).sum(axis=0) % 2
    np.testing.assert_allclose(resize_map(checker, 2, 2), np.full((2, 2), 0.5), atol=0.05)  # averaged


@pytest.mark.oracle
@pytest.mark.parametrize(("had", "wanted"), [((7, 7), (224, 224)), ((4, 6), (9, 31)), ((5, 5), (5, 12))])
def test_resize_map_against_torch(had: tuple[int, int], wanted: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    values = random.normal(size=had).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(values)[None, None], wanted, mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(resize_map(values, *wanted), expected[0, 0].numpy(), atol=1e-5)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [(60, 40), (40, 60), (300, 200), (210, 400)])
def test_a_marked_area_is_found_again(size: tuple[int, int], fit: Any) -> None:
    # A white mark on black: where the network sees white, the map is 1.
    height, width = size
    rows, columns = slice(height * 2 // 5, height * 3 // 5), slice(width * 2 // 5, width * 7 // 10)
    marked = np.zeros(size, np.uint8)
    marked[rows, columns] = 255
    prepared = Preprocessing(height=96, width=128, fit=fit).apply(Image.load(marked))
    padding = prepared.tensor[0, 0] == 127.5
    found = prepared.geometry.to_picture(np.where(padding, 0, prepared.tensor[0, 0] / 255), outside=-1)
    assert found.shape == size and found.dtype == np.float32
    seen = found >= 0
    assert seen.all() == (fit != "crop")
    wrong = (found > 0.5) != (marked > 0)
    # Sampling twice blurs the rim by up to two pixels of the coarser grid.
    rim = np.zeros(size, bool)
    blur = int(np.ceil(2 * max(1, height / 96, width / 96)))
    rim[rows.start - blur : rows.stop + blur, columns.start - blur : columns.stop + blur] = True
    rim[rows.start + blur : rows.stop - blur, columns.start + blur : columns.stop - blur] = False
    assert not (wrong & seen & ~rim).any()
    inside = np.zeros(size, bool)
    inside[rows, columns] = True
    assert found[inside & seen].mean() > 0.85 and np.abs(found[~inside & seen]).mean() < 0.05
    # The centre of the mark is where it was, to a third of a pixel of the coarser grid.
    if fit != "crop":
        centre = (np.indices(size) * found).sum(axis=(1, 2)) / found.sum()
        expected = ((rows.start + rows.stop - 1) / 2, (columns.start + columns.stop - 1) / 2)
        assert np.abs(centre - expected).max() < 0.34 * max(1, height / 96, width / 96)


def test_a_linear_ramp_lands_at_its_exact_place() -> None:
    # The map says each network pixel's own row and column; on the picture they must grow evenly.
    for fit in FITS:
        prepared = Preprocessing(height=50, width=80, fit=fit).apply(noise(100, 120))
        geometry = prepared.geometry
        rows, columns = np.indices((50, 80)) + 0.5
        for axis, coordinates in ((0, rows), (1, columns)):
            found = geometry.to_picture(coordinates, outside=np.nan)
            centres = np.indices((100, 120))[axis] + 0.5
            first, last = geometry.placed[axis], geometry.placed[axis + 2]
            start, stop = geometry.seen[axis], geometry.seen[axis + 2]
            expected = first + (centres - start) * (last - first) / (stop - start)
            expected = np.clip(expected, first + 0.5, last - 0.5)
            seen = np.isfinite(found)
            np.testing.assert_allclose(found[seen], expected[seen], atol=1e-3)


def test_crop_fills_what_the_network_did_not_see() -> None:
    geometry = Preprocessing(height=10, width=10, fit="crop").apply(noise(20, 40)).geometry
    found = geometry.to_picture(np.ones((5, 5)), outside=-3)
    assert (found[:, 10:30] == 1).all() and (found[:, :10] == -3).all() and (found[:, 30:] == -3).all()


@pytest.mark.parametrize("cells", [7, 32, 64])
def test_pad_cuts_the_padding_off(cells: int) -> None:
    geometry = Preprocessing(height=32, width=32, fit="pad").apply(noise(16, 32)).geometry
    values = np.full((cells, cells), 9.0)
    top, bottom = int(np.floor(8 * cells / 32)), int(np.ceil(24 * cells / 32))
    values[top:bottom] = 1
    assert (geometry.to_picture(values) == 1).all()


def test_squash_is_resize_map_when_it_enlarges() -> None:
    geometry = Preprocessing(height=14, width=14).apply(noise(90, 60)).geometry
    values = random.normal(size=(7, 7)).astype(np.float32)
    np.testing.assert_allclose(geometry.to_picture(values), resize_map(values, 90, 60), atol=1e-5)
