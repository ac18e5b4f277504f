"""A report holds what was made, exactly where that matters, and nothing that a stranger smuggled in."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paged import Page, decoded

import cnnkit
from cnnkit import Image, Model, Operation, OutputError, Result, UsageError, drawing, pages
from cnnkit.host.exhibits import tables
from cnnkit.host.paths import Destination
from cnnkit.host.report import Report

HOSTILE = '<img src=x onerror=alert(1)> & "it\'s" </script>'


@dataclass(frozen=True)
class Options:
    """Lay a ramp over the picture."""

    depth: int = 3
    word: str = "none"
    open: str | None = None


def ramp(picture: Image) -> Any:
    return np.linspace(-1, 1, picture.height * picture.width, dtype=np.float32).reshape(picture.size)


def lay(picture: Image, model: Any, options: Options, context: Any) -> Result:
    if picture.name.startswith("stop"):
        raise KeyboardInterrupt
    figure = drawing.heat_figure(picture, ramp(picture), options.word, "ramp")
    chart = Image(drawing.bars(np.arange(9.0), title="nine"))
    found = {"mean": 0.25, "targets": [{"label": options.word, "score": 0.5}, {"label": "b", "score": 2}]}
    return Result({"": figure, "chart": chart}, data=found, text=f"{picture.name}: {options.word}")


def count(pictures: Iterator[Image], model: Any, options: Options, context: Any) -> Iterator[Result]:
    for picture in pictures:
        yield Result(data={"width": picture.width}, text=f"{picture.width} wide")
    yield Result(data={"word": options.word})


LAY = Operation("lay", lay, Options)
COUNT = Operation("count", count, Options, takes="pictures", needs="nothing")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A smooth picture with noise, as photographs are: it takes many bits without loss."""
    y, x = np.mgrid[:96, :160].astype(np.float32)
    colours = np.stack([x, y, 160 - x], -1) + np.random.default_rng(0).normal(0, 12, (96, 160, 3))
    return Image(colours.clip(0, 255).astype(np.uint8)).save(tmp_path / "photo.png")


def reported(results: Any, tmp_path: Path, **how: Any) -> Page:
    return Page(cnnkit.report(results, tmp_path / "page.html", **how).read_bytes())


def test_what_was_made_is_on_the_page(photo: Path, tmp_path: Path, tiny_model: Model) -> None:
    model = replace(tiny_model, licence="CC BY 4.0, and so on")
    (outcome,) = cnnkit.map(LAY, [str(photo)], model=model, depth=7)
    page = reported([outcome], tmp_path)
    assert page.asks_nothing()
    assert outcome.result and outcome.seconds is not None
    shown = {words: (kind, image) for words, kind, image in page.pictures}
    chart = outcome.result.pictures["chart"]
    assert shown["chart"][0] == "webp" and (shown["chart"][1].pixels == chart.pixels).all()
    _, figure = shown["lay of photo.png"]
    made = outcome.result.picture
    assert figure.size == made.size
    assert np.abs(figure.pixels.astype(int) - made.pixels).mean() < 3
    assert shown[""][1].size == (96, 160)  # the picture below the slider
    assert np.abs(shown[""][1].pixels.astype(int) - Image.load(photo).pixels).mean() < 8
    (slider,) = page.of("input")
    assert slider["type"] == "range" and "photo.png on the left, lay on the right" in slider["aria-label"]
    for cells in (["label", "score"], ["none", "0.5"], ["b", "2"], ["mean", "0.25"], ["--depth", "7"]):
        assert cells in page.rows
    assert "Left open: --open" in page.text and "photo: none" in page.pre
    assert json.loads(page.pre[-1]) == outcome.manifest
    for words in ("lay with tiny", "CC BY 4.0, and so on", "160 \N{MULTIPLICATION SIGN} 96 pixels"):
        assert words in page.text


def test_the_slider_lies_where_the_picture_is(photo: Path, tmp_path: Path) -> None:
    """Also where a small picture is enlarged in its figure, and where the figure has no caption."""
    for size, caption in (((96, 160), "caption"), ((20, 33), "caption"), ((700, 400), "")):
        picture = Image.load(photo).resized(*size)
        figure = drawing.heat_figure(picture, ramp(picture), caption, "ramp")
        assert figure.inset
        top, left, height, width = figure.inset
        factor = height // size[0]
        laid = drawing.overlay(picture, ramp(picture)).pixels.repeat(factor, 0).repeat(factor, 1)
        assert (figure.pixels[top : top + height, left : left + width] == laid).all()
        html = pages.slider(figure, "words")
        told = dict(part.split(":") for part in Page(html.encode()).of("figure")[0]["style"].split(";"))
        values = [float(told[f"--{name}"].rstrip("%")) / 100 for name in ("top", "left", "height", "width")]
        sides = figure.height, figure.width, figure.height, figure.width
        assert np.allclose(np.multiply(values, sides), figure.inset, atol=1e-2)
    assert drawing.overlay(picture, ramp(picture)).inset == (0, 0, 700, 400)
    assert figure.with_pixels(figure.pixels).inset is None and figure.resized(50, 40).inset is None


