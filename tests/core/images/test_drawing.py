"""Numbers become the right colours at the right pixels, and text stays inside."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnkit.errors import UsageError
from cnnkit.images import drawing
from cnnkit.images.colourmaps import NAN_COLOUR
from cnnkit.images.drawing import COLOURMAPS, DIVERGING, INK, WHITE, Pixels, colourise, limits
from cnnkit.images.image import Image

SEQUENTIAL = sorted(COLOURMAPS.keys() - DIVERGING)


def rgb(point: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(point))


def picture(height: int, width: int, seed: int = 0) -> Image:
    return Image.load(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def contains(pixels: Pixels, part: Pixels) -> bool:
    windows = np.lib.stride_tricks.sliding_window_view(pixels, part.shape)
    return bool((windows == part).all(axis=(-3, -2, -1)).any())


def ink(pixels: Pixels) -> Pixels:
    """The text alone: without the white around it."""
    rows, columns = np.nonzero((pixels != 255).any(axis=2))
    return pixels[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


# Colours


@pytest.mark.parametrize("name", COLOURMAPS)
def test_control_points_are_met_exactly(name):
    points = [rgb(point) for point in COLOURMAPS[name]]
    assert [tuple(c) for c in colourise(np.linspace(-1, 1, len(points))[None], name)[0].tolist()] == points


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_tables_stay_near_matplotlib(name):
    matplotlib = pytest.importorskip("matplotlib")
    theirs = matplotlib.colormaps[{"grey": "gray"}.get(name, name)](np.arange(256))[:, :3] * 255
    ours = colourise(np.arange(256.0)[None], name)[0]
    assert np.abs(ours - theirs).max() < 6
    assert len(COLOURMAPS[name]) <= 17


def test_zero_is_the_middle_of_a_diverging_map():
    values = np.array([[-1.0, 0.0, 3.0]])
    assert limits(values, "blue-red") == (-3, 3)
    assert limits(values, "blue-red", low=-5) == (-5, 5)
    colours = colourise(values, "blue-red")[0]
    assert tuple(colours[1]) == WHITE
    assert tuple(colours[2]) == rgb(COLOURMAPS["blue-red"][-1])
    assert colours[0, 2] > colours[0, 0]
    assert tuple(colourise(np.zeros((1, 1)), "blue-red")[0, 0]) == WHITE


def test_limits_are_the_finite_extremes():
    values = np.array([[np.nan, -2.0, np.inf, 5.0]])
    assert limits(values, "magma") == (-2, 5)
    assert limits(values, "magma", low=0) == (0, 5)
    assert limits(np.full((2, 2), np.nan), "magma") == (0, 1)


def test_values_outside_the_limits_take_the_ends_and_nan_is_grey():
    values = np.array([[-9.0, 9.0, np.inf, -np.inf, np.nan]], dtype=np.float32)
    first, last = rgb(COLOURMAPS["viridis"][0]), rgb(COLOURMAPS["viridis"][-1])
    expected = [first, last, last, first, NAN_COLOUR]
    assert [tuple(c) for c in colourise(values, "viridis", 0, 1)[0].tolist()] == expected


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float16, np.float64])
def test_any_number_type_is_coloured_alike(dtype):
    assert (colourise(np.array([[0, 1]], dtype=dtype), "grey") == [[[0] * 3, [255] * 3]]).all()


def test_a_constant_map_takes_the_lowest_colour():
    assert (colourise(np.full((2, 2), 7.0), "turbo") == rgb(COLOURMAPS["turbo"][0])).all()


def test_an_unknown_colour_map_is_named_with_a_suggestion():
    with pytest.raises(UsageError, match=r"'virdis'.*Did you mean 'viridis'"):
        colourise(np.zeros((1, 1)), "virdis")


# Overlay


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.6, 1.0])
def test_overlay_blends_by_its_formula(alpha):
    image = picture(9, 7)
    heat = np.linspace(-1, 2, 63).reshape(9, 7)
    base, colours = drawing.desaturated(image.pixels).astype(float), colourise(heat, "blue-red").astype(float)
    laid = drawing.overlay(image, heat, alpha=alpha)
    assert np.abs(laid.pixels - ((1 - alpha) * base + alpha * colours)).max() <= 0.501
    assert laid.name == image.name


def test_where_the_heat_is_nan_the_picture_shows_through():
    image, heat = picture(2, 2), np.array([[np.nan, 1.0], [0.0, np.nan]])
    laid, base = drawing.overlay(image, heat).pixels, drawing.desaturated(image.pixels)
    assert (laid[[0, 1], [0, 1]] == base[[0, 1], [0, 1]]).all()
    assert (laid[0, 1] != base[0, 1]).any()


def test_desaturation_runs_from_the_picture_to_its_grey():
    red = np.array([[[255, 0, 0]]], dtype=np.uint8)
    assert (drawing.desaturated(red, 0.0) == red).all()
    assert drawing.desaturated(red, 1.0).tolist() == [[[76, 76, 76]]]  # 0.299 * 255 = 76.2


# Text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.12, "0.12"),
        (-3.4, "-3.4"),
        (1.2e-5, "1.2e-5"),
        (0.0, "0"),
        (-0.0, "0"),
        (0.123456, "0.123"),
        (999.9, "1000"),
        (-2.5e10, "-2.5e10"),
        (100.0, "100"),
        (np.float32(0.1), "0.1"),
    ],
)
def test_numbers_are_compact(value, text):
    assert drawing.compact(value) == text


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=80), size=st.sampled_from([12, 20, 47]), width=st.integers(1, 300))
def test_text_never_exceeds_its_width(text, size, width):
    short = drawing.shorten(text, size, width)
    assert drawing.shorten(short, size, width) == short
    room = drawing.text_line(short, size, width + 200)
    assert (room[:, width:] == 255).all()
    assert drawing.text_line(text, size, width).shape == (drawing.line_height(size), width, 3)


def test_a_long_text_ends_in_an_ellipsis_and_keeps_all_that_fits():
    short = drawing.shorten("a caption that is much too long", 12, 100)
    assert short.endswith("…") and "a caption that is much too long".startswith(short[:-1])
    longer = drawing.shorten("a caption that is much too long", 12, 130)
    assert len(longer) > len(short)
    assert drawing.shorten("a caption", 12, 500) == "a caption"
    assert drawing.shorten("a caption", 12, 1) == ""


def test_characters_without_a_glyph_get_a_plain_one():
    text = "caf\N{LATIN SMALL LETTER E WITH ACUTE} 3\N{MULTIPLICATION SIGN}3"
    assert drawing.shorten(text, 12, 500) == "cafe 3x3"
    assert drawing.shorten("\N{GREEK SMALL LETTER OMEGA}\n", 12, 500) == "? "


def test_text_is_aligned():
    left, right = (drawing.text_line("x", 20, 100, align) for align in ("left", "right"))
    assert (left[:, 50:] == 255).all() and (left != 255).any()
    assert (right[:, :50] == 255).all() and (right != 255).any()


# Legend and figure


def test_the_legend_shows_its_limits_and_zero():
    scale = drawing.legend(200, -0.25, 1.5, "blue-red", size=14)
    for number in ("1.5", "0", "-0.25"):
        assert contains(scale, ink(drawing.text_line(number, 14, 60)))
    assert scale.shape[0] == 200
    assert tuple(scale[0, 0]) == rgb(COLOURMAPS["blue-red"][-1])
    assert tuple(scale[-1, 0]) == rgb(COLOURMAPS["blue-red"][0])


def test_the_tick_of_zero_stands_where_the_map_is_white():
    scale = drawing.legend(201, -3, 3, "blue-red", size=14)
    assert tuple(scale[100, 0]) == WHITE
    assert tuple(scale[100, 14]) == INK


def test_zero_is_left_out_where_it_is_not_inside():
    scale = drawing.legend(200, 3, 8, "magma", size=14)
    assert not contains(scale, ink(drawing.text_line("0", 14, 60)))


@pytest.mark.parametrize("height", [1, 2, 11, 30])
def test_a_low_legend_drops_numbers_rather_than_overlapping_them(height):
    assert drawing.legend(height, -1, 1, "blue-red", "a label").shape[0] == height


@pytest.mark.parametrize("size", [(1, 1), (20, 20), (1, 300), (300, 1), (64, 40), (130, 200)])
def test_a_figure_of_any_size_holds_its_picture(size):
    image = picture(*size)
    drawn = drawing.figure(image.pixels, "a caption " * 20, "magma", -1, 2, "a label")
    factor = max(1, 128 // max(size))
    left = drawing.font_size(factor * size[0], factor * size[1])
    shown = image.pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    top = drawn.shape[0] - left - max(shown.shape[0], 4 * drawing.line_height(left))
    assert (drawn[top : top + shown.shape[0], left : left + shown.shape[1]] == shown).all()
    edge = np.ones(drawn.shape[:2], dtype=bool)
    edge[left:-left, left:-left] = False
    assert (drawn[edge] == 255).all()


def test_text_grows_with_the_picture():
    assert drawing.font_size(100, 100) == 12
    assert drawing.font_size(3200, 4800) == 100
    assert drawing.font_size(3200, 320) == 20


def test_a_heat_figure_is_the_overlay_in_a_figure():
    image, heat = picture(150, 200), np.linspace(-1, 2, 30000).reshape(150, 200)
    drawn = drawing.heat_figure(image, heat, "tabby cat", "drop").pixels
    laid = drawing.overlay(image, heat).pixels
    assert (drawn == drawing.figure(laid, "tabby cat", "blue-red", -2, 2, "drop")).all()


# Many pictures


def test_the_grid_places_each_tile_at_its_pixel():
    tiles = np.random.default_rng(0).integers(0, 256, (10, 7, 5, 3), dtype=np.uint8)
    sheet = drawing.grid(tiles, columns=4, padding=3)
    assert sheet.shape == (3 + 3 * (49 + 3), 3 + 4 * (35 + 3), 3)
    for k, tile in enumerate(tiles):
        top, left = 3 + k // 4 * 52, 3 + k % 4 * 38
        assert (sheet[top : top + 49 : 7, left : left + 35 : 7] == tile).all()
        assert (sheet[top + 6 : top + 49 : 7, left + 6 : left + 35 : 7] == tile).all()
        assert (sheet[top - 1, left : left + 35] == 255).all()
    assert (sheet[3 + 2 * 52 :, 3 + 2 * 38 :] == 255).all()


def test_large_tiles_are_not_enlarged_and_sheets_are_nearly_square():
    assert drawing.grid(np.zeros((9, 60, 60, 3), dtype=np.uint8)).shape == (2 + 3 * 62, 2 + 3 * 62, 3)
    assert drawing.near_square(32) == 6
    assert drawing.near_square(1) == 1
    assert drawing.near_square(4, ratio=4.0) == 4


def test_captions_stand_below_their_tiles():
    tiles = np.zeros((2, 60, 60, 3), dtype=np.uint8)
    sheet = drawing.grid(tiles, columns=2, captions=["one", "a much longer caption"])
    line = drawing.line_height(12)
    assert sheet.shape == (2 + 60 + line + 2, 2 + 2 * 62, 3)
    assert (sheet[62 : 62 + line, 2:62] == drawing.text_line("one", 12, 60, "centre")).all()


def test_the_contact_sheet_fits_every_picture_into_an_equal_cell():
    large = Image.load(np.full((400, 800, 3), (200, 0, 0), dtype=np.uint8))
    tall = Image.load(np.full((900, 300, 3), (0, 200, 0), dtype=np.uint8))
    small = Image.load(np.full((20, 40, 3), (0, 0, 200), dtype=np.uint8))
    sheet = drawing.contact_sheet([("a", large), ("b", tall), ("c", small)], columns=3, width=700).pixels
    assert abs(sheet.shape[1] - 700) <= 3
    boxes = []
    for colour in ((200, 0, 0), (0, 200, 0), (0, 0, 200)):
        rows, columns = np.nonzero((sheet == colour).all(axis=2))
        assert rows.size == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        boxes.append((rows.min(), columns.min(), np.ptp(rows) + 1, np.ptp(columns) + 1))
    (top, first, height, width), (_, second, tall_height, tall_width), (_, third, *enlarged) = boxes
    assert [box[0] for box in boxes] == [top] * 3
    assert second - first == third - second > width
    assert width == 2 * height == 2 * tall_height == pytest.approx(6 * tall_width, abs=3)
    assert enlarged[0] % 20 == 0 and enlarged[1] == 2 * enlarged[0] <= width < enlarged[1] + 40


def test_a_sheet_of_one_picture_with_a_title():
    sheet = drawing.contact_sheet([("only", picture(1, 1))], title="a title " * 50, width=300).pixels
    assert (sheet[:, -20:] == 255).all() and (sheet[:20] == 255).all()


# Bars


def heights(chart: Pixels) -> list[int]:
    """How many pixels of each coloured column are bar."""
    bar = (chart == drawing.PALE).all(axis=2).sum(axis=0)
    return [int(n) for n in bar[bar > 0]]


def test_bars_are_as_high_as_their_values():
    chart = drawing.bars([1.0, 2.0, 4.0], top=0)
    distinct = sorted(set(heights(chart)))
    assert [round(4 * n / distinct[-1], 1) for n in distinct] == pytest.approx([1, 2, 4], abs=0.1)
    assert chart.shape == (320, 640, 3)


def test_bars_stand_on_the_zero_line_by_sign():
    chart = drawing.bars([3.0, -3.0], top=0)
    zero = int((chart == INK).all(axis=2).sum(axis=1).argmax())
    bar = (chart == drawing.PALE).all(axis=2)
    assert bar[:zero, :320].any() and not bar[zero + 1 :, :320].any()
    assert bar[zero + 1 :, 360:].any() and not bar[:zero, 360:].any()


@pytest.mark.parametrize("index", [0, 1, 2047, 3333, 4095])
@pytest.mark.parametrize("sign", [1, -1])
def test_no_value_is_lost_among_thousands(index, sign):
    values = np.zeros(4096)
    values[index] = sign * 5
    chart = drawing.bars(values, top=1)
    strong = (chart == drawing.STRONG).all(axis=2)
    assert strong.any(axis=0).sum() == 1
    assert strong.sum() > 150
    assert contains(chart, ink(drawing.text_line(f"{index}: {5 * sign}", 12, 100)))


def test_the_largest_values_are_named_by_their_labels():
    chart = drawing.bars([0.1, -0.9, 0.4], labels=["cat", "dog", "cup"], top=2, title="scores")
    for text in ("dog: -0.9", "cup: 0.4", "scores", "-0.9"):
        assert contains(chart, ink(drawing.text_line(text, 12, 200)))
    assert not contains(chart, ink(drawing.text_line("cat: 0.1", 12, 200)))


@pytest.mark.parametrize("values", [[0.5], [0.0] * 7, [np.nan, 1.0, np.inf], [-1.0, -2.0]])
def test_bars_of_odd_values_are_drawn(values):
    chart = drawing.bars(values, labels=["a very long label " * 20] * len(values), title="title " * 200)
    assert (chart[:, -12:] == 255).all() and (chart[:3] == 255).all()