def test_photographs_are_made_small_and_maps_stay_exact() -> None:
    generator = np.random.default_rng(1)
    y, x = np.mgrid[:1050, :1400].astype(np.float32)
    smooth = 120 + 80 * np.sin(x / 90) * np.cos(y / 70)
    noisy = (smooth[..., None] + generator.normal(0, 4, (1050, 1400, 3))).clip(0, 255).astype(np.uint8)
    address = pages.address(Image(noisy, profile=b"not even looked at"))
    kind, seen = decoded(address)
    assert kind == "jpeg" and seen.size == (960, 1280) and len(address) < 1_000_000
    close = np.abs(seen.pixels.astype(int) - Image(noisy).resized(960, 1280, "area").pixels)
    assert close.mean() < 3
    cells = drawing.colourise(generator.random((40, 50), np.float32), "viridis")
    tiles = cells.repeat(32, 0).repeat(32, 1)
    kind, seen = decoded(pages.address(Image(tiles)))
    assert kind == "webp" and (seen.pixels == tiles).all()
    clear = Image(noisy[:40, :50], alpha=np.tile(np.arange(50, dtype=np.uint8), (40, 1)))
    kind, seen = decoded(pages.address(clear))
    assert kind == "webp" and seen.alpha is not None and (seen.alpha == clear.alpha).all()


def test_hostile_names_are_text(tmp_path: Path, photo: Path, tiny_model: Model) -> None:
    name = HOSTILE.replace("/", "|")
    copy = tmp_path / f"{name}.png"
    copy.write_bytes(photo.read_bytes())
    bad = tmp_path / f"{name}.jpg"
    bad.write_bytes(b"nothing")
    model = replace(tiny_model, name=HOSTILE, licence=HOSTILE)
    page = reported(cnnkit.map(LAY, [str(copy), str(bad)], model=model, word=HOSTILE), tmp_path)
    assert page.asks_nothing()
    assert {words for words, _, _ in page.pictures} == {"", "chart", f"lay of {name}.png"}
    assert f"lay with {HOSTILE}" in page.text and f"{str(bad)!r} is no picture" in page.text
    assert [HOSTILE, "0.5"] in page.rows and ["--word", HOSTILE] in page.rows
    assert json.loads(page.pre[-1])["model"]["licence"] == HOSTILE
    assert pages.element("p", HOSTILE, title=HOSTILE).count("<") == 2


def test_failures_and_what_sums_up(photo: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no")
    sources = [str(photo), str(tmp_path / "broken.png"), str(tmp_path / "gone.png")]
    page = reported(cnnkit.map(COUNT, sources, word="whole"), tmp_path)
    (failed, gone) = page.of("p", "failed")
    assert failed == gone and len(page.of("section")) == 5  # four outcomes, and how they were made
    assert "broken.png' is no picture of a kind" in page.text and "there is no file" in page.text
    assert ["width", "160"] in page.rows and ["word", "whole"] in page.rows
    assert "4 results · 2 failed" in page.text and "All pictures together" in page.text
    assert [one["href"] for one in page.of("a")] == ["#1", "#2", "#3", "#4"]
    assert [one["id"] for one in page.of("section")[:4]] == ["1", "2", "3", "4"]
    (shown,) = page.pictures
    assert shown[0] == "photo.png" and shown[2].size == (96, 160)


def test_a_name_that_is_no_text(photo: Path, tmp_path: Path) -> None:
    """A file system allows any bytes."""
    page = reported(cnnkit.map(COUNT, [str(photo), "odd\udcff.png"]), tmp_path)
    assert r"odd\udcff.png" in page.text and ["width", "160"] in page.rows


def test_what_cannot_be_shown_any_more_stops_nothing(photo: Path, tmp_path: Path, tiny_model: Model) -> None:
    outcomes = list(cnnkit.map(LAY, [str(photo), str(photo)], model=tiny_model))
    (figure, *_) = outcomes[0].save(Destination(tmp_path / "laid"))
    figure.write_bytes(b"")
    page = reported(outcomes, tmp_path)
    assert "what was made of it cannot be shown: " in page.text
    assert "2 results · 1 failed" in page.text and len(page.of("input")) == 1


def test_a_link_is_called_as_it_is(photo: Path, tmp_path: Path) -> None:
    link = tmp_path / "nice-name.png"
    link.symlink_to(photo)
    (result, _) = cnnkit.map(COUNT, [str(link)])
    assert reported(result, tmp_path).pictures[0][0] == "nice-name.png"


def test_an_interruption_leaves_the_page_of_what_there_was(
    photo: Path, tmp_path: Path, tiny_model: Model
) -> None:
    stop = tmp_path / "stop.png"
    stop.write_bytes(photo.read_bytes())
    outcomes = cnnkit.map(LAY, [str(photo), str(stop)], model=tiny_model)
    with pytest.raises(KeyboardInterrupt):
        cnnkit.report(outcomes, tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_bytes())
    assert "Interrupted." in page.text and "photo: none" in page.pre and "stop" not in page.text


def test_results_and_several_operations(photo: Path, tmp_path: Path, tiny_model: Model) -> None:
    """A Result finds its picture by its manifest, unless that has changed or came from memory."""
    model = tiny_model
    results = [cnnkit.run(LAY, photo, model=model, depth=depth) for depth in (1, 2)]
    memory = cnnkit.run(LAY, np.asarray(Image.load(photo).pixels), model=model)
    counted = next(iter(cnnkit.map(COUNT, [photo])))
    page = reported([*results, memory, counted], tmp_path)
    assert len(page.of("input")) == 2 and "Report of cnnkit" in page.text
    assert [["--depth", value] in page.rows for value in ("1", "2", "3")] == [True, True, True]
    Image.load("sample:shapes").save(photo)
    page = reported(results[0], tmp_path)
    assert page.of("input") == [] and "lay" in [words for words, _, _ in page.pictures]


def test_what_is_not_ours_stays(photo: Path, tmp_path: Path, tiny_model: Model) -> None:
    asked = []

    def results() -> Iterator[Result]:
        asked.append("computed")
        yield cnnkit.run(LAY, photo, model=tiny_model)

    for name in ("page", "page.pdf", "page.json", "folder/"):
        with pytest.raises(UsageError, match=r"one HTML page, with a name such as report\.html"):
            cnnkit.report(results(), tmp_path / name)
    page = tmp_path / "page.html"
    page.write_text("<p>mine")
    with pytest.raises(OutputError, match=r"page\.html exists and is not what cnnkit wrote there"):
        cnnkit.report(results(), page)
    (tmp_path / "a.html").mkdir()
    with pytest.raises(OutputError, match=r"a\.html is a folder"):
        cnnkit.report(results(), tmp_path / "a.html", force=True)
    with pytest.raises(UsageError, match="nothing to report"):
        cnnkit.report([], tmp_path / "b.html")
    assert page.read_text() == "<p>mine" and asked == [] and not (tmp_path / "b.html").exists()

    cnnkit.report(results(), page, force=True)
    first = page.read_bytes()
    cnnkit.report(results(), page)  # its own page, as it wrote it
    page.write_bytes(first.replace(b"</body>", b"<p>my remark</p></body>"))
    with pytest.raises(OutputError):
        cnnkit.report(results(), page)
    assert b"my remark" in page.read_bytes()
    deep = cnnkit.report(results(), tmp_path / "deep" / "er" / "page.HTM")
    assert deep.exists() and [each.name for each in deep.parent.iterdir()] == ["page.HTM"]


def test_a_file_that_appears_meanwhile(photo: Path, tmp_path: Path, tiny_model: Model) -> None:
    with pytest.raises(OutputError), Report(tmp_path / "page.html") as page:
        page.add(cnnkit.run(LAY, photo, model=tiny_model))
        (tmp_path / "page.html").write_text("mine")
    assert (tmp_path / "page.html").read_text() == "mine"


def test_a_name_that_the_run_itself_takes(photo: Path, tmp_path: Path, tiny_model: Model) -> None:
    (outcome,) = cnnkit.map(LAY, [photo], model=tiny_model)
    assert outcome.result
    outcome.result.files["html"] = pages.page("of the operation")
    outcome.paths = outcome.result.save(tmp_path / "made.png")
    with pytest.raises(OutputError, match=r"made\.html is a file of the run itself"):
        cnnkit.report(outcome, tmp_path / "made.html")
    assert (tmp_path / "made.html").read_bytes() == outcome.result.files["html"]


def test_figures() -> None:
    data = {
        "prediction": {"label": "cat", "probability": 0.123456},
        "layers": [
            {"name": "one", "shape": [1, 2], "values": list(range(20)), "at": {"row": 3}},
            {"name": "two"},
        ],
        "losses": {"style": 1.5, "content": 2.5, "tv": 0.0, "total": 4.0},
        "blends": {"a": {"x": 1}, "b": {"x": math.pi}},
        "flag": True,
        "nothing": None,
        "boxes": [{"top": 1, "box": {"t": 1, "l": 2, "b": 3, "r": 4}}],
    }
    html, rows = tables(data)
    found = Page(html.encode()).rows
    for cells in (
        *(["name", "shape", "values", "at: row"], ["one", "1, 2", "20 values", "3"], ["two", "", "", ""]),
        *(["style", "1.5"], ["total", "4"], ["name", "x"], ["a", "1"], ["b", "3.142"]),
        *(["top", "box"], ["1", "t 1, l 2, b 3, r 4"]),
        *(
            ["prediction: label", "cat"],
            ["prediction: probability", "0.1235"],
            ["flag", "yes"],
            ["nothing", ""],
        ),
    ):
        assert cells in found
    assert rows == 2 + 4 + 2 + 1 + 4
    many, rows = tables({"rows": [{"number": number} for number in range(1200)]})
    assert rows == 1200 and len(Page(many.encode()).rows) == 1001 and "and 200 more" in many
